//! The QEMU driver: a machine as small as QEMU has one (`microvm`), with nothing but a disk, a link and a port.

use std::path::{Path, PathBuf};

use guest::vmm::{PORT_NAME, RUN_DIR, STATE, TEMPLATE_WORD};
use network::{GUEST_ADDRESS, TAP_LINK};

use super::{
    Begin, Shape,
    jail::{FIRMWARE, INITRAMFS, KERNEL, ROOT},
};

/// Name of its program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";
/// Name of the socket of its port.
const PORT_SOCKET: &str = "port.sock";
/// Name of the socket by which a machine of ours is told things.
pub(super) const QMP_SOCKET: &str = "qmp.sock";

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

/// How a machine of this shape is begun in its jail. Nothing in it comes from a user.
#[must_use]
pub(super) fn begin(program: &Path, accelerator: Accelerator, shape: &Shape) -> Begin {
    let port = format!("{RUN_DIR}/{PORT_SOCKET}");
    let jail = Surroundings { top: "/", root: ROOT, port: &port, link: true, word: "" };
    let mut command = vec![program.display().to_string()];
    command.extend(arguments(accelerator, shape, &jail));
    if shape.from_template {
        command.extend(["-incoming".to_owned(), format!("fd:{STATE}")]);
    }
    Begin { command, api: None, port: PathBuf::from(port), agent: None }
}

/// How a machine of ours is begun that runs nothing of anybody's: to try the processor, and to take templates of. It has the
/// same devices as others, with nothing behind them, and is begun in the directory of the jail; `run` says where its sockets
/// are from there.
#[must_use]
pub(super) fn own_machine(
    program: &Path,
    accelerator: Accelerator,
    shape: &Shape,
    run: &dyn Fn(&str) -> String,
) -> Begin {
    // The disk's driver is not there before the agent has been spoken to, so that what is on it does not matter.
    let root = INITRAMFS.trim_start_matches('/');
    let port = run(PORT_SOCKET);
    let around = Surroundings { top: "", root, port: &port, link: false, word: TEMPLATE_WORD };
    let mut command = vec![program.display().to_string()];
    command.extend(arguments(accelerator, shape, &around));
    command.extend(["-qmp".to_owned(), format!("unix:{},server=on,wait=off", run(QMP_SOCKET))]);
    Begin { command, api: None, port: PathBuf::from(port), agent: None }
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

fn arguments(accelerator: Accelerator, shape: &Shape, around: &Surroundings<'_>) -> Vec<String> {
    let Shape { processors, memory_mib, .. } = shape;
    let (accelerator, clock) = match accelerator {
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
        let (tcg, program) = (Accelerator::Tcg(2_400_000), Path::new("/usr/bin/qemu-system-x86_64"));
        let shape = Shape { processors: 1, memory_mib: 128, from_template: false };
        insta::assert_snapshot!(begin(program, tcg, &shape).command.join("\n"), @r#"
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
        let shape = Shape { from_template: true, ..shape };
        let words = begin(Path::new("/q"), Accelerator::Kvm, &shape).command.join(" ");
        assert!(words.contains("-accel kvm") && !words.contains("tsc="), "{words}");
        assert!(words.contains("-incoming fd:4"), "{words}");
    }

    #[test]
    fn template_has_the_devices_of_its_clones_and_nothing_behind_them() {
        let (tcg, program) = (Accelerator::Tcg(2_400_000), Path::new("/usr/bin/qemu"));
        let shape = Shape { processors: 2, memory_mib: 256, from_template: false };
        let devices = |words: &[String]| -> Vec<String> {
            let pairs = words.windows(2).filter(|pair| pair.first().is_some_and(|word| word == "-device"));
            pairs.filter_map(|pair| Some(pair.get(1)?.replace(",netdev=net", ""))).collect()
        };
        let clone = begin(program, tcg, &shape).command;
        let words = own_machine(program, tcg, &shape, &|name| format!("../x/{name}")).command;
        assert_eq!(devices(&words), devices(&clone));
        let line = words.join(" ");
        assert!(!line.contains("tap") && line.contains("-kernel vm/kernel -initrd vm/initramfs"), "{line}");
        assert!(
            line.contains("-smp 2 -m 256M") && line.contains("rik.template -qmp unix:../x/qmp.sock,"),
            "{line}"
        );
    }
}
