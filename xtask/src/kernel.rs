//! The kernel that virtual machines of the tests start: Debian's for clouds, fetched with apt and kept in the build
//! folder. Nothing of it is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, root, step};

/// The package that depends on the current kernel's, whose name has its version in it.
const CURRENT: &str = "linux-image-cloud-amd64";
/// Where tests look for it, below the build folder (`tests/e2e/src/guest.rs`).
const FOLDER: &str = "guest-kernel";

/// The kernel for microVMs of the demo: None if the machine has one of its own, which the riklet finds by itself.
///
/// # Errors
/// As [`fetch`].
pub(crate) fn for_microvms() -> Result<Option<PathBuf>> {
    if in_boot(Path::new("/")).is_some() {
        return Ok(None);
    }
    fetch()?;
    Ok(in_boot(&paths::target().join(FOLDER)))
}

/// A kernel in `boot` below a folder.
pub(crate) fn in_boot(folder: &Path) -> Option<PathBuf> {
    let starts_so = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("vmlinuz");
    fs::read_dir(folder.join("boot")).ok()?.flatten().find(starts_so).map(|entry| entry.path())
}

/// Fetches the kernel, unless it is there.
///
/// # Errors
/// When apt is not here, does not know the package, or cannot download it.
pub(crate) fn fetch() -> Result<()> {
    let folder = paths::target().join(FOLDER);
    if folder.is_dir() {
        return Ok(());
    }
    if paths::find_program("apt-get").is_none() {
        bail!("without apt, {CURRENT} of Debian must be unpacked in {} by hand", paths::short(&folder));
    }
    root::acquire("to update the package lists")?;
    step::run("update the package lists", root::command("apt-get").args(["update", "-q"]))?;
    let package = current().with_context(|| format!("apt does not know {CURRENT}, which is Debian's"))?;
    let new = folder.with_extension("new");
    // What a killed earlier run has left there.
    let _ = fs::remove_dir_all(&new);
    fs::create_dir_all(new.join("tree")).with_context(|| format!("failed to make {}", paths::short(&new)))?;
    let mut download = Command::new("apt-get");
    step::run(&format!("download {package}"), download.args(["download", "-q", &package]).current_dir(&new))?;
    let mut files = fs::read_dir(&new)?.flatten().map(|entry| entry.path());
    let archive = files.find(|path| path.extension().is_some_and(|kind| kind == "deb"));
    let archive =
        archive.with_context(|| format!("apt-get has downloaded nothing to {}", paths::short(&new)))?;
    let mut extract = Command::new("dpkg-deb");
    step::run(&format!("unpack {package}"), extract.arg("--extract").arg(archive).arg(new.join("tree")))?;
    fs::rename(new.join("tree"), &folder).context("failed to put the kernel in its place")?;
    fs::remove_dir_all(&new).with_context(|| format!("failed to remove {}", paths::short(&new)))
}

/// The package of the current kernel.
fn current() -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", CURRENT]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned)
}
