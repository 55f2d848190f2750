//! `rikctl cp`: files and directories to and from containers.
//!
//! ```text
//!  here:  pack ──pipe──▶ session ──▶ unpack in the container          in
//!         unpack ◀──pipe── session ◀── pack in the container          out
//! ```
//! Packing and unpacking here is a thread's work, and the pipe makes it wait for the session.

use std::{
    io::{self, BufReader, BufWriter, PipeReader, PipeWriter, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use clap::Args;
use filecopy::CopyError;
use model::{
    Instance,
    session::{CONTROL, Control, CopyDirection, CopyRequest, ERRORS, OUTPUT, Outcome, message},
};

use crate::{
    client::{
        Client, segment,
        session::{self, Local, Over},
    },
    exit::Exit,
    failure::{Failure, Report, plain},
    noun::{Noun, bare},
    resolve,
};

/// What is kept of the other side's words about a failure.
const MAX_WORDS_BYTES: usize = 4 << 10;

#[derive(Debug, Args)]
#[command(after_help = "\
One of them is INSTANCE:PATH, where PATH begins at the container's root; the other is here. Names mean what they mean
to cp -r: into a directory that exists, or under the new name in one.")]
pub(crate) struct CpArgs {
    /// The file or directory to copy.
    #[arg(value_name = "FROM")]
    from: String,
    /// Where it goes.
    #[arg(value_name = "TO")]
    to: String,
    /// Container, if the instance has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Here(&'a Path),
    There(&'a str, String),
}

/// A colon before the first slash separates an instance from a path in it.
fn place(text: &str) -> Place<'_> {
    match text.split_once(':') {
        Some((instance, path))
            if !instance.is_empty() && !instance.starts_with('.') && !is_path(instance) =>
        {
            Place::There(instance, format!("/{}", path.trim_start_matches('/')))
        }
        _ => Place::Here(Path::new(text)),
    }
}

/// Whether what stands before a colon has a slash that does not belong to a noun.
fn is_path(instance: &str) -> bool {
    bare(Noun::Instance, instance).contains('/')
}

pub(crate) fn run(args: &CpArgs, client: &Client) -> Result<(), Failure> {
    match (place(&args.from), place(&args.to)) {
        (Place::Here(from), Place::There(instance, path)) => {
            let request =
                CopyRequest { container: args.container.clone(), path, direction: CopyDirection::In };
            send(client, instance, &request, from)
        }
        (Place::There(instance, path), Place::Here(to)) => {
            let request =
                CopyRequest { container: args.container.clone(), path, direction: CopyDirection::Out };
            fetch(client, instance, &request, to)
        }
        (Place::Here(_), Place::Here(_)) => Err(usage("neither of the two is in an instance")),
        (Place::There(..), Place::There(..)) => Err(usage("both of the two are in instances")),
    }
}

fn usage(what: &str) -> Failure {
    Report::new(what)
        .hint("rikctl cp web-1:/etc/motd . or rikctl cp motd web-1:/etc/")
        .exit(Exit::Usage)
        .into()
}

fn send(client: &Client, instance: &str, request: &CopyRequest, from: &Path) -> Result<(), Failure> {
    let (read, write) = pipe()?;
    let from = from.to_owned();
    // What cannot be read is told before anything is asked of the cluster.
    std::fs::metadata(&from)
        .map_err(|error| Report::new(format!("{} cannot be read: {}", from.display(), plain(&error))))?;
    let packing = thread::spawn(move || filecopy::pack(&from, BufWriter::new(write)));
    let outcome = talk(client, instance, request, Some(read.as_fd()), None);
    drop(read);
    settle(packing, outcome)
}

fn fetch(client: &Client, instance: &str, request: &CopyRequest, to: &Path) -> Result<(), Failure> {
    let (read, write) = pipe()?;
    let to: PathBuf = to.to_owned();
    let unpacking = thread::spawn(move || filecopy::unpack(BufReader::new(read), &to));
    let outcome = talk(client, instance, request, None, Some(write));
    settle(unpacking, outcome)
}

fn pipe() -> Result<(PipeReader, PipeWriter), Failure> {
    io::pipe().map_err(|error| Report::new(format!("there is no pipe: {}", plain(&error))).into())
}

/// Copies, and says how the other side fared: nothing, or its words.
fn talk(
    client: &Client,
    instance: &str,
    request: &CopyRequest,
    input: Option<BorrowedFd<'_>>,
    output: Option<PipeWriter>,
) -> Result<Option<String>, Failure> {
    let instance = resolve::object::<Instance>(client, bare(Noun::Instance, instance))?.object;
    let request = serde_json::to_string(request).map_err(|error| Report::new(error.to_string()))?;
    let mut session = client.session(&format!("/instances/{}/copy", segment(&instance.id)))?;
    session.request(request)?;
    let mut files = Files { output, words: Vec::new() };
    let outcome = session.run(input, &mut files)?;
    match outcome {
        Over::Told(Outcome::Exit(0)) => Ok(None),
        Over::Told(Outcome::Exit(_)) => Ok(Some(String::from_utf8_lossy(&files.words).into_owned())),
        Over::Told(Outcome::Failed { code, message }) => Err(session::failed(&code, &message)),
        Over::Silent | Over::Left => {
            Err(Report::new("the session ended before the copy did").hint("rikctl get nodes").into())
        }
    }
}

/// The failure that explains the others: a side that broke off knows less than the side that failed.
fn settle(
    here: thread::JoinHandle<Result<(), CopyError>>,
    there: Result<Option<String>, Failure>,
) -> Result<(), Failure> {
    let here = here.join().unwrap_or_else(|_| Err(CopyError::Broken { source: io::ErrorKind::Other.into() }));
    match (here, there) {
        (Ok(()), Ok(None)) => Ok(()),
        (Err(error), _) if !matches!(error, CopyError::Broken { .. }) => {
            Err(Report::new(format!("not copied: {error}")).into())
        }
        (_, Ok(Some(words))) => Err(Report::new(format!("not copied: in the container, {words}")).into()),
        (_, Err(failure @ (Failure::Told(_) | Failure::Already(_)))) => Err(failure),
        (Err(error), _) => Err(Report::new(format!("not copied: {error}")).into()),
        (Ok(()), Err(Failure::ReaderGone)) => Err(Report::new("the copy broke off").into()),
    }
}

/// The end of the copy that is here.
struct Files {
    output: Option<PipeWriter>,
    words: Vec<u8>,
}

impl Local for Files {
    fn hear(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Failure> {
        if channel == ERRORS {
            let room = MAX_WORDS_BYTES.saturating_sub(self.words.len());
            self.words.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        }
        if channel == OUTPUT
            && let Some(output) = &mut self.output
            && output.write_all(bytes).is_err()
        {
            // It takes no more: unpacking has failed, or has all of it.
            self.output = None;
        }
        Ok(())
    }

    fn end_of_input(&self) -> Vec<u8> {
        serde_json::to_vec(&Control::EndOfInput).map(|bytes| message(CONTROL, &bytes)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_stands_before_a_colon() {
        let there = |instance, path: &str| Place::There(instance, path.to_owned());
        assert_eq!(place("web-1:/etc/motd"), there("web-1", "/etc/motd"));
        assert_eq!(place("instance/web-1:srv"), there("instance/web-1", "/srv"));
        assert_eq!(place("web-1:"), there("web-1", "/"));
        for text in ["file", "./a:b", "/a:b", "dir/a:b", ":x", ".."] {
            assert_eq!(place(text), Place::Here(Path::new(text)), "{text}");
        }
    }
}
