//! A node to try pods on: a runtime in namespaces of its own, with an image made from busybox. Leaves nothing behind.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use images::{
    RegistryConfig,
    archive::{PackFile, PackSpec, pack},
};
use model::{
    ContainerSpec, Kind, WorkloadSpec,
    lifecycle::{Facts, Observed},
};
use network::{Backend, NetworkConfig, Subnet};
use runtime::{
    InstanceSpec, Runtime,
    pod::{
        Allowed, PodRuntime, PodRuntimeConfig,
        link::ShimCommand,
        oci_runtime::{OWN, OciRuntimes},
    },
};
use uuid::Uuid;

/// Longest that anything of a test may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
const IMAGE: &str = "127.0.0.1:1/busybox:1";
const INSIDE: &str = "RIK_TEST_INSIDE";
const RUNTIME: &str = "RIK_TEST_RUNTIME";

/// Runs the test again in a network and mount namespace of its own, or, if it is there already, runs it: first with
/// containers that RIK makes, then with those of runc, which is the field's own answer to what a container is.
pub fn in_namespaces<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Node) -> F) {
    run(name, &[OWN, "runc"], test);
}

/// The same for what only RIK's own containers are.
pub fn in_namespaces_of_rik<F: Future<Output = ()>>(name: &str, test: impl FnOnce(Node) -> F) {
    run(name, &[OWN], test);
}

fn run<F: Future<Output = ()>>(name: &str, runtimes: &[&str], test: impl FnOnce(Node) -> F) {
    if std::env::var_os(INSIDE).is_none() {
        runtimes.iter().for_each(|runtime| run_inside(name, runtime));
        return;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(status.success());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let node = Node::open().await;
        let cleaner = Cleaner { node: node.name.clone(), state: node.state.clone() };
        let tried = tokio::time::timeout(DEADLINE, test(node)).await;
        drop(cleaner);
        tried.expect("the test ends in time");
    });
}

fn run_inside(name: &str, runtime: &str) {
    let own = std::env::current_exe().unwrap();
    let state = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "private"])
        .arg(own)
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, state.path())
        .env(RUNTIME, runtime)
        .status()
        .unwrap();
    let left = left_behind(state.path());
    assert!(status.success(), "{name} failed with containers of {runtime}; left behind: {left:?}");
    assert!(left.is_empty(), "left behind with containers of {runtime}: {left:?}");
}

/// What of this state directory is still on the machine.
fn left_behind(state: &Path) -> Vec<String> {
    let name = node_name(state);
    let mut left = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap() {
        let group = hierarchy.unwrap().path().join("rik").join(&name);
        if group.exists() {
            left.push(group.display().to_string());
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        if String::from_utf8_lossy(&line).contains(state.to_str().unwrap()) {
            left.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
    left
}

/// Ends what a failed test leaves; a test that succeeds has taken its node down.
struct Cleaner {
    node: String,
    state: PathBuf,
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        let Ok(groups) = runtime::pod::cgroup::Cgroups::open(&self.node) else { return };
        // The shim is in a group of its own there: it ends as well.
        let _ = groups.remove_all();
        let _ = self.state.exists();
    }
}

fn node_name(state: &Path) -> String {
    format!("test-{}", state.file_name().unwrap().to_str().unwrap().trim_start_matches('.'))
}

/// A node.
#[derive(Clone)]
pub struct Node {
    pub runtime: PodRuntime,
    pub state: PathBuf,
    pub name: String,
}

impl Node {
    async fn open() -> Self {
        let state = PathBuf::from(std::env::var_os(INSIDE).unwrap()).join("state");
        let runtime = PodRuntime::open(config(&state).await).await.unwrap();
        let archive = image(IMAGE, "");
        runtime.images().load(std::io::Cursor::new(archive)).await.unwrap();
        let name = node_name(state.parent().unwrap());
        Self { runtime, state, name }
    }

    /// Whether RIK makes its containers itself.
    pub fn has_own_runtime(&self) -> bool {
        std::env::var(RUNTIME).unwrap() == OWN
    }

    /// Adds an image whose configuration names this user, and gives its name.
    pub async fn load_image(&self, name: &str, user: &str) -> String {
        let reference = format!("127.0.0.1:1/{name}");
        let archive = image(&reference, user);
        self.runtime.images().load(std::io::Cursor::new(archive)).await.unwrap();
        reference
    }

    /// Adds an image with the probe and what it is linked with, and gives its name.
    pub async fn load_probe(&self) -> String {
        let reference = "127.0.0.1:1/probe".to_owned();
        let mut spec = pack_spec(&reference, "");
        let program = fs::read(env!("CARGO_BIN_EXE_probe-for-tests")).unwrap();
        spec.files.push(PackFile { path: "bin/probe".to_owned(), mode: 0o755, bytes: program });
        // This program is linked with the same libraries, and has them in its memory.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut libraries: Vec<&str> =
            maps.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
        libraries.retain(|path| path.contains(".so"));
        libraries.dedup();
        for path in libraries {
            let name = Path::new(path).file_name().unwrap().to_str().unwrap();
            // The loader is looked for in a folder of its own, the rest where the variable below says.
            let bytes = fs::read(path).unwrap();
            spec.files.push(PackFile { path: format!("lib64/{name}"), mode: 0o755, bytes });
        }
        spec.env.push(("LD_LIBRARY_PATH".to_owned(), "/lib64".to_owned()));
        let mut archive = Vec::new();
        pack(&spec, &mut archive).unwrap();
        self.runtime.images().load(std::io::Cursor::new(archive)).await.unwrap();
        reference
    }

    /// The shim's process.
    pub fn shim(&self) -> Option<rustix::process::Pid> {
        let dir = self.state.join("shim");
        fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let ours = String::from_utf8_lossy(&line).contains(dir.to_str()?);
            ours.then(|| rustix::process::Pid::from_raw(pid))?
        })
    }

    /// Lets go of the runtime as if its process had died, and opens it again.
    pub async fn reopen(self) -> Self {
        self.reopen_as(|config| config).await
    }

    /// As [`Self::reopen`], with other settings.
    pub async fn reopen_as(self, change: impl Fn(PodRuntimeConfig) -> PodRuntimeConfig) -> Self {
        let Self { runtime, state, name } = self;
        drop(runtime);
        // What it had started goes on in tasks for a moment and holds the store's lock.
        let until = tokio::time::Instant::now() + DEADLINE;
        let runtime = loop {
            match PodRuntime::open(change(config(&state).await)).await {
                Ok(runtime) => break runtime,
                Err(error) => assert!(tokio::time::Instant::now() < until, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Self { runtime, state, name }
    }

    /// Prepares and starts an instance.
    pub async fn run(&self, spec: &InstanceSpec) {
        self.runtime.prepare(spec, &|_| {}).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
        assert_eq!(self.runtime.inspect(&spec.uid).await.unwrap(), Observed::Prepared);
        let first = model::lifecycle::containers::first(&spec.spec);
        self.runtime.start(&spec.uid, &first).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
    }

    /// Waits, by news alone, until what is seen of a running instance is as `wished`.
    pub async fn seen(&self, spec: &InstanceSpec, wished: impl Fn(&Facts) -> bool) -> Facts {
        loop {
            match self.runtime.inspect(&spec.uid).await.unwrap() {
                Observed::Running(facts) if wished(&facts) => return facts,
                Observed::Running(_) => self.runtime.changed(&spec.uid).await,
                other => panic!("not running: {other:?}"),
            }
        }
    }

    /// Waits, by news alone, until the instance has ended.
    pub async fn ended(&self, spec: &InstanceSpec) -> Facts {
        loop {
            match self.runtime.inspect(&spec.uid).await.unwrap() {
                Observed::Ended(facts) => return facts,
                Observed::Running(_) => self.runtime.changed(&spec.uid).await,
                other => panic!("neither running nor ended: {other:?}"),
            }
        }
    }

    pub async fn running(&self, spec: &InstanceSpec) -> Facts {
        match self.runtime.inspect(&spec.uid).await.unwrap() {
            Observed::Running(facts) => facts,
            other => panic!("not running: {other:?}"),
        }
    }

    /// What a container wrote to its standard output, as lines.
    pub fn output(&self, spec: &InstanceSpec, container: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for file in self.runtime.logs(&spec.uid, Some(container)).unwrap() {
            let text = fs::read_to_string(file).unwrap();
            let entries = text.lines().filter_map(|line| line.split_once(" stdout F "));
            lines.extend(entries.map(|(_, text)| text.to_owned()));
        }
        lines
    }

    /// Takes the node down and makes sure that nothing is left.
    pub async fn take_down(self) {
        for spec in self.runtime.list().await.unwrap() {
            self.runtime.remove(&spec.uid).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let of_pods = ["pods", "run"].map(|top| format!("{}/", self.state.join(top).display()));
        let ours: Vec<&str> =
            mounts.lines().filter(|line| of_pods.iter().any(|top| line.contains(top))).collect();
        assert!(ours.is_empty(), "mounts are left: {ours:?}");
        self.runtime.teardown().await.unwrap();
        let left: Vec<_> =
            fs::read_dir(&self.state).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
        assert!(!self.state.exists(), "files are left: {left:?}");
    }
}

async fn config(state: &Path) -> PodRuntimeConfig {
    let runtimes = OciRuntimes::find(&[std::env::var(RUNTIME).unwrap()]).await;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_shim-for-tests"));
    PodRuntimeConfig {
        state_dir: state.to_owned(),
        node: node_name(state.parent().unwrap()),
        shim: ShimCommand { program, args: vec!["shim".to_owned()] },
        registry: RegistryConfig::default(),
        allowed: Allowed {
            host_paths: vec![state.with_file_name("open")],
            seccomp_profiles: Some(state.with_file_name("profiles")),
            seccomp_unconfined: true,
            privileged: true,
        },
        oci_runtimes: runtimes
            .expect("runc is there: it is one of the packages that `cargo xtask test` asks for"),
        default_memory: Some(runtime::pod::limits::DEFAULT_MEMORY),
        keep_logs: runtime::pod::KEEP_LOGS,
        user_namespaces: true,
        microvms: runtime::microvm::MicrovmConfig::default(),
        network: NetworkConfig {
            bridge: "riktest0".to_owned(),
            subnet: "10.213.0.0/24".parse::<Subnet>().unwrap(),
            uplink: None,
            state_dir: state.to_owned(),
            mtu: Some(1500),
            backend: Backend::Host,
            forbidden: Default::default(),
        },
    }
}

fn image(reference: &str, user: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    pack(&pack_spec(reference, user), &mut archive).unwrap();
    archive
}

fn pack_spec(reference: &str, user: &str) -> PackSpec {
    let bytes = fs::read("/bin/busybox").unwrap();
    let file =
        |path: &str, mode: u32, bytes: &[u8]| PackFile { path: path.to_owned(), mode, bytes: bytes.to_vec() };
    PackSpec {
        reference: reference.to_owned(),
        user: user.to_owned(),
        files: vec![
            file("bin/sh", 0o755, &bytes),
            file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\nweb:x:101:102::/:/bin/sh\n"),
            file("etc/group", 0o644, b"root:x:0:\nweb:x:102:\nextra:x:200:web\n"),
        ],
        cmd: vec!["/bin/sh".to_owned()],
        env: vec![("PATH".to_owned(), "/bin".to_owned()), ("FROM".to_owned(), "image".to_owned())],
        working_dir: "/srv/work".to_owned(),
        ..PackSpec::default()
    }
}

/// A container that runs a script.
pub fn script(name: &str, script: &str) -> ContainerSpec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ContainerSpec { command, ..plain(name) }
}

/// A container that runs what its image says.
pub fn plain(name: &str) -> ContainerSpec {
    ContainerSpec { name: name.to_owned(), image: IMAGE.to_owned(), ..ContainerSpec::default() }
}

/// An instance of these containers.
pub fn pod(containers: Vec<ContainerSpec>) -> InstanceSpec {
    let spec = WorkloadSpec { containers, termination_grace_period_seconds: 10, ..WorkloadSpec::default() };
    InstanceSpec {
        id: "web-1".to_owned(),
        uid: Uuid::new_v4().to_string(),
        kind: Kind::Pod,
        spec,
        given: Default::default(),
    }
}
