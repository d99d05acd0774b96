//! The two sides of a move, by their addresses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anabranch::engine::{Capability, Engine, KafkaEngine, KafkaSettings, OpenError};
use anabranch_broker::{Broker, Elsewhere, Node};
use anabranch_move::{Gate, Watching};
use anabranch_serve::{Answer, Ask, Control, forget};
use anyhow::Context;

use super::super::client::{open, opened};
use super::super::failure::usage;
use super::gate::{Directory, Keeper};

/// A source.
pub(super) struct Side {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) gate: Box<dyn Gate>,
    /// Where notes are kept unless it is said.
    pub(super) notes: PathBuf,
    /// What an operator has to do while the source is to stand still.
    pub(super) hint: Option<String>,
}

/// An engine's address: what names none is a directory.
pub(super) fn address(text: &str) -> String {
    let is_address = text.starts_with("embedded:") || text.contains("://");
    if is_address { text.to_owned() } else { format!("embedded:{text}") }
}

/// Opens the source. A data directory that a server has open is read through that server.
pub(super) async fn open_source(
    url: &str,
    target: &str,
    still: Duration,
    lease: Duration,
    redirect: Option<Elsewhere>,
) -> anyhow::Result<Side> {
    let Some(directory) = url.strip_prefix("embedded:").map(Path::new) else {
        let engine = open(url).await?;
        return Ok(Side {
            gate: Box::new(Watching::new(Arc::clone(&engine), still)),
            engine,
            notes: PathBuf::from("anabranch-move"),
            hint: Some(format!(
                "stop the producers of these topics now, and their consumers: it goes on when nothing was appended for {} s",
                still.as_secs_f64()
            )),
        });
    };
    let target = without_properties(target);
    let (engine, keeper): (Arc<dyn Engine>, _) = match Control::connect(directory).await {
        Ok(mut control) => {
            let who = control.ask(&Ask::Who).await;
            let who =
                who.with_context(|| format!("the server of {} does not answer", directory.display()))?;
            let Answer::Who { kafka, pass, .. } = who else { anyhow::bail!("the server answers {who:?}") };
            // It sees the directory after clients were sent on, too.
            let pass = if pass.is_empty() { String::new() } else { format!("?client.id={pass}") };
            let engine = open(&format!("kafka://{kafka}{pass}")).await?;
            let control = tokio::sync::Mutex::new(Some(control));
            (engine, Keeper::Server { directory: directory.to_owned(), control })
        }
        Err(_) => {
            let broker = Broker::open(directory).await.map_err(OpenError::from);
            let broker = opened(broker)?;
            (Arc::new(broker.clone()), Keeper::Own(broker))
        }
    };
    let gate = Box::new(Directory::new(keeper, target, lease, redirect));
    Ok(Side { engine, gate, notes: directory.join("moves"), hint: None })
}

/// An address without its properties, which may be secret.
fn without_properties(url: &str) -> String {
    url.split_once('?').map_or(url, |(address, _)| address).to_owned()
}

/// Gives up what was begun.
pub(super) async fn abandon(url: &str, target: &str) -> anyhow::Result<()> {
    let Some(directory) = url.strip_prefix("embedded:").map(Path::new) else {
        return Err(usage(
            "--abandon: only a data directory knows of a move; elsewhere there is nothing to give up",
        ));
    };
    let target = without_properties(target);
    let failed = || format!("cannot give up the move to {target}");
    if let Ok(mut control) = Control::connect(directory).await {
        return match control.ask(&Ask::Forget { target: target.clone() }).await.with_context(failed)? {
            Answer::Done => Ok(()),
            Answer::Refused { reason } | Answer::NotYet { reason } => anyhow::bail!("{}: {reason}", failed()),
            other => anyhow::bail!("{}: the server answers {other:?}", failed()),
        };
    }
    let broker = opened(Broker::open(directory).await.map_err(OpenError::from))?;
    let forgotten = forget(&broker, &target).await;
    broker.close().await;
    forgotten.with_context(failed)
}

/// Where the clients of `from` are sent when it has moved to `to`: what they can be told of is a Kafka, and whoever tells them a directory.
pub(super) async fn elsewhere(from: &str, to: &str) -> anyhow::Result<Elsewhere> {
    if !from.starts_with("embedded:") {
        return Err(usage("--old-clients redirect: only a data directory's server sends its clients on"));
    }
    let settings: KafkaSettings = to.parse().map_err(|_| {
        usage("--old-clients redirect: clients can be sent to kafka:// only, whose protocol they speak")
    })?;
    let there = opened(KafkaEngine::open(settings, &[]).await.map_err(OpenError::from))?;
    let nodes = there.brokers().iter().map(|broker| Node {
        id: broker.id,
        host: broker.host.clone(),
        port: broker.port,
    });
    let found = Elsewhere { cluster: there.description().cluster.clone(), nodes: nodes.collect() };
    there.close().await;
    anyhow::ensure!(
        !found.nodes.is_empty(),
        "{} names no brokers that clients could be sent to",
        without_properties(to)
    );
    Ok(found)
}

pub(super) async fn open_target(url: &str) -> anyhow::Result<Arc<dyn Engine>> {
    let target = open(url).await?;
    if let Err(unsuitable) =
        target.require(&[Capability::PartitionOrder, Capability::Replay, Capability::Groups])
    {
        target.close().await;
        return Err(unsuitable).context("the target is no engine to move to");
    }
    Ok(target)
}
