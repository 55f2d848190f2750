//! Finds out who can run a guest's instructions: by booting the very kernel that guests get, to the agent's first word.
//!
//! That `/dev/kvm` opens, or even that a tiny program runs, proves nothing: on a machine that is virtual itself, each of
//! a kernel's stranger instructions may be missing.

use std::{
    arch::x86_64::_rdtsc,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{AcceleratorWish, Shape, Vmm, find::Kind, own::OwnMachine, qemu::Accelerator};
use crate::pod::files::{read_whole, write_whole};

/// The kernel's door to the processor's own virtual machines.
const KVM: &str = "/dev/kvm";
/// How long a kernel may take to come up by the processor: where it works, it is under a second.
const COMES_UP_WITHIN: Duration = Duration::from_secs(12);
/// For how long the time stamp counter is watched, to know its rate.
const COUNTED_FOR: Duration = Duration::from_millis(50);

/// What was found out, for this jail on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    /// The jail: it is named for VMM, kernel and guest program.
    jail: PathBuf,
    /// The processor and the machine's own kernel.
    machine: String,
    /// Why the processor cannot; None if it can.
    why_not: Option<String>,
}

/// Whether a VMM may be able to run guests, before anything is made for it.
///
/// # Errors
/// Why it cannot.
pub(super) fn is_worth_trying(kind: Kind, wish: AcceleratorWish) -> Result<(), String> {
    match (kind, wish) {
        (Kind::Firecracker, AcceleratorWish::Auto) => open_kvm(),
        _ => Ok(()),
    }
}

fn open_kvm() -> Result<(), String> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(KVM);
    opened.map(drop).map_err(|error| format!("{KVM}: {error}"))
}

/// Which VMM by whom, and the words about it; tried in its jail if nobody has said so.
///
/// # Errors
/// Why it cannot run guests.
pub(super) fn decide(
    wish: AcceleratorWish,
    (kind, program): (Kind, &Path),
    jail: &Path,
) -> Result<(Vmm, String), String> {
    let by_processor = match kind {
        Kind::Firecracker => Vmm::Firecracker,
        Kind::Qemu => Vmm::Qemu(Accelerator::Kvm),
    };
    let emulated = |why: &str| (Vmm::Qemu(Accelerator::Tcg(counter_khz())), format!("emulated ({why})"));
    let why = match wish {
        AcceleratorWish::Kvm => return Ok((by_processor, "by KVM (as configured)".to_owned())),
        AcceleratorWish::Tcg => return Ok(emulated("as configured")),
        AcceleratorWish::Auto => match verdict((by_processor, program), jail) {
            None => return Ok((by_processor, "by KVM".to_owned())),
            Some(why) => why,
        },
    };
    match kind {
        Kind::Firecracker => Err(why),
        Kind::Qemu => Ok(emulated(&format!("KVM was tried: {why}"))),
    }
}

/// Why the processor cannot run guests by this VMM; None if it can. Remembered.
fn verdict((vmm, program): (Vmm, &Path), jail: &Path) -> Option<String> {
    if let Err(why) = open_kvm() {
        return Some(why);
    }
    let place = jail.with_file_name(if vmm == Vmm::Firecracker { "firecracker.json" } else { "kvm.json" });
    let machine = machine();
    // A verdict that cannot be read is found again.
    let known: Option<Verdict> = read_whole(&place).ok().flatten();
    if let Some(known) = known.filter(|known| known.jail == jail && known.machine == machine) {
        return known.why_not;
    }
    tracing::info!(vmm = %program.display(), "trying whether the processor can run microVMs by itself (KVM)");
    let why_not = try_out((vmm, program), jail).err();
    let verdict = Verdict { jail: jail.to_owned(), machine, why_not: why_not.clone() };
    if let Err(error) = write_whole(&place, &verdict) {
        tracing::warn!(%error, "whether KVM works is not remembered");
    }
    why_not
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    format!("{model} {}", rustix::system::uname().release().to_string_lossy())
}

/// Boots the kernel by the processor until the agent speaks.
fn try_out(vmm: (Vmm, &Path), jail: &Path) -> Result<(), String> {
    let until = Instant::now() + COMES_UP_WITHIN;
    let shape = Shape { processors: 1, memory_mib: 128, from_template: false };
    let dir = jail.with_file_name("kvm.new");
    OwnMachine::boot(vmm, jail, &shape, (dir, until)).map(drop).map_err(|error| error.to_string())
}

/// How fast the time stamp counter runs, in kHz.
fn counter_khz() -> u64 {
    // SAFETY: every processor of this architecture has the instruction.
    let count = || unsafe { _rdtsc() };
    let (begun, first) = (Instant::now(), count());
    while begun.elapsed() < COUNTED_FOR {
        std::hint::spin_loop();
    }
    let (last, spent) = (count(), begun.elapsed().as_micros());
    let ticks = u128::from(last.saturating_sub(first));
    u64::try_from(ticks * 1_000 / spent.max(1)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_runs_at_a_rate_that_processors_have() {
        let khz = counter_khz();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
    }

    #[test]
    fn emulation_tells_why() {
        let one = (Kind::Qemu, Path::new("/q"));
        let (vmm, words) = decide(AcceleratorWish::Tcg, one, Path::new("/j")).unwrap();
        assert!(matches!(vmm, Vmm::Qemu(Accelerator::Tcg(_))));
        assert_eq!(words, "emulated (as configured)");
    }
}
