//! `anabranch man`

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use super::output::{Output, counted};

/// Write man pages, one per command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  anabranch man ~/.local/share/man/man1 && man anabranch-serve")]
pub(super) struct ManArgs {
    /// Where to; created when missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(super) fn run(args: &ManArgs, output: &mut Output) -> anyhow::Result<()> {
    let directory = &args.directory;
    let failed = || format!("cannot write man pages to {}", directory.display());
    fs::create_dir_all(directory).with_context(failed)?;
    let mut command = super::Cli::command();
    command.build();
    let pages = write(&command, directory).with_context(failed)?;
    if output.is_json() {
        output.json(&serde_json::json!({ "directory": directory, "pages": pages }))?;
    } else {
        output.line(format!("{} in {}", counted(pages, "man page"), directory.display()))?;
    }
    output.flush()
}

/// The pages of a command and of those below it; how many.
fn write(command: &clap::Command, directory: &std::path::Path) -> std::io::Result<u64> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    let file = directory.join(man.get_filename());
    man.render(&mut page)?;
    fs::write(file, page)?;
    let mut pages = 1;
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        pages += write(below, directory)?;
    }
    Ok(pages)
}
