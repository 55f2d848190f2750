//! A node of its own for each test: a thread in new network, mount and uts namespaces, with one neighbour.
//!
//! ```text
//!  neighbour 198.51.100.2 ── wire ── up0 198.51.100.1  node
//! ```
//!
//! Threads and processes started from the node's thread are on the node too. When the threads have ended, all of it
//! is gone.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use model::{PortSpec, Protocol, manifest::ExposureKind};
use network::{AttachRequest, Attachment, Backend, Network, NetworkConfig};
use rustix::{
    mount::MountPropagationFlags,
    thread::{LinkNameSpaceType, UnshareFlags},
};

/// The node's own address.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// The neighbour's.
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// Policy of FORWARD before RIK comes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Forward {
    Accept,
    Drop,
}

/// A node, seen from its own thread.
pub(crate) struct Sandbox {
    pub(crate) neighbour: Namespace,
    pub(crate) state_dir: PathBuf,
    pub(crate) backend: Backend,
}

/// A network namespace that threads and commands can be run in.
pub(crate) struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with `lo` up.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            leave(UnshareFlags::NEWNET);
            shell("ip link set lo up");
            Self::here()
        });
        made.join().unwrap()
    }

    /// The one that the calling thread is in.
    pub(crate) fn here() -> Self {
        Self { file: File::open("/proc/thread-self/ns/net").unwrap() }
    }

    /// A pod's.
    pub(crate) fn of(attachment: &Attachment) -> Self {
        Self { file: File::open(attachment.net_namespace()).unwrap() }
    }

    /// Runs something in the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.file.as_fd(), kind).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Connects the namespace (address 2 of a network) with the calling thread's (address 1, link `name`).
    pub(crate) fn join_node(&self, name: &str, network: &str) {
        let node = Self::here();
        let node = format!("/proc/{}/fd/{}", std::process::id(), node.file.as_raw_fd());
        self.shell(&format!(
            "ip link add wire type veth peer name {name} && ip addr add {network}.2/24 dev wire \
             && ip link set {name} netns {node} && ip link set wire up"
        ));
        shell(&format!("ip addr add {network}.1/24 dev {name} && ip link set {name} up"));
    }

    /// Runs a shell command in the namespace.
    pub(crate) fn shell(&self, command: &str) -> String {
        self.run(|| shell(command))
    }
}

/// Runs a test on a node of its own.
pub(crate) fn on_a_node<F: Future<Output = ()>>(backend: Backend, test: impl FnOnce(Sandbox) -> F + Send) {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("state");
    thread::scope(|scope| {
        let node = scope.spawn(|| {
            let sandbox = Sandbox::build(backend, state_dir);
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(test(sandbox));
        });
        if let Err(panic) = node.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Sandbox {
    fn build(backend: Backend, state_dir: PathBuf) -> Self {
        leave(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWUTS);
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).unwrap();
        // What `ip` shows of devices is in /sys, which still shows the old namespace.
        shell("mount -t sysfs sysfs /sys && ip link set lo up");
        let neighbour = Namespace::new();
        neighbour.join_node("up0", "198.51.100");
        shell("ip route add default via 198.51.100.2");
        Self { neighbour, state_dir, backend }
    }

    /// Sets the policy that the host's FORWARD chain has.
    pub(crate) fn forward(&self, policy: Forward) {
        let policy = match policy {
            Forward::Accept => "ACCEPT",
            Forward::Drop => "DROP",
        };
        shell(&format!("{} -P FORWARD {policy}", self.iptables()));
    }

    /// The iptables program of the backend.
    pub(crate) fn iptables(&self) -> &'static str {
        match self.backend {
            Backend::Host => "iptables",
            Backend::Nft => "iptables-nft",
            Backend::Legacy => "iptables-legacy",
        }
    }

    /// All rules, without counters and dates.
    pub(crate) fn rules(&self) -> String {
        let text = shell(&format!("{}-save", self.iptables()));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
    }

    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig {
            bridge: "rik0".into(),
            subnet: "10.42.0.0/24".parse().unwrap(),
            uplink: None,
            state_dir: self.state_dir.clone(),
            mtu: None,
            backend: self.backend,
            forbidden: BTreeSet::new(),
        }
    }

    /// A network that is ready for pods.
    pub(crate) async fn network(&self) -> Network {
        let network = Network::open(self.config()).await.unwrap();
        network.reconcile(&[]).await.unwrap();
        network
    }

    pub(crate) fn ns_dir(&self, owner: &str) -> PathBuf {
        self.state_dir.join("pods").join(owner).join("ns")
    }

    pub(crate) fn request(&self, owner: &str, publish: &[PortSpec]) -> AttachRequest {
        AttachRequest {
            owner: owner.parse().unwrap(),
            hostname: format!("host-{owner}"),
            ns_dir: self.ns_dir(owner),
            has_namespaces: false,
            tap: None,
            publish: publish.to_vec(),
        }
    }
}

/// TCP `port` of the node leads to port 80 of the pod.
pub(crate) fn tcp(port: u16) -> PortSpec {
    PortSpec {
        port,
        target_port: Some(80),
        protocol: Protocol::Tcp,
        exposure: ExposureKind::NodePort,
        host_address: None,
    }
}

pub(crate) fn at(address: impl Into<Ipv4Addr>, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address.into(), port)
}

/// Runs a command where the calling thread is, and fails the test if it fails.
pub(crate) fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Links, rules, mounts, settings and files of a node: whatever a test must leave as it was.
pub(crate) fn inventory(sandbox: &Sandbox) -> String {
    // A bridge without pods has no carrier, which the kernel notices after a while.
    let links = shell(
        "ip -br link | cut -d' ' -f1; ip -br -4 addr | awk '{print $1, $3, $4}'; ip route | sed 's/ linkdown//'",
    );
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let here = sandbox.state_dir.to_str().unwrap();
    let mounts: Vec<&str> =
        mounts.lines().filter(|line| line.contains(here) || line.contains("nsfs")).collect();
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let localnet = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/route_localnet").unwrap();
    format!(
        "{links}\n{}\n{mounts:#?}\n{forward}{localnet}{:#?}",
        rules_of_ours(sandbox),
        files(&sandbox.state_dir)
    )
}

/// Fails with the lines that differ.
#[track_caller]
pub(crate) fn assert_same(now: &str, before: &str) {
    let only = |left: &str, right: &str| -> Vec<String> {
        let there: BTreeSet<&str> = right.lines().collect();
        left.lines().filter(|line| !there.contains(line)).map(str::to_owned).collect()
    };
    assert!(now == before, "more: {:#?}, missing: {:#?}", only(now, before), only(before, now));
}

/// Rules and chains of ours. Empty tables that iptables has made meanwhile do not count.
fn rules_of_ours(sandbox: &Sandbox) -> String {
    let ours = |line: &&str| line.contains("rik") || line.contains("RIK") || line.starts_with("-A");
    sandbox.rules().lines().filter(ours).map(|line| format!("{line}\n")).collect()
}

/// The files that namespaces are held by.
fn files(state_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![state_dir.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// A mount namespace made as other programs make theirs: with copies of all mounts, which follow the originals.
pub(crate) struct MountNamespace {
    file: File,
}

impl MountNamespace {
    /// A copy of the calling thread's.
    pub(crate) fn copy_of_here() -> Self {
        let made = thread::spawn(|| {
            leave(UnshareFlags::NEWNS);
            File::open("/proc/thread-self/ns/mnt").unwrap()
        });
        Self { file: made.join().unwrap() }
    }

    /// What is mounted there.
    pub(crate) fn mount_table(&self) -> String {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        shell(&format!("nsenter --mount={path} cat /proc/self/mountinfo"))
    }
}

fn leave(flags: UnshareFlags) {
    #[expect(unsafe_code, reason = "rustix has no safe unshare; only its FILES flag is dangerous")]
    // SAFETY: no test passes FILES, so that the threads go on sharing their descriptors.
    unsafe { rustix::thread::unshare_unsafe(flags) }.expect("tests of the network need root");
}
