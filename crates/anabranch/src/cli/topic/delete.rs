//! `anabranch topic delete`

use anyhow::Context;

use crate::cli::client::{ClusterArgs, each_topic};
use crate::cli::output::Output;

/// Delete topics with all their records
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Which topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
}

pub(super) fn run(args: &DeleteArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let admin = cluster.admin()?;
    for topic in &args.topics {
        let results = admin.ask(async |client, options| client.delete_topics(&[topic], options).await);
        results.and_then(each_topic).with_context(|| format!("cannot delete topic {topic}"))?;
        if output.is_json() {
            output.json(&serde_json::json!({ "topic": topic, "deleted": true }))?;
        } else {
            output.line(format!("deleted topic {topic}"))?;
        }
    }
    Ok(())
}
