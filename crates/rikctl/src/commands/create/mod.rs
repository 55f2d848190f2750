//! `rikctl create`: a workload from a file, or instances of a workload.
//!
//! What is printed to stdout is documented to the letter, and scripts read it.

mod object;

use clap::{Args, Subcommand};
use model::{WorkloadRecord, api::CreateInstances, manifest::MAX_REPLICAS};

use self::object::CreateObjectArgs;
use super::TimeoutArgs;
use crate::{
    client::Client,
    exit::Exit,
    failure::{Failure, Report},
    manifest_file,
    noun::Noun,
    resolve,
    terminal::Terminal,
    waiting::{self, Condition},
};

#[derive(Debug, Subcommand)]
pub(crate) enum CreateCommand {
    /// Define a workload. Nothing runs of it until instances are created.
    #[command(visible_alias = "workloads", aliases = ["wl", "Workload", "Workloads", "WORKLOAD", "WORKLOADS"])]
    Workload(CreateWorkloadArgs),
    /// Run instances of a workload.
    #[command(visible_alias = "instances", aliases = ["inst", "Instance", "Instances", "INSTANCE", "INSTANCES"])]
    Instance(CreateInstanceArgs),
    /// Keep values that instances can be given as variables or files.
    #[command(visible_alias = "configs")]
    Config(CreateObjectArgs),
    /// The same for values that are never shown again.
    #[command(visible_alias = "secrets")]
    Secret(CreateObjectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateWorkloadArgs {
    /// Manifest in JSON or YAML; - reads stdin.
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    files: Vec<String>,
    /// Print the id alone.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateInstanceArgs {
    /// Workload to run: its id, its name, or a unique beginning.
    #[arg(short, long = "workload-id", visible_alias = "workload", value_name = "ID|NAME")]
    workload: String,
    /// How many instances.
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_REPLICAS)))]
    replicas: u32,
    /// Name of the instance, if there is one only; otherwise names are made.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Print the instances' ids alone.
    #[arg(short, long)]
    quiet: bool,
    /// Wait until they have started.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    timeout: TimeoutArgs,
}

pub(crate) fn run(
    command: CreateCommand,
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    match command {
        CreateCommand::Workload(args) => {
            let manifests = manifest_file::read_all(&args.files)?;
            let client = connect(terminal)?;
            super::each(manifests, terminal, |manifest, terminal| {
                let answer = client.create_workload(&manifest.value)?;
                let created = resolve::read::<WorkloadRecord>(answer)?.object;
                if args.quiet {
                    return terminal.print_line(&created.id);
                }
                let name = &manifest.workload.name;
                terminal.print_line(&format!(
                    "Workload {name} has been successfully created with ID : {:?}",
                    created.id
                ))
            })
        }
        CreateCommand::Instance(args) => instances(&args, &connect(terminal)?, terminal),
        CreateCommand::Config(args) => object::create(Noun::Config, &args, connect, terminal),
        CreateCommand::Secret(args) => object::create(Noun::Secret, &args, connect, terminal),
    }
}

fn instances(args: &CreateInstanceArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    if args.name.is_some() && args.replicas > 1 {
        let report = Report::new("--name gives one name, and --replicas asks for several instances");
        return Err(report.hint("leave --name out, and names are made").exit(Exit::Usage).into());
    }
    let workload = resolve::object::<WorkloadRecord>(client, &args.workload)?.object;
    let replicas = (args.replicas > 1).then_some(args.replicas);
    let request = CreateInstances { workload: workload.id.clone(), name: args.name.clone(), replicas };
    let created = client.create_instances(&request)?;
    if args.quiet {
        for id in &created.ids {
            terminal.print_line(id)?;
        }
    } else {
        terminal.print_line("Create an instance of a workload")?;
        terminal
            .print_line(&format!("Instance has been successfully created for workload : {}", workload.id))?;
        for id in &created.ids {
            terminal.say(&format!("{}/{id}", Noun::Instance));
        }
    }
    if created.ids.is_empty() {
        return Err(Report::new("the controller says that it has created nothing").into());
    }
    if args.wait {
        waiting::until(client, terminal, &created.ids, (Condition::Started, args.timeout.timeout))?;
    }
    Ok(())
}
