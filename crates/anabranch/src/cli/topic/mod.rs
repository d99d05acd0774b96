//! `anabranch topic`

mod alter;
mod create;
mod delete;
mod delete_records;
mod describe;
mod list;
mod settings;

use clap::Subcommand;

use super::client::EngineArgs;
use super::output::Output;

/// Create, list, describe, change and delete topics
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct TopicArgs {
    #[command(flatten)]
    engine: EngineArgs,
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    Create(create::CreateArgs),
    List(list::ListArgs),
    Describe(describe::DescribeArgs),
    Alter(alter::AlterArgs),
    Delete(delete::DeleteArgs),
    DeleteRecords(delete_records::DeleteRecordsArgs),
}

pub(super) fn run(args: &TopicArgs, output: &mut Output) -> anyhow::Result<()> {
    args.engine.run(async |engine| {
        let engine = &**engine;
        match &args.command {
            TopicCommand::Create(args) => create::run(args, engine, output).await?,
            TopicCommand::List(args) => list::run(args, engine, output).await?,
            TopicCommand::Describe(args) => describe::run(args, engine, output).await?,
            TopicCommand::Alter(args) => alter::run(args, engine, output).await?,
            TopicCommand::Delete(args) => delete::run(args, engine, output).await?,
            TopicCommand::DeleteRecords(args) => delete_records::run(args, engine, output).await?,
        }
        output.flush()
    })
}
