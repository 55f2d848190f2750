//! A cluster of one's own for one story: daemons, registry, network, and the ledger around all of it.
//!
//! Ports and names are the documented ones: everything in a lab is empty at the start. The control plane and, unless
//! asked otherwise, the one node run in the lab's own network namespace, so `127.0.0.1` is theirs and the test's.
//! Further nodes get a namespace each (see [`network`]).
//!
//! At the end of a story, good or bad, every daemon is stopped, every node is reset with `riklet reset`, and after a
//! good one the ledger must be as it was before.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::archive::PackSpec;

use crate::daemon::Daemon;
use crate::ledger::Ledger;
use crate::network::{self, Host};
use crate::registry::Registry;
use crate::rikctl::{self, Said};
use crate::wait::{SHORT, wait_until};
use crate::{Api, image, programs};

/// Where a lab keeps its files: short, because paths of unix sockets must be.
pub const ROOT: &str = "/tmp/lab";
/// The documented port of the controller.
pub const CONTROLLER_PORT: u16 = 5000;
/// The name of the node of a one-node cluster.
pub const NODE: &str = "n0";

/// A node of the lab: where it runs, and how its riklet was started.
#[derive(Clone, Debug)]
struct Node {
    host: Host,
    labels: String,
}

/// One story's cluster.
#[derive(Debug)]
pub struct Lab {
    daemons: BTreeMap<String, Daemon>,
    nodes: BTreeMap<String, Node>,
    hosts: Vec<Host>,
    registry: Option<Registry>,
    images: Vec<PathBuf>,
}

/// Plays a story in a new lab, then proves that nothing is left behind.
pub(crate) fn play(story: impl FnOnce(&mut Lab)) {
    for folder in [Lab::state(), Lab::logs(), home()] {
        fs::create_dir_all(&folder)
            .unwrap_or_else(|error| panic!("failed to make {}: {error}", folder.display()));
    }
    network::make_bridge();
    // Some tools make their folders at the first call: that is not what the ledger is about.
    let _ = Ledger::of_lab();
    let before = Ledger::of_lab();
    let mut lab = Lab {
        daemons: BTreeMap::new(),
        nodes: BTreeMap::new(),
        hosts: Vec::new(),
        registry: None,
        images: Vec::new(),
    };
    story(&mut lab);
    lab.tear_down();
    before.assert_restored();
}

impl Lab {
    /// The lab's folder; all of a story's files belong below it.
    #[must_use]
    pub fn root() -> PathBuf {
        ROOT.into()
    }

    /// Where the daemons keep their state.
    #[must_use]
    pub fn state() -> PathBuf {
        Self::root().join("state")
    }

    /// Where the logs of all daemons are. They outlive the test.
    #[must_use]
    pub fn logs() -> PathBuf {
        Self::root().join("logs")
    }

    /// The state folder of a node.
    #[must_use]
    pub fn node_state(node: &str) -> PathBuf {
        Self::state().join(node)
    }

    /// What is left of the pods of a node: on its disk, in its memory, and of their hold on images.
    ///
    /// # Panics
    /// When the node has no such directories.
    #[must_use]
    pub fn left_of_pods(node: &str) -> Vec<PathBuf> {
        let tops = ["pods", "run", "run/leases"].map(|top| Self::node_state(node).join(top));
        let entries =
            |top: &PathBuf| fs::read_dir(top).unwrap_or_else(|error| panic!("{}: {error}", top.display()));
        let left = tops.iter().flat_map(entries).flatten().map(|entry| entry.path());
        left.filter(|path| !tops.contains(path)).collect()
    }

    /// A client of the controller.
    #[must_use]
    pub fn api(&self) -> Api {
        Api { server: SocketAddr::from(([127, 0, 0, 1], CONTROLLER_PORT)) }
    }

    /// Starts a whole cluster of one node that knows the images `hello:1` and `busybox:1`, and waits until it is ready.
    #[track_caller]
    pub fn cluster(&mut self) -> Api {
        self.start_scheduler();
        self.start_controller();
        self.start_node(NODE);
        let api = self.wait_up();
        api.wait_node(NODE, "Ready");
        self.load(&image::hello("hello:1"));
        self.load(&image::busybox("busybox:1"));
        api
    }

    /// Starts the control plane and `count` nodes, named `n1`, `n2`, …, each in a namespace of its own.
    #[track_caller]
    pub fn cluster_of(&mut self, count: usize) -> Api {
        self.start_scheduler();
        self.start_controller();
        let names: Vec<String> = (1..=count).map(|number| format!("n{number}")).collect();
        for name in &names {
            let host = self.add_host(name);
            self.nodes.insert(name.clone(), Node { host, labels: format!("node={name}") });
            self.start_node(name);
        }
        let api = self.wait_up();
        for name in &names {
            api.wait_node(name, "Ready");
        }
        self.load(&image::hello("hello:1"));
        self.load(&image::busybox("busybox:1"));
        api
    }

    /// Waits until the controller serves requests; fails at once when a daemon has ended instead.
    #[track_caller]
    fn wait_up(&mut self) -> Api {
        let api = self.api();
        wait_until(SHORT, "the controller to serve requests", || {
            for daemon in self.daemons.values_mut() {
                if let Some(status) = daemon.ended() {
                    panic!("{} has ended: {status}", daemon.name());
                }
            }
            if api.is_up() { Ok(()) } else { Err("no answer") }
        });
        api
    }

    /// Adds a machine without RIK to the network.
    #[track_caller]
    pub fn add_host(&mut self, name: &str) -> Host {
        let host = network::add_host(name, self.hosts.len());
        self.hosts.push(host.clone());
        host
    }

    /// Starts the controller with its state of before, if it has any.
    #[track_caller]
    pub fn start_controller(&mut self) {
        let mut command = Command::new(programs::built("controller"));
        command
            .env("DATABASE_LOCATION", Self::state().join("controller"))
            .env("SCHEDULER_URL", "http://127.0.0.1:4996")
            .env("PORT", CONTROLLER_PORT.to_string())
            .current_dir(Self::root());
        self.start("controller", &mut command);
    }

    /// Starts the scheduler, reachable from every host of the lab.
    #[track_caller]
    pub fn start_scheduler(&mut self) {
        let mut command = Command::new(programs::built("scheduler"));
        command.args(["--workersip", "0.0.0.0:4995", "--ctrlip", "127.0.0.1:4996"]).current_dir(Self::root());
        self.start("scheduler", &mut command);
    }

    /// Starts the riklet of a node, with its state of before, if it has any.
    #[track_caller]
    pub fn start_node(&mut self, name: &str) {
        self.start_node_as(name, &programs::built("riklet"));
    }

    /// As [`Self::start_node`], with another riklet than the one that was built.
    ///
    /// # Panics
    /// As it does.
    #[track_caller]
    pub fn start_node_as(&mut self, name: &str, program: &Path) {
        let node = self
            .nodes
            .entry(name.to_owned())
            .or_insert_with(|| Node { host: Host::here(), labels: format!("node={name}") });
        let mut command = riklet(&node.host, name, program);
        command.args(["--labels", &node.labels]);
        self.start(name, &mut command);
    }

    /// Starts any program as a daemon of this lab.
    ///
    /// # Panics
    /// When one of that name still runs.
    #[track_caller]
    pub fn start(&mut self, name: &str, command: &mut Command) -> &mut Daemon {
        if let Some(running) = self.daemons.get_mut(name) {
            assert!(running.ended().is_some(), "{name} still runs");
        }
        command.env("RUST_BACKTRACE", "1");
        let daemon = Daemon::start(name, &Self::logs(), command);
        self.daemons.insert(name.to_owned(), daemon);
        self.daemon(name)
    }

    /// A daemon by name: `controller`, `scheduler` or a node.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn daemon(&mut self, name: &str) -> &mut Daemon {
        self.daemons.get_mut(name).unwrap_or_else(|| panic!("{name} was not started"))
    }

    /// Ends a daemon as a crash would.
    #[track_caller]
    pub fn kill(&mut self, name: &str) {
        self.daemons.remove(name).unwrap_or_else(|| panic!("{name} was not started")).kill();
    }

    /// Asks a daemon to end, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self, name: &str) -> std::process::ExitStatus {
        self.daemons.remove(name).unwrap_or_else(|| panic!("{name} was not started")).stop()
    }

    /// The registry, started at the first call, in the lab's own namespace and in those of all hosts so far.
    #[track_caller]
    pub fn registry(&mut self) -> &Registry {
        let mut hosts = vec![Host::here()];
        hosts.extend(self.hosts.iter().cloned());
        self.registry.get_or_insert_with(|| Registry::start(&Self::root(), &Self::logs(), &hosts))
    }

    /// Brings an image to every node, without a registry, as a person would.
    #[track_caller]
    pub fn load(&mut self, spec: &PackSpec) {
        let archive = Self::root().join(format!("{}.tar", spec.reference.replace(['/', ':'], "-")));
        image::write(spec, &archive);
        let _ = self.rikctl(&["image", "load", &archive.to_string_lossy()]).good();
        self.images.push(archive);
    }

    /// Runs `rikctl` against this cluster.
    #[track_caller]
    pub fn rikctl(&self, arguments: &[&str]) -> Said {
        let mut command = rikctl::command();
        command.args(arguments).env("RIK_CLUSTER_SERVER", format!("http://127.0.0.1:{CONTROLLER_PORT}"));
        rikctl::say(&mut command)
    }

    /// Runs `riklet reset` on a node of this namespace, which may keep it from doing so.
    #[track_caller]
    pub fn try_reset(&self, node: &str) -> Said {
        let mut command = Host::here().command(programs::built("riklet"));
        rikctl::say(command.arg("reset").arg("--state-dir").arg(Self::node_state(node)))
    }

    /// Waits until a page of this namespace answers; gives its body.
    #[track_caller]
    #[must_use]
    pub fn page(&self, url: &str) -> String {
        wait_until(SHORT, &format!("{url} to answer"), || Host::here().fetch(url))
    }

    /// Stops everything that the lab started and cleans every node.
    fn tear_down(&mut self) {
        // Without a node nothing outlives the controller's own files.
        if !self.nodes.is_empty() && self.daemons.contains_key("controller") && self.api().is_up() {
            self.api().delete_everything();
        }
        let nodes = std::mem::take(&mut self.nodes);
        while let Some((_, daemon)) = self.daemons.pop_last() {
            daemon.stop();
        }
        for (name, node) in &nodes {
            reset(&node.host, name);
        }
        if let Some(mut registry) = self.registry.take() {
            registry.stop();
        }
        self.hosts.drain(..).for_each(|host| network::remove_host(&host));
    }
}

impl Drop for Lab {
    /// After a failed story: shows what every daemon said last. The enclosure's end ends the rest.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.daemons.values().for_each(Daemon::show_log);
        }
    }
}

/// The home folder of everybody inside: nothing of the person who runs the tests is read or written.
#[must_use]
pub fn home() -> PathBuf {
    Lab::root().join("home")
}

/// The riklet of a node, without labels.
#[must_use]
pub fn riklet(host: &Host, name: &str, program: &Path) -> Command {
    let state = Lab::node_state(name);
    let mut command = host.command(program);
    command
        .args(["--master-ip", &format!("{}:4995", network::HOST_ADDRESS), "--node-name", name])
        .arg("--state-dir")
        .arg(&state)
        .arg("--config-file")
        .arg(configuration(name))
        .env("RIKLET_VM_ACCELERATOR", "tcg")
        .env("RIKLET_ROOTFS_ALLOW", "127.0.0.1")
        .current_dir(Lab::root());
    // The machine that the tests run on need not have a kernel of its own under /boot.
    if let Some(kernel) = programs::guest_kernel() {
        command.env("KERNEL_LOCATION", kernel);
    }
    command
}

/// Where the configuration file of a node is, or will be written.
#[must_use]
pub fn configuration(node: &str) -> PathBuf {
    Lab::root().join(format!("{node}.toml"))
}

/// Removes all that a node's riklet made.
#[track_caller]
fn reset(host: &Host, node: &str) {
    let state = Lab::node_state(node);
    let said = rikctl::say(
        host.command(programs::built("riklet")).args(["reset", "--volumes", "--state-dir"]).arg(&state),
    );
    assert_eq!(said.code, 0, "riklet reset of {node}: {}{}", said.stdout, said.stderr);
    assert!(is_empty(&state), "riklet reset left something in {}", state.display());
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
