//! A test's own machine: namespaces for everything, made before the story and gone after it.
//!
//! ```text
//! outside  story() ─ starts ─▶ harness enclose NAME -- TEST   joins the cgroups of NAME
//!                                 └ becomes unshare            makes the namespaces
//!                                     └ harness init -- TEST   pid 1: mounts, loopback, then TEST; reaps orphans
//!                                         └ story()            inside: plays
//! ```
//!
//! The folder `target/e2e/TEST` survives the test: the logs of all its processes are in it. Inside it is `/tmp/lab`,
//! short enough for the paths of unix sockets.

use std::env;
use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, WaitOptions};

use crate::lab::{self, Lab};
use crate::{cgroups, filesystem, programs};

/// Names the folder of the test that is played; set inside only.
pub(crate) const INSIDE: &str = "RIK_E2E_FOLDER";
/// What the names of our cgroup folders begin with.
const CGROUP_PREFIX: &str = "rik-e2e-";
/// The cgroup in which the test itself lives, so that the root of its tree has no process of its own, as cgroup v2
/// demands of a folder with limited children.
const TEST_CGROUP: &str = "test";

/// Plays `story` in an enclosure of its own, and fails when it fails or when anything is left behind.
///
/// # Panics
/// When the story does, or when the enclosure cannot be made.
pub fn story(story: impl FnOnce(&mut Lab)) {
    if env::var_os(INSIDE).is_some() {
        lab::play(story);
        return;
    }
    let name = name_of_test();
    let status = enclose(&name).unwrap_or_else(|error| panic!("failed to enclose the test: {error:#}"));
    assert!(
        status.success(),
        "the story failed ({status}); the logs of its processes are in {}",
        folder(&name).join("logs").display()
    );
}

/// The name of the running test, as the test runner takes it.
pub(crate) fn name_of_test() -> String {
    match thread::current().name() {
        Some("main") | None => {
            // Single-threaded runs play on the main thread; the runner then names the test on the command line.
            let mut arguments = env::args().skip_while(|argument| argument != "--exact").skip(1);
            arguments
                .next()
                .unwrap_or_else(|| panic!("the name of this test is unknown: run it with cargo nextest"))
        }
        Some(name) => name.to_owned(),
    }
}

/// Where the test called `name` keeps its logs and state.
pub(crate) fn folder(name: &str) -> PathBuf {
    programs::target_folder().join("e2e").join(name.replace("::", "."))
}

/// Outside: starts this very test again, inside, and waits for its end.
fn enclose(name: &str) -> Result<process::ExitStatus> {
    if !rustix::process::geteuid().is_root() {
        bail!("these tests need root: run `cargo xtask test --only e2e`, which uses sudo");
    }
    remove_stale_cgroups()?;
    let folder = folder(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder.join("logs"))
        .with_context(|| format!("failed to make {}", folder.display()))?;
    let cgroup = format!("{CGROUP_PREFIX}{}", process::id());
    let this = env::current_exe().context("this program does not know where it is")?;
    let status = Command::new(programs::built("harness"))
        .args(["enclose", "--cgroup", &cgroup, "--"])
        .arg(this)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, &folder)
        .status()
        .context("failed to start the enclosure")?;
    let stubborn = cgroups::remove(&cgroup).context("failed to remove the test's cgroups")?;
    if !stubborn.is_empty() {
        bail!("processes outlived the test in {stubborn:?}");
    }
    let _ = fs::remove_dir_all(folder.join("state"));
    Ok(status)
}

/// Removes the folders of tests whose process is gone: they were killed before they could do it.
fn remove_stale_cgroups() -> Result<()> {
    for hierarchy in cgroups::hierarchies()? {
        for folder in cgroups::folders(&hierarchy.path) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(CGROUP_PREFIX) else { continue };
            if !Path::new("/proc").join(pid).exists() {
                cgroups::remove(&name)?;
            }
        }
    }
    Ok(())
}

/// `harness enclose`: joins the cgroups called `cgroup` and becomes `unshare`, which becomes the parent of `harness
/// init -- test`. Returns only when that fails.
///
/// # Errors
/// When the cgroups cannot be made, or unshare cannot be started.
pub fn enter(cgroup: &str, test: &[String]) -> Result<ExitCode> {
    // Whoever waits for the enclosure may be killed; nobody else would end it then.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("failed to follow the test to its end")?;
    cgroups::make(cgroup).context("failed to make the test's cgroups")?;
    cgroups::join(cgroup).context("failed to join the test's cgroups")?;
    let error = Command::new(programs::needed("unshare"))
        .args(["--mount", "--propagation", "private", "--net", "--pid", "--ipc", "--uts", "--cgroup"])
        .args(["--kill-child=SIGKILL", "--"])
        .arg(programs::built("harness"))
        .args(["init", "--"])
        .args(test)
        .exec();
    Err(error).context("failed to start unshare")
}

/// `harness init`: the first process inside. Prepares the mounts, starts `test`, reaps what is orphaned, and ends with
/// the test, which ends everything else inside.
///
/// # Errors
/// When the enclosure cannot be prepared.
pub fn init(test: &[String]) -> Result<ExitCode> {
    mount_views().context("failed to mount the enclosure's views")?;
    cgroups::make(TEST_CGROUP)?;
    cgroups::join(TEST_CGROUP)?;
    prepare().context("failed to prepare the enclosure")?;
    let (program, arguments) = test.split_first().context("no test was given")?;
    run_to_its_end(Command::new(program).args(arguments)).map(ExitCode::from)
}

/// Starts `test` and waits for its end, as a first process has to; gives its exit code.
pub(crate) fn run_to_its_end(test: &mut Command) -> Result<u8> {
    let child = test.env("HOME", lab::home()).spawn().context("failed to start the test inside")?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid_number(pid) == child.id() => {
                return Ok(exit_code(process::ExitStatus::from_raw(status.as_raw())));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("failed to wait for the test inside"),
        }
    }
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

fn exit_code(status: process::ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Mounts the kernel's trees again, as they are in the namespaces of the enclosure.
fn mount_views() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let hierarchies = cgroups::hierarchies()?;
    let cgroup_root_is_v2 = hierarchies.iter().any(|one| one.path == Path::new("/sys/fs/cgroup"));
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    mount("proc", "/proc", "proc", flags, None)?;
    mount("sysfs", "/sys", "sysfs", flags, None)?;
    if !cgroup_root_is_v2 {
        mount("tmpfs", "/sys/fs/cgroup", "tmpfs", flags, Some(c"mode=755"))?;
    }
    for hierarchy in &hierarchies {
        fs::create_dir_all(&hierarchy.path)?;
        let options = std::ffi::CString::new(hierarchy.controllers.clone())?;
        mount("cgroup", &hierarchy.path, &*hierarchy.filesystem, flags, Some(options.as_c_str()))
            .with_context(|| format!("failed to mount {}", hierarchy.path.display()))?;
    }
    Ok(())
}

/// Makes files and network as a story expects them.
pub(crate) fn prepare() -> Result<()> {
    let folder = PathBuf::from(env::var_os(INSIDE).context("the test's folder was not given")?);
    filesystem::prepare(&folder)?;
    run("ip", &["link", "set", "lo", "up"])
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(programs::needed(program)).args(arguments).status();
    if !status.map_err(io::Error::other)?.success() {
        bail!("{program} {} failed", arguments.join(" "));
    }
    Ok(())
}
