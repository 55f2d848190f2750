//! The network of a lab: namespaces that stand for hosts, on one bridge.
//!
//! ```text
//! lab's own namespace ("host")      bridge lab0 10.99.0.1/24
//!    ├── veth ── n1   10.99.0.11     a node, or a machine without RIK; default route through lab0's .1
//!    └── veth ── n2   10.99.0.12
//! ```

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use crate::programs;

/// Where the kernel's tools keep named namespaces.
pub const NAMED: &str = "/run/netns";
/// The bridge that joins all hosts.
pub const BRIDGE: &str = "lab0";
/// The lab's own address on it.
pub const HOST_ADDRESS: &str = "10.99.0.1";
/// The route to everywhere for the lab's own namespace, so that it has an interface to the outside. Nobody is there.
const GATEWAY: &str = "10.99.0.254";
/// The last octet of the first further host.
const FIRST_HOST: usize = 11;

/// A network namespace that stands for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name; `None` is the lab's own namespace.
    name: Option<String>,
    /// Its address on the bridge.
    pub address: String,
}

impl Host {
    /// The lab's own namespace, where the test itself runs.
    #[must_use]
    pub fn here() -> Self {
        Self { name: None, address: HOST_ADDRESS.into() }
    }

    /// A command that runs `program` in this namespace. Mounts and processes are the lab's, as everywhere inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.name {
            None => Command::new(program),
            Some(name) => {
                let mut command = Command::new(programs::needed("nsenter"));
                command.arg(format!("--net={NAMED}/{name}")).arg("--").arg(program);
                command
            }
        }
    }

    /// The name for people.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("host")
    }

    /// Fetches a page with curl from this namespace; gives its body, or why there is none.
    ///
    /// # Errors
    /// When nobody answers, or not with success.
    pub fn fetch(&self, url: &str) -> Result<String, String> {
        let curl = programs::needed("curl");
        let output =
            self.command(curl).args(["--silent", "--show-error", "--fail", "--max-time", "5", url]).output();
        let output = output.map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{url} from {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim()))
        }
    }

    /// Runs a program of the system in this namespace; gives what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(programs::needed(program)).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("failed to run {program}: {error}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {} in {}: {errors}", arguments.join(" "), self.name());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Every namespace of the lab: its own, then the named ones in order.
#[must_use]
pub fn all() -> Vec<Host> {
    let mut hosts = vec![Host::here()];
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    hosts.extend(names.into_iter().map(|name| Host { name: Some(name), address: String::new() }));
    hosts
}

/// Makes the bridge, and gives the lab's own namespace its address and a route to everywhere.
pub fn make_bridge() {
    let here = Host::here();
    // The folder of named namespaces becomes a mount at the first one, and stays: so it is made before the ledger.
    here.run("ip", &["netns", "add", "first"]);
    here.run("ip", &["netns", "delete", "first"]);
    here.run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
    here.run("ip", &["address", "add", &format!("{HOST_ADDRESS}/24"), "dev", BRIDGE]);
    here.run("ip", &["link", "set", BRIDGE, "up"]);
    here.run("ip", &["route", "add", "default", "via", GATEWAY, "dev", BRIDGE]);
}

/// Adds a host to the bridge. `position` counts the hosts from 0.
#[must_use]
pub fn add_host(name: &str, position: usize) -> Host {
    let address = format!("10.99.0.{}", FIRST_HOST + position);
    let (here, host) = (Host::here(), Host { name: Some(name.into()), address: address.clone() });
    here.run("ip", &["netns", "add", name]);
    let near = format!("lab-{name}");
    here.run("ip", &["link", "add", &near, "type", "veth", "peer", "name", "eth0", "netns", name]);
    here.run("ip", &["link", "set", &near, "master", BRIDGE, "up"]);
    host.run("ip", &["link", "set", "lo", "up"]);
    host.run("ip", &["address", "add", &format!("{address}/24"), "dev", "eth0"]);
    host.run("ip", &["link", "set", "eth0", "up"]);
    host.run("ip", &["route", "add", "default", "via", HOST_ADDRESS]);
    host
}

/// Removes a host that [`add_host`] made.
pub fn remove_host(host: &Host) {
    if let Some(name) = &host.name {
        // The link goes with the namespace, but only after a while; so it is removed by name.
        Host::here().run("ip", &["link", "delete", &format!("lab-{name}")]);
        Host::here().run("ip", &["netns", "delete", name]);
    }
}
