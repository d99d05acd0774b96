//! `anabranch engine`

use anabranch::engine::{Capability, Description, Support};
use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{open, start_logging};
use super::output::Output;
use super::{Column, grouped};

/// What the engines are that an application can run on
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, subcommand_required = true)]
pub(super) struct EngineArgs {
    #[command(subcommand)]
    command: EngineCommand,
}

#[derive(Debug, Subcommand)]
enum EngineCommand {
    Describe(DescribeArgs),
}

/// Open an engine, and show what it can do as it is set up
#[derive(Debug, clap::Args)]
struct DescribeArgs {
    /// embedded:DIR or kafka://HOST:PORT?PROPERTY=VALUE
    #[arg(value_name = "ENGINE")]
    url: String,
}

pub(super) fn run(args: &EngineArgs, output: &mut Output) -> anyhow::Result<()> {
    let EngineCommand::Describe(DescribeArgs { url }) = &args.command;
    start_logging();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let description = runtime.block_on(async {
        let engine = open(url).await?;
        let description = engine.description().clone();
        engine.close().await;
        anyhow::Ok(description)
    })?;
    match output.is_json() {
        true => output.json(&as_json(&description))?,
        false => show(&description, output)?,
    }
    output.flush()
}

fn show(description: &Description, output: &mut Output) -> anyhow::Result<()> {
    let Description { engine, version, cluster, nodes, limits, .. } = description;
    output.line(format!("engine:   {engine} ({version})"))?;
    output.line(format!("cluster:  {cluster}, {} node{}", nodes, if *nodes == 1 { "" } else { "s" }))?;
    output.line(format!("a record: up to {} bytes", grouped(limits.record_bytes_max)))?;
    if limits.append_records_max < u32::MAX {
        output.line(format!("an append: up to {} records", grouped(limits.append_records_max)))?;
    }
    output.line("")?;
    let rows = Capability::ALL.into_iter().map(|capability| {
        let (support, words) = match description.support(capability) {
            Support::Native => ("native", String::new()),
            Support::Emulated { cost } => ("emulated", cost.to_string()),
            Support::Absent { why } => ("absent", format!("{why}{}", capability.elsewhere(engine))),
        };
        vec![capability.name().to_owned(), support.to_owned(), words]
    });
    output.table(
        &[Column::Text("CAPABILITY"), Column::Text("SUPPORT"), Column::Text("COST, OR WHY NOT")],
        rows.collect(),
    )
}

fn as_json(description: &Description) -> Value {
    let Description { engine, version, cluster, nodes, limits, .. } = description;
    let capabilities = Capability::ALL.into_iter().map(|capability| {
        let (support, words) = match description.support(capability) {
            Support::Native => ("native", None),
            Support::Emulated { cost } => ("emulated", Some(("cost", cost))),
            Support::Absent { why } => ("absent", Some(("why", why))),
        };
        let mut value = json!({
            "capability": capability.name(),
            "support": support,
            "had_by": capability.had_by(),
        });
        if let Some((name, text)) = words {
            value[name] = json!(text);
        }
        value
    });
    json!({
        "engine": engine,
        "version": version,
        "cluster": cluster,
        "nodes": nodes,
        "record_bytes_max": limits.record_bytes_max,
        "append_bytes_max": limits.append_bytes_max,
        "append_records_max": limits.append_records_max,
        "capabilities": capabilities.collect::<Vec<_>>(),
    })
}
