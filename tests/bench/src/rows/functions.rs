//! From the request to the first byte of a microVM's web server, in turns with the same kernel, disk and VMM begun by hand.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::api::pids;
use e2e::lab::NODE;
use e2e::{Lab, manifest, programs};
use guest::frame::{Frame, MAIN};
use guest::order::{Boot, Network, Order, Program, Task};
use guest::vmm::PORT_NAME;
use serde_json::{Value, json};

use super::{Hand, megabytes};
use crate::process::pss;
use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;

/// Part of the time of a boot by hand that a warm start shall need at most.
const REACH: f64 = 1.0 / 7.0;
/// Port of the node; nobody else is in the lab.
const PORT: u16 = 30_081;
/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long one question waits: less than the second after which a packet is sent again that came before its receiver.
const ASKED_FOR: Duration = Duration::from_millis(100);
/// How many begin at once.
const MANY: usize = 20;
/// What runs.
const SERVER: &str = "mkdir -p /srv; echo here > /srv/index.html; exec busybox httpd -f -p 8080 -h /srv";

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 2 } else { 10 };
    let api = lab.cluster();
    let mut function = manifest::function("fn", SERVER);
    function["spec"]["containers"][0]["ports"] = json!({ "port": PORT, "targetPort": 8080 });
    let workload = api.create_workload(&function);
    let mut hand = Hand::of(lab)?;
    // The first makes the template, and the disk of its image.
    let mut node = None;
    let first = once(&mut hand, &workload, "first", |_| {
        node = Some(ByHand::find(&Lab::node_state(NODE))?);
        Ok(())
    })?;
    let node = node.context("the first Function was looked at")?;
    let (mut ours, mut boots, mut memory, mut memory_by_hand) =
        (Sample::default(), Sample::default(), Sample::default(), Sample::default());
    for round in 0..rounds {
        let (took, bytes) = node.run()?;
        boots.add_time(took);
        memory_by_hand.add(megabytes(bytes));
        let mut bytes = 0;
        let took = once(&mut hand, &workload, &format!("fn-{round}"), |name| {
            let instance = api.instance(name).context("it is there")?;
            let supervisor = *pids(&instance).first().context("it has a process")?;
            bytes = pss(supervisor)? + pss(child(supervisor)?)?;
            Ok(())
        })?;
        ours.add_time(took);
        memory.add(megabytes(bytes));
    }
    let ratio = ours.median() / boots.median();
    report.add(&Finding {
        what: "request → first byte of a microVM, warm, emulated".to_owned(),
        reach: "≤ 1/7 of a boot",
        measured: format!("{:.0} ms (min {:.0}): 1/{:.1}", ours.median(), ours.minimum(), 1.0 / ratio),
        peer: format!("by hand, cold: {:.0} ms (min {:.0})", boots.median(), boots.minimum()),
        verdict: Verdict::of(ratio <= REACH),
    });
    report.add(&Finding {
        what: "memory of a microVM of 128 MiB with its supervisor (PSS)".to_owned(),
        reach: "≤ that of one booted by hand",
        measured: format!("{:.0} MB", memory.median()),
        peer: format!("by hand, cold: {:.0} MB", memory_by_hand.median()),
        verdict: Verdict::of(memory.median() <= memory_by_hand.median()),
    });
    api.delete_workload(&workload);
    let many = api.create_workload(&manifest::function("many", SERVER));
    let begun = Instant::now();
    hand.run_many(&many, MANY)?;
    let took = begun.elapsed();
    report.note(&format!(
        "Of {rounds} of each, in turns. By hand means: QEMU with the same kernel, initramfs and disk, whose agent is told at once what to run; without isolation, and by QEMU's own network. The first Function of a node also makes disk and template: {:.0} ms here. {MANY} at once, each a microVM: all run after {:.1} s.",
        first.as_secs_f64() * 1e3,
        took.as_secs_f64()
    ));
    hand.delete_workload(&many, MANY)
}

/// One Function, from the request to the first byte; then it goes.
fn once(
    hand: &mut Hand,
    workload: &str,
    name: &str,
    look: impl FnOnce(&str) -> Result<()>,
) -> Result<Duration> {
    hand.reconnect()?;
    let begun = Instant::now();
    hand.client.create(&json!({ "workload": workload, "name": name }))?;
    first_byte(PORT)?;
    let took = begun.elapsed();
    look(name)?;
    hand.reconnect()?;
    hand.client.send("DELETE", &format!("/api/v1/instances/{name}"), &Value::Null)?;
    hand.watch.until(1, None)?;
    Ok(took)
}

/// Asks until something answers.
fn first_byte(port: u16) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        let asked = TcpStream::connect_timeout(&address, ASKED_FOR).and_then(|mut stream| {
            stream.set_read_timeout(Some(ASKED_FOR))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read(&mut [0_u8; 1])
        });
        if asked.is_ok_and(|count| count == 1) {
            return Ok(());
        }
        thread::sleep(LOOK_EVERY);
    }
    bail!("nothing answers at {address}")
}

fn child(pid: u32) -> Result<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let first = text.split_whitespace().next().context("the supervisor has no child")?;
    Ok(first.parse()?)
}

/// What is needed to boot the same machine by hand.
struct ByHand {
    kernel: PathBuf,
    initramfs: PathBuf,
    root: PathBuf,
    clock: String,
    folder: PathBuf,
}

impl ByHand {
    fn find(state: &Path) -> Result<Self> {
        let only = |folder: PathBuf| -> Result<PathBuf> {
            let mut entries = fs::read_dir(&folder)?.flatten().map(|entry| entry.path());
            let whole = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                !name.starts_with('.') && !name.ends_with(".json")
            };
            entries.find(whole).with_context(|| format!("{} is empty", folder.display()))
        };
        let jail = only(state.join("microvms/jails"))?;
        let root = only(state.join("microvms/roots"))?;
        Ok(Self {
            kernel: jail.join("vm/kernel"),
            initramfs: jail.join("vm/initramfs"),
            root,
            clock: clock()?,
            folder: Lab::root().to_owned(),
        })
    }

    /// From the VMM's beginning to the first byte, and the memory that it has then.
    fn run(&self) -> Result<(Duration, u64)> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let socket = self.folder.join("by-hand.sock");
        let _ = fs::remove_file(&socket);
        let begun = Instant::now();
        let mut command = Command::new(programs::needed("qemu-system-x86_64"));
        command
            .args(["-M", "microvm,acpi=on,isa-serial=on", "-accel", "tcg", "-smp", "1", "-m", "128M"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "null"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initramfs)
            .args(["-drive", &format!("if=none,id=root,file={},format=raw,readonly=on", self.root.display())])
            .args(["-device", "virtio-blk-device,drive=root"])
            .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:8080")])
            .args(["-device", "virtio-net-device,netdev=net", "-device", "virtio-serial-device"])
            .args(["-chardev", &format!("socket,id=port,path={},server=on,wait=off", socket.display())])
            .args(["-device", &format!("virtserialport,chardev=port,name={PORT_NAME}")])
            .args([
                "-append",
                &format!("console=ttyS0 quiet panic=-1 cryptomgr.notests tsc_early_khz={}", self.clock),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut vmm = Vmm(command.spawn()?);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_not_yet) => thread::sleep(LOOK_EVERY),
            }
        };
        let mut frames = BufReader::new(stream.try_clone()?);
        ensure!(matches!(Frame::read(&mut frames)?, (MAIN, Frame::Ready(_))), "the agent is there first");
        let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH)?;
        let network = Network {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 2, 2),
            mtu: 1500,
        };
        let boot = Boot {
            hostname: "by-hand".to_owned(),
            network: Some(network),
            unix_nanos: u64::try_from(since.as_nanos())?,
            entropy: vec![7; 64],
            ..Boot::default()
        };
        let args = ["/bin/busybox", "sh", "-c", SERVER].map(str::to_owned).into();
        let env = vec!["PATH=/bin".to_owned()];
        let task = Task::Run(Program { args, env, ..Program::default() });
        let order = Order { task, ..Order::default() };
        Frame::Boot(Box::new(boot)).write(MAIN, &stream)?;
        Frame::Open(Box::new(order)).write(MAIN, &stream)?;
        ensure!(Frame::read(&mut frames)?.1 == Frame::Opened, "the server begins");
        first_byte(port)?;
        let took = begun.elapsed();
        let bytes = pss(vmm.0.id())?;
        vmm.0.kill()?;
        Ok((took, bytes))
    }
}

/// A VMM that ends when it is let go.
struct Vmm(Child);

impl Drop for Vmm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The rate of the time stamp counter, from the command line of a microVM of the node.
fn clock() -> Result<String> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some((_, rest)) = line.split_once("tsc_early_khz=") {
            return Ok(rest.chars().take_while(char::is_ascii_digit).collect());
        }
    }
    bail!("no microVM runs whose clock could be asked for")
}
