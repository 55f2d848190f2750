//! `rikctl version`: both ends of the line.

use clap::Args;
use serde_json::json;

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format},
    terminal::Terminal,
};

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Do not ask the controller.
    #[arg(long)]
    client: bool,
    /// Print in another form.
    #[arg(short, long, value_name = "FORM", value_parser = ["json", "yaml"])]
    output: Option<String>,
}

pub(crate) fn run(
    args: &VersionArgs,
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let format = match args.output.as_deref() {
        Some("json") => Format::Json,
        Some(_) => Format::Yaml,
        None => Format::Table,
    };
    // Our own version is printed even if the controller does not answer.
    if format == Format::Table {
        terminal.print_line(&format!("rikctl     {own}"))?;
    }
    let view = if args.client { None } else { Some(controller(connect, terminal)) };
    let (client, view) = match view.transpose() {
        Ok(Some((client, view))) => (Some(client), Some(view)),
        Ok(None) => (None, None),
        Err(failure) => return Err(failure),
    };
    match (format, &view, &client) {
        (Format::Table, Some(view), Some(client)) => {
            let cluster = client.cluster_config();
            terminal.print_line(&format!("controller {} at {}", view.version, cluster.server))?;
            terminal.print_line(&format!("cluster    {} ({})", cluster.name, view.cluster))?;
            let scheduler =
                if view.scheduler_connected { "connected" } else { "not connected; nothing new is placed" };
            terminal.print_line(&format!("scheduler  {scheduler}"))
        }
        (Format::Table, ..) => Ok(()),
        (format, view, _) => {
            let value = json!({ "client": { "version": own }, "controller": view });
            let text = if format == Format::Json { output::json(&value)? } else { output::yaml(&value)? };
            terminal.print(&text)
        }
    }
}

fn controller(
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(Client, model::api::ClusterView), Failure> {
    let client = connect(terminal)?;
    let view = client.cluster()?;
    Ok((client, view))
}
