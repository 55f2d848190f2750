//! The grammar of the command line: verb, noun, names.

use clap::{Parser, Subcommand};

use crate::{commands, exit};

/// The command line of RIK: runs containers on your own machines.
#[derive(Debug, Parser)]
#[command(name = "rikctl", version, after_help = exit::TABLE, max_term_width = 100)]
pub(crate) struct Cli {
    /// Address of the controller; wins over RIKCONFIG, the environment and ~/.rik/config.yaml.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Define a workload, or run instances of one.
    #[command(subcommand)]
    Create(commands::create::CreateCommand),
    /// Create workloads, or change them to what files say.
    Apply(commands::apply::ApplyArgs),
    /// List workloads, instances, nodes or events.
    Get(commands::get::GetArgs),
    /// List instances: the same as `get instances`.
    Ps(commands::get::PsArgs),
    /// List events: the same as `get events`.
    Events(commands::get::EventsArgs),
    /// Tell everything about one or more objects.
    Describe(commands::describe::DescribeArgs),
    /// End instances, remove workloads with their instances, or forget nodes.
    #[command(visible_alias = "rm")]
    Delete(commands::delete::DeleteArgs),
    /// Run an image: a workload with one instance.
    Run(commands::run::RunArgs),
    /// Print what an instance, or all instances of a workload, have written.
    Logs(commands::logs::LogsArgs),
    /// Run a program in a container of an instance.
    Exec(commands::exec::ExecArgs),
    /// Hear what a running container writes, and type to its program.
    Attach(commands::attach::AttachArgs),
    /// Copy files and directories to and from containers.
    Cp(commands::cp::CpArgs),
    /// Lead a port of this machine to a port of an instance.
    PortForward(commands::port_forward::PortForwardArgs),
    /// Show what instances or nodes use.
    Top(commands::top::TopArgs),
    /// Wait until instances have reached a state.
    Wait(commands::wait::WaitArgs),
    /// List images on nodes, or bring one there from a file.
    #[command(subcommand, visible_alias = "images")]
    Image(commands::image::ImageCommand),
    /// List the local volumes of nodes, or remove one.
    #[command(subcommand, visible_alias = "volumes")]
    Volume(commands::volume::VolumeCommand),
    /// Print the versions of rikctl and of the controller.
    Version(commands::version::VersionArgs),
    /// Print a script that completes rikctl's words in a shell.
    Completion(commands::completion::CompletionArgs),
    /// See which cluster is configured, and where that comes from.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
}
