//! The demo's workload: `examples/hello` as a static program, and as an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{paths, step};

/// What the image is called, in the manifest too.
const REFERENCE: &str = "hello:1";

/// The command that builds the program without any library that an empty container would lack. It has a build folder
/// of its own, so that ordinary builds of the workspace do not replace it.
pub(crate) fn build_command() -> Command {
    let mut command = Command::new("cargo");
    command
        .args(["rustc", "--release", "--package", "hello", "--target-dir"])
        .arg(paths::target().join("static"))
        .args(["--", "-C", "target-feature=+crt-static"])
        .current_dir(paths::workspace());
    command
}

/// Where the program is, once built.
fn program() -> PathBuf {
    paths::target().join("static").join("release").join("hello")
}

/// Packs the built program as an OCI image archive at `archive`, with the harness program beside `programs`.
///
/// # Errors
/// When it cannot be packed.
pub(crate) fn pack(programs: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new(programs.join("harness"));
    command
        .arg("pack")
        .args(["--reference", REFERENCE])
        .arg("--program")
        .arg(program())
        .arg("--archive")
        .arg(archive);
    step::run("pack the image", &mut command)
}
