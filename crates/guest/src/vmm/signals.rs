//! Signals to a process that stands for a program go to that program.

use std::{mem::MaybeUninit, thread};

/// Signals that concern this process itself and nobody else.
const OWN: [i32; 8] = [
    libc::SIGCHLD,
    libc::SIGPIPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGABRT,
    libc::SIGTRAP,
];

fn all() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call; the others change what is there.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for own in OWN {
            libc::sigdelset(&raw mut set, own);
        }
        set
    }
}

/// Holds back all signals that are to be passed on, in this thread and those to come.
pub(super) fn block() {
    let set = all();
    // SAFETY: plain calls on values that outlive them.
    unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// What a child of this process is begun with: no signal held back.
pub(super) fn unblock() {
    let set = all();
    // SAFETY: a plain call on a value that outlives it.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

/// Calls `pass` with each signal that comes from now on.
pub(super) fn pass_on(pass: impl Fn(i32) + Send + 'static) {
    thread::spawn(move || {
        let set = all();
        loop {
            let mut signal = 0;
            // SAFETY: a plain call on values that outlive it.
            if unsafe { libc::sigwait(&raw const set, &raw mut signal) } == 0 {
                pass(signal);
            }
        }
    });
}
