//! The machine that was measured, as far as its numbers mean something to others: no names, no paths.

use std::fs;

use anyhow::{Context, Result};

/// What the numbers depend on.
#[derive(Debug)]
pub(super) struct Machine {
    cores: usize,
    processor: String,
    memory_gib: u64,
    kernel: String,
    /// Processes that wanted a core, on average, in the minute before.
    load: String,
}

impl Machine {
    /// Reads it, before anything is measured.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn read() -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).with_context(|| format!("failed to read {path}"));
        let processors = text("/proc/cpuinfo")?;
        let memory = text("/proc/meminfo")?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
        let kibibytes: u64 = memory.trim().trim_end_matches(" kB").parse().unwrap_or_default();
        let release = text("/proc/sys/kernel/osrelease")?;
        // What a distribution or a host adds behind the version says nothing about speed.
        let kernel: String =
            release.trim().chars().take_while(|one| one.is_ascii_digit() || *one == '.').collect();
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor(&processors),
            memory_gib: (kibibytes + (1 << 19)) >> 20,
            kernel,
            load: text("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }

    /// All of it in one line.
    pub(super) fn sentence(&self) -> String {
        let Self { cores, processor, memory_gib, kernel, load } = self;
        format!(
            "{cores} cores ({processor}), {memory_gib} GiB of memory, Linux {kernel}; load before the run {load}\n"
        )
    }
}

fn processor(text: &str) -> String {
    let named = text.lines().find_map(|line| line.strip_prefix("model name"));
    named.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name).trim().to_owned()
}
