//! The QEMU driver: a machine as small as QEMU has one (`microvm`), with nothing but a disk, a link and a port.

use std::{net::Ipv4Addr, path::Path};

use guest::vmm::{PORT_NAME, RUN_DIR};
use network::{TAP_LINK, hardware_address};

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
    /// Its address, if it has a network.
    pub address: Option<Ipv4Addr>,
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
    if let Some(address) = shape.address {
        let bytes: Vec<String> = hardware_address(address).iter().map(|byte| format!("{byte:02x}")).collect();
        add(&format!("-netdev tap,id=net,ifname={TAP_LINK},script=no,downscript=no"));
        add(&format!("-device virtio-net-device,netdev=net,mac={}", bytes.join(":")));
    }
    add("-device virtio-serial-device");
    add(&format!("-chardev socket,id=port,path={},server=on,wait=off", port_socket()));
    add(&format!("-device virtserialport,chardev=port,name={PORT_NAME}"));
    add("-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    words.push("-append".to_owned());
    words.push(format!("console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests{clock}"));
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
            address: Some(Ipv4Addr::new(10, 42, 0, 5)),
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
        virtio-net-device,netdev=net,mac=02:52:0a:2a:00:05
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
        let kvm = Shape { accelerator: Accelerator::Kvm, address: None, ..shape };
        let words = command(Path::new("/q"), &kvm).join(" ");
        assert!(
            words.contains("-accel kvm") && !words.contains("tsc_early") && !words.contains("tap"),
            "{words}"
        );
    }
}
