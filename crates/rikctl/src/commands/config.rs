//! `rikctl config`: which cluster is configured.

use clap::Subcommand;
use serde_json::json;

use crate::{config::Cluster, failure::Failure, output, terminal::Terminal};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the configuration as it is in force, in the form of a configuration file.
    View,
}

pub(crate) fn view(cluster: &Cluster, terminal: &mut Terminal) -> Result<(), Failure> {
    let value = json!({ "cluster": { "name": cluster.name, "server": cluster.server } });
    terminal.print(&output::yaml(&value)?)?;
    terminal.say(&format!("the server comes from {}", cluster.origin));
    Ok(())
}
