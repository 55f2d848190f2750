//! What a pod's files mean: from its record, its containers' files and the machine's boot to [`Observed`].
//!
//! ```text
//!  process.json  exit.json    container
//!       –            –        not started (yet, if its start is under way)
//!       ✓            –        runs; after a boot: was cut off
//!       any          ✓        ended as the file says
//! ```

use model::{
    ContainerPhase, ContainerStatus, Reason,
    lifecycle::{Facts, Observed},
    quantity::Memory,
};

use super::{
    files::{ExitFile, ProcessFile},
    record::{Record, Stage},
    shim::{process::start_ticks, wire::PodLook},
};

/// What is there of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFiles {
    /// Its process, if it was ever created.
    pub process: Option<ProcessFile>,
    /// Its end, if it is over.
    pub exit: Option<ExitFile>,
}

/// What the machine says besides the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances<'a> {
    /// The present boot of the machine.
    pub boot_id: &'a str,
    /// Whether the shim is at work on the pod's start.
    pub starting: bool,
}

/// What there is of the pod.
#[must_use]
pub fn observe(record: &Record, files: &[ContainerFiles], now: Circumstances<'_>) -> Observed {
    let rebooted = record.boot_id != now.boot_id;
    match record.stage {
        Stage::Released => Observed::Released(record.facts.clone().unwrap_or_default()),
        Stage::Preparing => Observed::Partial,
        // The mark of its start may have been lost with the power, so it counts as started.
        Stage::Prepared if rebooted => Observed::Ended(facts(record, files, rebooted)),
        Stage::Prepared => Observed::Prepared,
        Stage::Started => {
            let facts = facts(record, files, rebooted);
            let runs = facts.containers.iter().any(|container| container.phase == ContainerPhase::Running);
            if !rebooted && (runs || now.starting) {
                Observed::Running(facts)
            } else {
                Observed::Ended(facts)
            }
        }
    }
}

/// Whether it takes a question to the shim to know what there is: something was started and is not there, or a process
/// is gone and nobody has written down how.
#[must_use]
pub fn is_unclear(record: &Record, files: &[ContainerFiles], boot_id: &str) -> bool {
    let unclear = |own: &ContainerFiles| match (&own.process, &own.exit) {
        (_, Some(_)) => false,
        (None, None) => true,
        (Some(process), None) => start_ticks(process.pid) != Some(process.start_ticks),
    };
    record.stage == Stage::Started && record.boot_id == boot_id && files.iter().any(unclear)
}

/// Containers whose process nobody watches are over, in a way that nobody knows: their end could not be written down.
pub fn end_unwatched(files: &mut [ContainerFiles], look: &PodLook) {
    for (index, own) in files.iter_mut().enumerate() {
        let watched = look.starting || look.running.iter().any(|running| *running as usize == index);
        if own.process.is_some() && own.exit.is_none() && !watched {
            own.exit = Some(ExitFile::default());
        }
    }
}

fn facts(record: &Record, files: &[ContainerFiles], rebooted: bool) -> Facts {
    let containers: Vec<ContainerStatus> = (0..record.spec.spec.containers.len())
        .map(|index| status(record, index, files.get(index), rebooted))
        .collect();
    let all_over = containers.iter().all(|container| container.phase != ContainerPhase::Running);
    let over = containers.iter().filter(|container| container.phase == ContainerPhase::Exited);
    let failed =
        over.clone().filter(|container| container.reason.is_some()).min_by_key(|one| one.finished_at);
    let last = over.max_by_key(|container| container.finished_at);
    let started: Vec<_> = containers.iter().filter_map(|container| container.started_at).collect();
    let attachment = record.attachment.as_ref();
    let (reason, message) = match failed.filter(|_| all_over) {
        Some(one) => (one.reason, Some(sentence(record, one, files))),
        None if all_over && last.is_none() && rebooted => {
            (Some(Reason::NodeRestarted), Some(NODE_RESTARTED.to_owned()))
        }
        None if all_over && last.is_none() => (Some(Reason::StartFailed), Some(CUT_OFF.to_owned())),
        None => (None, None),
    };
    Facts {
        reason,
        message,
        ip: attachment.map(|own| own.ip),
        ports: if attachment.is_some() {
            record.spec.spec.published().map(Into::into).collect()
        } else {
            Vec::new()
        },
        exit_code: failed.or(last).filter(|_| all_over).and_then(|container| container.exit_code),
        restarts: 0,
        started_at: started.iter().max().copied().filter(|_| started.len() == containers.len()),
        finished_at: last.and_then(|container| container.finished_at).filter(|_| all_over),
        containers,
    }
}

const NODE_RESTARTED: &str = "its node started again, and it cannot be running any more";
const CUT_OFF: &str = "its start was cut off before it was complete";

fn status(record: &Record, index: usize, files: Option<&ContainerFiles>, rebooted: bool) -> ContainerStatus {
    let none = ContainerFiles::default();
    let ContainerFiles { process, exit } = files.unwrap_or(&none);
    let name =
        record.spec.spec.containers.get(index).map(|container| container.name.clone()).unwrap_or_default();
    let phase = match (process, exit) {
        (_, Some(_)) => ContainerPhase::Exited,
        (Some(_), None) if rebooted => ContainerPhase::Exited,
        (Some(_), None) => ContainerPhase::Running,
        (None, None) => ContainerPhase::Waiting,
    };
    let running = phase == ContainerPhase::Running;
    ContainerStatus {
        name,
        phase,
        image_digest: record.image_digests.get(index).cloned().flatten(),
        pid: process.as_ref().filter(|_| running).and_then(|process| process.pid.try_into().ok()),
        exit_code: exit.as_ref().and_then(ExitFile::shell_code),
        signal: exit.as_ref().and_then(|exit| exit.signal),
        reason: match exit {
            Some(exit) => why(exit),
            None if phase == ContainerPhase::Exited => Some(Reason::NodeRestarted),
            None => None,
        },
        started_at: process.as_ref().map(|process| process.created_at),
        finished_at: exit.as_ref().and_then(|exit| exit.finished_at),
    }
}

/// Why a container's end counts as a failure; None if it does not.
fn why(exit: &ExitFile) -> Option<Reason> {
    match (exit.shell_code(), exit.signal) {
        _ if exit.start_error.is_some() => Some(Reason::StartFailed),
        (Some(0), _) => None,
        _ if exit.out_of_memory => Some(Reason::OutOfMemory),
        (None, _) => Some(Reason::ExitUnknown),
        (_, Some(_)) => Some(Reason::Signaled),
        _ => Some(Reason::NonZeroExit),
    }
}

fn sentence(record: &Record, container: &ContainerStatus, files: &[ContainerFiles]) -> String {
    let name = &container.name;
    let index = record.spec.spec.containers.iter().position(|own| own.name == *name);
    let exit = index.and_then(|index| files.get(index)?.exit.as_ref());
    match container.reason {
        Some(Reason::StartFailed) => {
            let words = exit.and_then(|exit| exit.start_error.as_deref()).unwrap_or(CUT_OFF);
            format!("container {name:?} could not be started: {words}")
        }
        Some(Reason::OutOfMemory) => match index.and_then(|index| memory_limit(record, index)) {
            Some(limit) => {
                format!("container {name:?} was ended because it used more memory than its limit of {limit}")
            }
            None => format!("container {name:?} was ended because memory was short"),
        },
        Some(Reason::Signaled) => {
            let number = container.signal.unwrap_or_default();
            format!("container {name:?} was ended by signal {number}{}", signal_name(number))
        }
        Some(Reason::NonZeroExit) => {
            format!("container {name:?} ended with exit code {}", container.exit_code.unwrap_or_default())
        }
        Some(Reason::NodeRestarted) => NODE_RESTARTED.to_owned(),
        _ => format!("container {name:?} ended while nobody could see how"),
    }
}

/// The memory limit that holds for a container: its own, or its pod's.
fn memory_limit(record: &Record, index: usize) -> Option<Memory> {
    let spec = &record.spec.spec;
    let own = spec.containers.get(index).and_then(|container| container.resources.as_ref());
    [own, spec.resources.as_ref()].into_iter().flatten().find_map(|resources| resources.limits?.memory)
}

fn signal_name(number: i32) -> &'static str {
    match number {
        libc::SIGHUP => " (HUP)",
        libc::SIGINT => " (INT)",
        libc::SIGQUIT => " (QUIT)",
        libc::SIGILL => " (ILL)",
        libc::SIGABRT => " (ABRT)",
        libc::SIGBUS => " (BUS)",
        libc::SIGFPE => " (FPE)",
        libc::SIGKILL => " (KILL)",
        libc::SIGSEGV => " (SEGV)",
        libc::SIGPIPE => " (PIPE)",
        libc::SIGTERM => " (TERM)",
        libc::SIGSYS => " (SYS)",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
