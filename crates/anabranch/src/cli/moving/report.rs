//! What was moved and verified, for people and for programs.

use serde_json::{Value, json};

use super::super::output::{Output, counted};
use super::super::{Column, grouped};
use super::Moved;
use super::own::Left;

pub(super) fn show(moved: &Moved, output: &mut Output) -> anyhow::Result<()> {
    let Moved { report, left: own, is_redirected } = moved;
    if report.is_dry_run {
        let rows =
            report.topics.iter().map(|topic| vec![topic.name.clone(), topic.partition_count.to_string()]);
        output.table(&[Column::Text("TOPIC"), Column::Number("PARTITIONS")], rows.collect())?;
        for line in lines_of(own) {
            output.line(line)?;
        }
        return output.line("nothing was done: this was a dry run");
    }
    let partitions = report.topics.iter().flat_map(|topic| &topic.partitions);
    let rows = partitions.clone().map(|partition| {
        vec![
            partition.at.to_string(),
            grouped(partition.records),
            grouped(partition.bytes),
            format!("{} to {}", partition.source.0, partition.source.1),
            format!("{} to {}", partition.target.0, partition.target.1),
            partition.target_checksum.to_string(),
        ]
    });
    output.table(
        &[
            Column::Text("PARTITION"),
            Column::Number("RECORDS"),
            Column::Number("BYTES"),
            Column::Text("SOURCE"),
            Column::Text("TARGET"),
            Column::Text("CHECKSUM, EQUAL ON BOTH SIDES"),
        ],
        rows.collect(),
    )?;
    if !report.groups.is_empty() {
        output.line("")?;
        let positions = report.groups.iter().flat_map(|group| {
            let row = |(at, here, there): &(anabranch_core::TopicPartition, _, _)| {
                vec![group.name.clone(), at.to_string(), format!("{here}"), format!("{there}")]
            };
            group.positions.iter().map(row)
        });
        let columns = [
            Column::Text("GROUP"),
            Column::Text("PARTITION"),
            Column::Number("IN THE SOURCE"),
            Column::Number("IN THE TARGET"),
        ];
        output.table(&columns, positions.collect())?;
    }
    let left = report.topics.iter().flat_map(|topic| {
        let line = move |(name, why): &(String, String)| format!("{}: {name} is not set: {why}", topic.name);
        topic.settings_left.iter().map(line)
    });
    let left: Vec<_> = left.collect();
    let thinned: u64 = partitions.clone().map(|partition| partition.thinned).sum();
    output.line("")?;
    if thinned > 0 {
        output.line(format!(
            "the target has compacted {} records of these topics, all of whose keys have newer ones",
            grouped(thinned)
        ))?;
    }
    for topic in &report.topics {
        let translated: u64 = topic.partitions.iter().map(|partition| partition.translated).sum();
        let gone: u64 = topic.partitions.iter().map(|partition| partition.gone).sum();
        if translated > 0 {
            output.line(format!(
                "{}: {} of other topics translated, by what was written behind its records",
                topic.name,
                counted(translated, "position")
            ))?;
        }
        if gone > 0 {
            output.line(format!(
                "{}: {} left out, whose records the source has deleted",
                topic.name,
                counted(gone, "position")
            ))?;
        }
    }
    for line in lines_of(own) {
        output.line(line)?;
    }
    for line in left {
        output.line(line)?;
    }
    if *is_redirected {
        show_redirect(report, output)?;
    }
    if report.was_decided {
        return output.line("the move was decided before; settings were written once more");
    }
    output.line(format!(
        "moved and verified {} in {}, and {}, in {:.1} s; the source stood still for {:.2} s",
        counted(partitions.clone().map(|partition| partition.records).sum::<u64>(), "record"),
        counted(partitions.count() as u64, "partition"),
        counted(report.groups.len() as u64, "group"),
        report.took.as_secs_f64(),
        report.pause.as_secs_f64(),
    ))
}

fn lines_of(left: &[Left]) -> impl Iterator<Item = String> {
    left.iter()
        .map(|Left { topic, why, .. }| format!("{topic} is left: it is a flow's or a queue's own, and {why}"))
}

/// What old clients do from now on, and which of them cannot.
fn show_redirect(report: &anabranch_move::Report, output: &mut Output) -> anyhow::Result<()> {
    output.line(
        "old clients are sent to the target, in some seconds: leave the old server up until they are there",
    )?;
    let partitions = report.topics.iter().flat_map(|topic| &topic.partitions);
    let shifted: Vec<_> = partitions
        .filter(|partition| partition.is_shifted)
        .map(|partition| partition.at.to_string())
        .collect();
    if shifted.is_empty() {
        return Ok(());
    }
    output.line(format!(
        "records have other positions there in {}: groups are translated; whoever reads these without a group is refused with \
         POLICY_VIOLATION, and must not take its positions along",
        shifted.join(", ")
    ))
}

pub(super) fn as_json(moved: &Moved) -> Value {
    let Moved { report, left: own, is_redirected } = moved;
    let topics = report.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            json!({
                "partition": partition.at.partition,
                "records": partition.records,
                "compacted_by_the_target": partition.thinned,
                "bytes": partition.bytes,
                "positions_differ": partition.is_shifted,
                "source": { "start": partition.source.0.0, "end": partition.source.1.0,
                            "checksum": partition.source_checksum.to_string() },
                "target": { "start": partition.target.0.0, "end": partition.target.1.0,
                            "checksum": partition.target_checksum.to_string() },
                "positions_translated": partition.translated,
                "positions_gone": partition.gone,
            })
        });
        let left = topic.settings_left.iter().map(|(name, why)| json!({ "name": name, "why": why }));
        json!({
            "topic": topic.name,
            "was_there": topic.was_there,
            "partition_count": topic.partition_count,
            "partitions": partitions.collect::<Vec<_>>(),
            "settings_left": left.collect::<Vec<_>>(),
        })
    });
    let own = own.iter().map(|left| json!({ "topic": left.topic, "why": left.why }));
    let groups = report.groups.iter().map(|group| {
        let positions = group.positions.iter().map(|(at, here, there)| {
            json!({ "topic": at.topic, "partition": at.partition, "source": here.0, "target": there.0 })
        });
        json!({ "group": group.name, "positions": positions.collect::<Vec<_>>() })
    });
    json!({
        "id": report.id,
        "dry_run": report.is_dry_run,
        "was_decided": report.was_decided,
        "old_clients": if *is_redirected { "redirect" } else { "refuse" },
        "topics": topics.collect::<Vec<_>>(),
        "left": own.collect::<Vec<_>>(),
        "groups": groups.collect::<Vec<_>>(),
        "pause_ms": report.pause.as_millis() as u64,
        "took_ms": report.took.as_millis() as u64,
    })
}
