//! The logs of all instances of a workload, each line with the name of the instance that wrote it.
//!
//! Without `-f` one instance's log follows the other. With it, each is read by a thread of its own, and their lines are
//! printed as they come; instances that are created meanwhile are not among them.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, mpsc},
    thread,
};

use model::{Instance, WorkloadRecord};

use super::{LogsArgs, open};
use crate::{
    client::Client,
    commands::each,
    escape,
    exit::Exit,
    failure::{Failure, Report},
    resolve,
    terminal::Terminal,
};

/// Most logs that are followed at once: the controller lets one client have 64 streams.
const MAX_FOLLOWED: usize = 50;
/// Longest piece of a line that is printed at once; a longer line is printed as several.
const PIECE_BYTES: u64 = 64 << 10;
/// Lines that may wait to be printed.
const HELD_LINES: usize = 256;

/// What a reader of one log has to say.
enum Heard {
    /// A line of this instance.
    Line(Arc<str>, Vec<u8>),
    /// Why there is no more.
    Broken(Failure),
}

pub(super) fn run(
    args: &LogsArgs,
    client: &Arc<Client>,
    workload: &str,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let workload = resolve::object::<WorkloadRecord>(client, workload)?.object;
    let instances = resolve::every::<Instance>(client, &[("workload", &workload.id)])?;
    let mut ids: Vec<String> = instances.into_iter().map(|instance| instance.object.id).collect();
    ids.sort_unstable();
    let name = &workload.manifest.name;
    if ids.is_empty() {
        let hint = format!("rikctl create instance --workload-id {name}");
        return Err(Report::new(format!("workload {name:?} has no instances")).hint(hint).into());
    }
    if args.follow {
        return follow(args, client, ids, terminal);
    }
    each(ids, terminal, |id, terminal| {
        let mut lines = BufReader::new(open(args, client, &id)?);
        while let Some(line) = next(&mut lines, client)? {
            print(&id, &line, terminal)?;
        }
        Ok(())
    })
}

fn follow(
    args: &LogsArgs,
    client: &Arc<Client>,
    ids: Vec<String>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    if ids.len() > MAX_FOLLOWED {
        let report = Report::new(format!("{} logs are more than can be followed at once", ids.len()));
        return Err(report
            .hint(format!("follow single instances; at most {MAX_FOLLOWED} go together"))
            .into());
    }
    let (say, heard) = mpsc::sync_channel(HELD_LINES);
    for id in ids {
        let (args, client, say) = (args.clone(), Arc::clone(client), say.clone());
        // It ends with its log, or with this process.
        thread::spawn(move || {
            if let Err(failure) = pass_on(&args, &client, &id, &say) {
                // Nobody listens when the printing has ended.
                let _ = say.send(Heard::Broken(failure));
            }
        });
    }
    drop(say);
    let mut worst = Exit::Done;
    for heard in heard {
        match heard {
            Heard::Line(id, line) => print(&id, &line, terminal)?,
            Heard::Broken(Failure::Told(report)) => {
                terminal.report(&report);
                worst = report.exit;
            }
            Heard::Broken(failure) => return Err(failure),
        }
    }
    if worst == Exit::Done { Ok(()) } else { Err(Failure::Already(worst)) }
}

fn pass_on(args: &LogsArgs, client: &Client, id: &str, say: &mpsc::SyncSender<Heard>) -> Result<(), Failure> {
    let mut lines = BufReader::new(open(args, client, id)?);
    let id: Arc<str> = id.into();
    while let Some(line) = next(&mut lines, client)? {
        if say.send(Heard::Line(Arc::clone(&id), line)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn next(lines: &mut BufReader<impl Read>, client: &Client) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let read = lines.take(PIECE_BYTES).read_until(b'\n', &mut line);
    read.map_err(|error| client.transport(error.into()))?;
    Ok((!line.is_empty()).then_some(line))
}

fn print(id: &str, line: &[u8], terminal: &mut Terminal) -> Result<(), Failure> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if terminal.out_is_terminal() {
        let text = String::from_utf8_lossy(line);
        return terminal.print(&format!("[{id}] {}\n", escape::lines(text.trim_end_matches('\r'))));
    }
    terminal.print_bytes(&[b"[", id.as_bytes(), b"] ", line, b"\n"].concat())
}
