//! The riklet's command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{ArgAction, Args, Parser, Subcommand};
use model::quantity::Memory;
use riklet::{config, facts, start};
use runtime::{
    microvm::{AcceleratorWish, Allowlist, MicrovmConfig, VmmWish},
    pod::{Allowed, KEEP_LOGS, link::ShimCommand},
};

/// Scheduler that is dialled unless another is given.
const DEFAULT_MASTER: &str = "http://127.0.0.1:4995";

/// The riklet of RIK: runs what its node is assigned.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

/// What the operator says about microVMs.
#[derive(Debug, Args)]
struct MicrovmArgs {
    /// Kernel that microVMs boot; the newest of the machine if absent
    #[arg(long, env = "KERNEL_LOCATION", value_name = "FILE")]
    kernel_path: Option<PathBuf>,
    /// What runs microVMs: firecracker, qemu, or auto, which is Firecracker where it is and works
    #[arg(long, env = "RIKLET_VMM", value_name = "VMM", default_value = "auto")]
    vmm: VmmWish,
    /// Firecracker's program; that of PATH, or of the working directory, if absent
    #[arg(long, env = "FIRECRACKER_LOCATION", value_name = "FILE")]
    firecracker_path: Option<PathBuf>,
    /// Who runs the instructions of microVMs: kvm, tcg (QEMU itself), or auto, which tries
    #[arg(long, env = "RIKLET_VM_ACCELERATOR", value_name = "WHO", default_value = "auto")]
    vm_accelerator: AcceleratorWish,
    /// Hosts, networks and directories of the node that root file systems may come from beside public addresses, with commas between them
    #[arg(long, env = "RIKLET_ROOTFS_ALLOW", value_name = "PLACES", default_value = "")]
    rootfs_allow: Allowlist,
}

impl MicrovmArgs {
    fn config(self) -> MicrovmConfig {
        let named = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        MicrovmConfig {
            kernel: named(self.kernel_path),
            vmm: self.vmm,
            firecracker: named(self.firecracker_path),
            accelerator: self.vm_accelerator,
            allowed: self.rootfs_allow,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take away everything of a riklet: instances, network, images, records
    Reset {
        /// Directory of everything of the node
        #[arg(long, default_value = config::DEFAULT_STATE_DIR)]
        state_dir: PathBuf,
        /// Remove local volumes too, with the data in them
        #[arg(long)]
        volumes: bool,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// Configuration file; written with defaults if it does not exist
    #[arg(short, long, default_value = config::DEFAULT_FILE)]
    config_file: PathBuf,
    /// Scheduler as host:port; several with commas between them
    #[arg(short, long, value_name = "HOST:PORT")]
    master_ip: Option<String>,
    /// Write the given --master-ip into an existing configuration file
    #[arg(long)]
    override_config: bool,
    /// Say more; twice says everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    #[command(flatten)]
    microvms: MicrovmArgs,
    /// Interface that instances reach the world through; the default route's if absent
    #[arg(long, env = "IFACE")]
    iface: Option<String>,
    /// Address of that interface; found by itself, accepted without effect
    #[arg(long, env = "IFACE_IP")]
    iface_ip: Option<String>,
    /// Accepted without effect
    #[arg(long, hide = true)]
    script_path: Option<PathBuf>,
    /// Name of the node; the host's name if absent
    #[arg(long, env = "RIK_NODE_NAME")]
    node_name: Option<String>,
    /// Directory of everything of this node
    #[arg(long, env = "RIK_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Labels of the node, as key=value with commas between them
    #[arg(long, value_parser = config::labels)]
    labels: Option<std::collections::BTreeMap<String, String>>,
    /// Directories of the machine that volumes of instances may be below, with commas between them; none if absent
    #[arg(long, env = "RIKLET_HOSTPATH_ALLOW", value_delimiter = ',')]
    hostpath_allow: Option<Vec<PathBuf>>,
    /// Directory of seccomp profiles that containers may name
    #[arg(long, env = "RIKLET_SECCOMP_PROFILES", value_name = "DIR")]
    seccomp_profiles: Option<PathBuf>,
    /// Allow containers that ask for no seccomp filter
    #[arg(long, env = "RIKLET_SECCOMP_UNCONFINED", num_args = 0..=1, default_missing_value = "true")]
    seccomp_unconfined: Option<bool>,
    /// Memory limit of containers for which neither they nor their instance have one; 0 for none [default: 512Mi]
    #[arg(long, env = "RIKLET_DEFAULT_MEMORY", value_name = "SIZE")]
    default_memory: Option<Memory>,
    /// Programs with runc's command line that make containers, with commas between them; pods that do not say which get
    /// the first, and `rik` is RIK's own
    #[arg(long, env = "RIKLET_OCI_RUNTIME", value_name = "NAMES", value_delimiter = ',')]
    oci_runtime: Option<Vec<String>>,
    /// Allow privileged containers, and pods with hostNetwork, hostPID or hostIPC
    #[arg(long, env = "RIKLET_ALLOW_PRIVILEGED", num_args = 0..=1, default_missing_value = "true")]
    allow_privileged: Option<bool>,
    /// Hours for which logs of instances that are gone are kept; 0 for not at all [default: 24]
    #[arg(long, env = "RIKLET_KEEP_LOGS_HOURS", value_name = "HOURS")]
    keep_logs_hours: Option<u32>,
    /// File with logins of registries, as docker's config.json; read at each pull
    #[arg(long, env = "RIKLET_REGISTRY_LOGINS", value_name = "FILE")]
    registry_logins: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The shim has to begin before there is any thread.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return runtime::pod::shim::main(std::env::args_os().skip(2));
    }
    let cli = Cli::parse();
    if !rustix::process::geteuid().is_root() {
        eprintln!("error: the riklet needs to be root: it makes namespaces, mounts and firewall rules");
        eprintln!("hint: sudo {}", std::env::args().collect::<Vec<_>>().join(" "));
        return ExitCode::from(1);
    }
    let ended = match cli.command {
        Some(Command::Reset { state_dir, volumes }) => {
            reset(&state_dir, if volumes { start::Volumes::Remove } else { start::Volumes::Keep })
        }
        None => run(cli.run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::last_words(&*error, None, 2),
    }
}

fn reset(state_dir: &Path, volumes: start::Volumes) -> anyhow::Result<()> {
    daemon::init_logs("warn");
    tokio()?.block_on(start::reset(state_dir, ShimCommand::default(), volumes))
}

fn tokio() -> anyhow::Result<tokio::runtime::Runtime> {
    daemon::runtime().context("could not start")
}

fn run(args: Run) -> anyhow::Result<()> {
    let asked_for = args.config_file != Path::new(config::DEFAULT_FILE) && args.config_file.exists();
    let mut file = config::read(&args.config_file, asked_for)?;
    daemon::init_logs(match (args.verbose, file.log_level.as_deref()) {
        (0, Some(level)) => level,
        (0, None) => "info",
        (1, _) => "debug",
        (_, _) => "trace",
    });
    if args.script_path.is_some() {
        tracing::warn!("--script-path has no effect: the riklet needs no script any more");
    }
    let new_file = !args.config_file.exists();
    let write = new_file || (args.override_config && args.master_ip.is_some());
    let given = args.master_ip.clone().or_else(|| new_file.then(|| DEFAULT_MASTER.to_owned()));
    file.master_ip = given.map(config::Endpoints::One).or(file.master_ip);
    let endpoints =
        file.master_ip.as_ref().map_or_else(|| vec![DEFAULT_MASTER.to_owned()], config::Endpoints::list);
    let endpoints =
        endpoints.iter().map(|address| proto::channel::endpoint(address)).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!endpoints.is_empty(), "there is no scheduler to dial; give --master-ip host:port");
    let state_dir = args
        .state_dir
        .or_else(|| file.state_dir.clone())
        .unwrap_or_else(|| PathBuf::from(config::DEFAULT_STATE_DIR));
    anyhow::ensure!(
        state_dir.is_absolute(),
        "the state directory {} must be an absolute path",
        state_dir.display()
    );
    let name = args.node_name.or_else(|| file.node_name.clone()).unwrap_or_else(facts::host_name);
    model::manifest::names::name(&name).map_err(|allowed| {
        anyhow::anyhow!("{name:?} cannot be the name of a node: {allowed}; give --node-name")
    })?;
    if write {
        write_file(&args.config_file, &file);
    }
    let allowed = config::check_allowed(Allowed {
        host_paths: args.hostpath_allow.unwrap_or(file.hostpath_allow),
        seccomp_profiles: args.seccomp_profiles.or(file.seccomp_profiles),
        seccomp_unconfined: args.seccomp_unconfined.unwrap_or(file.seccomp_unconfined),
        privileged: args.allow_privileged.unwrap_or(file.allow_privileged),
    })?;
    let keep_logs = args.keep_logs_hours.or(file.keep_logs_hours).map_or(KEEP_LOGS, config::hours);
    let mut registries = file.registries.unwrap_or_default();
    registries.logins = args.registry_logins.or(registries.logins);
    let mut labels = file.labels;
    labels.extend(args.labels.unwrap_or_default());
    let config = start::Config {
        endpoints,
        name,
        state_dir,
        labels,
        uplink: args.iface.filter(|name| !name.is_empty()),
        allowed,
        default_memory: config::default_memory(args.default_memory.or(file.default_memory)),
        oci_runtimes: args.oci_runtime.unwrap_or(file.oci_runtime),
        keep_logs,
        registries,
        shim: ShimCommand::default(),
        microvms: args.microvms.config(),
    };
    tokio()?.block_on(async {
        let shutdown = daemon::shutdown_on_signals()?;
        start::run(config, shutdown).await
    })
}

/// Writes the configuration file, as the documentation promises. A place that cannot be written is no reason to stop.
fn write_file(path: &Path, file: &config::File) {
    let written = toml::to_string(file).map_err(std::io::Error::other).and_then(|text| {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(path, text)
    });
    if let Err(error) = written {
        tracing::warn!(file = %path.display(), %error, "could not write the configuration file");
    }
}
