//! `rikctl port-forward`: a port of this machine leads to a port of an instance, wherever that runs.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::Arc,
    thread,
};

use clap::Args;
use model::{
    Instance,
    session::{INPUT, Outcome},
};

use crate::{
    client::{
        Client, segment,
        session::{Local, Over},
    },
    failure::{Failure, Report, plain},
    noun::{Noun, bare},
    resolve,
    terminal::Terminal,
};

/// Most connections at a time: each is a thread here and a stream on the way.
const MAX_CONNECTIONS: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct PortForwardArgs {
    /// The instance: its name, or a unique beginning.
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Port of the instance, or port of this machine and port of the instance; 0 for a free one.
    #[arg(value_name = "[LOCAL:]PORT", value_parser = ports)]
    ports: Ports,
    /// Address of this machine to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = Ipv4Addr::LOCALHOST)]
    address: Ipv4Addr,
    /// End after the first connection.
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    local: u16,
    remote: u16,
}

fn ports(text: &str) -> Result<Ports, String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number =
        |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port; allowed is 1 to 65535"));
    match (number(local)?, number(remote)?) {
        (_, 0) => Err("port 0 of an instance leads nowhere".to_owned()),
        (local, remote) => Ok(Ports { local, remote }),
    }
}

pub(crate) fn run(args: &PortForwardArgs, client: Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let instance = resolve::object::<Instance>(&client, bare(Noun::Instance, &args.instance))?.object;
    let Ports { local, remote } = args.ports;
    let listener = TcpListener::bind((args.address, local)).map_err(|error| {
        Report::new(format!("cannot listen on {}:{local}: {}", args.address, plain(&error)))
            .hint(format!("rikctl port-forward {} 0:{remote} takes a free port", instance.id))
    })?;
    let address = listener.local_addr().map_err(|error| Report::new(plain(&error)))?;
    terminal.print(&format!("{address} leads to port {remote} of {}\n", instance.id))?;
    let path = format!("/instances/{}/ports/{remote}", segment(&instance.id));
    let client = Arc::new(client);
    let mut serving: Vec<thread::JoinHandle<Result<(), Failure>>> = Vec::new();
    loop {
        let (connection, _) = listener.accept().map_err(|error| Report::new(plain(&error)))?;
        serving = settle(serving, terminal);
        if serving.len() >= MAX_CONNECTIONS {
            terminal.note(&format!("{MAX_CONNECTIONS} connections are open; another one was closed"));
            continue;
        }
        let (client, path) = (Arc::clone(&client), path.clone());
        serving.push(thread::spawn(move || carry(&client, &path, connection)));
        if args.once {
            while !serving.is_empty() {
                let last = serving.remove(0);
                last.join().unwrap_or_else(|_| Err(Report::new("a connection met a defect").into()))?;
            }
            return Ok(());
        }
    }
}

/// Tells of connections that ended badly, and keeps those that go on.
fn settle(
    serving: Vec<thread::JoinHandle<Result<(), Failure>>>,
    terminal: &mut Terminal,
) -> Vec<thread::JoinHandle<Result<(), Failure>>> {
    let (ended, going): (Vec<_>, Vec<_>) = serving.into_iter().partition(thread::JoinHandle::is_finished);
    for one in ended {
        if let Ok(Err(Failure::Told(report))) = one.join() {
            terminal.note(&report.message);
        }
    }
    going
}

fn carry(client: &Client, path: &str, connection: TcpStream) -> Result<(), Failure> {
    let session = client.session(path)?;
    let input = connection.try_clone().map_err(|error| Report::new(plain(&error)))?;
    let outcome = session.run(Some(input.as_fd()), &mut Peer { connection })?;
    match outcome {
        Over::Told(Outcome::Failed { code, message }) => Err(crate::client::session::failed(&code, &message)),
        Over::Told(Outcome::Exit(_)) | Over::Silent | Over::Left => Ok(()),
    }
}

/// Who connected to the local port.
struct Peer {
    connection: TcpStream,
}

impl Local for Peer {
    fn hear(&mut self, _channel: u8, bytes: &[u8]) -> Result<(), Failure> {
        self.connection.write_all(bytes).map_err(|_gone| Failure::ReaderGone)
    }

    fn end_of_input(&self) -> Vec<u8> {
        vec![INPUT]
    }
}
