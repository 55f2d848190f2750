//! One node of a cluster of several: a riklet in a network namespace of its own.

use std::{collections::BTreeMap, fs::File, os::fd::AsFd, path::PathBuf};

use anyhow::Context;
use riklet::start::Volumes;
use runtime::{
    microvm::MicrovmConfig,
    pod::{RegistryConfig, link::ShimCommand},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver};
use tokio_util::sync::CancellationToken;

use crate::layout::Layout;

/// Moves this process into the node's network namespace.
pub(crate) fn enter(layout: &Layout, name: &str) -> anyhow::Result<()> {
    model::manifest::names::name(name)
        .map_err(|allowed| anyhow::anyhow!("{name:?} is no name of a node: {allowed}"))?;
    let path = network::namespace::net_path(&layout.namespaces(name));
    let namespace = File::open(&path);
    let namespace = namespace
        .with_context(|| format!("there is no node {name:?} here; start it with `rik up --nodes`"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("could not enter the network of node {name:?}"))
}

/// What a riklet of this cluster is told: what the environment says, since there are no flags for it here.
pub(crate) fn config(
    scheduler: &str,
    name: String,
    state_dir: PathBuf,
) -> anyhow::Result<riklet::start::Config> {
    let microvms = riklet::config::microvms_of_environment()?;
    Ok(riklet::start::Config {
        endpoints: vec![proto::channel::endpoint(scheduler)?],
        name,
        state_dir,
        labels: BTreeMap::new(),
        uplink: None,
        allowed: riklet::config::allowed_of_environment()?,
        default_memory: riklet::config::default_memory_of_environment()?,
        oci_runtimes: riklet::config::oci_runtimes_of_environment(),
        keep_logs: runtime::pod::KEEP_LOGS,
        registries: RegistryConfig::default(),
        shim: ShimCommand::default(),
        // Whoever starts a cluster for himself serves root file systems from this machine.
        microvms: MicrovmConfig { allowed: microvms.allowed.with_loopback(), ..microvms },
    })
}

/// Runs its riklet until a signal, or, if it is `tied`, until the other end of standard input is closed.
pub(crate) async fn run(layout: &Layout, name: &str, tied: bool) -> anyhow::Result<()> {
    let shutdown = daemon::shutdown_on_signals()?;
    if tied {
        follow_parent(shutdown.clone())?;
    }
    let scheduler = format!("unix:{}", layout.socket().display());
    let config = config(&scheduler, name.to_owned(), layout.node(name))?;
    riklet::start::run(config, shutdown).await
}

/// Ends the node with the process that holds the other end of standard input, however that ends. What the node has
/// started goes on, as after a signal.
fn follow_parent(shutdown: CancellationToken) -> anyhow::Result<()> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("could not take standard input")?;
    let mut parent = Receiver::from_owned_fd(stdin).context("could not follow the parent")?;
    tokio::spawn(async move {
        // Nothing is ever said there: any answer is the end.
        let _ = parent.read_u8().await;
        if !shutdown.is_cancelled() {
            tracing::warn!("`rik up` is gone; this node ends, what it started goes on");
            shutdown.cancel();
        }
    });
    Ok(())
}

/// Takes everything of it away, local volumes too: `rik down` has asked before.
pub(crate) async fn reset(layout: &Layout, name: &str) -> anyhow::Result<()> {
    riklet::start::reset(&layout.node(name), ShimCommand::default(), Volumes::Remove).await
}
