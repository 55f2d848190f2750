//! Further programs in running containers: begun on request, watched until they end.
//!
//! ```text
//!  asked ─▶ guide at work ─▶ pid known ─▶ the pipe closes: it runs (Started)
//!                                 └─ words come: it cannot (Refused)
//!  it ends ─▶ exit.json in its directory ─▶ news of its pod
//! ```
//! They are not taken over by another shim: whoever asked for one is gone by then, or learns that it was lost.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use jiff::Timestamp;

use super::{
    join::{AFTER_PID, join},
    process,
    server::{Shim, Source, watch},
    starts::record_exit,
    wire::{Answer, ExecOrder},
};
use crate::pod::files::ExitFile;

/// Most of them at a time on the node: each is a person or a probe.
const MAX_EXECS: usize = 256;
/// Longest report that is read.
const MAX_REPORT_BYTES: usize = 8 << 10;

/// A further program.
#[derive(Debug)]
pub(super) struct Exec {
    pod: String,
    dir: PathBuf,
    /// Where its guide's report comes from, until it runs.
    report: Option<OwnedFd>,
    received: Vec<u8>,
    token: u64,
    asked_by: (u64, u64),
    /// The program's process and a handle on it, once known.
    process: Option<(i32, Option<OwnedFd>)>,
    /// How it ended, if that was known before the report was complete.
    ended: Option<ExitFile>,
}

impl Shim {
    pub(super) fn begin_exec(&mut self, order: ExecOrder, asked_by: (u64, u64)) -> Result<(), String> {
        if self.upgrade.is_some() {
            return Err("the shim is about to become another program; try again".to_owned());
        }
        if self.execs.len() >= MAX_EXECS {
            return Err(format!("{MAX_EXECS} programs are being run in containers already; end one of them"));
        }
        let Some(live) = self.live.get(&(order.pod.clone(), order.container)) else {
            return Err("the container does not run".to_owned());
        };
        let (_guide, report) =
            join(&order, &live.handle, self.config.oom_score_adj).map_err(|error| error.to_string())?;
        let token = self.token(Source::Exec(order.id.clone()));
        watch(&self.epoll, &report, token).map_err(|error: io::Error| error.to_string())?;
        let exec = Exec {
            pod: order.pod,
            dir: order.dir,
            report: Some(report),
            received: Vec::new(),
            token,
            asked_by,
            process: None,
            ended: None,
        };
        self.execs.insert(order.id, exec);
        Ok(())
    }

    pub(super) fn take_exec_reports(&mut self) {
        let ids: Vec<String> =
            self.execs.iter().filter(|(_, exec)| exec.report.is_some()).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.take_exec_report(&id);
        }
    }

    pub(super) fn take_exec_report(&mut self, id: &str) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        let Some(report) = &exec.report else { return };
        let mut complete = false;
        let mut chunk = [0_u8; 1024];
        loop {
            match rustix::io::read(report.as_fd(), &mut chunk) {
                Ok(0) => {
                    complete = true;
                    break;
                }
                Ok(count) if exec.received.len() < MAX_REPORT_BYTES => {
                    exec.received.extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Ok(_) => {}
                Err(_not_yet) => break,
            }
        }
        if exec.process.is_none()
            && let Some(end) = exec.received.iter().position(|byte| *byte == AFTER_PID)
        {
            let line: Vec<u8> = exec.received.drain(..=end).collect();
            let pid = std::str::from_utf8(&line).ok().and_then(|text| text.trim().parse().ok());
            // None if it has ended and was reaped already.
            exec.process = pid.map(|pid| (pid, process::open_child(pid).ok()));
        }
        if complete {
            self.exec_begun(id);
        }
    }

    fn exec_begun(&mut self, id: &str) {
        let Some(exec) = self.execs.get_mut(id) else { return };
        exec.report = None;
        self.sources.remove(&exec.token);
        let (asked_by, words) = (exec.asked_by, String::from_utf8_lossy(&exec.received).into_owned());
        if exec.process.is_none() || !words.is_empty() {
            let why = if words.is_empty() { "its process was lost".to_owned() } else { words };
            self.execs.remove(id);
            return self.reply(asked_by.0, asked_by.1, Answer::Refused { why });
        }
        self.reply(asked_by.0, asked_by.1, Answer::Started);
        if let Some(exit) = self.execs.get(id).and_then(|exec| exec.ended.clone()) {
            self.end_exec(id, &exit);
        }
    }

    /// A child ended. False if it is none of these programs.
    pub(super) fn exec_ended(&mut self, pid: i32, exit: &ExitFile) -> bool {
        let Some(id) = self.exec_of(pid).or_else(|| {
            // The pid is told before the program may run, but perhaps it was not read yet.
            self.take_exec_reports();
            self.exec_of(pid)
        }) else {
            return false;
        };
        let Some(exec) = self.execs.get_mut(&id) else { return false };
        if exec.report.is_some() {
            // Its end came before the end of its report was read: both are told in order.
            exec.ended = Some(exit.clone());
            self.take_exec_report(&id);
        } else {
            self.end_exec(&id, exit);
        }
        true
    }

    fn exec_of(&self, pid: i32) -> Option<String> {
        let own = |exec: &Exec| exec.process.as_ref().is_some_and(|(own, _)| *own == pid);
        self.execs.iter().find(|(_, exec)| own(exec)).map(|(id, _)| id.clone())
    }

    fn end_exec(&mut self, id: &str, exit: &ExitFile) {
        let Some(exec) = self.execs.remove(id) else { return };
        // Whoever asked may have gone, and the directory with him.
        if exec.dir.exists() {
            record_exit(&exec.dir, &ExitFile { finished_at: Some(Timestamp::now()), ..exit.clone() });
        }
        self.tell(&exec.pod);
    }

    pub(super) fn signal_exec(&mut self, id: &str, signal: i32) -> Answer {
        let process = self.execs.get(id).and_then(|exec| exec.process.as_ref());
        match process.and_then(|(_, handle)| handle.as_ref()).map(|handle| process::send(handle, signal)) {
            Some(Err(error)) => Answer::Refused { why: format!("signal {signal}: {error}") },
            Some(Ok(())) | None => Answer::Done,
        }
    }
}
