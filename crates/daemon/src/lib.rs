//! What every long-running binary of RIK does alike: logs, threads, signals, the last words.

use std::{error::Error, io::IsTerminal, process::ExitCode, time::Duration};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Sends logs to standard output, as the documentation has it: `RUST_LOG` decides what, `default` if it is not set.
///
/// A filter that cannot be read is mentioned and replaced by `default`.
pub fn init_logs(default: &str) {
    let asked = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let read = asked.as_deref().map(EnvFilter::try_new);
    let fault = match &read {
        Some(Err(error)) => Some(error.to_string()),
        Some(Ok(_)) | None => None,
    };
    let filter = read.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(default));
    let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_target(false).init();
    if let Some(fault) = fault {
        tracing::warn!(fault, "RUST_LOG cannot be read; using {default:?}");
    }
}

/// Threads of a runtime at most. What the daemons do waits for one disk, one state machine and one kernel; on a machine
/// with many cores, more threads only cost memory.
const MAX_WORKERS: usize = 4;

/// The runtime of a daemon: a thread for each core, up to a bound.
///
/// # Errors
/// The kernel gives no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    share_arenas();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(cores.min(MAX_WORKERS)).enable_all().build()?;
    // Lives as long as the process.
    runtime.spawn(give_memory_back());
    Ok(runtime)
}

/// How long after the start memory is first given back: by then it is over.
const FIRST_AFTER: Duration = Duration::from_secs(2);
/// Pause between two times.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

/// Gives memory that is free in this process back to the machine. A start, and a hundred instances at once, need some for
/// a moment that the allocator would keep for good.
pub async fn give_memory_back() {
    let mut pause = FIRST_AFTER;
    loop {
        tokio::time::sleep(pause).await;
        pause = GIVE_BACK_EVERY;
        trim();
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library's allocator has no other way")]
fn trim() {
    // SAFETY: a call that only touches memory that nobody has.
    unsafe { libc::malloc_trim(0) };
}

/// Has all threads take memory from the same few places: from one each, a hundred that wait for the disk would keep as many.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the C library's allocator has no other way")]
fn share_arenas() {
    /// As many as the processors of a small machine can use at a time.
    const ARENAS: libc::c_int = 2;
    // SAFETY: a plain call, before there are other threads. An allocator that does not know it goes on as it did.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
}

#[cfg(not(target_env = "gnu"))]
const fn trim() {}
#[cfg(not(target_env = "gnu"))]
const fn share_arenas() {}

/// A token that is cancelled by the first SIGINT or SIGTERM. A second one ends the process at once.
///
/// # Errors
/// The kernel takes no handler.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    // Lives as long as the process: there is nobody to wait for it.
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!(signal = name, "shutting down");
        cancelled.cancel();
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::warn!("asked a second time: ending at once");
        std::process::exit(1);
    });
    Ok(token)
}

/// An error with its causes, one sentence.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Says why a binary ends, on standard error, in the form that all of RIK has. The code is the binary's own.
#[must_use]
pub fn last_words(error: &dyn Error, hint: Option<&str>, code: u8) -> ExitCode {
    eprintln!("error: {}", chain(error));
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}
