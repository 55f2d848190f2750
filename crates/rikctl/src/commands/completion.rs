//! `rikctl completion`: a script for the shell.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure, terminal::Terminal};

#[derive(Debug, Args)]
#[command(
    after_help = "bash:  source <(rikctl completion bash)\nzsh:   rikctl completion zsh > \"${fpath[1]}/_rikctl\"\nfish:  rikctl completion fish | source"
)]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rikctl", &mut script);
    terminal.print_bytes(&script)
}
