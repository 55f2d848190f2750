//! MicroVMs: what of a Function is not as with a Pod.
//!
//! ```text
//!  Pod:       container = the image's files     its process = the program
//!  Function:  container = a VMM's jail (`jail`) its process = the supervisor (crate `guest`), which runs the VMM (`qemu`)
//!                         image's files ─▶ one read-only disk (`erofs`, `roots`)
//!                         kernel and its modules ─▶ `kernel`, `initramfs`
//! ```
//! A VMM is confined as every container is, and by its own filter beside: a user namespace, no capability, a network
//! namespace with nothing but one device, control groups, the filter of system calls, a root with only its own files.
//! The shim knows no difference but one: a start takes as long as a machine takes to come up.
//!
//! *Guarantee*: what a machine of ours falls back to is told, with the reason, by [`Microvms::told`].

pub mod erofs;
mod initramfs;
pub mod jail;
pub mod kernel;
mod own;
mod probe;
pub mod qemu;
pub mod roots;
mod template;

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use images::Allowlist;
use tokio::sync::OnceCell;

use self::{
    kernel::Kernel,
    qemu::{Accelerator, Shape},
};

/// Name of QEMU's program.
const QEMU: &str = "qemu-system-x86_64";
/// Largest machine that a template is made of, in MiB: while it is made, it takes as much of the node's memory.
const MAX_TEMPLATE_MIB: u64 = 1 << 10;
/// Directories that programs of an administrator are in, if `PATH` does not have them.
const USUAL_DIRS: [&str; 3] = ["/usr/bin", "/usr/local/bin", "/usr/libexec"];

/// Who is to run the instructions of microVMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorWish {
    /// The processor, if it can; found out by trying.
    #[default]
    Auto,
    /// The processor, without trying.
    Kvm,
    /// QEMU itself, without trying the processor.
    Tcg,
}

impl std::str::FromStr for AcceleratorWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(format!("{other:?} is none of auto, kvm and tcg")),
        }
    }
}

/// What the operator says about microVMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicrovmConfig {
    /// The kernel to boot, if not the newest of the machine.
    pub kernel: Option<PathBuf>,
    /// Who runs their instructions.
    pub accelerator: AcceleratorWish,
    /// Where root file systems may come from beside public addresses.
    pub allowed: Allowlist,
}

/// What is needed to run microVMs, as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    program: PathBuf,
    kernel: Kernel,
}

/// Everything that all microVMs of the node share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The root of their VMMs.
    pub jail: PathBuf,
    /// QEMU, in it.
    pub program: PathBuf,
    /// Who runs their instructions.
    pub accelerator: Accelerator,
}

/// The microVMs of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Microvms {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    top: PathBuf,
    config: MicrovmConfig,
    found: Result<Found, String>,
    ready: OnceCell<Ready>,
    /// Templates by processors and memory; None where there is none.
    templates: tokio::sync::Mutex<BTreeMap<(u32, u64), Option<PathBuf>>>,
    /// How instructions are run, and why so, once that was found out.
    told: Mutex<Option<String>>,
}

/// What microVMs would run with here: `yes` and with what, or why there can be none.
///
/// # Errors
/// What is missing, and what to install.
pub fn look(config: &MicrovmConfig) -> Result<String, String> {
    find(config).map(|found| in_words(&found))
}

fn in_words(found: &Found) -> String {
    format!("{} with the kernel {}", found.program.display(), found.kernel.path.display())
}

fn find(config: &MicrovmConfig) -> Result<Found, String> {
    if !cfg!(target_arch = "x86_64") {
        return Err("microVMs need a machine with an x86_64 processor".to_owned());
    }
    let program = find_program(QEMU).ok_or_else(|| {
        format!("{QEMU} is not installed: the package is qemu-system-x86 (Debian, Ubuntu) or qemu-system-x86-core (Fedora)")
    })?;
    let kernel = kernel::find(config.kernel.as_deref()).map_err(|error| error.to_string())?;
    Ok(Found { program, kernel })
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(USUAL_DIRS.iter().map(PathBuf::from));
    let runs = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(runs)
}

impl Microvms {
    /// The microVMs of a node with this state directory. Nothing is made yet.
    #[must_use]
    pub fn new(state_dir: &Path, config: MicrovmConfig) -> Self {
        let found = find(&config);
        let shared = Shared {
            top: state_dir.join("microvms"),
            config,
            found,
            ready: OnceCell::new(),
            templates: tokio::sync::Mutex::default(),
            told: Mutex::new(None),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What all of them share; made at the first call, which may take some seconds.
    ///
    /// # Errors
    /// Words on what is missing or went wrong.
    pub async fn ready(&self) -> Result<Ready, String> {
        let make = || async {
            let own = self.clone();
            let made = tokio::task::spawn_blocking(move || own.make()).await;
            made.map_err(|error| error.to_string())?
        };
        self.shared.ready.get_or_try_init(make).await.cloned()
    }

    /// The template that a microVM of this shape begins with, made by the first one that asks; None if it has to boot.
    pub async fn template(&self, ready: &Ready, shape: &Shape) -> Option<PathBuf> {
        if shape.accelerator == Accelerator::Kvm || shape.memory_mib > MAX_TEMPLATE_MIB {
            return None;
        }
        // Two at once would only slow each other down.
        let mut templates = self.shared.templates.lock().await;
        let key = (shape.processors, shape.memory_mib);
        if let Some(known) = templates.get(&key) {
            return known.clone().filter(|path| path.is_file());
        }
        let (dir, ready, shape) = (self.shared.top.join(template::TEMPLATES), ready.clone(), *shape);
        let work = move || template::make(&dir, &ready.program, &ready.jail, &shape);
        let made = tokio::task::spawn_blocking(work).await.map_err(io::Error::other).and_then(|made| made);
        if let Err(error) = &made {
            tracing::warn!(%error, "microVMs boot each time: no template could be made");
        }
        templates.insert(key, made.ok());
        templates.get(&key).cloned().flatten()
    }

    /// What microVMs run with, and why so.
    #[must_use]
    pub fn told(&self) -> String {
        match (&self.shared.found, &*self.shared.told.lock().unwrap_or_else(PoisonError::into_inner)) {
            (Err(why), _) => format!("no: {why}"),
            (Ok(found), None) => in_words(found),
            (Ok(found), Some(how)) => format!("{}, {how}", in_words(found)),
        }
    }

    /// Directory of their root file systems.
    #[must_use]
    pub fn roots_dir(&self) -> PathBuf {
        self.shared.top.join("roots")
    }

    /// Where root file systems may come from.
    #[must_use]
    pub fn allowed(&self) -> &Allowlist {
        &self.shared.config.allowed
    }

    fn make(&self) -> Result<Ready, String> {
        let found = self.shared.found.clone()?;
        let jails = self.shared.top.join("jails");
        let failed = |error: io::Error| format!("making the place for VMMs: {error}");
        make_private(&jails).map_err(failed)?;
        let jail = jail::make(&jails, &found.program, &found.kernel).map_err(failed)?;
        jail::remove_others(&jails, &jail);
        template::remove_others(&self.shared.top.join(template::TEMPLATES), &jail);
        let (accelerator, how) = probe::decide(self.shared.config.accelerator, &found.program, &jail);
        tracing::info!(vmm = %found.program.display(), kernel = %found.kernel.path.display(), how, "microVMs can run");
        *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(how);
        Ok(Ready { jail, program: found.program, accelerator })
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
