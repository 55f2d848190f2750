//! `rikctl apply`: makes workloads what files say, and says what that changed.

use clap::Args;
use model::api::Applied;

use crate::{client::Client, failure::Failure, manifest_file, noun::Noun, terminal::Terminal};

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Manifests in JSON or YAML; - reads stdin. Nothing is sent unless all of them are sound.
    #[arg(short, long = "file", value_name = "PATH", required = true, num_args = 1..)]
    files: Vec<String>,
    /// Print ids alone.
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(
    args: &ApplyArgs,
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let manifests = manifest_file::read_all(&args.files)?;
    let client = connect(terminal)?;
    super::each(manifests, terminal, |manifest, terminal| {
        let answer = client.apply_workload(&manifest.value)?;
        if args.quiet {
            return terminal.print_line(&answer.id);
        }
        let done = match answer.result {
            Applied::Created => "created",
            Applied::Configured => "configured",
            Applied::Unchanged => "unchanged",
        };
        terminal.print_line(&format!("{}/{} {done}", Noun::Workload, manifest.workload.name))
    })
}
