//! `anabranch topic delete`

use anabranch::engine::Engine;
use anyhow::Context;

use crate::cli::client::Told;
use crate::cli::output::Output;

/// Delete topics with all their records
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Which topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
}

pub(super) async fn run(args: &DeleteArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    for topic in &args.topics {
        let deleted = engine.admin().delete_topic(topic).await;
        deleted.told().with_context(|| format!("cannot delete topic {topic}"))?;
        if output.is_json() {
            output.json(&serde_json::json!({ "topic": topic, "deleted": true }))?;
        } else {
            output.line(format!("deleted topic {topic}"))?;
        }
    }
    Ok(())
}
