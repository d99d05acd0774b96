//! `anabranch group`

mod delete;
mod describe;
mod found;
mod list;
mod member;
mod reset_offsets;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::groups::GroupList;

use super::client::{ClusterArgs, Observer, Offsets, REQUEST_MAX};
use super::failure::advised;
use super::output::Output;

/// List, describe, move and delete consumer groups
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct GroupArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
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
    let cluster = &args.cluster;
    match &args.command {
        GroupCommand::List(args) => list::run(args, cluster, output)?,
        GroupCommand::Describe(args) => describe::run(args, cluster, output)?,
        GroupCommand::ResetOffsets(args) => reset_offsets::run(args, cluster, output)?,
        GroupCommand::Delete(args) => delete::run(args, cluster, output)?,
    }
    output.flush()
}

impl Observer {
    /// All groups, or one; an unknown group is not in the list.
    fn groups(&self, group: Option<&str>) -> anyhow::Result<GroupList> {
        self.consumer
            .client()
            .fetch_group_list(group, REQUEST_MAX)
            .context("cannot read the cluster's groups")
    }

    /// Every partition of the cluster's topics.
    fn all_partitions(&self) -> anyhow::Result<Vec<(String, i32)>> {
        let metadata = self.metadata(None)?;
        let topics = metadata.topics().iter();
        let partitions = topics.flat_map(|topic| {
            topic.partitions().iter().map(|partition| (topic.name().to_owned(), partition.id()))
        });
        Ok(partitions.collect())
    }

    /// Where the group of this observer stands, in those of `partitions` where it does.
    fn committed(&self, partitions: &[(String, i32)]) -> anyhow::Result<Offsets> {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in partitions {
            asked.add_partition(topic, *partition);
        }
        let found = self.consumer.committed_offsets(asked, REQUEST_MAX);
        let found = found.context("cannot read where the group stands")?;
        let mut offsets = Offsets::new();
        for element in found.elements() {
            element.error().with_context(|| format!("{}-{}", element.topic(), element.partition()))?;
            if let rdkafka::Offset::Offset(offset) = element.offset() {
                offsets.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
        Ok(offsets)
    }
}

/// A cluster's settings for a client that speaks for a group.
fn of_group(group: &str) -> [(&'static str, &str); 1] {
    [("group.id", group)]
}

fn no_such_group(group: &str) -> anyhow::Error {
    advised(anyhow!("group {group} does not exist"), "`anabranch group list` shows what there is.")
}
