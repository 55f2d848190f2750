//! The commands as a user runs them: the real program against a controller that says what a test has written down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod configuring;
mod controller;
mod creating;
mod deleting;
mod hostile;
mod images;
mod listing;
mod logs;
mod waiting;
mod words;

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::controller::Controller;

/// Longest run of one command.
const DEADLINE: Duration = Duration::from_secs(60);

/// Somebody's home, with files, and the cluster that the environment names.
pub(crate) struct Desk {
    home: tempfile::TempDir,
    server: Option<String>,
}

impl Desk {
    pub(crate) fn of(controller: &Controller) -> Self {
        Self { server: Some(controller.url()), ..Self::without_cluster() }
    }

    pub(crate) fn without_cluster() -> Self {
        Self { home: tempfile::tempdir().unwrap(), server: None }
    }

    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rikctl"));
        command.args(line.split_whitespace()).current_dir(self.path()).env_clear().env("HOME", self.path());
        command.envs(self.server.as_ref().map(|server| ("RIK_CLUSTER_SERVER", server)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command line and tells everything that it came to.
    pub(crate) fn run(&self, line: &str) -> String {
        self.told(finished(self.command(line).spawn().unwrap()))
    }

    /// The same with something on stdin.
    pub(crate) fn run_with_input(&self, line: &str, input: &str) -> String {
        let mut child = self.command(line).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        self.told(finished(child))
    }

    /// What a run came to. Spaces at the end of a line are made visible, and what differs from run to run is named.
    pub(crate) fn told(&self, output: Output) -> String {
        let mut told = String::new();
        match output.status.code() {
            Some(code) => writeln!(told, "exit {code}").unwrap(),
            None => writeln!(told, "{}", output.status).unwrap(),
        }
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if text.is_empty() {
                continue;
            }
            writeln!(told, "{name}:").unwrap();
            for line in text.lines() {
                let bare = line.trim_end_matches(' ');
                writeln!(told, "  {bare}{}", "·".repeat(line.len() - bare.len())).unwrap();
            }
        }
        let told = told.replace(&self.path().display().to_string(), "HOME");
        match &self.server {
            Some(server) => told.replace(server, "SERVER"),
            None => told,
        }
    }
}

/// Waits for a command to end, and ends it if it does not.
pub(crate) fn finished(child: Child) -> Output {
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    receiver.recv_timeout(DEADLINE).map(Result::unwrap).unwrap_or_else(|_| {
        signal(id, "KILL");
        panic!("the command did not end within {DEADLINE:?}")
    })
}

pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status().unwrap();
    assert!(status.success());
}

/// A time so many minutes ago.
pub(crate) fn minutes_ago(minutes: i64) -> String {
    (Timestamp::now() - SignedDuration::from_mins(minutes)).to_string()
}

pub(crate) const WORKLOAD_ID: &str = "0e4c1da4-0277-4088-9f37-8f445cbe8e46";

/// A workload as the controller tells it.
pub(crate) fn workload(name: &str) -> Value {
    json!({
        "revision": 3, "id": WORKLOAD_ID, "createdAt": minutes_ago(90),
        "apiVersion": "v1", "kind": "Pod", "name": name, "replicas": 1,
        "spec": {
            "containers": [{
                "name": name, "image": "alpine:latest", "env": [{ "name": "MODE", "value": "a b" }],
                "ports": [{ "port": 8080, "targetPort": 80, "protocol": "TCP", "type": "NodePort" }],
            }],
            "terminationGracePeriodSeconds": 10,
        },
    })
}

/// An instance as the controller tells it, with some fields of its own.
pub(crate) fn instance(name: &str, status: &str, more: Value) -> Value {
    let mut value = json!({
        "revision": 7, "id": name, "uid": format!("uid-{name}"), "workloadId": WORKLOAD_ID, "workload": "alpine",
        "namespace": "default", "kind": "Pod", "status": status, "restarts": 0, "createdAt": minutes_ago(5),
        "spec": workload("alpine")["spec"],
    });
    let own = value.as_object_mut().unwrap();
    for (key, field) in more.as_object().unwrap() {
        own.insert(key.clone(), field.clone());
    }
    value
}

/// A node as the controller tells it.
pub(crate) fn node(name: &str, status: &str) -> Value {
    json!({
        "name": name, "uid": format!("uid-{name}"), "status": status, "statusSince": minutes_ago(30),
        "createdAt": minutes_ago(4000), "podSubnet": "10.42.1.0/24", "address": "192.0.2.7",
        "architecture": "x86_64", "os": "Debian GNU/Linux 12", "kernel": "6.1.0", "version": "0.1.0",
        "cgroups": "v2", "kinds": ["Pod"], "labels": { "disk": "ssd" }, "cpu": "2", "memory": "4Gi",
        "maxInstances": 250, "lastHeard": minutes_ago(2), "instances": 3,
        "metrics": {
            "cpu": { "total": 2.0, "free": 87.4 },
            "memory": { "total": 4_294_967_296.0, "free": 1_073_741_824.0 },
            "disks": [{ "disk_name": "/", "total": 10_737_418_240_u64, "free": 5_368_709_120_u64 }],
        },
    })
}

/// A page of a list.
pub(crate) fn page(items: &[Value]) -> Value {
    json!({ "items": items, "revision": 40 })
}

/// How the cluster fares.
pub(crate) fn cluster(scheduler_connected: bool) -> Value {
    json!({
        "cluster": "6f1c", "version": "0.1.0", "revision": 40, "schedulerConnected": scheduler_connected,
        "instances": {},
    })
}

/// A change in a watch.
pub(crate) fn change(revision: u64, action: &str, name: &str, value: Value) -> Value {
    json!({ "revision": revision, "action": action, "object": "instance", "name": name, "value": value })
}
