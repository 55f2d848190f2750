//! `rikctl volume`: the local volumes of nodes.

use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::api::VolumeView;

use super::on_nodes::{Listing, nodes, take_away};
use crate::{
    age::since,
    client::{Client, segment},
    failure::Failure,
    output::{Format, OutputArgs},
    terminal::Terminal,
};

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List the local volumes of nodes.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove local volumes with all that is in them. One that an instance uses stays.
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only on this node; repeatable. Otherwise on every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// The volumes.
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<String>,
    /// Only from this node; repeatable. Otherwise from every node that is ready.
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
}

pub(crate) fn run(command: &VolumeCommand, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    match command {
        VolumeCommand::Ls(args) => list(args, client, terminal),
        VolumeCommand::Rm(args) => remove(args, client, terminal),
    }
}

fn path(node: &str) -> String {
    format!("/nodes/{}/volumes", segment(node))
}

fn list(args: &ListArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let listing = Listing {
        what: "volumes",
        columns: &["NODE", "VOLUME", "INSTANCES", "AGE"],
        name: |volume: &VolumeView| &volume.name,
        row,
    };
    let paths = nodes(&args.nodes, client)?;
    listing.print(paths.iter().map(|node| path(node)), &args.output, client, terminal)
}

fn row(volume: &VolumeView, now: Timestamp, _format: Format) -> Vec<String> {
    let users = if volume.instances.is_empty() { "-".to_owned() } else { volume.instances.join(",") };
    vec![volume.node.clone(), volume.name.clone(), users, since(now, volume.created_at)]
}

fn remove(args: &RemoveArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let nodes = nodes(&args.nodes, client)?;
    super::each(&args.volumes, terminal, |volume, terminal| {
        take_away(&nodes, "volume-not-found", terminal, |node| {
            client.remove_volume(&format!("{}/{}", path(node), segment(volume)))?;
            Ok(format!("volume {volume} removed from node {node}"))
        })
    })
}
