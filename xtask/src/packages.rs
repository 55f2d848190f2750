//! What the machine must have, and how to get it: Debian's and Fedora's names for each program.
//!
//! A need is met when its program is found, however it came there. What is missing is named with its reason before
//! anything is installed, and only that is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{paths, root, step};

/// One thing that must be installed.
pub(crate) struct Need {
    /// The program that proves it is there; any one of them does.
    programs: &'static [&'static str],
    /// What it is for, to complete "it is needed …".
    why: &'static str,
    debian: &'static str,
    fedora: &'static str,
    /// A service that the package starts by itself, and that must not go on running.
    service: Option<&'static str>,
}

const fn need(
    programs: &'static [&'static str],
    debian: &'static str,
    fedora: &'static str,
    why: &'static str,
) -> Need {
    Need { programs, why, debian, fedora, service: None }
}

const IPTABLES: Need =
    need(&["iptables-restore"], "iptables", "iptables-nft", "to publish the ports of pods on the node");

const QEMU: Need = need(
    &["qemu-system-x86_64"],
    "qemu-system-x86",
    "qemu-system-x86-core",
    "to run microVMs; for the tests also to be a machine with control groups of version 2 alone",
);

/// What a cluster on this machine needs.
pub(crate) const FOR_DEMO: &[Need] = &[IPTABLES, QEMU];

/// What the tests need.
pub(crate) const FOR_TEST: &[Need] = &[
    IPTABLES,
    need(
        &["iptables-legacy-save"],
        "iptables",
        "iptables-legacy",
        "to see that no old-style rule is left behind",
    ),
    need(&["nft"], "nftables", "nftables", "to see that no rule of any table is left behind"),
    need(&["ip"], "iproute2", "iproute", "to build the network namespaces that stand for hosts"),
    need(&["unshare"], "util-linux", "util-linux", "to give each test namespaces of its own"),
    Need {
        programs: &["docker-registry", "registry"],
        why: "to pull images from a real registry on loopback",
        debian: "docker-registry",
        fedora: "docker-distribution",
        service: Some("docker-registry"),
    },
    need(
        &["skopeo"],
        "skopeo",
        "skopeo",
        "to fill that registry, and to compare our image archives with its reading",
    ),
    need(&["busybox"], "busybox-static", "busybox", "as the content of test images"),
    need(&["runc"], "runc", "runc", "as the reference that our containers are compared with"),
    need(&["sqlite3"], "sqlite3", "sqlite", "to see that the database can be read by hand"),
    need(&["curl"], "curl", "curl", "to reach pods from other namespaces"),
    QEMU,
    need(&["mke2fs"], "e2fsprogs", "e2fsprogs", "to make that machine's disk"),
    need(&["umoci"], "umoci", "umoci", "to compare our unpacking of images with"),
];

/// What the measurements need beyond that.
pub(crate) const FOR_BENCH: &[Need] = &[
    need(&["strace"], "strace", "strace", "to count how often an idle cluster waits for the disk"),
    Need {
        programs: &["ctr"],
        why: "to compare our pulling of images with",
        debian: "containerd",
        fedora: "containerd",
        service: Some("containerd"),
    },
];

/// Installs what is missing of `needs`.
///
/// # Errors
/// When something is missing and cannot be installed.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let family = Family::of_this_machine()?;
    eprintln!("this machine lacks:");
    for need in &missing {
        eprintln!("  {:<18} {}", family.package(need), need.why);
    }
    root::acquire("to install packages")?;
    let mut packages: Vec<&str> = missing.iter().map(|need| family.package(need)).collect();
    packages.sort_unstable();
    packages.dedup();
    family.install(&packages)?;
    for need in &missing {
        need.stop_service();
        if !need.is_met() {
            bail!("package {} is installed, but it brought no {}", family.package(need), need.programs[0]);
        }
    }
    Ok(())
}

/// Installs cargo-nextest, the test runner, when it is missing.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn install_nextest() -> Result<()> {
    let present = Command::new("cargo").args(["nextest", "--version"]).output();
    if present.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    eprintln!("this machine lacks:");
    eprintln!(
        "  {:<18} to run each test in a process of its own; it takes some minutes to build",
        "cargo-nextest"
    );
    step::run("install cargo-nextest", Command::new("cargo").args(["install", "--locked", "cargo-nextest"]))
}

impl Need {
    fn is_met(&self) -> bool {
        self.programs.iter().any(|program| paths::find_program(program).is_some())
    }

    /// Debian starts a freshly installed service by itself: the registry would take port 5000 from the controller.
    fn stop_service(&self) {
        if let Some(service) = self.service
            && Path::new("/run/systemd/system").is_dir()
        {
            let stop = root::command("systemctl").args(["disable", "--now", "--quiet", service]).status();
            if !stop.is_ok_and(|status| status.success()) {
                eprintln!("warning: service {service} was installed, and may be running; it is not needed");
            }
        }
    }
}

/// The two families of distributions whose names are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Debian,
    Fedora,
}

impl Family {
    fn of_this_machine() -> Result<Self> {
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        match Self::named(&os_release) {
            Some(family) if paths::find_program(family.installer()).is_some() => Ok(family),
            _ => bail!(
                "this is neither of Debian's family nor of Fedora's: install the programs named in \
                 xtask/src/packages.rs by hand"
            ),
        }
    }

    /// The family that an `os-release` file tells: by its own name, or by what it says it is like.
    fn named(os_release: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
        };
        let (id, like) = (field("ID"), field("ID_LIKE"));
        std::iter::once(id.as_str()).chain(like.split_whitespace()).find_map(|name| match name {
            "debian" | "ubuntu" => Some(Self::Debian),
            "fedora" | "rhel" => Some(Self::Fedora),
            _ => None,
        })
    }

    /// The program that installs packages.
    const fn installer(self) -> &'static str {
        match self {
            Self::Debian => "apt-get",
            Self::Fedora => "dnf",
        }
    }

    const fn package(self, need: &Need) -> &'static str {
        match self {
            Self::Debian => need.debian,
            Self::Fedora => need.fedora,
        }
    }

    fn install(self, packages: &[&str]) -> Result<()> {
        let title = format!("install {}", packages.join(" "));
        match self {
            Self::Debian => {
                step::run("update the package lists", root::command("apt-get").args(["update", "-q"]))?;
                let mut command = root::command("env");
                command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y"]);
                step::run(&title, command.arg("--no-install-recommends").args(packages))
            }
            Self::Fedora => {
                let mut command = root::command(self.installer());
                step::run(
                    &title,
                    command.args(["install", "-y", "--setopt=install_weak_deps=False"]).args(packages),
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_is_told_by_name_or_by_likeness() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        let fedora = "NAME=\"Fedora Linux\"\nVERSION_ID=42\nID=fedora\nPLATFORM_ID=\"platform:f42\"\n";
        let rocky = "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n";
        assert_eq!([debian, mint].map(Family::named), [Some(Family::Debian); 2]);
        assert_eq!([fedora, rocky].map(Family::named), [Some(Family::Fedora); 2]);
        assert_eq!(["ID=arch\n", "", "VERSION_ID=debian\n"].map(Family::named), [None; 3]);
    }

    #[test]
    fn names_of_packages_are_those_of_the_family() {
        let names = |family: Family| {
            let needs = FOR_TEST.iter().chain(FOR_BENCH);
            needs.map(|need| family.package(need)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            names(Family::Debian),
            "iptables iptables nftables iproute2 util-linux docker-registry skopeo busybox-static runc sqlite3 \
             curl qemu-system-x86 e2fsprogs umoci strace containerd"
        );
        assert_eq!(
            names(Family::Fedora),
            "iptables-nft iptables-legacy nftables iproute util-linux docker-distribution skopeo busybox runc \
             sqlite curl qemu-system-x86-core e2fsprogs umoci strace containerd"
        );
    }
}
