//! `anabranch completions`

use clap::CommandFactory;
use clap_complete::Shell;

use super::output::Output;

/// Print a script that completes commands and options in your shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  anabranch completions bash > ~/.local/share/bash-completion/completions/anabranch
  anabranch completions zsh > ~/.zfunc/_anabranch       (with ~/.zfunc in $fpath)
  anabranch completions fish > ~/.config/fish/completions/anabranch.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs, output: &mut Output) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "anabranch", &mut script);
    output.bytes(&script)?;
    output.flush()
}
