//! What a node has once, for all its pods: bridge, kernel settings, ledger. Made, mended and removed here.
//!
//! Order matters for safety: the rules that guard the node come before the settings that open it, and go after them.

use std::{collections::BTreeSet, path::PathBuf};

use rtnetlink::Handle;

use crate::{
    NetworkConfig,
    attachment::pods_dir,
    bridge::{self, Bridge, BridgeSpec, Unmarked},
    error::NetworkError,
    firewall::Forwarding,
    ledger::{Ledger, Place},
    link, namespace, netlink,
    owner::{self, Owner},
    route,
    sysctl::{self, IP_FORWARD},
};

/// MTU where neither the configuration nor a route says one: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// Longest name of a link: 15 bytes and a NUL (`IFNAMSIZ`).
const LONGEST_LINK_NAME: usize = 15;

/// A node that is ready for pods.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) mtu: u32,
    pub(crate) bridge: Bridge,
    pub(crate) forwarding: Forwarding,
}

/// What was missing or changed, and is as it should be again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    /// Rules.
    pub firewall: bool,
    /// The bridge, its address, or the pods' links to it.
    pub bridge: bool,
    /// Kernel settings.
    pub settings: bool,
}

impl Mended {
    /// Whether anything was.
    #[must_use]
    pub fn anything(&self) -> bool {
        self.firewall || self.bridge || self.settings
    }
}

/// Checks everything, then makes the bridge. Changes nothing when it refuses. Blocks.
pub(crate) fn prepare(config: &NetworkConfig) -> Result<Prepared, NetworkError> {
    check_names(config)?;
    let place = Place::here()?;
    let ledger = Ledger::read(&config.state_dir)?.filter(|ledger| ledger.place == place);
    let unmarked = match &ledger {
        Some(ledger) if ledger.bridge == config.bridge => Unmarked::MayBeOurs,
        _ => Unmarked::IsForeign,
    };
    let forwarded_before = match &ledger {
        Some(ledger) => ledger.forwarded_before,
        None => sysctl::read(IP_FORWARD)? != "0",
    };
    netlink::converse(async |handle: Handle| {
        let alias = alias(config);
        let ours = bridge::find_ours(&handle, &config.bridge, &alias, unmarked).await?;
        check_subnet(&handle, config, ours.as_ref().map(|link| link.index)).await?;
        let mtu = mtu(&handle, config).await?;
        Ledger::new(&config.bridge, forwarded_before, place).write(&config.state_dir)?;
        namespace::keep_mounts_private(&pods_dir(&config.state_dir))?;
        let spec = bridge_spec(config, mtu);
        let bridge = bridge::ensure(&handle, &spec, Unmarked::MayBeOurs).await?;
        sysctl::disable_ipv6(&config.bridge)?;
        let forwarding = if forwarded_before { Forwarding::BeforeUs } else { Forwarding::BecauseOfUs };
        Ok(Prepared { mtu, bridge, forwarding })
    })
}

/// Puts bridge, links and settings back where they should be. The rules are in force already. Blocks.
pub(crate) fn mend(
    config: &NetworkConfig,
    mtu: u32,
    links: &[String],
) -> Result<(Bridge, Mended), NetworkError> {
    netlink::converse(async |handle: Handle| {
        let bridge = bridge::ensure(&handle, &bridge_spec(config, mtu), Unmarked::IsForeign).await?;
        sysctl::disable_ipv6(&config.bridge)?;
        let mut mended = Mended { bridge: bridge.was_mended, ..Mended::default() };
        for link in link::list(&handle).await?.iter().filter(|link| links.contains(&link.name)) {
            if !(link.joined(Some(bridge.index)) && link.is_up) {
                bridge::join(&handle, link, bridge.index).await?;
                mended.bridge = true;
            }
        }
        mended.settings |= sysctl::set(IP_FORWARD, "1")?;
        mended.settings |= sysctl::set(&sysctl::route_localnet(&config.bridge), "1")?;
        Ok((bridge, mended))
    })
}

/// Removes the bridge, and gives forwarding back the value that it had. The pods are gone already. Blocks.
pub(crate) fn close(config: &NetworkConfig) -> Result<(), NetworkError> {
    netlink::converse(async |handle: Handle| -> Result<(), NetworkError> {
        if let Some(bridge) = our_bridge(&handle, config).await? {
            link::remove(&handle, &bridge).await?;
        }
        Ok(())
    })?;
    let place = Place::here()?;
    let ledger = Ledger::read(&config.state_dir)?.filter(|ledger| ledger.place == place);
    if ledger.is_some_and(|ledger| !ledger.forwarded_before) {
        sysctl::set(IP_FORWARD, "0")?;
    }
    Ok(())
}

/// Removes the last traces, when nothing is left that would have to be put back. Blocks.
pub(crate) fn forget(config: &NetworkConfig) -> Result<(), NetworkError> {
    namespace::release_private_mount(&pods_dir(&config.state_dir))?;
    Ok(Ledger::remove(&config.state_dir)?)
}

/// The riklet's bridge, if it is there.
pub(crate) async fn our_bridge(
    handle: &Handle,
    config: &NetworkConfig,
) -> Result<Option<link::Link>, NetworkError> {
    let place = Place::here()?;
    let is_listed = Ledger::read(&config.state_dir)?
        .is_some_and(|ledger| ledger.place == place && ledger.bridge == config.bridge);
    let unmarked = if is_listed { Unmarked::MayBeOurs } else { Unmarked::IsForeign };
    Ok(bridge::find_ours(handle, &config.bridge, &alias(config), unmarked).await?)
}

fn bridge_spec(config: &NetworkConfig, mtu: u32) -> BridgeSpec {
    BridgeSpec { name: config.bridge.clone(), alias: alias(config), subnet: config.subnet, mtu }
}

fn alias(config: &NetworkConfig) -> String {
    let state_dir: PathBuf =
        std::path::absolute(&config.state_dir).unwrap_or_else(|_| config.state_dir.clone());
    owner::bridge_alias(&state_dir)
}

/// Names of links stand in rules and in paths.
fn check_names(config: &NetworkConfig) -> Result<(), NetworkError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    for name in std::iter::once(&config.bridge).chain(&config.uplink) {
        let fits = (1..=LONGEST_LINK_NAME).contains(&name.len()) && name.bytes().all(allowed);
        if !fits || name.bytes().all(|byte| byte == b'.') {
            return Err(NetworkError::LinkName { name: name.clone() });
        }
    }
    Ok(())
}

async fn check_subnet(
    handle: &Handle,
    config: &NetworkConfig,
    bridge: Option<u32>,
) -> Result<(), NetworkError> {
    config.subnet.fit_for_pods()?;
    match route::overlapping(handle, config.subnet, bridge).await? {
        Some(route) => Err(NetworkError::SubnetInUse { subnet: config.subnet, route }),
        None => Ok(()),
    }
}

async fn mtu(handle: &Handle, config: &NetworkConfig) -> Result<u32, NetworkError> {
    let links = link::list(handle).await?;
    let uplink = match &config.uplink {
        Some(name) => Some(links.iter().find(|link| &link.name == name).ok_or_else(|| {
            let present = links.iter().map(|link| link.name.clone()).collect();
            NetworkError::UplinkMissing { name: name.clone(), present }
        })?),
        None => {
            let index = route::default_link(handle).await?;
            index.and_then(|index| links.iter().find(|link| link.index == index))
        }
    };
    Ok(config.mtu.or(uplink.map(|link| link.mtu)).unwrap_or(DEFAULT_MTU))
}

/// The pods' links and namespace directories that are ours, but that no owner in `keep` has. Blocks.
pub(crate) fn remove_strays(
    config: &NetworkConfig,
    keep: &BTreeSet<Owner>,
) -> Result<Vec<String>, NetworkError> {
    let mut removed = netlink::converse(async |handle: Handle| -> Result<Vec<String>, NetworkError> {
        let bridge = our_bridge(&handle, config).await?.map(|bridge| bridge.index);
        let mut removed = Vec::new();
        for link in link::list(&handle).await?.into_iter().filter(|link| is_stray(link, bridge, keep)) {
            link::remove(&handle, &link).await?;
            removed.push(format!("link {}", link.name));
        }
        Ok(removed)
    })?;
    for (owner, ns_dir) in namespace_dirs(config)? {
        if !keep.contains(&owner) {
            namespace::remove(&ns_dir)?;
            removed.push(format!("namespaces of pod {owner}"));
        }
    }
    Ok(removed)
}

/// A pod's link on our bridge, or on none because the bridge is gone, that nobody has.
fn is_stray(link: &link::Link, bridge: Option<u32>, keep: &BTreeSet<Owner>) -> bool {
    if link.bridge.is_some() && !link.joined(bridge) {
        return false;
    }
    match (&link.alias, link.owner()) {
        (_, Some(owner)) => !keep.contains(&owner),
        (None, None) => link.joined(bridge) && owner::is_link_name(&link.name),
        (Some(_), None) => false,
    }
}

fn namespace_dirs(config: &NetworkConfig) -> Result<Vec<(Owner, PathBuf)>, NetworkError> {
    let pods = pods_dir(&config.state_dir);
    let failed = |source| NetworkError::ListPods { path: pods.clone(), source };
    let entries = match std::fs::read_dir(&pods) {
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let owner = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let ns_dir = entry.path().join("ns");
        if let Some(owner) = owner
            && ns_dir.is_dir()
        {
            found.push((owner, ns_dir));
        }
    }
    Ok(found)
}
