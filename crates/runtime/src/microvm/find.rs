//! What microVMs can be run with: looked for once, when the riklet begins.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    AcceleratorWish, MicrovmConfig, VmmWish, firecracker,
    kernel::{self, Kernel},
    qemu,
};

/// Directories that programs of an administrator are in, if `PATH` does not have them.
const USUAL_DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// A kind of VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// What is needed to run microVMs, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// VMMs, in the order in which they are tried. One at least.
    pub(super) programs: Vec<(Kind, PathBuf)>,
    /// The kernel that they boot.
    pub(super) kernel: Kernel,
}

/// What microVMs would run with here, or why there can be none.
///
/// # Errors
/// What is missing, and what to install.
pub fn look(config: &MicrovmConfig) -> Result<String, String> {
    find(config).map(|found| in_words(&found))
}

pub(super) fn in_words(found: &Found) -> String {
    let programs: Vec<_> = found.programs.iter().map(|(_, path)| path.display().to_string()).collect();
    format!("{} with the kernel {}", programs.join(" or "), found.kernel.path.display())
}

pub(super) fn find(config: &MicrovmConfig) -> Result<Found, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("microVMs need a machine with an x86_64 processor".to_owned());
    }
    let programs = programs(config)?;
    let kernel = kernel::find(config.kernel.as_deref()).map_err(|error| error.to_string())?;
    Ok(Found { programs, kernel })
}

fn programs(config: &MicrovmConfig) -> Result<Vec<(Kind, PathBuf)>, String> {
    let MicrovmConfig { vmm, accelerator, .. } = config;
    if (*vmm, *accelerator) == (VmmWish::Firecracker, AcceleratorWish::Tcg) {
        return Err("Firecracker runs guests by the processor (KVM) and emulates none".to_owned());
    }
    let mut found = Vec::new();
    if *vmm != VmmWish::Qemu && *accelerator != AcceleratorWish::Tcg {
        found.extend(find_firecracker(config.firecracker.as_deref())?.map(|path| (Kind::Firecracker, path)));
    }
    if *vmm != VmmWish::Firecracker {
        found.extend(find_program(qemu::PROGRAM).map(|path| (Kind::Qemu, path)));
    }
    if !found.is_empty() {
        return Ok(found);
    }
    Err(match vmm {
        VmmWish::Firecracker => {
            "firecracker is not installed: put it into PATH, or name it by FIRECRACKER_LOCATION".to_owned()
        }
        _ => format!(
            "{} is not installed: the package is qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora)",
            qemu::PROGRAM
        ),
    })
}

/// The one that was named, else one where programs are, else the one in the working directory.
fn find_firecracker(named: Option<&Path>) -> Result<Option<PathBuf>, String> {
    if let Some(named) = named {
        let path = fs::canonicalize(named).map_err(|error| format!("{}: {error}", named.display()))?;
        if !runs(&path) {
            return Err(format!("{} is no program that can be executed", named.display()));
        }
        return Ok(Some(path));
    }
    Ok(find_program(firecracker::PROGRAM).or_else(|| {
        let here = env::current_dir().ok()?.join(firecracker::PROGRAM);
        // What everybody may put there is not ours to run.
        let safe =
            |path: &Path| fs::metadata(path).is_ok_and(|own| own.uid() == 0 && own.mode() & 0o022 == 0);
        Some(here).filter(|path| runs(path) && safe(path) && path.parent().is_some_and(safe))
    }))
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(USUAL_DIRS.iter().map(PathBuf::from));
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(|path| runs(path))
}

fn runs(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firecracker_that_is_named_comes_first_and_one_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap().join("fc");
        let named = |vmm, accelerator| {
            programs(&MicrovmConfig {
                firecracker: Some(path.clone()),
                vmm,
                accelerator,
                ..MicrovmConfig::default()
            })
        };
        assert!(named(VmmWish::Auto, AcceleratorWish::Auto).unwrap_err().contains("No such file"));
        fs::write(&path, "").unwrap();
        assert!(named(VmmWish::Auto, AcceleratorWish::Auto).unwrap_err().contains("no program"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let own = (Kind::Firecracker, path.clone());
        assert_eq!(named(VmmWish::Auto, AcceleratorWish::Auto).unwrap().first(), Some(&own));
        assert_eq!(named(VmmWish::Firecracker, AcceleratorWish::Kvm).unwrap(), std::slice::from_ref(&own));
        for (vmm, accelerator) in
            [(VmmWish::Auto, AcceleratorWish::Tcg), (VmmWish::Qemu, AcceleratorWish::Auto)]
        {
            assert!(!named(vmm, accelerator).is_ok_and(|found| found.contains(&own)));
        }
        assert!(named(VmmWish::Firecracker, AcceleratorWish::Tcg).unwrap_err().contains("emulates none"));
    }
}
