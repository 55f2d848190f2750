//! The QEMU driver: a machine as small as QEMU has one (`microvm`), with nothing but a disk, a link and a port.

use std::path::Path;

use guest::vmm::{PORT_NAME, RUN_DIR, STATE, TEMPLATE_WORD};
use network::{GUEST_ADDRESS, TAP_LINK};

use super::jail::{FIRMWARE, INITRAMFS, KERNEL, ROOT};

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
    let Shape { processors, memory_mib, .. } = shape;
    let (accelerator, clock) = match shape.accelerator {
        Accelerator::Kvm => ("kvm", String::new()),
        // Without it the kernel does not find out how fast its clock runs, and never comes up.
        Accelerator::Tcg(khz) => ("tcg", format!(" tsc_early_khz={khz}")),
    };
    let mut words: Vec<String> = vec![program.display().to_string()];
    let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
    add("-M microvm,acpi=on,isa-serial=on,pic=on,pit=on,rtc=on");
    add(&format!("-accel {accelerator} -smp {processors} -m {memory_mib}M"));
    if shape.accelerator == Accelerator::Kvm {
        add("-cpu host");
    }
    add("-nodefaults -no-user-config -display none -no-reboot -serial stdio");
    add(&format!("-L {FIRMWARE} -kernel {KERNEL} -initrd {INITRAMFS}"));
    // Always raw: a format that is guessed could name other files.
    add(&format!("-drive if=none,id=root,file={ROOT},format=raw,readonly=on,file.locking=off"));
    add("-device virtio-blk-device,drive=root");
    add(&format!("-netdev tap,id=net,ifname={TAP_LINK},script=no,downscript=no"));
    add(&format!("-device virtio-net-device,netdev=net,mac={}", guest_address()));
    add("-device virtio-serial-device");
    add(&format!("-chardev socket,id=port,path={},server=on,wait=off", port_socket()));
    add(&format!("-device virtserialport,chardev=port,name={PORT_NAME}"));
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    if shape.from_template {
        add(&format!("-incoming fd:{STATE}"));
    }
    words.push("-append".to_owned());
    words.push(format!("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests{clock}"));
    words
}

/// The hardware address of every microVM, as QEMU takes it.
fn guest_address() -> String {
    GUEST_ADDRESS.map(|byte| format!("{byte:02x}")).join(":")
}

/// QEMU and its arguments for the machine that templates are taken of: the same devices as [`command`] has, without
/// anything behind them, and a socket by which it is told to write down its state. It runs on the machine itself, in the
/// directory of its sockets, and holds nothing but what this crate has made.
#[must_use]
pub(super) fn template_command(program: &Path, jail: &Path, shape: &Shape) -> Vec<String> {
    let inside = |path: &str| jail.join(path.trim_start_matches('/')).display().to_string();
    let mut words = Vec::new();
    let mut of_clone = command(program, shape).into_iter();
    while let Some(word) = of_clone.next() {
        let value = match word.as_str() {
            "-L" => inside(FIRMWARE),
            "-kernel" => inside(KERNEL),
            "-initrd" => inside(INITRAMFS),
            // Its driver is not there yet, so that what is on the disk does not matter.
            "-drive" => format!("if=none,id=root,file={},format=raw,readonly=on", inside(INITRAMFS)),
            "-chardev" => "socket,id=port,path=port.sock,server=on,wait=off".to_owned(),
            "-netdev" => {
                of_clone.next();
                continue;
            }
            _ => {
                words.push(word.replace(",netdev=net", ""));
                continue;
            }
        };
        of_clone.next();
        words.extend([word, value]);
    }
    // The last word is what the kernel is told.
    if let Some(last) = words.last_mut() {
        last.push(' ');
        last.push_str(TEMPLATE_WORD);
    }
    words.extend(["-qmp", "unix:qmp.sock,server=on,wait=off"].map(str::to_owned));
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
        microvm,acpi=on,isa-serial=on,pic=on,pit=on,rtc=on
        -accel
        tcg
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
        virtio-net-device,netdev=net,mac=02:52:00:00:00:01
        -device
        virtio-serial-device
        -chardev
        socket,id=port,path=/run/port.sock,server=on,wait=off
        -device
        virtserialport,chardev=port,name=rik.0
        -sandbox
        on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
        -append
        console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc_early_khz=2400000
        "#);
        let kvm = Shape { accelerator: Accelerator::Kvm, from_template: true, ..shape };
        let words = command(Path::new("/q"), &kvm).join(" ");
        assert!(words.contains("-accel kvm") && !words.contains("tsc_early"), "{words}");
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
        let words = template_command(Path::new("/usr/bin/qemu"), Path::new("/jail"), &shape);
        assert_eq!(devices(&words), devices(&clone));
        let line = words.join(" ");
        assert!(!line.contains("tap") && line.contains("-kernel /jail/vm/kernel"), "{line}");
        assert!(line.contains("file=/jail/vm/initramfs") && line.contains("-smp 2 -m 256M"), "{line}");
    }
}
