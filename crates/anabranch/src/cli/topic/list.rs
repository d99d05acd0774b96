//! `anabranch topic list`

use serde_json::json;

use crate::cli::client::ClusterArgs;
use crate::cli::output::{Column, Output};

/// List topics
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Also those that the cluster keeps for itself, such as __consumer_offsets
    #[arg(short, long)]
    all: bool,
}

pub(super) fn run(args: &ListArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let metadata = cluster.observe(&[])?.metadata(None)?;
    let mut topics: Vec<_> =
        metadata.topics().iter().filter(|topic| args.all || !topic.name().starts_with("__")).collect();
    topics.sort_by_key(|topic| topic.name());
    let replicas = |topic: &rdkafka::metadata::MetadataTopic| {
        topic.partitions().first().map_or(0, |partition| partition.replicas().len())
    };
    if output.is_json() {
        let topics = topics.iter().map(|topic| {
            json!({ "topic": topic.name(), "partitions": topic.partitions().len(), "replicas": replicas(topic) })
        });
        return output.json(&topics.collect::<Vec<_>>());
    }
    let rows = topics.iter().map(|topic| {
        vec![topic.name().to_owned(), topic.partitions().len().to_string(), replicas(topic).to_string()]
    });
    let columns = [Column::Text("TOPIC"), Column::Number("PARTITIONS"), Column::Number("REPLICAS")];
    output.table(&columns, rows.collect())
}
