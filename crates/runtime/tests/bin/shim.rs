//! The shim alone, for the tests: what `riklet shim --dir …` runs, and a caller that has the shim become its program.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::ExitCode,
};

use runtime::pod::shim::{
    self,
    wire::{Call, Request, encode},
};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.as_slice() {
        [word, socket] if word == "upgrade" => upgrade(UnixStream::connect(socket)),
        // The first argument is the word `shim`.
        _ => shim::main(args.into_iter().skip(1)),
    }
}

/// Success: the connection ended without a word, as it does when the shim has become this program.
fn upgrade(stream: std::io::Result<UnixStream>) -> ExitCode {
    let said = stream.and_then(|mut stream| {
        let call = encode(&Call { id: 1, request: Request::Upgrade }).map_err(std::io::Error::other)?;
        stream.write_all(&call)?;
        // A refusal leaves the connection open.
        let mut said = vec![0; 4096];
        let count = stream.read(&mut said)?;
        said.truncate(count);
        Ok(said)
    });
    match said {
        Ok(said) if said.is_empty() => ExitCode::SUCCESS,
        Ok(said) => {
            println!("{}", String::from_utf8_lossy(&said));
            ExitCode::FAILURE
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
