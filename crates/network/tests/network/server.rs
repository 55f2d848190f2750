//! A tiny server that tells its callers who they are, and a caller.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    thread::JoinHandle,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags};

use crate::sandbox::Namespace;

/// How long an answer may take. Long, because machines are slow at times; nothing waits for it that works.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before an answer that must not come is taken for not coming. Retransmission of the first packet
/// comes after a second, so one more would have been seen.
const SILENCE: Duration = Duration::from_millis(1300);

/// Answers each TCP connection and each datagram with the caller's address. Ends when dropped.
pub(crate) struct Server {
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in the namespace of the calling thread.
    pub(crate) fn here(address: Ipv4Addr, port: u16) -> Self {
        Self::within(&Namespace::here(), address, port)
    }

    /// Listens in a namespace.
    pub(crate) fn within(namespace: &Namespace, address: Ipv4Addr, port: u16) -> Self {
        let (tcp, udp) = namespace
            .run(|| (TcpListener::bind((address, port)).unwrap(), UdpSocket::bind((address, port)).unwrap()));
        let (until, stop) = rustix::pipe::pipe().unwrap();
        let thread = std::thread::spawn(move || serve(&tcp, &udp, &until));
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(tcp: &TcpListener, udp: &UdpSocket, until: &OwnedFd) {
    loop {
        let mut ready = [
            PollFd::new(until, PollFlags::empty()),
            PollFd::new(tcp, PollFlags::IN),
            PollFd::new(udp, PollFlags::IN),
        ];
        rustix::event::poll(&mut ready, None).unwrap();
        let [stop, connection, datagram] = ready.map(|fd| !fd.revents().is_empty());
        if stop {
            return;
        }
        if connection && let Ok((mut stream, caller)) = tcp.accept() {
            let _ = stream.write_all(caller.ip().to_string().as_bytes());
        }
        if datagram && let Ok((_, caller)) = udp.recv_from(&mut [0; 16]) {
            let _ = udp.send_to(caller.ip().to_string().as_bytes(), caller);
        }
    }
}

/// Who the server at an address takes the calling thread for.
pub(crate) fn ask(server: SocketAddrV4) -> Result<Ipv4Addr, String> {
    ask_within(server, PATIENCE)
}

/// Whether a server, that must not, answers the calling thread.
pub(crate) fn is_silent(server: SocketAddrV4) -> bool {
    ask_within(server, SILENCE).is_err()
}

fn ask_within(server: SocketAddrV4, limit: Duration) -> Result<Ipv4Addr, String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what} {server}: {error}");
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::V4(server), limit).map_err(failed("connect to"))?;
    stream.set_read_timeout(Some(limit)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed("read from"))?;
    answer.parse().map_err(|_| format!("{server} answered {answer:?}"))
}

/// As [`ask`], by a datagram.
pub(crate) fn ask_by_datagram(server: SocketAddrV4) -> Result<Ipv4Addr, String> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).map_err(|error| error.to_string())?;
    socket.send(b"who").map_err(|error| error.to_string())?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).map_err(|error| error.to_string())?;
    let answer: IpAddr = std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap();
    match answer {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err("IPv6".to_owned()),
    }
}
