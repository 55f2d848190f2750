//! Stands for Firecracker where the processor cannot run a guest: takes its API as strictly as it does, holds what a machine
//! of it would be given against what it needs, and plays the machine with an agent whose program says so and ends.
//!
//! ```text
//!  PUT … ─▶ held against the published description ─▶ InstanceStart: kernel, initramfs, disk, KVM, link are looked at
//!  CONNECT 1024 ─▶ OK ─▶ Ready, Boot ─▶ Open ─▶ Opened, what was found, Ended
//! ```

#[path = "../firecracker/description.rs"]
mod description;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    process::ExitCode,
};

use guest::{
    frame::{Frame, MAIN, Pipe},
    order::{Ended, Ready},
};
use serde_json::Value;

/// What went wrong, in words for the console.
type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let known = args
        .chunks(2)
        .all(|pair| matches!(pair, [name, _] if ["--api-sock", "--id", "--level"].contains(&name.as_str())));
    let socket = args.windows(2).find_map(|pair| match pair {
        [name, value] if name == "--api-sock" => Some(value.clone()),
        _ => None,
    });
    let socket = socket.filter(|_| known).ok_or_else(|| format!("{args:?} are no arguments of it"))?;
    let listener = UnixListener::bind(&socket).map_err(|error| format!("{socket}: {error}"))?;
    let (client, _) = listener.accept().map_err(|error| error.to_string())?;
    let told = configure(client)?;
    let text = |path: &str, field: &str| told[path][field].as_str().unwrap_or_default().to_owned();
    let port = text("/vsock", "uds_path");
    let listener = UnixListener::bind(&port).map_err(|error| format!("{port}: {error}"))?;
    let (host, _) = listener.accept().map_err(|error| error.to_string())?;
    play(host, &told)
}

/// Takes requests until the machine is to run; gives the bodies by their paths.
fn configure(client: UnixStream) -> Outcome<BTreeMap<String, Value>> {
    let mut told = BTreeMap::new();
    let mut client = BufReader::new(client);
    loop {
        let (path, body) = request(&mut client)?;
        let is_start = path == "/actions";
        let checked = description::check(&path, &body).and_then(|()| match path.as_str() {
            "/actions" => look(&told),
            _ => Ok(()),
        });
        let answer = match &checked {
            Ok(()) => "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\n\r\n".to_owned(),
            Err(why) => {
                let body = serde_json::json!({ "fault_message": why }).to_string();
                format!("HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}", body.len())
            }
        };
        client.get_mut().write_all(answer.as_bytes()).map_err(|error| error.to_string())?;
        checked?;
        if is_start {
            return Ok(told);
        }
        told.insert(path, body);
    }
}

fn request(client: &mut BufReader<UnixStream>) -> Outcome<(String, Value)> {
    let mut line = String::new();
    let mut read = |line: &mut String| {
        line.clear();
        match client.read_line(line) {
            Ok(0) => Err("nobody starts the machine".to_owned()),
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    };
    read(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["PUT", path, "HTTP/1.1"] = words.as_slice() else { return Err(format!("{line:?} is no request")) };
    let path = (*path).to_owned();
    let mut length = 0;
    while line != "\r\n" {
        read(&mut line)?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(|_| "a length that is no number".to_owned())?;
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).map_err(|error| error.to_string())?;
    Ok((path, serde_json::from_slice(&body).map_err(|error| error.to_string())?))
}

/// Whether a machine could be made of it: everything is there, and may be used.
fn look(told: &BTreeMap<String, Value>) -> Outcome<()> {
    let file = |path: &str, field: &str| -> Outcome<File> {
        let name = told.get(path).and_then(|body| body[field].as_str()).unwrap_or_default();
        File::open(name).map_err(|error| format!("{field} {name:?}: {error}"))
    };
    for path in ["/machine-config", "/drives/root", "/vsock", "/network-interfaces/eth0"] {
        told.get(path).ok_or_else(|| format!("{path} was not set"))?;
    }
    let head = |mut file: File, count: usize| {
        let mut head = vec![0; count];
        file.read_exact(&mut head).map(|()| head).map_err(|error| error.to_string())
    };
    if head(file("/boot-source", "kernel_image_path")?, 4)? != b"\x7fELF" {
        return Err("the kernel is no ELF file".to_owned());
    }
    if head(file("/boot-source", "initrd_path")?, 6)? != b"070701" {
        return Err("the initramfs is no archive".to_owned());
    }
    let mut disk = Vec::new();
    file("/drives/root", "path_on_host")?
        .take(4096)
        .read_to_end(&mut disk)
        .map_err(|error| error.to_string())?;
    guest::disk::file_system(&disk).ok_or("nothing is on the disk")?;
    let kvm = Path::new("/dev/kvm");
    let is_device = kvm.metadata().is_ok_and(|found| found.file_type().is_char_device());
    // SAFETY: a plain call; the text is constant and ends with NUL.
    if !is_device || unsafe { libc::access(c"/dev/kvm".as_ptr(), libc::R_OK | libc::W_OK) } != 0 {
        return Err("/dev/kvm is not to be used".to_owned());
    }
    take_link(told["/network-interfaces/eth0"]["host_dev_name"].as_str().unwrap_or_default())
}

/// Takes hold of the TAP device, as its owner may.
fn take_link(name: &str) -> Outcome<()> {
    /// `struct ifreq` as this call reads it.
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }
    const SET: libc::c_ulong = 0x4004_54ca;
    /// Frames, without a header of their own, with one for offloading.
    const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let tun = tun.map_err(|error| format!("/dev/net/tun: {error}"))?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the structure is as the kernel wants it and outlives the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), SET as _, &raw const request) } != 0 {
        return Err(format!("the link {name:?}: {}", std::io::Error::last_os_error()));
    }
    Ok(())
}

/// The machine, as the host hears it.
fn play(mut host: UnixStream, told: &BTreeMap<String, Value>) -> Outcome<()> {
    let mut asked = String::new();
    let failed = |error: std::io::Error| error.to_string();
    let mut frames = BufReader::new(host.try_clone().map_err(failed)?);
    frames.read_line(&mut asked).map_err(failed)?;
    if asked != "CONNECT 1024\n" {
        return Err(format!("{asked:?} was asked for"));
    }
    host.write_all(b"OK 1073741824\n").map_err(failed)?;
    let mut say = |frame: Frame| frame.write(MAIN, &mut host).map_err(failed);
    say(Frame::Ready(Ready { version: "test".to_owned() }))?;
    let (_, Frame::Boot(boot)) = Frame::read(&mut frames).map_err(failed)? else {
        return Err("it was not told what to be".to_owned());
    };
    let (_, Frame::Open(order)) = Frame::read(&mut frames).map_err(failed)? else {
        return Err("it was not told what to do".to_owned());
    };
    say(Frame::Opened)?;
    let size = &told["/machine-config"];
    let words = format!(
        "{} with {} processors and {} MiB, address {}, clock {}, random numbers {}: {:?}\n",
        boot.hostname,
        size["vcpu_count"],
        size["mem_size_mib"],
        boot.network.is_some(),
        boot.unix_nanos > 0,
        boot.entropy.len(),
        order.task
    );
    say(Frame::Data(Pipe::Output, words.into_bytes()))?;
    say(Frame::Ended(Ended { code: Some(7), ..Ended::default() }))
}
