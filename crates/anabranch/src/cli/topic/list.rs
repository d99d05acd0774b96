//! `anabranch topic list`

use anabranch::engine::Engine;
use anabranch_core::engine::TopicInfo;
use anyhow::Context;
use serde_json::json;

use crate::cli::client::Told;
use crate::cli::output::{Column, Output};

/// List topics
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Also those that the engine keeps for itself, such as __consumer_offsets
    #[arg(short, long)]
    all: bool,
}

pub(super) async fn run(args: &ListArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let mut topics = engine.admin().topics().await.told().context("cannot list the topics")?;
    topics.retain(|topic| args.all || !topic.is_internal);
    let replicas =
        |topic: &TopicInfo| topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    if output.is_json() {
        let topics = topics.iter().map(|topic| {
            json!({ "topic": topic.name, "partitions": topic.partitions.len(), "replicas": replicas(topic) })
        });
        return output.json(&topics.collect::<Vec<_>>());
    }
    let rows = topics.iter().map(|topic| {
        vec![topic.name.clone(), topic.partitions.len().to_string(), replicas(topic).to_string()]
    });
    let columns = [Column::Text("TOPIC"), Column::Number("PARTITIONS"), Column::Number("REPLICAS")];
    output.table(&columns, rows.collect())
}
