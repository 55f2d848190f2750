//! Ends: who ended, how, and the file that says so before anybody hears of it.
//!
//! The shim's own children are reaped, so their codes are known. Containers taken over from an earlier shim are
//! somebody else's children: the kernel tells by a handle that they ended, and newer kernels also how.

use std::{
    fs,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::{
    event::epoll,
    process::{WaitOptions, wait},
};

use super::{
    attach::inherited_terminal,
    process,
    server::{Key, Live, Shim, Source, watch},
    starts::{open_outputs, record_exit, remove_pipes},
};
use crate::pod::files::{EXIT_FILE, ExitFile, PROCESS_FILE, ProcessFile, read_whole};

/// Name that libcontainer gives a process until it executes its program.
const UNBORN_NAME: &str = "youki:";
/// How long the end of somebody else's child may stay unexplained: its parent reaps it at once, or never.
const FADING: Duration = Duration::from_secs(1);

impl Shim {
    pub(super) fn take_signals(&mut self) {
        let mut buffer = [0_u8; 8 * size_of::<libc::signalfd_siginfo>()];
        let mut asked_to_end = false;
        while let Ok(count) = rustix::io::read(&self.signals, &mut buffer)
            && count > 0
        {
            for info in buffer.get(..count).unwrap_or_default().chunks(size_of::<libc::signalfd_siginfo>()) {
                // The number of the signal is the first field.
                let number = info.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes).cast_signed());
                asked_to_end |= number.is_some_and(|number| number != libc::SIGCHLD);
            }
        }
        self.reap();
        if asked_to_end {
            self.ending = self.live.is_empty() && self.starts.is_empty();
            if !self.ending {
                eprintln!("asked to end, and going on: {} containers need this process", self.live.len());
            }
        }
    }

    pub(super) fn reap(&mut self) {
        self.take_all_reports();
        self.take_exec_reports();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            // A container can only become our child when its creator has ended, and a creator reports before that.
            let key = self.find(pid).or_else(|| {
                self.take_all_reports();
                self.find(pid)
            });
            if let Some(key) = key {
                self.ended(&key, exit_of(status.as_raw()));
            } else if !self.exec_ended(pid, &exit_of(status.as_raw())) {
                self.creator_ended(pid);
            }
        }
    }

    fn find(&self, pid: i32) -> Option<Key> {
        self.live.iter().find(|(_, live)| live.pid == pid).map(|(key, _)| key.clone())
    }

    fn creator_ended(&mut self, pid: i32) {
        let key = self.launches.iter().find(|(_, launch)| launch.pid == pid).map(|(key, _)| key.clone());
        if let Some(key) = key {
            // Its report, had there been one, would have been taken by now.
            self.start_failed(&key, "the creation of the container crashed".to_owned());
        }
    }

    /// A container that is not our child ended.
    pub(super) fn unseen_end(&mut self, key: &Key) {
        let Some(live) = self.live.get(key) else { return };
        if let Some(status) = process::how_it_ended(&live.handle, live.pid, live.start_ticks) {
            return self.ended(key, exit_of(status));
        }
        // The kernel tells no sooner than its parent, whoever that is, has reaped it; it hangs up then.
        let token = live.tokens.first().copied().unwrap_or_default();
        let flags = epoll::EventFlags::empty();
        let _ = epoll::modify(&self.epoll, &live.handle, epoll::EventData::new_u64(token), flags);
        self.fading.entry(key.clone()).or_insert_with(|| Instant::now() + FADING);
    }

    /// Gives up on learning how containers ended whose end was noticed a while ago.
    pub(super) fn end_faded(&mut self) {
        let now = Instant::now();
        let faded: Vec<Key> =
            self.fading.iter().filter(|(_, until)| **until <= now).map(|(k, _)| k.clone()).collect();
        for key in faded {
            self.ended(&key, ExitFile::default());
        }
    }

    fn ended(&mut self, key: &Key, mut exit: ExitFile) {
        self.fading.remove(key);
        self.expecting.remove(key);
        let Some(mut live) = self.live.remove(key) else { return };
        for token in &live.tokens {
            self.sources.remove(token);
        }
        if let Some(group) = &live.group {
            process::kill_group(group);
        }
        live.outputs.drain(&mut self.read_buffer, &mut self.batch);
        self.let_listeners_go(&mut live.outputs);
        remove_pipes(&live.dir);
        exit.out_of_memory = live.memory_dir.as_deref().is_some_and(killed_for_memory);
        exit.finished_at = Some(Timestamp::now());
        exit.run = live.run;
        record_exit(&live.dir, &exit);
        self.tell(&key.0);
        self.settle(&key.0);
    }

    /// Takes over the containers that an earlier shim has left under `pods`.
    pub(super) fn adopt(&mut self, pods: &Path) {
        for pod in entries(pods) {
            for container in entries(&pods.join(&pod).join("c")) {
                let Ok(index) = container.parse() else { continue };
                let dir = pods.join(&pod).join("c").join(&container);
                if dir.join(EXIT_FILE).exists() {
                    continue;
                }
                match read_whole::<ProcessFile>(&dir.join(PROCESS_FILE)) {
                    Ok(Some(process)) => self.adopt_one((pod.clone(), index), &dir, &process),
                    Ok(None) => {}
                    Err(error) => {
                        eprintln!("{} is not understood: {error}", dir.join(PROCESS_FILE).display())
                    }
                }
            }
        }
    }

    fn adopt_one(&mut self, key: Key, dir: &Path, file: &ProcessFile) {
        let same_boot = file.boot_id == self.config.boot_id;
        let handle =
            if same_boot { process::open_exactly(file.pid, file.start_ticks).ok().flatten() } else { None };
        let mut outputs = open_outputs(dir, &file.log, file.stdin_once);
        if let Some(terminal) = inherited_terminal(dir) {
            outputs.be_terminal(terminal);
        }
        let Some(handle) = handle else {
            outputs.drain(&mut self.read_buffer, &mut self.batch);
            remove_pipes(dir);
            let out_of_memory = same_boot && file.memory_dir.as_deref().is_some_and(killed_for_memory);
            let finished_at = Some(Timestamp::now());
            // A child that nobody has reaped yet, if this process has become another program meanwhile.
            let status = if same_boot { process::unreaped_end(file.pid, file.start_ticks) } else { None };
            let exit = status.map(exit_of).unwrap_or_default();
            return record_exit(dir, &ExitFile { out_of_memory, finished_at, run: file.run, ..exit });
        };
        // Its creator was lost between creating and starting it: it would wait for its start for ever.
        let name = fs::read_to_string(format!("/proc/{}/comm", file.pid)).unwrap_or_default();
        if name.starts_with(UNBORN_NAME) {
            let _ = process::send(&handle, libc::SIGKILL);
        }
        let token = self.token(Source::Process(key.clone()));
        if let Err(error) = watch(&self.epoll, &handle, token) {
            eprintln!("the end of {key:?} will not be noticed: {error}");
        }
        let mut live = Live {
            pid: file.pid,
            start_ticks: file.start_ticks,
            run: file.run,
            handle,
            dir: dir.to_owned(),
            stop_signal: file.stop_signal,
            group: file.group.clone(),
            memory_dir: file.memory_dir.clone(),
            outputs,
            tokens: vec![token],
        };
        self.watch_outputs(&key, &mut live);
        self.live.insert(key, live);
    }
}

fn exit_of(status: i32) -> ExitFile {
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
    ExitFile { code, signal, ..ExitFile::default() }
}

/// Whether the kernel killed a process of the group for want of memory.
fn killed_for_memory(memory_dir: &Path) -> bool {
    ["memory.events", "memory.oom_control"].iter().any(|name| {
        let mut text = String::new();
        let read = fs::File::open(memory_dir.join(name)).and_then(|mut file| file.read_to_string(&mut text));
        read.is_ok()
            && text
                .lines()
                .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    })
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kill_for_want_of_memory_is_read_from_both_kinds_of_group() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!killed_for_memory(dir.path()));
        fs::write(dir.path().join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
            .unwrap();
        assert!(!killed_for_memory(dir.path()));
        fs::write(dir.path().join("memory.events"), "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n").unwrap();
        assert!(killed_for_memory(dir.path()));
    }
}
