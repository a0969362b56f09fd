//! `completion`: a script that lets a shell complete commands and flags.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::super::args::Cli;
use super::output::Done;

pub(super) const EXAMPLES: &str = "\
Examples:
  nats-ring completion bash > ~/.local/share/bash-completion/completions/nats-ring
  nats-ring completion zsh > ~/.zfunc/_nats-ring
  nats-ring completion fish > ~/.config/fish/completions/nats-ring.fish";

#[derive(Args)]
pub(in crate::cli) struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn completion(args: &CompletionArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nats-ring", &mut script);
    Ok(std::io::stdout().write_all(&script)?)
}
