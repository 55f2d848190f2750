//! Where the programs under test are: beside the one that runs, in cargo's build folder.

use std::env;
use std::path::{Path, PathBuf};

/// The build folder of the profile in use, such as `target/debug`.
///
/// # Panics
/// When this program does not know where it is.
#[must_use]
pub fn profile_folder() -> PathBuf {
    let here =
        env::current_exe().unwrap_or_else(|error| panic!("this program does not know where it is: {error}"));
    let folder = here.parent().map(PathBuf::from).unwrap_or_default();
    // Test programs are one folder deeper than ordinary ones.
    if folder.ends_with("deps") { folder.parent().map(PathBuf::from).unwrap_or_default() } else { folder }
}

/// The build folder itself, such as `target`.
#[must_use]
pub fn target_folder() -> PathBuf {
    profile_folder().parent().map(PathBuf::from).unwrap_or_default()
}

/// The folder of the workspace's `Cargo.toml`.
#[must_use]
pub fn workspace_folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The program called `name` of this workspace.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --workspace` first", path.display());
    path
}

/// The kernel that microVMs boot, if `cargo xtask test` has fetched it: `tests/e2e/src/guest.rs` boots the same.
#[must_use]
pub fn guest_kernel() -> Option<PathBuf> {
    let boot = target_folder().join("guest-kernel").join("boot");
    let mut found = std::fs::read_dir(boot).ok()?.flatten().map(|entry| entry.path());
    found.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
}

/// The static `hello` program.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn hello() -> PathBuf {
    let path = target_folder().join("static").join("release").join("hello");
    assert!(path.is_file(), "{} is missing: run `cargo xtask test --only static` first", path.display());
    path
}

/// A program of the system, searched in the system folders too.
#[must_use]
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The same, where the test cannot go on without it.
///
/// # Panics
/// When it is not installed.
#[must_use]
pub fn needed(name: &str) -> PathBuf {
    installed(name)
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask test` installs what tests need"))
}
