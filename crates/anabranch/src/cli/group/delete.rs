//! `anabranch group delete`

use anyhow::Context;

use crate::cli::client::{ClusterArgs, code_error};
use crate::cli::output::Output;

/// Delete groups that have no members, and where they stand
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Which groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

pub(super) fn run(args: &DeleteArgs, cluster: &ClusterArgs, output: &mut Output) -> anyhow::Result<()> {
    let admin = cluster.admin()?;
    for group in &args.groups {
        let failed = || format!("cannot delete group {group}");
        let results = admin
            .ask(async |client, options| client.delete_groups(&[group], options).await)
            .with_context(failed)?;
        for result in results {
            result.map_err(|(_, code)| code_error(code)).with_context(failed)?;
        }
        if output.is_json() {
            output.json(&serde_json::json!({ "group": group, "deleted": true }))?;
        } else {
            output.line(format!("deleted group {group}"))?;
        }
    }
    Ok(())
}
