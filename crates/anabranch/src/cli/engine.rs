//! `anabranch engine`

use anabranch::engine::{self, Capability, Description, Support};
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
    List(ListArgs),
    Describe(DescribeArgs),
}

/// Show what each engine can do where it is set up for all of it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
emulated: on top of other features, at a cost that `anabranch engine describe` tells, as it does why a cluster lacks something.")]
struct ListArgs {}

/// Open an engine, and show what it can do as it is set up
#[derive(Debug, clap::Args)]
struct DescribeArgs {
    /// embedded:DIR, kafka://HOST:PORT or nats://HOST:PORT, with ?NAME=VALUE&... for its settings
    #[arg(value_name = "ENGINE")]
    url: String,
}

pub(super) fn run(args: &EngineArgs, output: &mut Output) -> anyhow::Result<()> {
    match &args.command {
        EngineCommand::List(ListArgs {}) => list(output)?,
        EngineCommand::Describe(args) => describe(args, output)?,
    }
    output.flush()
}

fn list(output: &mut Output) -> anyhow::Result<()> {
    let engines = engine::at_best();
    if output.is_json() {
        return output.json(&engines.iter().map(capabilities).collect::<Vec<_>>());
    }
    let columns = engines.iter().map(|description| Column::Text(description.engine));
    let columns: Vec<_> = std::iter::once(Column::Text("CAPABILITY")).chain(columns).collect();
    let rows = Capability::ALL.into_iter().map(|capability| {
        let support = engines.iter().map(|description| word(description.support(capability)).to_owned());
        std::iter::once(capability.name().to_owned()).chain(support).collect()
    });
    output.table(&columns, rows.collect())
}

/// How an engine provides something, in a word.
fn word(support: &Support) -> &'static str {
    match support {
        Support::Native => "native",
        Support::Emulated { .. } => "emulated",
        Support::Absent { .. } => "absent",
    }
}

fn describe(DescribeArgs { url }: &DescribeArgs, output: &mut Output) -> anyhow::Result<()> {
    start_logging();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let description = runtime.block_on(async {
        let engine = open(url).await?;
        let description = engine.description().clone();
        engine.close().await;
        anyhow::Ok(description)
    })?;
    match output.is_json() {
        true => output.json(&as_json(&description)),
        false => show(&description, output),
    }
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
        let support = description.support(capability);
        let words = match support {
            Support::Native => String::new(),
            Support::Emulated { cost } => cost.to_string(),
            Support::Absent { why } => format!("{why}{}", capability.elsewhere(engine)),
        };
        vec![capability.name().to_owned(), word(support).to_owned(), words]
    });
    output.table(
        &[Column::Text("CAPABILITY"), Column::Text("SUPPORT"), Column::Text("COST, OR WHY NOT")],
        rows.collect(),
    )
}

fn as_json(description: &Description) -> Value {
    let Description { version, cluster, nodes, limits, .. } = description;
    let mut value = capabilities(description);
    value["version"] = json!(version);
    value["cluster"] = json!(cluster);
    value["nodes"] = json!(nodes);
    value["record_bytes_max"] = json!(limits.record_bytes_max);
    value["append_bytes_max"] = json!(limits.append_bytes_max);
    value["append_records_max"] = json!(limits.append_records_max);
    value
}

/// An engine's name, and what it can do.
fn capabilities(description: &Description) -> Value {
    let capability = |capability: Capability| {
        let support = description.support(capability);
        let mut value = json!({
            "capability": capability.name(),
            "support": word(support),
            "had_by": capability.had_by(),
        });
        match support {
            Support::Native => {}
            Support::Emulated { cost } => value["cost"] = json!(cost),
            Support::Absent { why } => value["why"] = json!(why),
        }
        value
    };
    let all: Vec<_> = Capability::ALL.into_iter().map(capability).collect();
    json!({ "engine": description.engine, "capabilities": all })
}
