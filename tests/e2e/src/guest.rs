//! A machine of another kind for one story: a virtual one, with a kernel of its own and what it is told at its start.
//!
//! ```text
//! outside    story() ──▶ enclosure: QEMU, a disk with the programs under test and what they need
//! in QEMU    kernel ─▶ harness guest TEST (pid 1): mounts, modules ─▶ same test, which plays the story in a Lab
//!                          └ second serial port: everything that the test says, then a line with how it ended
//! ```
//!
//! No virtualisation of the processor is used, so it runs wherever QEMU does, some ten times slower than the machine
//! itself; all deadlines are longer inside (see [`patience`]). The kernel is Debian's for clouds, which has no driver
//! that is not needed here; disk and file system are built in, the rest is modules, loaded in the order of their needs.
//! `cargo xtask test` fetches it (`xtask/src/kernel.rs`).
//!
//! *Guarantee*: QEMU ends with the enclosure; of the disk nothing is left, of what was said everything is, in `logs`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::mount::{MountFlags, mount};

use crate::lab::{self, Lab};
use crate::{enclosure, programs};

/// Set in a guest only; the kernel hands what it does not know on its command line to the first process.
const HERE: &str = "RIK_E2E_GUEST";
/// Where `cargo xtask test` puts the kernel, below the build folder.
const KERNEL: &str = "guest-kernel";
/// Where the modules are in a guest, in files whose names are in the order of loading.
const MODULES: &str = "/modules";
/// What the names of compressed modules end with.
const COMPRESSED: &str = ".xz";
/// What RIK needs of a kernel beyond what is built in: root file systems, links, and what its rules are made of.
const NEEDED_MODULES: [&str; 13] = [
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_MASQUERADE",
    "xt_nat",
    "xt_tcpudp",
];
/// The programs under test that a guest gets.
const OURS: [&str; 3] = ["harness", "rik", "rikctl"];
/// The programs of the system that a guest gets.
const SYSTEM: [&str; 5] = ["busybox", "cat", "ip", "nft", "nsenter"];
/// The program of `iptables` that talks to nf_tables, and the names that a guest has it by.
const IPTABLES: &str = "iptables-nft-restore";
const IPTABLES_NAMES: [&str; 5] =
    ["iptables-save", "iptables-restore", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft-save"];
/// Where distributions keep the extensions of iptables.
const EXTENSIONS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib64/xtables", "/usr/lib/xtables", "/lib/xtables"];
/// Folders that are there before anything is mounted.
const FOLDERS: [&str; 8] = ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/lib"];
/// Size of the disk: what is copied there (some 300 MB in a debug build), and three times that for the story. Only what
/// is written takes room.
const DISK_BYTES: u64 = 2 << 30;
/// Memory in MiB: a third of it is enough, but then the kernel would drop and read pages of our large debug builds again.
const MEMORY_MIB: &str = "1024";
/// What the line begins with that says how the test ended.
const VERDICT: &str = "rik-guest: the test ended with ";
/// How long a guest may take for a story, boot included. It takes less than a minute on a machine that is not busy.
const DEADLINE: Duration = Duration::from_secs(300);
/// How often a guest is looked at.
const POLL: Duration = Duration::from_millis(100);
/// Of everything that the first process mounts; devices are to be seen.
const FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);
/// By how much deadlines are longer in a guest.
const SLOWNESS: u32 = 4;

/// Plays `story` on a virtual machine of its own, whose kernel is started with `parameters`, and fails when it fails or
/// when anything is left behind.
///
/// # Panics
/// When the story does, when the machine cannot be made, or when it does not come to an end.
pub fn story(parameters: &str, story: impl FnOnce(&mut Lab)) {
    if is_here() {
        lab::play(story);
        return;
    }
    enclosure::story(|lab| {
        if let Err(error) = boot(lab, parameters) {
            panic!("the virtual machine: {error:#}");
        }
    });
}

/// What deadlines are multiplied with: everything is slower in a guest.
#[must_use]
pub fn patience() -> u32 {
    if is_here() { SLOWNESS } else { 1 }
}

fn is_here() -> bool {
    env::var_os(HERE).is_some()
}

/// In the enclosure: makes the disk, starts QEMU and waits for the verdict.
fn boot(lab: &mut Lab, parameters: &str) -> Result<()> {
    let kernel = Kernel::find()?;
    let test = env::current_exe().context("this program does not know where it is")?;
    let disk = Lab::state().join("guest.ext4");
    let tree = Lab::state().join("guest");
    fill(&tree, &kernel, &test)?;
    make_disk(&tree, &disk)?;
    let said = Lab::logs().join("guest.log");
    let name = enclosure::name_of_test();
    let command_line = format!(
        // The clock of the emulated board, as the processor's own is the real one's and says nothing of our speed.
        "console=ttyS0 quiet panic=-1 notsc clocksource=hpet cryptomgr.notests root=/dev/nvme0n1 rw {parameters} \
         PATH=/usr/sbin:/usr/bin:/sbin:/bin {HERE}=1 {}={} init={} -- guest {} --exact {name} --nocapture",
        enclosure::INSIDE,
        story_folder().display(),
        programs::built("harness").display(),
        test.display(),
    );
    let mut qemu = Command::new(programs::needed("qemu-system-x86_64"));
    qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB]);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(["-serial", "stdio", "-serial"]).arg(format!("file:{}", said.display()));
    qemu.arg("-drive").arg(format!("if=none,id=disk,file={},format=raw,cache=unsafe", disk.display()));
    qemu.args(["-device", "nvme,drive=disk,serial=rik"]);
    qemu.arg("-kernel").arg(&kernel.image).args(["-append", &command_line]);
    lab.start("qemu", &mut qemu);
    let verdict = wait_verdict(lab, &said);
    lab.kill("qemu");
    verdict
}

fn wait_verdict(lab: &mut Lab, said: &Path) -> Result<()> {
    let until = Instant::now() + DEADLINE;
    loop {
        let ended = lab.daemon("qemu").ended();
        let text = String::from_utf8_lossy(&fs::read(said).unwrap_or_default()).replace('\r', "");
        if let Some((before, code)) = text.split_once(VERDICT)
            && let Some((code, _)) = code.split_once('\n')
        {
            ensure!(code == "0", "the story failed there, with {code}:\n{before}");
            return Ok(());
        }
        if let Some(status) = ended {
            bail!("QEMU ended ({status}) before the test did:\n{}{text}", lab.daemon("qemu").log());
        }
        if Instant::now() > until {
            bail!("no end within {DEADLINE:?}:\n{}{text}", lab.daemon("qemu").log());
        }
        thread::sleep(POLL);
    }
}

/// The kernel's package, unpacked.
struct Kernel {
    image: PathBuf,
    modules: Modules,
}

impl Kernel {
    fn find() -> Result<Self> {
        let folder = programs::target_folder().join(KERNEL);
        let image = files(&folder.join("boot"))?
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")));
        let image = image.with_context(|| {
            format!(
                "{} has no kernel: `cargo xtask test` fetches one where apt knows Debian's packages; elsewhere, \
                 unpack the package that Debian's linux-image-cloud-amd64 depends on there",
                folder.display()
            )
        })?;
        Ok(Self { image, modules: Modules::find(&folder.join("lib/modules"))? })
    }
}

/// Modules of a kernel by name; in names `-` and `_` are the same.
struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    fn find(folder: &Path) -> Result<Self> {
        let named = |path: PathBuf| {
            let file = path.file_name()?.to_string_lossy().into_owned();
            let name = file.strip_suffix(COMPRESSED).unwrap_or(&file).strip_suffix(".ko")?;
            Some((plain(name), path))
        };
        Ok(Self(files(folder)?.into_iter().filter_map(named).collect()))
    }

    /// Appends `module`, its name and its content, to `order`, after what it depends on.
    fn add(&self, module: &str, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        let name = plain(module);
        if order.iter().any(|(known, _)| *known == name) {
            return Ok(());
        }
        let path = self.0.get(&name).with_context(|| format!("the kernel has no module {module}"))?;
        let content = content(path).with_context(|| format!("failed to read {}", path.display()))?;
        dependencies(&content).iter().try_for_each(|needed| self.add(needed, order))?;
        order.push((name, content));
        Ok(())
    }
}

fn plain(module: &str) -> String {
    module.replace('-', "_")
}

/// What is in a module's file; newer packages have it compressed.
fn content(module: &Path) -> Result<Vec<u8>> {
    if !module.to_string_lossy().ends_with(COMPRESSED) {
        return Ok(fs::read(module)?);
    }
    let output =
        Command::new(programs::needed("xz")).args(["--decompress", "--stdout"]).arg(module).output()?;
    ensure!(output.status.success(), "xz failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// What a module says about the modules that it needs: the text behind `depends=` in its list of properties, which are
/// separated by zeros.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Every file below `folder`; none where it is not there.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.with_context(|| format!("failed to read {}", folder.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Fills `tree` with everything that the guest has, each file where it is here.
fn fill(tree: &Path, kernel: &Kernel, test: &Path) -> Result<()> {
    let mut order = Vec::new();
    NEEDED_MODULES.iter().try_for_each(|module| kernel.modules.add(module, &mut order))?;
    let modules = inside(tree, Path::new(MODULES));
    fs::create_dir_all(&modules).with_context(|| format!("failed to make {}", modules.display()))?;
    for (position, (name, content)) in order.iter().enumerate() {
        fs::write(modules.join(format!("{position:03}-{name}.ko")), content)?;
    }
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| tree.join(folder)).collect();
    folders.extend([programs::workspace_folder(), story_folder()].map(|folder| inside(tree, &folder)));
    for folder in folders {
        fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    put(&programs::hello(), &inside(tree, &programs::hello()))?;
    put_program(tree, test)?;
    OURS.iter().try_for_each(|name| put_program(tree, &programs::built(name)))?;
    SYSTEM.iter().try_for_each(|name| put_program(tree, &programs::needed(name)))?;
    let iptables = programs::needed(IPTABLES);
    put_program(tree, &iptables)?;
    for name in IPTABLES_NAMES {
        put(&iptables, &tree.join("usr/sbin").join(name))?;
    }
    let extensions = EXTENSIONS.iter().map(Path::new).find(|folder| folder.is_dir());
    let extensions = extensions.with_context(|| format!("iptables has no extensions in {EXTENSIONS:?}"))?;
    files(extensions)?.iter().try_for_each(|file| put(file, &inside(tree, file)))
}

/// The folder of the story, by the name that it has in the build folder.
fn story_folder() -> PathBuf {
    enclosure::folder(&enclosure::name_of_test())
}

fn inside(tree: &Path, path: &Path) -> PathBuf {
    tree.join(path.strip_prefix("/").unwrap_or(path))
}

/// A program and the libraries that it is linked with.
fn put_program(tree: &Path, program: &Path) -> Result<()> {
    put(program, &inside(tree, program))?;
    let ldd = Command::new(programs::needed("ldd")).arg(program).output().context("failed to run ldd")?;
    // Lines such as "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)"; a static program has none.
    let text = String::from_utf8_lossy(&ldd.stdout);
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    libraries
        .map(|library| (library, inside(tree, library)))
        .filter(|(_, target)| !target.exists())
        .try_for_each(|(library, target)| put(library, &target))
}

fn put(file: &Path, target: &Path) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    let copy = || fs::create_dir_all(folder).and_then(|()| fs::copy(file, target));
    copy().with_context(|| format!("failed to copy {} to {}", file.display(), target.display()))?;
    Ok(())
}

fn make_disk(tree: &Path, disk: &Path) -> Result<()> {
    let file = File::create(disk).with_context(|| format!("failed to make {}", disk.display()))?;
    file.set_len(DISK_BYTES)?;
    let mut mke2fs = Command::new(programs::needed("mke2fs"));
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]).arg(tree).arg(disk);
    let output = mke2fs.output().context("failed to run mke2fs")?;
    ensure!(output.status.success(), "mke2fs failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(fs::remove_dir_all(tree)?)
}

/// `harness guest`: the first process of a guest. Prepares it, runs `test`, says how that ended, and waits to be ended.
///
/// # Errors
/// When it runs elsewhere, or cannot speak; the kernel stops then.
pub fn first(test: &[String]) -> Result<ExitCode> {
    // On a real machine it would mount over what others need.
    ensure!(std::process::id() == 1 && is_here(), "this is no guest");
    mount("devtmpfs", "/dev", "devtmpfs", FLAGS, None::<&CStr>)?;
    let mut port =
        File::options().write(true).open("/dev/ttyS1").context("failed to open the serial port")?;
    match play(test, &port) {
        Ok(code) => writeln!(port, "{VERDICT}{code}")?,
        Err(error) => writeln!(port, "{error:#}\n{VERDICT}an error before its beginning")?,
    }
    loop {
        thread::park();
    }
}

fn play(test: &[String], port: &File) -> Result<u8> {
    for folder in ["/dev/pts", "/dev/shm"] {
        fs::create_dir_all(folder)?;
    }
    for (path, kind) in
        [("/dev/pts", "devpts"), ("/proc", "proc"), ("/sys", "sysfs"), ("/sys/fs/cgroup", "cgroup2")]
    {
        mount(kind, path, kind, FLAGS, None::<&CStr>).with_context(|| format!("failed to mount {path}"))?;
    }
    rustix::system::sethostname(b"guest")?;
    let mut modules = files(Path::new(MODULES))?;
    modules.sort();
    for module in modules {
        let load = || Ok::<_, io::Error>(rustix::system::finit_module(File::open(&module)?, c"", 0)?);
        load().with_context(|| format!("failed to load {}", module.display()))?;
    }
    enclosure::prepare()?;
    let (program, arguments) = test.split_first().context("no test was given")?;
    let mut test = Command::new(program);
    enclosure::run_to_its_end(test.args(arguments).stdout(port.try_clone()?).stderr(port.try_clone()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_says_what_it_depends_on() {
        let module =
            |text: &str| dependencies(format!("ELF\0license=GPL\0depends={text}\0retpoline=Y\0").as_bytes());
        assert_eq!(module("x_tables,nf-nat"), ["x_tables", "nf-nat"]);
        assert_eq!(module(""), Vec::<String>::new());
        assert_eq!(dependencies(b"no properties"), Vec::<String>::new());
    }
}
