//! Starts: containers are created by creators, a few at a time.
//!
//! ```text
//!  asked ─▶ waiting ─▶ creator at work ─▶ running          all done: Started, or StartFailed for the first that was
//!                          │ failed, crashed or too late
//!                          └─▶ exit.json says why
//! ```
//! *Guarantees*: a container is begun at most once, as long as its files are there: whoever has a `process.json` or
//! `exit.json` is refused. A start goes on if its asker goes away, and the files tell how it ended.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    fs::OFlags,
    process::{Pid, Signal, kill_process},
};

use super::{
    LAUNCHES_FOR_EACH_PROCESSOR,
    attach::{OWNER_WITHIN, receive_terminal},
    keeper,
    launch::{Report, STDIO, has_begun, launch, make_fifo, open_fifo},
    log::{LogWriter, Stream},
    process,
    server::{Key, Launch, Live, Outputs, PodStart, Shim, Source, watch},
    wire::{Answer, ContainerOrder},
};
use crate::pod::files::{EXIT_FILE, ExitFile, ProcessFile, write_whole};

/// How long the creation of a container may take: it is a matter of milliseconds, so after this it hangs.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);
/// The same for one that says itself when it has begun: its supervisor has given up before.
const BOOT_DEADLINE: Duration = Duration::from_secs(150);
/// Most containers of one request: what a manifest can hold.
const MAX_CONTAINERS: usize = model::manifest::MAX_CONTAINERS;
/// Most containers that wait for their creator: more than a machine can hold.
const MAX_WAITING: usize = 10_000;

impl Shim {
    pub(super) fn begin_start(
        &mut self,
        pod: String,
        containers: Vec<ContainerOrder>,
        asked_by: (u64, u64),
    ) -> Result<(), String> {
        if self.upgrade.is_some() {
            return Err("it is about to become another program".to_owned());
        }
        if containers.is_empty() || containers.len() > MAX_CONTAINERS {
            return Err(format!("a pod of {} containers", containers.len()));
        }
        if self.waiting.len() + containers.len() > MAX_WAITING {
            return Err("too many containers wait to be started".to_owned());
        }
        let live = |order: &ContainerOrder| self.live.contains_key(&(pod.clone(), order.index));
        let known = self.starts.contains_key(&pod) || containers.iter().any(live);
        if known || containers.iter().any(|order| has_begun(&order.dir)) {
            return Err("it has been started before".to_owned());
        }
        let start = PodStart { asked_by: Some(asked_by), missing: containers.len(), failed: None };
        self.starts.insert(pod.clone(), start);
        self.waiting.extend(containers.into_iter().map(|order| (pod.clone(), order)));
        self.launch_waiting();
        Ok(())
    }

    /// Gives waiting containers a creator, as many as may be at work together.
    pub(super) fn launch_waiting(&mut self) {
        while let Some((pod, order)) = self.next_waiting() {
            let index = order.index;
            if let Err(error) = self.launch_one(&pod, order) {
                self.start_failed(&(pod, index), format!("preparing its start: {error}"));
            }
        }
    }

    /// The first of those that wait for which there is room. Machines that come up take seconds, so they have a room of
    /// their own, and containers do not wait behind them.
    fn next_waiting(&mut self) -> Option<(String, ContainerOrder)> {
        let booting = self.launches.values().filter(|launch| launch.order.says_itself).count();
        let may_boot = booting < self.launches_max.div_ceil(LAUNCHES_FOR_EACH_PROCESSOR);
        let may_launch = self.launches.len() - booting < self.launches_max;
        let fits = |order: &ContainerOrder| if order.says_itself { may_boot } else { may_launch };
        let place = self.waiting.iter().position(|(_, order)| fits(order))?;
        self.waiting.remove(place)
    }

    fn launch_one(&mut self, pod: &str, order: ContainerOrder) -> io::Result<()> {
        let key: Key = (pod.to_owned(), order.index);
        for name in STDIO {
            make_fifo(&order.dir.join(name))?;
        }
        if let Some(shared) = &order.shared_pids {
            keeper::ensure(shared, &self.config.boot_id)?;
        }
        // Before there is anybody at the other ends.
        let outputs = open_outputs(&order.dir, &order.log, order.stdin_once);
        let launched = launch(&order, &self.config)?;
        let token = self.token(Source::Report(key.clone()));
        let entry = Launch {
            pid: launched.pid,
            report: launched.report,
            buffer: super::launch::ReportBuffer::default(),
            token,
            outputs,
            terminal: launched.terminal,
            deadline: Instant::now() + if order.says_itself { BOOT_DEADLINE } else { LAUNCH_DEADLINE },
            order,
        };
        let watched = watch(&self.epoll, &entry.report, token);
        self.launches.insert(key, entry);
        watched
    }

    pub(super) fn take_report(&mut self, key: &Key) {
        let Some(launch) = self.launches.get_mut(key) else { return };
        if let Some(report) = launch.buffer.read(&launch.report) {
            self.finish_launch(key, report);
        }
    }

    pub(super) fn take_all_reports(&mut self) {
        let keys: Vec<Key> = self.launches.keys().cloned().collect();
        for key in &keys {
            self.take_report(key);
        }
    }

    fn finish_launch(&mut self, key: &Key, report: Report) {
        match report {
            Report::Runs { process } => self.runs(key, &process),
            Report::Failed { why } => self.start_failed(key, why),
        }
    }

    fn runs(&mut self, key: &Key, process: &ProcessFile) {
        // Without a handle on it (no room for one) it cannot be watched, so it must not run; nor without its terminal.
        let terminal =
            self.launches.get(key).and_then(|launch| launch.terminal.as_ref()).map(receive_terminal);
        let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let terminal = terminal.transpose().map_err(at("its terminal"));
        let held = process::open_child(process.pid).map_err(at("watching its process"));
        let (handle, terminal) = match held.and_then(|handle| Ok((handle, terminal?))) {
            Ok(held) => held,
            Err(why) => {
                if let Some(pid) = Pid::from_raw(process.pid) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                return self.start_failed(key, why);
            }
        };
        let Some(mut launch) = self.launches.remove(key) else { return };
        if let Some(terminal) = terminal {
            launch.outputs.be_terminal(terminal);
        }
        if launch.order.stdin_once {
            launch.outputs.early = Some(VecDeque::new());
            self.expecting.insert(key.clone(), Instant::now() + OWNER_WITHIN);
        }
        self.sources.remove(&launch.token);
        let mut live = Live {
            pid: process.pid,
            start_ticks: process.start_ticks,
            run: process.run,
            handle,
            dir: launch.order.dir,
            stop_signal: launch.order.stop_signal,
            group: process.group.clone(),
            memory_dir: launch.order.memory_dir,
            outputs: launch.outputs,
            tokens: Vec::new(),
        };
        self.watch_outputs(key, &mut live);
        // Nobody waits for it: the start was given up.
        if !self.starts.contains_key(&key.0) {
            let _ = process::send(&live.handle, libc::SIGKILL);
        }
        self.live.insert(key.clone(), live);
        if let Some(start) = self.starts.get_mut(&key.0) {
            start.missing = start.missing.saturating_sub(1);
        }
        self.settle(&key.0);
    }

    pub(super) fn watch_outputs(&mut self, key: &Key, live: &mut Live) {
        live.outputs.tokens =
            [Stream::Stdout, Stream::Stderr].map(|stream| self.token(Source::Output(key.clone(), stream)));
        live.tokens.extend(live.outputs.tokens);
        for (file, token) in live.outputs.watched() {
            if let Err(error) = watch(&self.epoll, file, token) {
                eprintln!("output of {key:?} is not read: {error}");
            }
        }
    }

    /// A container cannot be started: it is over.
    pub(super) fn start_failed(&mut self, key: &Key, why: String) {
        let Some(start) = self.starts.get_mut(&key.0) else { return };
        start.missing = start.missing.saturating_sub(1);
        if start.failed.is_none() {
            start.failed = Some((key.1, why.clone()));
        }
        if let Some(mut launch) = self.launches.remove(key) {
            self.sources.remove(&launch.token);
            if let Some(dir) = launch.order.groups.dir() {
                process::kill_group(dir);
            }
            launch.outputs.drain(&mut self.read_buffer, &mut self.batch);
            remove_pipes(&launch.order.dir);
            let exit = ExitFile {
                start_error: Some(why),
                finished_at: Some(Timestamp::now()),
                run: launch.order.run,
                ..ExitFile::default()
            };
            record_exit(&launch.order.dir, &exit);
        }
        self.settle(&key.0);
    }

    /// Drops those of a start that wait for their creator: they never begin.
    fn drop_waiting(&mut self, pod: &str) {
        let before = self.waiting.len();
        self.waiting.retain(|(uid, _)| uid != pod);
        let dropped = before - self.waiting.len();
        if let Some(start) = self.starts.get_mut(pod) {
            start.missing = start.missing.saturating_sub(dropped);
        }
    }

    /// Lets a start that is under way fail. Nothing happens if there is none.
    pub(super) fn give_up_start(&mut self, pod: &str, why: &str) {
        let at_work: Vec<Key> = self.launches.keys().filter(|(uid, _)| uid == pod).cloned().collect();
        let Some(start) = self.starts.get_mut(pod) else { return };
        if start.failed.is_none() {
            start.failed = Some((0, why.to_owned()));
        }
        self.drop_waiting(pod);
        for key in at_work {
            self.end_launch(&key, why);
        }
        self.settle(pod);
    }

    pub(super) fn end_late_launches(&mut self) {
        let now = Instant::now();
        let late: Vec<Key> = self
            .launches
            .iter()
            .filter(|(_, launch)| launch.deadline <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in late {
            self.end_launch(&key, "its creation took too long");
        }
    }

    fn end_launch(&mut self, key: &Key, why: &str) {
        if let Some(pid) = self.launches.get(key).and_then(|launch| Pid::from_raw(launch.pid)) {
            // Not reaped yet, so the number is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
        self.start_failed(key, why.to_owned());
    }

    /// Answers a start when nothing of it is open any more.
    pub(super) fn settle(&mut self, pod: &str) {
        let Some(start) = self.starts.get(pod) else { return };
        if start.missing > 0 {
            return;
        }
        let Some(start) = self.starts.remove(pod) else { return };
        let answer = start.failed.map_or(Answer::Started, |(index, why)| Answer::StartFailed { index, why });
        self.tell(pod);
        if let Some((token, id)) = start.asked_by {
            self.reply(token, id, answer);
        }
    }
}

impl Outputs {
    /// Logs what is still in the pipes, and ends the log.
    pub(super) fn drain(&mut self, read_buffer: &mut [u8], batch: &mut Vec<u8>) {
        // Enough for full pipes of the largest size; more can only come from a process that outlived its container.
        const TURNS: usize = 32;
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..TURNS {
                if !self.take(stream, read_buffer, batch).is_ok_and(|count| count > 0) {
                    break;
                }
            }
        }
        if let Some(log) = &mut self.log {
            log.finish();
        }
    }

    /// A terminal is all its output, and its input.
    pub(super) fn be_terminal(&mut self, terminal: File) {
        (self.stdout, self.stderr, self.input) = (Some(terminal), None, None);
        self.is_terminal = true;
    }
}

/// Opens the shim's ends of a container's pipes, and its log; its input too, if that ends when the shim lets go.
pub(super) fn open_outputs(dir: &Path, log: &Path, stdin_once: bool) -> Outputs {
    let open = |name: &str| -> Option<File> {
        open_fifo(&dir.join(name), OFlags::NONBLOCK)
            .map_err(|error| eprintln!("{} cannot be read: {error}", dir.join(name).display()))
            .ok()
    };
    let log =
        LogWriter::open(log).map_err(|error| eprintln!("{} cannot be written: {error}", log.display())).ok();
    let input = if stdin_once && dir.join(STDIO[0]).exists() { open(STDIO[0]) } else { None };
    Outputs { stdout: open(STDIO[1]), stderr: open(STDIO[2]), log, input, ..Outputs::default() }
}

/// Removes a container's pipes: nobody will write to them again.
pub(super) fn remove_pipes(dir: &Path) {
    for name in STDIO {
        let _ = std::fs::remove_file(dir.join(name));
    }
}

/// Writes down how a container ended. What cannot be written is said in the shim's own log; the agent then finds a
/// process that is gone and no word about its end.
pub(super) fn record_exit(dir: &Path, exit: &ExitFile) {
    if let Err(error) = write_whole(&dir.join(EXIT_FILE), exit) {
        eprintln!("the end of {} could not be written down: {error}", dir.display());
    }
}
