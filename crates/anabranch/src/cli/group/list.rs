//! `anabranch group list`

use serde_json::json;

use super::found;
use crate::cli::client::ClusterArgs;
use crate::cli::output::{Column, Output};

/// List groups
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

pub(super) fn run(_: &ListArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let groups = found::groups(&cluster.observe(&[])?, cluster, None)?;
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
        vec![group.name, group.state, group.kind.to_owned(), group.protocol_type, members]
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
