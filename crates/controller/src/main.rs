//! The controller's command line.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::Parser;
use controller::{cluster::SubnetPlan, start};

/// The controller of RIK: serves the REST API and owns the state of the cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Directory of the database [env: DATABASE_LOCATION] [default: /var/lib/rik/data/]
    #[arg(long)]
    database_location: Option<PathBuf>,
    /// Address of the scheduler [env: SCHEDULER_URL] [default: http://localhost:4996]
    #[arg(long)]
    scheduler_url: Option<String>,
    /// Port of the API [env: PORT] [default: 5000]
    #[arg(long)]
    port: Option<String>,
    /// Address to listen on. The API has no authentication yet, so think before you open it to others
    #[arg(long, default_value = "127.0.0.1")]
    bind: IpAddr,
    /// Addresses of the instances; each node gets a block of 256 of them
    #[arg(long, env = "RIK_POD_CIDR", default_value = "10.42.0.0/16")]
    pod_cidr: SubnetPlan,
    /// Host names that clients call this controller by; others than these, localhost and addresses are refused
    #[arg(long, env = "RIK_HOST_NAMES", value_delimiter = ',', value_name = "NAME")]
    host_names: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    daemon::init_logs("info");
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).and_then(hint);
            daemon::last_words(&*error, hint, 1)
        }
    }
}

fn hint(error: &std::io::Error) -> Option<&'static str> {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => Some("another program has that port; give another one with PORT"),
        std::io::ErrorKind::PermissionDenied => {
            Some("run as root, or point DATABASE_LOCATION to a folder of yours")
        }
        _ => None,
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let settings = Settings::read()?;
    let database = args.database_location.or_else(|| settings.get("DATABASE_LOCATION").map(PathBuf::from));
    let scheduler = args.scheduler_url.or_else(|| settings.get("SCHEDULER_URL"));
    let port = args.port.or_else(|| settings.get("PORT"));
    let port = port.as_deref().unwrap_or("5000");
    let port =
        port.parse::<u16>().with_context(|| format!("PORT {port:?} is no port; allowed are 0 to 65535"))?;
    let config = start::Config {
        database: database.unwrap_or_else(|| PathBuf::from("/var/lib/rik/data/")),
        scheduler: proto::channel::endpoint(scheduler.as_deref().unwrap_or("http://localhost:4996"))?,
        listen: SocketAddr::new(args.bind, port),
        subnets: args.pod_cidr,
        names: args.host_names,
    };
    daemon::runtime()?.block_on(async {
        let shutdown = daemon::shutdown_on_signals()?;
        start::run(config, shutdown).await.map_err(anyhow::Error::from)
    })
}

/// The documented settings: from the environment, else from a file `.env` in the working directory.
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn read() -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(".env") {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("could not read the file .env in this folder"),
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let entries = lines.filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
        let unquoted = |value: &str| value.trim().trim_matches(['"', '\'']).to_owned();
        Ok(Self(entries.map(|(name, value)| (name.trim().to_owned(), unquoted(value))).collect()))
    }

    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty()).or_else(|| self.0.get(name).cloned())
    }
}
