//! `anabranch topic`

mod alter;
mod create;
mod delete;
mod delete_records;
mod describe;
mod list;
mod settings;

use clap::Subcommand;

use super::client::ClusterArgs;
use super::output::Output;

/// Create, list, describe, change and delete topics
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct TopicArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
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
    let cluster = &args.cluster;
    match &args.command {
        TopicCommand::Create(args) => create::run(args, cluster, output)?,
        TopicCommand::List(args) => list::run(args, cluster, output)?,
        TopicCommand::Describe(args) => describe::run(args, cluster, output)?,
        TopicCommand::Alter(args) => alter::run(args, cluster, output)?,
        TopicCommand::Delete(args) => delete::run(args, cluster, output)?,
        TopicCommand::DeleteRecords(args) => delete_records::run(args, cluster, output)?,
    }
    output.flush()
}
