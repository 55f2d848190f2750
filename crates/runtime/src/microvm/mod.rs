//! MicroVMs: what of a Function is not as with a Pod.
//!
//! ```text
//!  Pod:       container = the image's files     its process = the program
//!  Function:  container = a VMM's jail (`jail`) its process = the supervisor (crate `guest`), which runs the VMM
//!                         (`firecracker`, `qemu`: what each is told)
//!                         image's files ─▶ one read-only disk (`erofs`, `roots`)
//!                         kernel and its modules ─▶ `kernel`, `initramfs`
//! ```
//! A VMM is confined as every container is, and by its own filter beside: a user namespace, no capability, a network
//! namespace with nothing but one device, control groups, the filter of system calls, a root with only its own files.
//! The shim knows no difference but one: a start takes as long as a machine takes to come up.
//!
//! *Guarantee*: what a machine of ours falls back to is told, with the reason, by [`Microvms::told`].

pub mod erofs;
mod find;
mod firecracker;
mod initramfs;
pub mod jail;
pub mod kernel;
mod own;
mod probe;
pub mod qemu;
pub mod roots;
mod template;
mod vmlinux;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use guest::order::Api;
pub use images::Allowlist;
use tokio::sync::OnceCell;

pub use self::find::look;
use self::{
    find::{Found, find, in_words},
    qemu::Accelerator,
};

/// Largest machine that a template is made of, in MiB: while it is made, it takes as much of the node's memory.
const MAX_TEMPLATE_MIB: u64 = 1 << 10;

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

/// Which VMM is to run microVMs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VmmWish {
    /// Firecracker, if it is there and can run the kernel; else QEMU.
    #[default]
    Auto,
    /// Firecracker alone.
    Firecracker,
    /// QEMU alone.
    Qemu,
}

impl std::str::FromStr for VmmWish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Firecracker),
            "qemu" => Ok(Self::Qemu),
            other => Err(format!("{other:?} is none of auto, firecracker and qemu")),
        }
    }
}

/// What the operator says about microVMs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicrovmConfig {
    /// The kernel to boot, if not the newest of the machine.
    pub kernel: Option<PathBuf>,
    /// Which VMM.
    pub vmm: VmmWish,
    /// Firecracker's program, if it is not where programs are.
    pub firecracker: Option<PathBuf>,
    /// Who runs their instructions.
    pub accelerator: AcceleratorWish,
    /// Where root file systems may come from beside public addresses.
    pub allowed: Allowlist,
}

/// A VMM, and who runs its guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vmm {
    /// Firecracker: always the processor.
    Firecracker,
    /// QEMU.
    Qemu(Accelerator),
}

impl Vmm {
    /// Whether the processor runs guests, by the kernel's own virtual machines.
    #[must_use]
    pub const fn needs_kvm(self) -> bool {
        matches!(self, Self::Firecracker | Self::Qemu(Accelerator::Kvm))
    }
}

/// What one microVM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Virtual processors.
    pub processors: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether it begins with a state that it is given, instead of booting.
    pub from_template: bool,
}

/// How a VMM is begun, and its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Its program and arguments.
    pub command: Vec<String>,
    /// What it is told then, if not all by those.
    pub api: Option<Api>,
    /// Its socket that is the other end of the machine's port.
    pub port: PathBuf,
    /// Number of the agent's port, if that socket leads to all of them.
    pub agent: Option<u32>,
}

/// Everything that all microVMs of the node share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The root of their VMMs.
    pub jail: PathBuf,
    /// The VMM's program, in it.
    pub program: PathBuf,
    /// Which one.
    pub vmm: Vmm,
}

impl Ready {
    /// How a machine of this shape is begun in its jail.
    #[must_use]
    pub fn begin(&self, shape: &Shape) -> Begin {
        match self.vmm {
            Vmm::Firecracker => firecracker::begin(&self.program, shape),
            Vmm::Qemu(accelerator) => qemu::begin(&self.program, accelerator, shape),
        }
    }
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
    /// What they run with, and why so, once that was found out.
    told: Mutex<Option<String>>,
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
        if ready.vmm.needs_kvm() || shape.memory_mib > MAX_TEMPLATE_MIB {
            return None;
        }
        // Two at once would only slow each other down.
        let mut templates = self.shared.templates.lock().await;
        let key = (shape.processors, shape.memory_mib);
        if let Some(known) = templates.get(&key) {
            return known.clone().filter(|path| path.is_file());
        }
        let (dir, ready, shape) = (self.shared.top.join(template::TEMPLATES), ready.clone(), *shape);
        let work = move || template::make(&dir, &ready, &shape);
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
            (Ok(_), Some(told)) => told.clone(),
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
        let wish = self.shared.config.accelerator;
        let (mut kept, mut tried) = (Vec::new(), Vec::new());
        for (kind, program) in &found.programs {
            let one = (*kind, program.as_path());
            let decided = probe::is_worth_trying(*kind, wish).and_then(|()| {
                let jail = jail::make(&jails, one, &found.kernel).map_err(failed)?;
                kept.push(jail.clone());
                probe::decide(wish, one, &jail).map(|(vmm, how)| (jail, vmm, how))
            });
            let (jail, vmm, how) = match decided {
                Ok(decided) => decided,
                Err(why) => {
                    tracing::info!(vmm = %program.display(), why, "a VMM that is here cannot run microVMs");
                    tried.push(format!("{} was tried: {why}", program.display()));
                    continue;
                }
            };
            jail::remove_others(&jails, &kept);
            template::remove_others(&self.shared.top.join(template::TEMPLATES), &jail);
            let how = std::iter::once(how).chain(tried).collect::<Vec<_>>().join("; ");
            let kernel = found.kernel.path.display();
            tracing::info!(vmm = %program.display(), %kernel, how, "microVMs can run");
            let told = format!("{} with the kernel {kernel}, {how}", program.display());
            *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
            return Ok(Ready { jail, program: program.clone(), vmm });
        }
        Err(tried.join("; "))
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
