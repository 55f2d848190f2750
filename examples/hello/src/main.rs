//! A small web server to run in a container: the demo's workload.
//!
//! It answers every path with one page that names its container and counts its requests, and `/healthz` with `ok`.
//! `PORT` chooses the port (default 8080). One line for each request goes to stdout.
//!
//! *Guarantees*: a fixed number of threads and bounded reads, so no client makes it grow; SIGTERM and SIGINT end it
//! at once with exit code 0, also as PID 1, where the kernel ignores them unless somebody handles them.

mod page;

use std::env;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

/// The port when `PORT` does not say otherwise.
const DEFAULT_PORT: u16 = 8080;
/// Threads that serve: enough for a browser's parallel requests, and all that this server will ever use.
const WORKERS: usize = 4;
/// The longest request head that is read; browsers send well under this.
const HEAD_LIMIT: usize = 8 * 1024;
/// How long a client may stay silent before its thread is taken away from it.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if let Err(error) = run() {
        eprintln!("error: hello could not start: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run() -> io::Result<()> {
    exit_on(SIGTERM)?;
    exit_on(SIGINT)?;
    let port = match env::var("PORT") {
        Ok(text) => text
            .parse()
            .map_err(|_| io::Error::other(format!("PORT is {text:?}, and not a number from 0 to 65535")))?,
        Err(_) => DEFAULT_PORT,
    };
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    say(&format!("hello: serving on {}", listener.local_addr()?));
    serve(&listener);
    Ok(())
}

/// Ends the process with code 0 as soon as `signal` arrives.
fn exit_on(signal: i32) -> io::Result<()> {
    let armed = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_shutdown(signal, 0, armed)?;
    Ok(())
}

fn serve(listener: &TcpListener) {
    let requests = AtomicU64::new(0);
    let host = page::hostname();
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                // A failed accept concerns one client only (it went away, or descriptors ran short for a moment).
                for client in listener.incoming().flatten() {
                    let _ = answer(client, &host, &requests);
                }
            });
        }
    });
}

/// Serves one request. An error means that the client is gone or too slow: nobody is left to tell.
fn answer(mut client: TcpStream, host: &str, requests: &AtomicU64) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut client)?;
    let (method, path) = page::request_line(&head);
    let reply = match path {
        _ if method != "GET" && method != "HEAD" => page::Reply::not_allowed(),
        "/healthz" => page::Reply::healthy(),
        _ => page::Reply::welcome(host, requests.fetch_add(1, Ordering::Relaxed) + 1),
    };
    say(&format!("hello: {method} {} -> {}", path.escape_default(), reply.status));
    client.write_all(reply.to_http(method == "HEAD").as_bytes())
}

/// Reads up to the empty line that ends a request's head, or to the limit.
fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while head.len() < HEAD_LIMIT && !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = client.read(&mut piece)?;
        if count == 0 {
            break;
        }
        head.extend_from_slice(&piece[..count]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Writes a line to stdout. A closed stdout does not end the server: its clients matter more than its log.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
