//! Starting the riklet, and taking everything of it away again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::BoxFuture;
use jiff::Timestamp;
use model::{Clock, NodeMetrics, node::ImagesCleared, quantity::Memory};
use runtime::{
    Runtime,
    microvm::MicrovmConfig,
    pod::{
        Allowed, Backend, KEEP_LOGS, NetworkConfig, PodRuntime, PodRuntimeConfig, RegistryConfig, Subnet,
        link::ShimCommand, oci_runtime::OciRuntimes,
    },
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{
    agent::{Agent, Parts},
    dial,
    facts::{self, Meter},
    identity::IdentityFile,
    meter::PodMeter,
    streams::Streams,
};

/// Name of the bridge. One riklet uses it in its network namespace.
const BRIDGE: &str = "rik0";

/// How long another riklet of the same directory may take to be gone: one that is ending is gone in a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two tries to take its place.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What a riklet needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Schedulers, tried in order.
    pub endpoints: Vec<Endpoint>,
    /// Name of the node.
    pub name: String,
    /// Directory of everything of this node.
    pub state_dir: PathBuf,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// Interface that instances reach the world through; by routing if absent.
    pub uplink: Option<String>,
    /// What the operator allows.
    pub allowed: Allowed,
    /// Programs that make containers, the usual one first; none: RIK itself.
    pub oci_runtimes: Vec<String>,
    /// Memory limit of a container for which nobody says anything; None: no limit.
    pub default_memory: Option<Memory>,
    /// How long logs of instances that are gone are kept.
    pub keep_logs: Duration,
    /// Registries.
    pub registries: RegistryConfig,
    /// How the shim is begun.
    pub shim: ShimCommand,
    /// What the operator says about microVMs.
    pub microvms: MicrovmConfig,
}

/// Runs a riklet until `shutdown`. Its instances go on.
///
/// # Errors
/// It could not start.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    make_state_dir(&config.state_dir)?;
    let _lock = lock(&config.state_dir).await?;
    let mut identity = IdentityFile::open(&config.state_dir, || uuid::Uuid::new_v4().to_string())?;
    identity.change(|record| record.name = Some(config.name.clone()))?;
    let user_namespaces =
        runtime::pod::probe_user_namespaces(&config.state_dir).map_err(|why| why.to_string());
    if let Err(why) = &user_namespaces {
        tracing::warn!(
            why,
            "pods run without user namespaces: root in a container is root of the machine, confined"
        );
    }
    let runtimes = OciRuntimes::find(&config.oci_runtimes).await?;
    let machine = Machine { user_namespaces: user_namespaces.is_ok(), runtimes: runtimes.clone() };
    let microvms = runtime::microvm::look(&config.microvms);
    if let Err(why) = &microvms {
        tracing::info!(why, "this node runs no Functions");
    }
    let found = facts::Found { user_namespaces, microvms, runtimes: runtimes.in_words() };
    let facts = facts::read(&config.labels, found);
    tracing::info!(
        node.name = config.name,
        cgroups = facts.cgroups,
        state = %config.state_dir.display(),
        "the riklet starts"
    );
    let streams = Arc::new(Streams::new(config.name.clone()));
    let (mut meter, mut pod_meter) = (Meter::default(), PodMeter::default());
    let parts = Parts {
        name: config.name.clone(),
        facts,
        identity,
        open_runtime: opener(config.clone(), streams.clone(), machine),
        measure: {
            let streams = streams.clone();
            Box::new(move || {
                let pods = streams.pods();
                let usage = pods.as_ref().map(|pods| pods.usage()).unwrap_or_default();
                NodeMetrics {
                    microvms: pods.as_ref().map(|pods| pods.microvms().told()).unwrap_or_default(),
                    images_cleared: pods.as_ref().and_then(|pods| images_cleared(pods)),
                    pods: pod_meter.measure(usage, Instant::now()),
                    ..meter.measure()
                }
            })
        },
        clock: Clock::new(Timestamp::now),
    };
    let mut agent = Agent::open(parts).await.context("could not take up what runs here")?;
    dial::run(&mut agent, &config.endpoints, streams, shutdown).await;
    tracing::info!("the riklet ends; what it started goes on");
    Ok(())
}

/// What was found out about the machine that its pods run by.
#[derive(Clone, Debug, Default)]
struct Machine {
    user_namespaces: bool,
    runtimes: OciRuntimes,
}

/// What the store of images last removed because the disk was nearly full.
fn images_cleared(pods: &PodRuntime) -> Option<ImagesCleared> {
    let (at, cleaned) = pods.images().last_cleared()?;
    let images = cleaned.removed.iter().map(ToString::to_string).collect();
    Some(ImagesCleared { at, images, bytes: cleaned.freed_bytes })
}

fn opener(config: Config, streams: Arc<Streams>, machine: Machine) -> crate::agent::OpenRuntime {
    Arc::new(move |subnet: String| -> BoxFuture<'static, anyhow::Result<Arc<dyn Runtime>>> {
        let (config, streams, machine) = (config.clone(), streams.clone(), machine.clone());
        Box::pin(async move {
            let pods = Arc::new(PodRuntime::open(pod_config(&config, &subnet, machine)?).await?);
            streams.set_pods(pods.clone());
            Ok(pods as Arc<dyn Runtime>)
        })
    })
}

fn pod_config(config: &Config, subnet: &str, machine: Machine) -> anyhow::Result<PodRuntimeConfig> {
    let subnet: Subnet = subnet.parse().with_context(|| format!("could not use the addresses {subnet:?}"))?;
    let network = NetworkConfig {
        bridge: BRIDGE.to_owned(),
        subnet,
        uplink: config.uplink.clone(),
        state_dir: config.state_dir.clone(),
        mtu: None,
        backend: Backend::default(),
        forbidden: std::collections::BTreeSet::new(),
    };
    Ok(PodRuntimeConfig {
        state_dir: config.state_dir.clone(),
        node: config.name.clone(),
        shim: config.shim.clone(),
        registry: config.registries.clone(),
        network,
        allowed: config.allowed.clone(),
        keep_logs: config.keep_logs,
        oci_runtimes: machine.runtimes,
        default_memory: config.default_memory,
        user_namespaces: machine.user_namespaces,
        microvms: config.microvms.clone(),
    })
}

/// What becomes of local volumes when a riklet is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    /// Nothing is reset if there is one.
    Keep,
    /// They go like everything else.
    Remove,
}

/// Makes sure that a state directory holds no local volume.
///
/// # Errors
/// It does; they are named.
pub fn no_volumes(state_dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(state_dir.join("volumes")).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // Others are being removed already.
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    anyhow::ensure!(
        names.is_empty(),
        "{} holds volumes, whose data would be lost: {}; give --volumes if it may be",
        state_dir.display(),
        names.join(", ")
    );
    Ok(())
}

/// Takes away everything of the riklet with this state directory: instances, network, images, the directory's content.
///
/// # Errors
/// Something could not be taken away; it is named.
pub async fn reset(state_dir: &Path, shim: ShimCommand, volumes: Volumes) -> anyhow::Result<()> {
    if !state_dir.exists() {
        return Ok(());
    }
    if volumes == Volumes::Keep {
        no_volumes(state_dir)?;
    }
    let lock = lock(state_dir).await?;
    let identity = IdentityFile::open(state_dir, || uuid::Uuid::new_v4().to_string())?;
    if let Some(subnet) = identity.get().pod_subnet.clone() {
        let config = Config {
            endpoints: Vec::new(),
            name: identity.get().name.clone().unwrap_or_else(facts::host_name),
            state_dir: state_dir.to_owned(),
            labels: BTreeMap::new(),
            uplink: None,
            allowed: Allowed::default(),
            oci_runtimes: Vec::new(),
            default_memory: None,
            keep_logs: KEEP_LOGS,
            registries: RegistryConfig::default(),
            shim,
            microvms: MicrovmConfig::default(),
        };
        let pods = PodRuntime::open(pod_config(&config, &subnet, Machine::default())?).await?;
        pods.teardown().await?;
    }
    for entry in
        std::fs::read_dir(state_dir).with_context(|| format!("could not list {}", state_dir.display()))?
    {
        let path = entry?.path();
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.with_context(|| format!("could not remove {}", path.display()))?;
    }
    drop(lock);
    Ok(())
}

fn make_state_dir(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("could not make the state directory {}", path.display()))
}

/// One riklet for each state directory: the second one is told the first one's pid.
async fn lock(state_dir: &Path) -> anyhow::Result<std::fs::File> {
    use std::io::{Read, Seek, Write};
    let path = state_dir.join("riklet.lock");
    let opened = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = opened.with_context(|| format!("could not open {}", path.display()))?;
    let until = tokio::time::Instant::now() + LOCK_PATIENCE;
    while rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        if tokio::time::Instant::now() < until {
            tokio::time::sleep(LOCK_PAUSE).await;
            continue;
        }
        let mut owner = String::new();
        // Only for the message.
        let _ = file.read_to_string(&mut owner);
        anyhow::bail!("another riklet (pid {}) has {}", owner.trim(), state_dir.display());
    }
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}
