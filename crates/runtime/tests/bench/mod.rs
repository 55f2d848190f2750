//! A place to try the shim: a state directory, a small root file system, pods, and a caller. Cleans up after itself.

#![expect(clippy::unwrap_used, reason = "a helper of tests: what fails here fails the test")]

use std::{
    cell::RefCell,
    fs,
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

use guest::accounts::Account;
use images::ImageConfig;
use model::{ContainerSpec, WorkloadSpec, manifest::security::Security};
use runtime::pod::{
    cgroup::Cgroups,
    files::{EXIT_FILE, ExitFile, PROCESS_FILE, ProcessFile, read_whole},
    limits::Limits,
    seccomp::{Confinement, Profile},
    shim::wire::{Answer, Call, ContainerOrder, FrameBuffer, Message, Request, encode},
    spec::{ContainerSetup, Machine, Namespaces, container_spec},
};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

/// A state directory with a shim.
pub struct Bench {
    state: tempfile::TempDir,
    groups: Cgroups,
    pods: RefCell<Vec<TestPod>>,
}

/// A pod in it.
#[derive(Clone)]
pub struct TestPod {
    pub uid: String,
    dir: PathBuf,
    logs: PathBuf,
    count: usize,
}

impl Bench {
    pub fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let name = state.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_owned();
        Self { groups: Cgroups::open(&format!("test-{name}")).unwrap(), state, pods: RefCell::default() }
    }

    pub fn try_begin_shim(&self) -> ExitStatus {
        let program = env!("CARGO_BIN_EXE_shim-for-tests");
        Command::new(program).arg("shim").arg("--dir").arg(self.state.path().join("shim")).status().unwrap()
    }

    pub fn begin_shim(&self) {
        let status = self.try_begin_shim();
        assert!(status.success(), "{status}: {}", self.shim_log());
    }

    /// A copy of the shim's program: another file with the same content.
    pub fn copy_program(&self, name: &str) -> PathBuf {
        let copy = self.state.path().join(name);
        fs::copy(env!("CARGO_BIN_EXE_shim-for-tests"), &copy).unwrap();
        copy
    }

    /// Has the shim become `program`. What it said if it did not.
    pub fn upgrade(&self, program: &Path) -> Result<(), String> {
        let mut asking = Command::new(program);
        let output = asking.arg("upgrade").arg(self.state.path().join("shim/control.sock")).output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stdout).into_owned())
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.state.path().join("shim/control.sock")
    }

    /// Stops the shim until the value is dropped, so that nothing it is asked is heard before.
    pub fn hold_shim(&self) -> Held {
        let Answer::Version { pid, .. } = self.caller().ask(Request::Version) else { panic!("no version") };
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        Held(pid)
    }

    pub fn shim_log(&self) -> String {
        fs::read_to_string(self.state.path().join("shim/shim.log")).unwrap_or_default()
    }

    /// A pod with a container for each script, each with a root file system of its own.
    pub fn pod(&self, scripts: &[&str]) -> TestPod {
        let number = self.pods.borrow().len();
        let uid = format!("3f2c1d5e-0a4b-4c6d-8e7f-{number:012x}");
        let pod = TestPod {
            dir: self.state.path().join("run").join(&uid),
            logs: self.state.path().join("logs").join(&uid),
            uid,
            count: scripts.len(),
        };
        fs::create_dir_all(&pod.logs).unwrap();
        let etc = pod.dir.join("etc");
        runtime::pod::etc::write(&etc, "web", std::net::Ipv4Addr::LOCALHOST).unwrap();
        let limits = Limits { pids: Some(512), ..Limits::default() };
        self.groups.make_pod(&pod.uid, &limits, &vec![Limits::default(); scripts.len()]).unwrap();
        for (index, script) in scripts.iter().enumerate() {
            let dir = pod.container(index);
            make_rootfs(&dir.join("rootfs"));
            let setup = ContainerSetup {
                security: Security::of(&WorkloadSpec::default(), &ContainerSpec::default()),
                volumes: Vec::new(),
                rootfs: dir.join("rootfs"),
                etc_dir: etc.clone(),
                namespaces: Namespaces::of(&WorkloadSpec::default(), &pod.dir),
                ids: None,
                user: Account::default(),
                working_dir: PathBuf::from("/"),
                hostname: "web".to_owned(),
                machine: Machine { cgroups_shown: self.groups.shown(), open_files_max: 1_024, processors: 2 },
            };
            let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
            let container = ContainerSpec { command, ..ContainerSpec::default() };
            let mut spec = container_spec(&container, &ImageConfig::default(), &setup).unwrap();
            // No sandbox here: each container gets namespaces of its own.
            for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
                namespace.as_object_mut().unwrap().remove("path");
            }
            fs::write(dir.join("config.json"), spec.to_string()).unwrap();
            Confinement::of(&Profile::Standard, &[]).unwrap().write(&dir).unwrap();
        }
        self.pods.borrow_mut().push(pod.clone());
        pod
    }

    pub fn start(&self, pod: &TestPod) -> Request {
        let containers = (0..pod.count)
            .map(|index| ContainerOrder {
                run: 0,
                index: u32::try_from(index).unwrap(),
                dir: pod.container(index),
                log: pod.log(index),
                oci_root: pod.dir.join("oci"),
                owner: (0, 0),
                terminal: false,
                stdin_once: false,
                scaffold: None,
                stop_signal: 15,
                groups: self.groups.container(&pod.uid, index),
                memory_dir: self.groups.memory_dir(&pod.uid, index),
                shared_pids: None,
                host_pids: false,
                runtime: None,
                says_itself: false,
            })
            .collect();
        Request::Start { pod: pod.uid.clone(), containers }
    }

    pub fn caller(&self) -> Caller {
        // The directory of a test is short enough for a socket's address.
        let stream = UnixStream::connect(self.state.path().join("shim/control.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Caller { stream, received: FrameBuffer::default() }
    }

    pub fn wait_until(&self, what: &str, within: Duration, done: impl Fn() -> bool) {
        let until = Instant::now() + within;
        while !done() {
            assert!(Instant::now() < until, "not in time: {what}; shim: {}", self.shim_log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait_for_exit(&self, pod: &TestPod, index: usize) -> ExitFile {
        let path = pod.container(index).join(EXIT_FILE);
        self.wait_until("a container's end", DEADLINE, || path.exists());
        read_whole(&path).unwrap().unwrap()
    }

    pub fn process(&self, pod: &TestPod, index: usize) -> ProcessFile {
        read_whole(&pod.container(index).join(PROCESS_FILE)).unwrap().unwrap()
    }

    /// Kills a process of ours and waits until it is gone.
    pub fn kill(&self, pid: i32) {
        let id = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        self.wait_until("a killed process is gone", DEADLINE, || {
            runtime::pod::shim::process::start_ticks(pid).is_none()
        });
    }

    pub fn anonymous_kib(&self, pid: i32) -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Also after a failure: whatever still runs in the groups ends with them, then the shim can.
        let _ = self.groups.remove_all();
        if let Ok(mut stream) = UnixStream::connect(self.state.path().join("shim/control.sock")) {
            let until = Instant::now() + Duration::from_secs(5);
            let mut caller = Caller { stream: stream.try_clone().unwrap(), received: FrameBuffer::default() };
            while stream.write_all(&[]).is_ok() && Instant::now() < until {
                if caller.try_ask(Request::Shutdown).is_none_or(|answer| answer == Answer::Done) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A shim that was stopped.
pub struct Held(rustix::process::Pid);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::CONT);
    }
}

impl TestPod {
    pub fn container(&self, index: usize) -> PathBuf {
        self.dir.join("c").join(index.to_string())
    }

    pub fn logs(&self) -> &Path {
        &self.logs
    }

    pub fn log(&self, index: usize) -> PathBuf {
        self.logs.join(format!("{index}.log"))
    }

    pub fn set_args(&mut self, index: usize, args: &[&str]) {
        let path = self.container(index).join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        spec["process"]["args"] = json!(args);
        fs::write(path, spec.to_string()).unwrap();
    }
}

/// A connection to the shim.
pub struct Caller {
    stream: UnixStream,
    received: FrameBuffer,
}

impl Caller {
    pub fn ask(&mut self, request: Request) -> Answer {
        self.try_ask(request).expect("the shim answers")
    }

    fn try_ask(&mut self, request: Request) -> Option<Answer> {
        self.stream.write_all(&encode(&Call { id: 1, request }).unwrap()).ok()?;
        let mut chunk = [0; 4096];
        loop {
            if let Some(Message::Reply { answer, .. }) = self.received.take().ok()? {
                return Some(answer);
            }
            match self.stream.read(&mut chunk) {
                Ok(count) if count > 0 => self.received.push(&chunk[..count]),
                _ => return None,
            }
        }
    }
}

/// The entries of a log without their times.
pub fn read_log(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| line.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default())
        .collect()
}

fn make_rootfs(rootfs: &Path) {
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    for name in [
        "sh", "sleep", "yes", "tr", "cat", "ls", "id", "true", "dd", "grep", "kill", "readlink", "nc",
        "hostname",
    ] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    fs::write(rootfs.join("etc/words"), "these are words\n").unwrap();
    fs::set_permissions(rootfs.join("etc/words"), fs::Permissions::from_mode(0o755)).unwrap();
}
