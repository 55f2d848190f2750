//! The file system on which pods are measured: ext4 with a journal, in a file of its own, as machines have it.
//!
//! The one that the checkout happens to be on may be anything. On ext4 without a journal, for one, the kernel looks at
//! every file that was removed in the last minutes before it makes a new one: then a run would measure what was removed
//! before it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::{Lab, programs};

/// Its size; what is not written takes no room.
const BYTES: u64 = 8 << 30;

/// Makes it, and mounts it where the nodes of the lab are. It goes with the enclosure.
///
/// # Errors
/// When the machine has no loop devices, or cannot make it.
pub(crate) fn mount() -> Result<()> {
    let (state, file) = (Lab::state(), Lab::root().join("disk"));
    fs::create_dir_all(&state)?;
    File::create(&file)?.set_len(BYTES)?;
    let mounted = run("mkfs.ext4", &["-q", "-F"], &[&file])
        .and_then(|()| run("mount", &["-t", "ext4", "-o", "loop"], &[&file, &state]));
    // The mount holds it for as long as it is needed.
    fs::remove_file(&file)?;
    mounted
}

fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<()> {
    let mut command = Command::new(programs::needed(program));
    let status = command.args(arguments).args(paths).stdout(Stdio::null()).status();
    ensure!(status.with_context(|| format!("failed to run {program}"))?.success(), "{program} failed");
    Ok(())
}
