//! The QEMU driver: a machine as small as QEMU has one (`microvm`), with nothing but a disk, a link and a port.

use std::path::Path;

use guest::vmm::{PORT_NAME, RUN_DIR, STATE, TEMPLATE_WORD};
use network::{GUEST_ADDRESS, TAP_LINK};

use super::jail::{FIRMWARE, INITRAMFS, KERNEL, ROOT};

/// Emulation: with 64 MiB for translated code, where QEMU would take up to a gigabyte, which no limit of ours has room
/// for; of a processor with all that QEMU knows, since programs of today want more than the first of its kind had. One that
/// lacks ARAT keeps its kernel ticking 250 times a second when nothing happens.
const TCG: &str = "tcg,tb-size=64 -cpu max";

/// Who runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU itself, on any machine. The number is the rate, in kHz, of the time stamp counter, which the guest cannot
    /// measure there.
    Tcg(u64),
}

/// What one microVM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Who runs its instructions.
    pub accelerator: Accelerator,
    /// Virtual processors.
    pub processors: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// Whether it begins with a state that it is given, instead of booting.
    pub from_template: bool,
}

/// Socket, in the jail, of the port.
#[must_use]
pub fn port_socket() -> String {
    format!("{RUN_DIR}/port.sock")
}

/// QEMU and its arguments, as it is begun in its jail. Nothing in them comes from a user.
#[must_use]
pub fn command(program: &Path, shape: &Shape) -> Vec<String> {
    let jail = Surroundings { top: "/", root: ROOT, port: &port_socket(), link: true, word: "" };
    let mut words = vec![program.display().to_string()];
    words.extend(arguments(shape, &jail));
    if shape.from_template {
        words.extend(["-incoming".to_owned(), format!("fd:{STATE}")]);
    }
    words
}

/// QEMU's arguments for a machine of ours that runs nothing of anybody's: to try the processor, and to take templates of.
/// It has the same devices as others, with nothing behind them, and is begun in the directory of the jail; `port` is the
/// path of its port's socket from there.
#[must_use]
pub(super) fn own_machine(shape: &Shape, port: &str) -> Vec<String> {
    // The disk's driver is not there before the agent has been spoken to, so that what is on it does not matter.
    let root = INITRAMFS.trim_start_matches('/');
    arguments(shape, &Surroundings { top: "", root, port, link: false, word: TEMPLATE_WORD })
}

/// Where a machine finds what is its own.
struct Surroundings<'a> {
    /// What the jail's directory is called.
    top: &'a str,
    /// The disk.
    root: &'a str,
    /// Socket of the port.
    port: &'a str,
    /// Whether it has a link.
    link: bool,
    /// A further word for the kernel.
    word: &'a str,
}

fn arguments(shape: &Shape, around: &Surroundings<'_>) -> Vec<String> {
    let Shape { processors, memory_mib, .. } = shape;
    let (accelerator, clock) = match shape.accelerator {
        Accelerator::Kvm => ("kvm -cpu host", String::new()),
        // Without it the kernel does not find out how fast its clock runs, and never comes up; nor has it a clock that it
        // trusts, finer than its tick.
        Accelerator::Tcg(khz) => (TCG, format!("tsc=reliable tsc_early_khz={khz}")),
    };
    let Surroundings { top, root, port, link, word } = around;
    let inside = |path: &str| format!("{top}{}", path.trim_start_matches('/'));
    let mac = GUEST_ADDRESS.map(|byte| format!("{byte:02x}")).join(":");
    let mut words = Vec::new();
    let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
    add(&format!("-M microvm,acpi=on,isa-serial=on -accel {accelerator} -smp {processors} -m {memory_mib}M"));
    add("-nodefaults -no-user-config -display none -no-reboot -serial stdio");
    add(&format!("-L {} -kernel {} -initrd {}", inside(FIRMWARE), inside(KERNEL), inside(INITRAMFS)));
    // Always raw: a format that is guessed could name other files.
    add(&format!("-drive if=none,id=root,file={root},format=raw,readonly=on,file.locking=off"));
    add("-device virtio-blk-device,drive=root");
    let netdev = if *link { ",netdev=net" } else { "" };
    if *link {
        add(&format!("-netdev tap,id=net,ifname={TAP_LINK},script=no,downscript=no"));
    }
    add(&format!("-device virtio-net-device,mac={mac}{netdev}"));
    add("-device virtio-serial-device");
    add(&format!("-chardev socket,id=port,path={port},server=on,wait=off"));
    add(&format!("-device virtserialport,chardev=port,name={PORT_NAME}"));
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    words.push("-append".to_owned());
    let kernel = ["console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests", &clock, word];
    words.push(kernel.into_iter().filter(|own| !own.is_empty()).collect::<Vec<_>>().join(" "));
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_has_all_that_a_microvm_needs_and_nothing_to_reach_out_with() {
        let shape = Shape {
            accelerator: Accelerator::Tcg(2_400_000),
            processors: 1,
            memory_mib: 128,
            from_template: false,
        };
        insta::assert_snapshot!(command(Path::new("/usr/bin/qemu-system-x86_64"), &shape).join("\n"), @r#"
        /usr/bin/qemu-system-x86_64
        -M
        microvm,acpi=on,isa-serial=on
        -accel
        tcg,tb-size=64
        -cpu
        max
        -smp
        1
        -m
        128M
        -nodefaults
        -no-user-config
        -display
        none
        -no-reboot
        -serial
        stdio
        -L
        /firmware
        -kernel
        /vm/kernel
        -initrd
        /vm/initramfs
        -drive
        if=none,id=root,file=/vm/root,format=raw,readonly=on,file.locking=off
        -device
        virtio-blk-device,drive=root
        -netdev
        tap,id=net,ifname=tap0,script=no,downscript=no
        -device
        virtio-net-device,mac=02:52:00:00:00:01,netdev=net
        -device
        virtio-serial-device
        -chardev
        socket,id=port,path=/run/port.sock,server=on,wait=off
        -device
        virtserialport,chardev=port,name=rik.0
        -sandbox
        on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -append
        console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc=reliable tsc_early_khz=2400000
        "#);
        let kvm = Shape { accelerator: Accelerator::Kvm, from_template: true, ..shape };
        let words = command(Path::new("/q"), &kvm).join(" ");
        assert!(words.contains("-accel kvm") && !words.contains("tsc="), "{words}");
        assert!(words.contains("-incoming fd:4"), "{words}");
    }

    #[test]
    fn template_has_the_devices_of_its_clones_and_nothing_behind_them() {
        let shape = Shape {
            accelerator: Accelerator::Tcg(2_400_000),
            processors: 2,
            memory_mib: 256,
            from_template: false,
        };
        let devices = |words: &[String]| -> Vec<String> {
            let pairs = words.windows(2).filter(|pair| pair.first().is_some_and(|word| word == "-device"));
            pairs.filter_map(|pair| Some(pair.get(1)?.replace(",netdev=net", ""))).collect()
        };
        let clone = command(Path::new("/usr/bin/qemu"), &shape);
        let words = own_machine(&shape, "../x/port.sock");
        assert_eq!(devices(&words), devices(&clone));
        let line = words.join(" ");
        assert!(!line.contains("tap") && line.contains("-kernel vm/kernel -initrd vm/initramfs"), "{line}");
        assert!(line.contains("-smp 2 -m 256M") && line.ends_with("rik.template"), "{line}");
    }
}
