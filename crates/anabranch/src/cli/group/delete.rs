//! `anabranch group delete`

use anabranch::engine::Engine;
use anyhow::{Context, anyhow};

use super::{find, no_such_group};
use crate::cli::client::Told;
use crate::cli::failure::Advise;
use crate::cli::output::{Output, counted};

/// Delete groups that have no members, and where they stand
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Which groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

pub(super) async fn run(args: &DeleteArgs, engine: &dyn Engine, output: &mut Output) -> anyhow::Result<()> {
    for name in &args.groups {
        let failed = || format!("cannot delete group {name}");
        let found = find(engine, name).await?.ok_or_else(|| no_such_group(name)).with_context(failed)?;
        if !found.members.is_empty() {
            let members = counted(found.members.len() as u64, "member");
            return Err(anyhow!("it has {members}"))
                .advise("Stop its members first; `anabranch group describe` shows them.")
                .map_err(|error| error.context(failed()));
        }
        engine.admin().delete_group(name).await.told().with_context(failed)?;
        if output.is_json() {
            output.json(&serde_json::json!({ "group": name, "deleted": true }))?;
        } else {
            output.line(format!("deleted group {name}"))?;
        }
    }
    Ok(())
}
