//! What a child of the shim does in a container instead of becoming a program there: it copies files.
//!
//! It is inside by then: every path is looked up by the container's root and with the rights of its user, so that no
//! name and no link in the container can mean a file of the node. It needs no program of the image.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use super::wire::Copy;
use crate::pod::seccomp::Confinement;

/// How much is read and written at once: a pipe's worth.
const BUFFER_BYTES: usize = 64 << 10;
/// Exit code of a copy that failed; why is on its standard error.
const FAILED: i32 = 1;

/// Copies between the standard files and the container, behind its seccomp filter, and ends the process.
pub(super) fn copy(copy: &Copy, report: &OwnedFd, confinement: &Confinement) -> ! {
    // The report closes: it has begun.
    // SAFETY: the descriptor is not used after this, nor closed a second time, for the process ends in this function.
    unsafe { libc::close(report.as_raw_fd()) };
    let done = match confinement.load() {
        Ok(()) => carry(copy).map_err(|error| error.to_string()),
        Err(error) => Err(format!("the seccomp filter could not be loaded: {error}")),
    };
    let code = match done {
        Ok(()) => 0,
        Err(words) => {
            // Nobody is left to tell if that fails.
            let _ = std::io::stderr().write_all(words.as_bytes());
            FAILED
        }
    };
    // SAFETY: ends the process at once; nothing of the shim's that was copied into it is to be torn down.
    unsafe { libc::_exit(code) }
}

fn carry(copy: &Copy) -> Result<(), filecopy::CopyError> {
    // SAFETY: the standard files are open, and nobody else in this process uses them.
    let file = |number| unsafe { File::from_raw_fd(number) };
    match copy {
        Copy::Out(path) => filecopy::pack(path, BufWriter::with_capacity(BUFFER_BYTES, file(1))),
        Copy::In(path) => filecopy::unpack(BufReader::with_capacity(BUFFER_BYTES, file(0)), path),
    }
}
