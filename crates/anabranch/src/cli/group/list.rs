//! `anabranch group list`

use anabranch::engine::Engine;
use anyhow::Context;
use serde_json::json;

use crate::cli::client::Told;
use crate::cli::output::{Column, Output};

/// List groups
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

pub(super) async fn run(_: &ListArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    let groups = engine.admin().groups().await.told().context("cannot list the groups")?;
    if output.is_json() {
        let groups = groups.iter().map(|group| {
            json!({
                "group": group.name,
                "state": group.state,
                "type": group.kind,
                "protocol_type": group.protocol_type,
                "members": group.members.len(),
            })
        });
        return output.json(&groups.collect::<Vec<_>>());
    }
    let rows = groups.into_iter().map(|group| {
        let members = group.members.len().to_string();
        vec![group.name, group.state, group.kind, group.protocol_type, members]
    });
    // As Kafka's own kafka-groups has them.
    let columns = [
        Column::Text("GROUP"),
        Column::Text("STATE"),
        Column::Text("TYPE"),
        Column::Text("PROTOCOL"),
        Column::Number("MEMBERS"),
    ];
    output.table(&columns, rows.collect())
}
