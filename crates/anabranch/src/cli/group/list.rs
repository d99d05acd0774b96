//! `anabranch group list`

use serde_json::json;

use crate::cli::client::ClusterArgs;
use crate::cli::output::{Column, Output};

/// List groups
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {}

pub(super) fn run(_: &ListArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let found = cluster.observe(&[])?.groups(None)?;
    let mut groups: Vec<_> = found.groups().iter().collect();
    groups.sort_by_key(|group| group.name());
    if output.is_json() {
        let groups = groups.iter().map(|group| {
            json!({
                "group": group.name(),
                "state": group.state(),
                "protocol_type": group.protocol_type(),
                "members": group.members().len(),
            })
        });
        return output.json(&groups.collect::<Vec<_>>());
    }
    let rows = groups.iter().map(|group| {
        vec![
            group.name().to_owned(),
            group.state().to_owned(),
            group.protocol_type().to_owned(),
            group.members().len().to_string(),
        ]
    });
    let columns =
        [Column::Text("GROUP"), Column::Text("STATE"), Column::Text("TYPE"), Column::Number("MEMBERS")];
    output.table(&columns, rows.collect())
}
