//! The logs of all instances of a workload, each line with the name of the instance that wrote it.
//!
//! Without `-f` one instance's log follows the other. With it, each is read by a thread of its own, and their lines are
//! printed as they come. Instances that are created meanwhile join in; it is over when all logs are, and no instance is
//! about to begin.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use model::{Instance, Status, WorkloadRecord};

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
/// How often instances are looked for that were created meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Lines that may wait to be printed.
const HELD_LINES: usize = 256;

/// What a reader of one log has to say.
enum Heard {
    /// A line of this instance.
    Line(Arc<str>, Vec<u8>),
    /// There is no more, or why not.
    Over(Result<(), Failure>),
}

pub(super) fn run(
    args: &LogsArgs,
    client: &Arc<Client>,
    workload: &str,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let workload = resolve::object::<WorkloadRecord>(client, workload)?.object;
    let instances = instances_of(client, &workload.id)?;
    let mut ids: Vec<String> = instances.iter().map(|instance| instance.id.clone()).collect();
    ids.sort_unstable();
    let name = &workload.manifest.name;
    if ids.is_empty() {
        let hint = format!("rikctl create instance --workload-id {name}");
        return Err(Report::new(format!("workload {name:?} has no instances")).hint(hint).into());
    }
    if args.follow {
        return follow(args, client, (&workload.id, instances), terminal);
    }
    each(ids, terminal, |id, terminal| {
        let mut lines = BufReader::new(open(args, client, &id)?);
        while let Some(line) = next(&mut lines, client)? {
            print(&id, &line, terminal)?;
        }
        Ok(())
    })
}

fn instances_of(client: &Client, workload: &str) -> Result<Vec<Instance>, Failure> {
    let all = resolve::every::<Instance>(client, &[("workload", workload)])?;
    Ok(all.into_iter().map(|instance| instance.object).collect())
}

/// The logs that are followed.
struct Followed<'a> {
    client: &'a Arc<Client>,
    say: mpsc::SyncSender<Heard>,
    /// Uids of instances whose logs are read, or were.
    known: BTreeSet<String>,
    open: usize,
}

impl Followed<'_> {
    /// Begins to read the logs that are not read yet. Says whether there are instances that have written nothing yet.
    fn take_up(&mut self, args: &LogsArgs, instances: Vec<Instance>) -> Result<bool, Failure> {
        let mut awaited = false;
        for instance in instances {
            if matches!(instance.status, Status::Pending | Status::Creating) {
                awaited = true;
                continue;
            }
            if !self.known.insert(instance.uid) {
                continue;
            }
            if self.open == MAX_FOLLOWED {
                let report = Report::new(format!("more than {MAX_FOLLOWED} logs cannot be followed at once"));
                return Err(report.hint("follow single instances").into());
            }
            self.open += 1;
            let (args, client, say) = (args.clone(), Arc::clone(self.client), self.say.clone());
            // It ends with its log, or with this process.
            thread::spawn(move || {
                let ended = pass_on(&args, &client, &instance.id, &say);
                // Nobody listens when the printing has ended.
                let _ = say.send(Heard::Over(ended));
            });
        }
        Ok(awaited)
    }
}

fn follow(
    args: &LogsArgs,
    client: &Arc<Client>,
    (workload, instances): (&str, Vec<Instance>),
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let (say, heard) = mpsc::sync_channel(HELD_LINES);
    let mut followed = Followed { client, say, known: BTreeSet::new(), open: 0 };
    let mut awaited = followed.take_up(args, instances)?;
    // All that a later one writes is new.
    let later = LogsArgs { tail: None, since: None, ..args.clone() };
    let mut looked = Instant::now();
    let mut worst = Exit::Done;
    loop {
        match heard.recv_timeout(LOOK_EVERY.saturating_sub(looked.elapsed())) {
            Ok(Heard::Line(id, line)) => print(&id, &line, terminal)?,
            Ok(Heard::Over(ended)) => {
                followed.open -= 1;
                match ended {
                    Ok(()) => {}
                    Err(Failure::Told(report)) => {
                        terminal.report(&report);
                        worst = report.exit;
                    }
                    Err(failure) => return Err(failure),
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        let all_over = followed.open == 0 && !awaited;
        if all_over || looked.elapsed() >= LOOK_EVERY {
            match instances_of(client, workload) {
                Ok(instances) => awaited = followed.take_up(&later, instances)?,
                // Whoever is followed goes on.
                Err(_) if followed.open > 0 => {}
                Err(failure) => return Err(failure),
            }
            looked = Instant::now();
            if followed.open == 0 && !awaited {
                return if worst == Exit::Done { Ok(()) } else { Err(Failure::Already(worst)) };
            }
        }
    }
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
