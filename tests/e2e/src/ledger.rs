//! The ledger: everything that RIK could leave behind on a machine, as sorted lines, taken before and after.
//!
//! | line begins with | read from |
//! |---|---|
//! | `mount` | `/proc/self/mountinfo`: overlays, namespaces held by mounts, everything else |
//! | `namespace` | `/run/netns` |
//! | `link`, `rule`, `listening`, `socket` | each network namespace: links, rules of every table and backend, sockets |
//! | `cgroup` | every folder of every hierarchy |
//! | `process` | `/proc` |
//! | `file` | `/run`, `/tmp` and the folders that RIK uses by default |
//!
//! In a lab everything inside is taken, and the exceptions are few: each stands beside its reason below. On a whole
//! machine other programs come and go, so [`Ledger::of_machine`] leaves out what is certainly theirs.
//!
//! An empty base chain counts as nothing: `iptables` makes the chains of a table when it first looks at it, and nobody
//! can remove them without risking somebody else's rule.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::network::{self, Host};
use crate::wait::wait_until;
use crate::{cgroups, filesystem, lab, programs};

/// How long the kernel may take to finish what was asked for: it removes namespaces and their links at leisure.
const SETTLE: Duration = Duration::from_secs(15);
/// Everything that saves rules; those that are not installed can have made none.
const RULE_SAVERS: [&str; 4] =
    ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
/// Folders that RIK uses when it is not told otherwise.
const DEFAULT_FOLDERS: [&str; 6] = ["/run", "/tmp", "/dev/shm", "/var/lib", "/etc", "/var/log"];
/// What names of ours begin with, where we share a folder with others.
const OURS: [&str; 3] = ["rik", ".rik", ".tmp"];
/// A lock file that iptables makes at its first call and never removes.
const IPTABLES_LOCK: &str = "xtables.lock";

/// What was there at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(Vec<String>);

impl Ledger {
    /// Reads everything inside a lab.
    ///
    /// # Panics
    /// When something cannot be read.
    #[track_caller]
    #[must_use]
    pub fn of_lab() -> Self {
        Self::take(&Scope::Lab).unwrap_or_else(|error| panic!("failed to take the ledger: {error}"))
    }

    /// Reads what matters of a whole machine.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn of_machine() -> io::Result<Self> {
        Self::take(&Scope::Machine)
    }

    fn take(scope: &Scope) -> io::Result<Self> {
        let mut lines = mounts(scope)?;
        lines.extend(files(scope));
        lines.extend(cgroup_folders(scope)?);
        lines.extend(processes(scope)?);
        for host in network::all() {
            if host != Host::here() {
                lines.push(format!("namespace {}", host.name()));
            }
            lines.extend(network_lines(scope, &host)?);
        }
        lines.sort();
        Ok(Self(lines))
    }

    /// The lines that came since, and those that went.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut count: BTreeMap<&str, i64> = BTreeMap::new();
        later.0.iter().for_each(|line| *count.entry(line).or_default() += 1);
        self.0.iter().for_each(|line| *count.entry(line).or_default() -= 1);
        count
            .into_iter()
            .filter(|(_, balance)| *balance != 0)
            .map(|(line, balance)| format!("{}: {line}", if balance > 0 { "left behind" } else { "missing" }))
            .collect()
    }

    /// Waits until the lab is again as this ledger has it.
    ///
    /// # Panics
    /// When it does not become so; every difference is named.
    #[track_caller]
    pub fn assert_restored(&self) {
        wait_until(SETTLE, "everything to be as before", || {
            let differences = self.differences(&Self::of_lab());
            if differences.is_empty() { Ok(()) } else { Err(format!("\n  {}", differences.join("\n  "))) }
        });
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// What is looked at.
#[derive(PartialEq, Eq)]
enum Scope {
    /// An enclosure: all of it is ours.
    Lab,
    /// A machine that others use too.
    Machine,
}

fn mounts(scope: &Scope) -> io::Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let lines = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((left.split(' ').nth(4)?, right.split(' ').next()?))
    });
    // Logins and services mount and unmount the first two for themselves; iproute2 makes the folder of all named
    // namespaces a mount when the first one is added, and leaves it so.
    let others = |path: &str| {
        path.starts_with("/run/user/") || path.starts_with("/run/credentials/") || path == network::NAMED
    };
    Ok(lines
        .filter(|(path, _)| *scope == Scope::Lab || !others(path))
        .map(|(path, filesystem)| format!("mount {path} {filesystem}"))
        .collect())
}

fn files(scope: &Scope) -> Vec<String> {
    let mut lines = Vec::new();
    for folder in DEFAULT_FOLDERS {
        let whole = *scope == Scope::Lab && filesystem::EMPTY.contains(&folder);
        list_files(Path::new(folder), whole, &mut lines);
    }
    lines
}

/// Lists `folder`: `whole` and to any depth, or what bears a name of ours.
fn list_files(folder: &Path, whole: bool, lines: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        // State, logs and images of the story itself are below the lab's root; the test removes them. The project may
        // be checked out below one of these folders, and other tests write there at the same time.
        let project = path == programs::workspace_folder() || path == programs::target_folder();
        if name == IPTABLES_LOCK || path == Path::new(lab::ROOT) || project {
            continue;
        }
        if !whole && !OURS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        lines.push(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list_files(&path, true, lines);
        }
    }
}

fn cgroup_folders(scope: &Scope) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for hierarchy in cgroups::hierarchies()? {
        let ours = |path: &PathBuf| {
            // On a whole machine the service manager and other programs have folders of their own.
            let below = path.strip_prefix(&hierarchy.path).unwrap_or(path);
            *scope == Scope::Lab
                || below.components().any(|part| part.as_os_str().to_string_lossy().starts_with("rik"))
        };
        let folders = cgroups::walk(&hierarchy.path);
        lines.extend(
            folders.iter().filter(|path| ours(path)).map(|path| format!("cgroup {}", path.display())),
        );
    }
    // A hybrid layout mounts hierarchies below each other's folders: each folder counts once.
    lines.dedup();
    Ok(lines)
}

fn processes(scope: &Scope) -> io::Result<Vec<String>> {
    let target = programs::target_folder();
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // This process, and those that wait for it, are not left behind.
        if ancestors().contains(&pid) || is_kernels(pid) {
            continue;
        }
        let program = fs::read_link(entry.path().join("exe")).unwrap_or_default();
        if *scope == Scope::Machine && !program.starts_with(&target) {
            continue;
        }
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if !name.is_empty() {
            lines.push(format!("process {} ({})", arguments.trim(), name.trim()));
        }
    }
    Ok(lines)
}

/// Whether a process is a thread of the kernel: a machine of one's own has those too, and they come and go.
fn is_kernels(pid: u32) -> bool {
    /// `PF_KTHREAD` (linux/sched.h).
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may contain spaces; the flags are the 7th field after it.
    let flags = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

/// This process, its parent, and so on.
fn ancestors() -> Vec<u32> {
    let mut line = vec![std::process::id()];
    while let Some(parent) = line.last().and_then(|pid| parent(*pid)).filter(|parent| *parent != 0) {
        line.push(parent);
    }
    line
}

fn parent(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn network_lines(scope: &Scope, host: &Host) -> io::Result<Vec<String>> {
    let mut lines = links(host)?;
    lines.extend(rules(host)?);
    if *scope == Scope::Lab {
        // On a whole machine a socket of ours implies a process of ours.
        lines.extend(sockets(host)?);
    }
    let name = host.name();
    Ok(lines.into_iter().map(|(kind, rest)| format!("{kind} {name} {rest}")).collect())
}

type Line = (&'static str, String);

fn links(host: &Host) -> io::Result<Vec<Line>> {
    let text = output(host.command(programs::needed("ip")).args(["-oneline", "link", "show"]))?;
    // "7: lab-n1@if2: <BROADCAST,…> …": the name, without its peer's number.
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(|name| ("link", name.split('@').next().unwrap_or_default().to_owned())).collect())
}

fn rules(host: &Host) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for saver in RULE_SAVERS {
        let Some(program) = programs::installed(saver) else { continue };
        let mut table = String::new();
        for line in output(&mut host.command(program))?.lines() {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
            } else if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split(' ');
                let (name, policy) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                if policy != "ACCEPT" {
                    lines.push(("rule", format!("{saver} {table} chain {name} {policy}")));
                }
            } else if line.starts_with('-') {
                lines.push(("rule", format!("{saver} {table} {line}")));
            }
        }
    }
    if let Some(nft) = programs::installed("nft") {
        let text = output(host.command(nft).args(["list", "tables"]))?;
        // The tables of iptables-nft were read above, by the program that they belong to.
        let of_iptables = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(
                words.as_slice(),
                ["table", "ip" | "ip6", "filter" | "nat" | "mangle" | "raw" | "security"]
            )
        };
        lines.extend(
            text.lines().filter(|line| !of_iptables(line)).map(|line| ("rule", format!("nft {line}"))),
        );
    }
    Ok(lines)
}

fn sockets(host: &Host) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    let cat = programs::needed("cat");
    for protocol in ["tcp", "tcp6", "udp", "udp6"] {
        let text = output(host.command(&cat).arg(format!("/proc/net/{protocol}")))?;
        let fields = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        for words in fields {
            // State 0A is "listening"; UDP sockets have no such state, and are bound or not there.
            if let [_, local, _, state, ..] = words.as_slice()
                && (*state == "0A" || protocol.starts_with("udp"))
            {
                lines.push(("listening", format!("{protocol} {local}")));
            }
        }
    }
    let text = output(host.command(&cat).arg("/proc/net/unix"))?;
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(7));
    lines.extend(paths.map(|path| ("socket", path.to_owned())));
    Ok(lines)
}

/// What a command printed. One that fails has nothing to say about what is left behind.
fn output(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("{}: {}", command.get_program().display(), errors.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_named() {
        let before = Ledger(["link lo", "mount /a", "mount /a"].map(String::from).to_vec());
        let after = Ledger(["link lo", "link rik0", "mount /a"].map(String::from).to_vec());
        assert_eq!(before.differences(&after), ["left behind: link rik0", "missing: mount /a"]);
        assert!(before.differences(&before).is_empty());
    }
}
