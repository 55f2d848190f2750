//! What a pod's files mean: from its record, its containers' files and the machine's boot to [`Observed`].
//!
//! ```text
//!  process.json  exit.json    container, once the record says that its present run has begun
//!       –            –        its start is under way, or was cut off
//!       ✓            –        runs; after a boot: was cut off
//!       any          ✓        ended as the file says
//! ```

use guest::vmm::OUT_OF_MEMORY;
use jiff::Timestamp;
use model::{
    ContainerPhase, ContainerStatus, Reason, StartTimes,
    lifecycle::{Facts, Observed, containers},
    quantity::Memory,
};

use super::{
    files::{ExitFile, ProcessFile},
    limits,
    record::{Record, Runs, Stage},
    shim::{process::start_ticks, wire::PodLook},
};

/// What is there of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerFiles {
    /// Its process, if it was ever created.
    pub process: Option<ProcessFile>,
    /// Its end, if it is over.
    pub exit: Option<ExitFile>,
    /// What the supervisor of a microVM left to say about that.
    pub said: Option<String>,
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
        Stage::Started | Stage::Ending => {
            let seen = statuses(record, files, rebooted);
            let runs = seen.iter().any(|container| container.phase == ContainerPhase::Running);
            let goes_on = record.stage == Stage::Started && !containers::is_over(&record.spec.spec, &seen);
            if !rebooted && (runs || goes_on || now.starting) {
                Observed::Running(Facts { containers: seen, ..running_facts(record, files) })
            } else {
                Observed::Ended(facts(record, files, rebooted))
            }
        }
    }
}

/// Whether it takes a question to the shim to know what there is: something was started and is not there, or a process
/// is gone and nobody has written down how.
#[must_use]
pub fn is_unclear(record: &Record, files: &[ContainerFiles], boot_id: &str) -> bool {
    let unclear = |(own, runs): (&ContainerFiles, &Runs)| match (&own.process, &own.exit) {
        _ if runs.begun == 0 => false,
        (_, Some(_)) => false,
        (None, None) => true,
        (Some(process), None) => start_ticks(process.pid) != Some(process.start_ticks),
    };
    let begun = matches!(record.stage, Stage::Started | Stage::Ending);
    begun && record.boot_id == boot_id && files.iter().zip(&record.runs).any(unclear)
}

/// Containers that were begun and that nobody watches are over, in a way that nobody knows: their end could not be
/// written down, or their start was cut off.
pub fn end_unwatched(record: &Record, files: &mut [ContainerFiles], look: &PodLook) {
    for (index, (own, runs)) in files.iter_mut().zip(&record.runs).enumerate() {
        let watched = look.starting || look.running.iter().any(|running| *running as usize == index);
        if runs.begun > 0 && own.exit.is_none() && !watched {
            let start_error = own.process.is_none().then(|| CUT_OFF.to_owned());
            own.exit = Some(ExitFile { start_error, ..ExitFile::default() });
        }
    }
}

fn statuses(record: &Record, files: &[ContainerFiles], rebooted: bool) -> Vec<ContainerStatus> {
    let none = ContainerFiles::default();
    let inits = record.spec.spec.init_containers.len();
    let each = record.spec.spec.all_containers().enumerate().map(|(index, container)| {
        let mut status = status(record, index, files.get(index).unwrap_or(&none), rebooted);
        status.name.clone_from(&container.name);
        status.init = index < inits;
        status.message =
            status.reason.map(|_| sentence(record, &status, index, files.get(index).unwrap_or(&none)));
        status
    });
    each.collect()
}

/// What is known of a pod that goes on, but its containers.
fn running_facts(record: &Record, files: &[ContainerFiles]) -> Facts {
    let attachment = record.attachment.as_ref();
    let mains = record.runs.iter().zip(files).skip(record.spec.spec.init_containers.len());
    let started = mains.map(|(runs, own)| {
        let present = own.process.as_ref().map(|process| process.created_at);
        present.or_else(|| runs.last.as_ref().and_then(|last| last.started_at))
    });
    let started: Option<Vec<Timestamp>> = started.collect();
    Facts {
        ip: attachment.map(|own| own.ip),
        ports: if attachment.is_some() || record.spec.spec.host_network {
            record.spec.spec.published().map(Into::into).collect()
        } else {
            Vec::new()
        },
        restarts: record.runs.iter().map(|runs| runs.begun.saturating_sub(1)).sum(),
        start_times: start_times(record, files),
        started_at: started.and_then(|all| all.into_iter().max()),
        ..Facts::default()
    }
}

/// Where the time of the start went, as long as each container is in its first run.
fn start_times(record: &Record, files: &[ContainerFiles]) -> Option<StartTimes> {
    let (times, at) = record.prepared?;
    let first = files.iter().map(|own| own.process.as_ref().filter(|process| process.run == 0));
    let first: Option<Vec<Timestamp>> = first.map(|process| Some(process?.created_at)).collect();
    let last = first.and_then(|all| all.into_iter().max());
    let micros = |last: Timestamp| u64::try_from(last.duration_since(at).as_micros()).unwrap_or_default();
    Some(StartTimes { processes_micros: last.map(micros), ..times })
}

/// What is known of a pod that is over: the failure of a sidecar, which is ended with the others, is none of its own.
fn facts(record: &Record, files: &[ContainerFiles], rebooted: bool) -> Facts {
    let containers = statuses(record, files, rebooted);
    let sidecar =
        |index: usize| record.spec.spec.init_containers.get(index).is_some_and(|own| own.is_sidecar());
    let over = containers
        .iter()
        .enumerate()
        .filter(|(index, container)| container.phase == ContainerPhase::Exited && !sidecar(*index))
        .map(|(_, container)| container);
    let failed =
        over.clone().filter(|container| container.reason.is_some()).min_by_key(|one| one.finished_at);
    let last = over.max_by_key(|container| container.finished_at);
    let (reason, message) = match failed {
        Some(one) => (one.reason, one.message.clone()),
        None if last.is_none() && rebooted => (Some(Reason::NodeRestarted), Some(NODE_RESTARTED.to_owned())),
        None if last.is_none() => (Some(Reason::StartFailed), Some(CUT_OFF.to_owned())),
        None => (None, None),
    };
    Facts {
        reason,
        message,
        exit_code: failed.or(last).and_then(|container| container.exit_code),
        finished_at: last.and_then(|container| container.finished_at),
        containers,
        ..running_facts(record, files)
    }
}

const NODE_RESTARTED: &str = "its node started again, and it cannot be running any more";
const CUT_OFF: &str = "its start was cut off before it was complete";

fn status(record: &Record, index: usize, files: &ContainerFiles, rebooted: bool) -> ContainerStatus {
    let ContainerFiles { process, exit, said } = files;
    let runs = record.runs.get(index).cloned().unwrap_or_default();
    let phase = match (process, exit) {
        (_, Some(_)) => ContainerPhase::Exited,
        (None, None) if runs.begun == 0 => ContainerPhase::Waiting,
        _ if rebooted => ContainerPhase::Exited,
        // Its start is under way, or done.
        _ => ContainerPhase::Running,
    };
    let running = phase == ContainerPhase::Running;
    let condemned = runs.condemned.as_ref().map(|_| runs.condemned_for.unwrap_or(Reason::Unhealthy));
    ContainerStatus {
        phase,
        image_digest: record.image_digests.get(index).cloned().flatten(),
        pid: process.as_ref().filter(|_| running).and_then(|process| process.pid.try_into().ok()),
        exit_code: exit.as_ref().and_then(ExitFile::shell_code),
        signal: exit.as_ref().and_then(|exit| exit.signal),
        reason: match exit {
            Some(exit) => condemned.or_else(|| why(exit, said.as_deref())),
            None if phase == ContainerPhase::Exited => Some(Reason::NodeRestarted),
            None => None,
        },
        started_at: process.as_ref().map(|process| process.created_at),
        finished_at: exit.as_ref().and_then(|exit| exit.finished_at),
        restarts: runs.begun.saturating_sub(1),
        quick_ends: runs.quick_ends,
        last_run: runs.last,
        ..ContainerStatus::waiting("")
    }
}

/// Why a container's end counts as a failure; None if it does not.
fn why(exit: &ExitFile, said: Option<&str>) -> Option<Reason> {
    match (exit.shell_code(), exit.signal) {
        _ if exit.start_error.is_some() => Some(Reason::StartFailed),
        (Some(0), _) => None,
        _ if exit.out_of_memory || said == Some(OUT_OF_MEMORY) => Some(Reason::OutOfMemory),
        _ if said.is_some() => Some(Reason::MicrovmFailed),
        (None, _) => Some(Reason::ExitUnknown),
        (_, Some(_)) => Some(Reason::Signaled),
        _ => Some(Reason::NonZeroExit),
    }
}

fn sentence(record: &Record, container: &ContainerStatus, index: usize, files: &ContainerFiles) -> String {
    let name = &container.name;
    let exit = files.exit.as_ref();
    match container.reason {
        Some(Reason::StartFailed) => {
            let words = exit.and_then(|exit| exit.start_error.as_deref()).unwrap_or(CUT_OFF);
            format!("container {name:?} could not be started: {words}")
        }
        Some(Reason::Unhealthy | Reason::OutOfDisk) => {
            let runs = record.runs.get(index);
            let why = runs.and_then(|runs| runs.condemned.as_deref()).unwrap_or("its probe failed");
            format!("container {name:?} was ended because {why}")
        }
        Some(Reason::OutOfMemory) => match memory_limit(record, index) {
            Some((limit, given)) => {
                let given = if given {
                    ", which nodes give containers without one; resources.limits.memory sets another"
                } else {
                    ""
                };
                format!(
                    "container {name:?} was ended because it used more memory than its limit of {limit}{given}"
                )
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
        Some(Reason::MicrovmFailed) => {
            format!("container {name:?}: {}", files.said.as_deref().unwrap_or("its microVM ended"))
        }
        Some(Reason::NodeRestarted) => NODE_RESTARTED.to_owned(),
        _ => format!("container {name:?} ended while nobody could see how"),
    }
}

/// The memory limit that holds for a container: its own, or its pod's, or else the node's, and whether it is that.
fn memory_limit(record: &Record, index: usize) -> Option<(Memory, bool)> {
    let spec = &record.spec.spec;
    let container = spec.all_containers().nth(index)?;
    let resources = [container.resources.as_ref(), spec.resources.as_ref()];
    let said = resources.into_iter().flatten().find_map(|resources| resources.limits?.memory);
    let given = || limits::memory_limit(spec, container, record.default_memory);
    said.map(|limit| (limit, false)).or_else(|| Some((given()?, true)))
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
