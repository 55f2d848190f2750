//! `rikctl logs`: what the containers of an instance, or of all instances of a workload, have written and go on writing.

mod deleted;
mod replicas;

use std::{
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use model::Instance;

use crate::{
    age,
    client::{Client, segment, with_query},
    escape,
    failure::Failure,
    noun::{Noun, bare},
    resolve,
    terminal::Terminal,
};

/// How much is read at once: a pipe's worth.
const CHUNK: usize = 64 << 10;

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LogsArgs {
    /// The instance: its name, or a unique beginning; or workload/NAME, for all of its instances.
    #[arg(
        value_name = "INSTANCE",
        required_unless_present = "deleted",
        default_value = "",
        hide_default_value = true
    )]
    instance: String,
    /// Container, if the instance has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Go on with what is written from now on, until the instance ends or Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines.
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
    /// Only what is no older, such as 90s, 5m or 1h.
    #[arg(long, value_name = "TIME", value_parser = age::duration)]
    since: Option<Duration>,
    /// What the container wrote in its run before the present one.
    #[arg(short, long, conflicts_with = "follow")]
    previous: bool,
    /// The time before each line.
    #[arg(long)]
    timestamps: bool,
    /// Of an instance that is gone, as long as its node keeps its log; without a name, list those that there are.
    #[arg(long, conflicts_with = "follow")]
    deleted: bool,
}

impl LogsArgs {
    /// The whole log of an instance, to its end.
    pub(crate) fn following(instance: &str) -> Self {
        Self { instance: instance.to_owned(), follow: true, ..Self::default() }
    }
}

pub(crate) fn run(args: &LogsArgs, client: &Arc<Client>, terminal: &mut Terminal) -> Result<(), Failure> {
    if args.deleted {
        return deleted::run(args, client, terminal);
    }
    let workload = bare(Noun::Workload, &args.instance);
    if workload != args.instance {
        return replicas::run(args, client, workload, terminal);
    }
    let typed = bare(Noun::Instance, &args.instance);
    let stream = match open(args, client, typed) {
        // Not by this name: perhaps it is a beginning.
        Err(error) if error.is_not_found() => {
            let instance = resolve::object::<Instance>(client, typed);
            let instance = instance.map_err(|failure| or_deleted(failure, typed))?.object;
            open(args, client, &instance.id)?
        }
        other => other?,
    };
    print(stream, client, terminal)
}

/// Nobody is there by this name; somebody may have been.
fn or_deleted(failure: Failure, typed: &str) -> Failure {
    match failure {
        Failure::Told(report) => report.hint(format!("rikctl logs --deleted {typed}, if it is gone")).into(),
        other => other,
    }
}

/// Prints a log to its end.
fn print(mut stream: impl Read, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK];
    let mut rest = Vec::new();
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) if terminal.out_is_terminal() => {
                rest.extend_from_slice(&chunk[..length]);
                let text = complete_text(&mut rest);
                terminal.print(&escape::lines(&text.replace("\r\n", "\n")))?;
            }
            Ok(length) => terminal.print_bytes(&chunk[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(client.transport(error.into()).into()),
        }
    }
    terminal.print(&escape::lines(&String::from_utf8_lossy(&rest)))
}

fn open(args: &LogsArgs, client: &Client, id: &str) -> Result<impl Read + use<>, crate::client::ClientError> {
    let silence = (!args.follow).then_some(crate::client::SILENCE);
    client.stream(&with_what(&format!("/instances/{}/logs", segment(id)), args), silence, None)
}

/// The path, with what of the log is wanted.
fn with_what(path: &str, args: &LogsArgs) -> String {
    let tail = args.tail.map(|tail| tail.to_string());
    let since = args.since.map(|since| since.as_secs().to_string());
    let mut query = Vec::new();
    query.extend(args.container.as_deref().map(|container| ("container", container)));
    query.extend(args.follow.then_some(("follow", "true")));
    query.extend(tail.as_deref().map(|tail| ("tail", tail)));
    query.extend(since.as_deref().map(|since| ("sinceSeconds", since)));
    query.extend(args.previous.then_some(("previous", "true")));
    query.extend(args.timestamps.then_some(("timestamps", "true")));
    with_query(path, &query)
}

/// Takes everything but a character that is not whole yet.
fn complete_text(bytes: &mut Vec<u8>) -> String {
    let whole = match std::str::from_utf8(bytes) {
        Ok(text) => text.len(),
        // No length: the error is a character cut off at the end. Otherwise it is no text, and stays none.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => {
            let start = bytes.len().saturating_sub(3);
            let tail =
                bytes[start..].iter().rposition(|byte| *byte >= 0xC0).map_or(bytes.len(), |at| start + at);
            match std::str::from_utf8(&bytes[tail..]) {
                Err(error) if error.error_len().is_none() => tail,
                _ => bytes.len(),
            }
        }
    };
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    bytes.drain(..whole);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_that_is_cut_waits_for_its_rest() {
        let text = "a\u{fc}世🦀\n";
        for cut in 0..=text.len() {
            let (mut rest, mut seen) = (Vec::new(), String::new());
            for part in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
                rest.extend_from_slice(part);
                seen.push_str(&complete_text(&mut rest));
            }
            assert_eq!((seen.as_str(), rest.len()), (text, 0), "cut at {cut}");
        }
        let mut rest = b"\xff\xfeab\xe4\xb8".to_vec();
        assert_eq!((complete_text(&mut rest).as_str(), rest.len()), ("\u{fffd}\u{fffd}ab", 2));
    }
}
