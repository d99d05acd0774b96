//! `anabranch group`

mod delete;
mod describe;
mod list;
mod reset_offsets;

use anabranch::engine::Engine;
use anabranch_core::engine::GroupInfo;
use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::client::{EngineArgs, Told};
use super::failure::advised;
use super::output::Output;

/// List, describe, move and delete consumer groups
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct GroupArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(subcommand)]
    command: GroupCommand,
}

#[derive(Debug, Subcommand)]
enum GroupCommand {
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    ResetOffsets(reset_offsets::ResetArgs),
    Delete(delete::DeleteArgs),
}

pub(super) fn run(args: &GroupArgs, output: &mut Output) -> anyhow::Result<()> {
    args.engine.run(async |engine| {
        let engine = &**engine;
        match &args.command {
            GroupCommand::List(args) => list::run(args, engine, output).await?,
            GroupCommand::Describe(args) => describe::run(args, engine, output).await?,
            GroupCommand::ResetOffsets(args) => reset_offsets::run(args, engine, output).await?,
            GroupCommand::Delete(args) => delete::run(args, engine, output).await?,
        }
        output.flush()
    })
}

/// The group, if there is one.
async fn find(engine: &dyn Engine, name: &str) -> anyhow::Result<Option<GroupInfo>> {
    engine.admin().group(name).await.told().with_context(|| format!("cannot look at group {name}"))
}

fn no_such_group(group: &str) -> anyhow::Error {
    advised(anyhow!("group {group} does not exist"), "`anabranch group list` shows what there is.")
}
