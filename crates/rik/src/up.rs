//! Starting a cluster on this machine, and taking it away.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    process::Stdio,
};

use anyhow::Context;
use controller::cluster::SubnetPlan;
use network::{AttachRequest, Backend, Network, NetworkConfig};
use riklet::start::Volumes;
use runtime::pod::{RegistryConfig, link::ShimCommand};
use scheduler::serve::Listeners;
use tokio::{
    net::{TcpListener, UnixListener},
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{layout::Layout, node};

/// Bridge that the nodes of a cluster of several hang on.
const BRIDGE: &str = "rik-nodes";
/// Addresses of those nodes.
const NODE_ADDRESSES: &str = "10.41.0.0/24";
/// Most nodes of one machine: each has a riklet and a shim.
const MAX_NODES: u16 = 50;

/// How the cluster is started.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many nodes; several live in network namespaces of their own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    nodes: u16,
    /// Directory of everything of the cluster
    #[arg(long, default_value = crate::layout::DEFAULT_DATA_DIR)]
    data_dir: PathBuf,
    /// Port of the API
    #[arg(long, env = "PORT", default_value_t = 5000)]
    port: u16,
    /// Address of the API. It has no authentication yet, so think before you open it to others
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Host names that clients call the API by; others than these, localhost and addresses are refused
    #[arg(long, env = "RIK_HOST_NAMES", value_delimiter = ',', value_name = "NAME")]
    host_names: Vec<String>,
    /// Configuration file of the node, as the riklet's; only for a single node
    #[arg(long)]
    config_file: Option<PathBuf>,
}

/// Runs the cluster until a signal.
pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let layout = Layout::of(args.data_dir.clone())?;
    let registries = match &args.config_file {
        Some(path) => riklet::config::read(path, true)?.registries.unwrap_or_default(),
        None => RegistryConfig::default(),
    };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.root());
    made.with_context(|| format!("could not make {}", layout.root().display()))?;
    let _lock = lock(&layout)?;
    let shutdown = daemon::shutdown_on_signals()?;
    let listeners = Listeners {
        workers: listen(4995).await?,
        workers_socket: (args.nodes > 1).then(|| listen_on_file(&layout)).transpose()?,
        controllers: listen(4996).await?,
    };
    let for_nodes = listeners.workers.local_addr()?;
    let config = controller::start::Config {
        database: layout.database(),
        scheduler: proto::channel::endpoint(&listeners.controllers.local_addr()?.to_string())?,
        listen: SocketAddr::new(args.bind, args.port),
        subnets: SubnetPlan::default(),
        names: args.host_names.clone(),
    };
    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let token = shutdown.clone();
    parts.spawn(async move { Ok(scheduler::serve::serve(listeners, token).await?) });
    let token = shutdown.clone();
    parts.spawn(async move { Ok(controller::start::run(config, token).await?) });
    if args.nodes == 1 {
        let name = riklet::facts::host_name();
        let config = node::config(&for_nodes.to_string(), name, layout.single_node())?;
        let config = riklet::start::Config { registries, ..config };
        let token = shutdown.clone();
        parts.spawn(async move { riklet::start::run(config, token).await });
    } else {
        let wires = open_wires(&layout).await?;
        for number in 1..=args.nodes {
            let child = start_node(&layout, &wires, &format!("node-{number}")).await?;
            parts.spawn(keep(child, format!("node-{number}"), args.data_dir.clone(), shutdown.clone()));
        }
    }
    let mut first = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.context("a part of the cluster broke off")?;
        if !shutdown.is_cancelled() {
            shutdown.cancel();
        }
        if first.is_ok() {
            first = ended;
        }
    }
    first
}

/// Takes everything of the cluster away.
pub(crate) async fn down(layout: &Layout, volumes: Volumes) -> anyhow::Result<()> {
    if !layout.root().exists() {
        return Ok(());
    }
    let lock = lock(layout)?;
    if volumes == Volumes::Keep {
        let others = layout.node_names().into_iter().map(|name| layout.node(&name));
        others.chain([layout.single_node()]).try_for_each(|node| riklet::start::no_volumes(&node))?;
    }
    riklet::start::reset(&layout.single_node(), ShimCommand::default(), Volumes::Remove).await?;
    for name in layout.node_names() {
        let this = std::env::current_exe().context("could not find this program")?;
        let reset = Command::new(this)
            .args(["node", &name, "--reset", "--data-dir"])
            .arg(layout.root())
            .status()
            .await
            .with_context(|| format!("could not take node {name} away"))?;
        anyhow::ensure!(reset.success(), "could not take node {name} away: {reset}");
    }
    if layout.wires().exists() {
        Network::erase(wires_config(layout)?).await.context("could not take the nodes' network away")?;
    }
    drop(lock);
    std::fs::remove_dir_all(layout.root())
        .with_context(|| format!("could not remove {}", layout.root().display()))
}

/// The documented port, or any other if that is taken.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let loopback = Ipv4Addr::LOCALHOST;
    match TcpListener::bind((loopback, port)).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let other = TcpListener::bind((loopback, 0)).await.context("could not listen")?;
            tracing::info!(
                taken = port,
                instead = other.local_addr()?.port(),
                "a port of the scheduler is taken"
            );
            Ok(other)
        }
        bound => bound.with_context(|| format!("could not listen on port {port}")),
    }
}

fn listen_on_file(layout: &Layout) -> anyhow::Result<UnixListener> {
    let path = layout.socket();
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("could not remove {}", path.display())),
    }
    let listener =
        UnixListener::bind(&path).with_context(|| format!("could not listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn wires_config(layout: &Layout) -> anyhow::Result<NetworkConfig> {
    Ok(NetworkConfig {
        bridge: BRIDGE.to_owned(),
        subnet: NODE_ADDRESSES.parse().context("could not use the addresses of the nodes")?,
        uplink: None,
        state_dir: layout.wires(),
        mtu: None,
        backend: Backend::default(),
        forbidden: BTreeSet::new(),
    })
}

/// The network that joins the nodes to this machine: to it, a node is what an instance is to a node.
async fn open_wires(layout: &Layout) -> anyhow::Result<Network> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(layout.wires())?;
    let wires = Network::open(wires_config(layout)?).await.context("could not set up the nodes' network")?;
    let known = layout.wires().join("attachments.json");
    let known =
        std::fs::read(&known).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let known: Vec<network::Attachment> = known;
    wires.reconcile(&known).await.context("could not take over the nodes' network")?;
    Ok(wires)
}

async fn start_node(layout: &Layout, wires: &Network, name: &str) -> anyhow::Result<Child> {
    for path in [layout.node(name), layout.namespaces(name)] {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    let request = AttachRequest {
        owner: name.parse().with_context(|| format!("could not use the name {name}"))?,
        hostname: name.to_owned(),
        ns_dir: layout.namespaces(name),
        has_namespaces: false,
        tap: None,
        publish: Vec::new(),
    };
    wires.attach(request).await.with_context(|| format!("could not give node {name} a network"))?;
    let attachments = serde_json::to_vec(&wires.attachments())?;
    std::fs::write(layout.wires().join("attachments.json"), attachments)?;
    let this = std::env::current_exe().context("could not find this program")?;
    Command::new(this)
        .args(["node", name, "--data-dir"])
        .arg(layout.root())
        .arg("--tied")
        // Held open as long as this process lives: a node does not outlive it.
        .stdin(Stdio::piped())
        // A signal from the terminal reaches the whole group; the node must hear of it from us, in order.
        .process_group(0)
        .spawn()
        .with_context(|| format!("could not start node {name}"))
}

/// Watches a node's process. One that ends is not started again: what it started goes on, and a person decides.
async fn keep(
    mut node: Child,
    name: String,
    data_dir: PathBuf,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    // Waiting would close it.
    let _tie = node.stdin.take();
    tokio::select! {
        ended = node.wait() => {
            let ended = ended.with_context(|| format!("could not watch node {name}"))?;
            tracing::warn!(
                node.name = name,
                "the riklet of {name} ended ({ended}); its instances go on. Start it again with: rik node {name} --data-dir {}",
                data_dir.display()
            );
            shutdown.cancelled().await;
            return Ok(());
        }
        () = shutdown.cancelled() => {}
    }
    if let Some(process) =
        node.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw)
    {
        // It is still our child, so the pid is still its.
        rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
    }
    node.wait().await.with_context(|| format!("could not end node {name}"))?;
    Ok(())
}

/// One `rik up` for each directory.
fn lock(layout: &Layout) -> anyhow::Result<File> {
    let path = layout.lock();
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = opened.with_context(|| format!("could not open {}", path.display()))?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    if locked.is_err() {
        let owner = std::fs::read_to_string(&path).unwrap_or_default();
        anyhow::bail!(
            "`rik up` (pid {}) is running on {}; stop it first",
            owner.trim(),
            layout.root().display()
        );
    }
    file.set_len(0)?;
    write!(file, "{}", std::process::id())?;
    Ok(file)
}
