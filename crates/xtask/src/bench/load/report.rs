//! Figures, their ratios, and the goals that are ratios.

use std::collections::BTreeSet;

use super::super::contender::Contender;
use super::super::goal::Goal;
use super::super::kafka::Acks;
use super::super::table::{Spread, cell, table};
use super::{Codec, Found, Load, Measurement, Work};

/// A figure of a measurement; `None` where it has none.
type Figure = fn(&Measurement) -> Option<f64>;

const RATE: Figure = |one| Some(one.told.records_per_second);
const P99: Figure = |one| Some(one.told.latency_us.as_ref()?.p99);
const CPU: Figure = |one| Some(one.cpu_us_per_record());

const FIGURES: [(&str, usize, Figure); 8] = [
    ("records/s", 0, RATE),
    ("MiB/s", 1, |one| Some(one.told.mib_per_second)),
    ("p50 ms", 2, |one| Some(one.told.latency_us.as_ref()?.p50 / 1e3)),
    ("p99 ms", 2, |one| Some(one.told.latency_us.as_ref()?.p99 / 1e3)),
    ("p99.9 ms", 2, |one| Some(one.told.latency_us.as_ref()?.p99_9 / 1e3)),
    ("CPU µs/record", 2, CPU),
    ("written MiB", 0, |one| Some(one.usage.disk_written_bytes? as f64 / f64::from(1 << 20))),
    ("RSS MiB after", 0, |one| Some(one.resident_bytes_after as f64 / f64::from(1 << 20))),
];

const RATIOS: [(&str, Work, Figure); 6] = [
    ("produce", Work::Produce, RATE),
    ("fetch", Work::Fetch, RATE),
    ("paced p50", Work::Paced, |one| Some(one.told.latency_us.as_ref()?.p50)),
    ("paced p99", Work::Paced, P99),
    ("produce CPU", Work::Produce, CPU),
    ("fetch CPU", Work::Fetch, CPU),
];

pub(super) fn report(found: &Found) -> String {
    let of = |work| figures(found, work);
    [
        "## Producing as fast as possible".to_owned(),
        of(Work::Produce),
        "`sink` answers and does nothing: the client's own limit.".to_owned(),
        "## Producing at half of what the slowest reaches".to_owned(),
        of(Work::Paced),
        "Latency is from when a request is due to its answer.".to_owned(),
        "## Fetching what was produced".to_owned(),
        of(Work::Fetch),
        "## Ratios to Kafka".to_owned(),
        "Each round's own. Rates: more is better. Latency and CPU: less is better.".to_owned(),
        ratios(found),
    ]
    .join("\n\n")
}

fn counted(found: &Found) -> impl Iterator<Item = &Measurement> + Clone {
    found.measurements.iter().filter(|one| one.round > 0)
}

fn loads(found: &Found) -> BTreeSet<Load> {
    counted(found).map(|one| one.load).collect()
}

fn contenders(found: &Found) -> BTreeSet<Contender> {
    counted(found).map(|one| one.contender).collect()
}

fn figures(found: &Found, work: Work) -> String {
    let columns: Vec<_> = FIGURES
        .iter()
        .filter(|(_, _, figure)| counted(found).any(|one| one.work == work && figure(one).is_some()))
        .collect();
    let mut rows = Vec::new();
    for load in loads(found) {
        for contender in contenders(found) {
            let of = counted(found)
                .filter(move |one| (one.load, one.contender, one.work) == (load, contender, work));
            let mut row = vec![load.to_string(), contender.name().to_owned()];
            row.extend(
                columns.iter().map(|(_, digits, figure)| cell(of.clone().filter_map(figure), *digits)),
            );
            rows.push(row);
        }
        if work == Work::Produce
            && let Some(limit) = found.limits.iter().find(|limit| limit.load == load)
        {
            let told = &limit.told;
            let figures = [format!("{:.0}", told.records_per_second), format!("{:.1}", told.mib_per_second)];
            let mut row = vec![load.to_string(), "sink".to_owned()];
            row.extend(figures);
            row.resize(2 + columns.len(), String::new());
            rows.push(row);
        }
    }
    let mut header = vec!["", ""];
    header.extend(columns.iter().map(|(name, _, _)| *name));
    table(&header, &rows)
}

fn ratios(found: &Found) -> String {
    let mut rows = Vec::new();
    for load in loads(found) {
        for pair in pairs(found) {
            let equal = if pair.0.syncs() == pair.1.syncs() { "yes" } else { "no" };
            let mut row =
                vec![load.to_string(), format!("{} / {}", pair.0.name(), pair.1.name()), equal.to_owned()];
            row.extend(RATIOS.iter().map(|&(_, work, figure)| {
                ratio(found, load, work, pair, figure)
                    .map_or_else(String::new, |spread| format!("{spread:.2}"))
            }));
            rows.push(row);
        }
    }
    let mut header = vec!["", "", "equal durability"];
    header.extend(RATIOS.iter().map(|(name, _, _)| *name));
    table(&header, &rows)
}

/// Each of ours to each of Kafka's.
fn pairs(found: &Found) -> Vec<(Contender, Contender)> {
    let (kafka, ours): (Vec<_>, Vec<_>) = contenders(found).into_iter().partition(|one| one.is_kafka());
    ours.iter().flat_map(|&ours| kafka.iter().map(move |&kafka| (ours, kafka))).collect()
}

/// How one contender's figure relates to another's of the same round.
fn ratio(
    found: &Found,
    load: Load,
    work: Work,
    (ours, theirs): (Contender, Contender),
    figure: Figure,
) -> Option<Spread> {
    let of = |contender| {
        counted(found).filter(move |one| (one.load, one.contender, one.work) == (load, contender, work))
    };
    Spread::of(of(ours).filter_map(|our| {
        let their = of(theirs).find(|their| their.round == our.round)?;
        Some(figure(our)? / figure(their)?).filter(|ratio| ratio.is_finite())
    }))
}

/// What a ratio of the goals must be.
#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// The worst of some loads' ratios, and whether even that is good enough. A rate that is the client's own limit is.
fn worst(
    found: &Found,
    which: fn(&Load) -> bool,
    pair: (Contender, Contender),
    (name, work, figure): (&str, Work, Figure),
    bound: Bound,
) -> Option<(String, bool)> {
    let of = |load: Load| Some((ratio(found, load, work, pair, figure)?, load));
    let all = loads(found).into_iter().filter(which).filter_map(of);
    let order = |a: &(Spread, Load), b: &(Spread, Load)| a.0.median.total_cmp(&b.0.median);
    let (spread, load) = match bound {
        Bound::AtLeast(_) => all.min_by(order)?,
        Bound::AtMost(_) => all.max_by(order)?,
    };
    let enough = match bound {
        Bound::AtLeast(least) => spread.median >= least,
        Bound::AtMost(most) => spread.median <= most,
    };
    let said = format!("{name} {spread:.2} × at worst ({load})");
    let at_limit = matches!(bound, Bound::AtLeast(_)) && !enough && is_at_limit(found, load, pair.0);
    Some(if at_limit { (said + ", the client's limit", true) } else { (said, enough) })
}

/// Whether a contender is as fast as nothing at all, but for a tenth.
fn is_at_limit(found: &Found, load: Load, contender: Contender) -> bool {
    let is_meant =
        |one: &&Measurement| (one.load, one.contender, one.work) == (load, contender, Work::Produce);
    let reached = Spread::of(counted(found).filter(is_meant).filter_map(RATE));
    let limit = found.limits.iter().find(|limit| limit.load == load);
    reached.zip(limit).is_some_and(|(reached, limit)| reached.median >= 0.9 * limit.told.records_per_second)
}

fn is_plain(load: &Load) -> bool {
    load.record_bytes == 1024 && load.codec == Codec::None
}

fn is_few(load: &Load) -> bool {
    is_plain(load) && load.acks == Acks::All && load.partitions <= 16
}

fn is_many(load: &Load) -> bool {
    is_plain(load) && load.acks == Acks::All && load.partitions > 16
}

fn is_durable(load: &Load) -> bool {
    is_plain(load) && load.acks == Acks::All
}

pub(super) fn goals(found: &Found) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Contender::{Anabranch, AnabranchRelaxed, Kafka, KafkaFlush};
    const PRODUCE: (&str, Work, Figure) = ("rate", Work::Produce, RATE);
    const PACED_P99: (&str, Work, Figure) = ("p99", Work::Paced, P99);
    const SERVER_CPU: (&str, Work, Figure) = ("CPU", Work::Produce, CPU);
    let equal = (Anabranch, KafkaFlush);
    let stronger = (Anabranch, Kafka);
    let relaxed = (AnabranchRelaxed, Kafka);
    vec![
        Goal::of(
            "acks=all, 1 KiB, up to 16 partitions, against Kafka with flush.messages=1",
            "≥ 3 × throughput, p99 ≤ half",
            [
                worst(found, is_few, equal, PRODUCE, AtLeast(3.0)),
                worst(found, is_few, equal, PACED_P99, AtMost(0.5)),
            ],
        ),
        Goal::of(
            "the same with 256 and 2,000 partitions",
            "≥ 5 ×, or the client's limit",
            [worst(found, is_many, equal, PRODUCE, AtLeast(5.0))],
        ),
        Goal::of(
            "acks=all against Kafka's default, which does not sync",
            "≥ 1 × throughput, p99 not higher, ≤ half the server CPU",
            [
                worst(found, is_durable, stronger, PRODUCE, AtLeast(1.0)),
                worst(found, is_durable, stronger, PACED_P99, AtMost(1.0)),
                worst(found, is_durable, stronger, SERVER_CPU, AtMost(0.5)),
            ],
        ),
        Goal::of(
            "relaxed against Kafka's default",
            "≥ 1.5 × with a light client, ≤ one third of the server CPU per record",
            [
                worst(found, is_plain, relaxed, PRODUCE, AtLeast(1.5)),
                worst(found, is_plain, relaxed, SERVER_CPU, AtMost(1.0 / 3.0)),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::super::client::{Latency, Told};
    use super::super::super::goal::Reached;
    use super::super::super::process::Usage;
    use super::super::{Limit, MIDDLE};
    use super::*;

    fn told(rate: f64, p99: f64) -> Told {
        let latency = Latency {
            count: 1,
            mean: 1.0,
            p50: 1.0,
            p90: 1.0,
            p99,
            p99_9: p99,
            p99_99: p99,
            max: p99,
            quantiles: Vec::new(),
        };
        Told {
            records_per_second: rate,
            mib_per_second: rate / 1024.0,
            latency_us: Some(latency),
            records_total: 1000,
            request_bytes: None,
            client_cpu_seconds: 0.0,
        }
    }

    fn measurement(round: u32, contender: Contender, load: Load, work: Work, told: Told) -> Measurement {
        let usage = Usage { cpu_seconds: 0.5, disk_written_bytes: Some(1 << 20) };
        Measurement { round, contender, load, work, told, usage, resident_bytes_after: 1 << 20 }
    }

    /// Two loads, both works, with these rates of ours; Kafka's is 100, and its p99 100.
    fn found(ours: [f64; 2], p99: f64) -> Found {
        let mut found = Found::default();
        for (load, rate) in [MIDDLE, Load { producers: 1, ..MIDDLE }].into_iter().zip(ours) {
            for work in [Work::Produce, Work::Paced] {
                for (contender, told) in
                    [(Contender::Anabranch, told(rate, p99)), (Contender::KafkaFlush, told(100.0, 100.0))]
                {
                    // The round that warms up says something else, and is not heard.
                    found.measurements.push(measurement(0, contender, load, work, self::told(1.0, 1.0)));
                    found.measurements.push(measurement(1, contender, load, work, told));
                }
            }
        }
        found
    }

    #[test]
    fn the_worst_load_decides() {
        let first = |found: &Found| goals(found).swap_remove(0);
        assert_eq!(first(&found([300.0, 400.0], 50.0)).reached, Reached::Yes);
        let one_slow = first(&found([300.0, 299.0], 50.0));
        assert_eq!(one_slow.reached, Reached::No);
        assert!(
            one_slow.measured.starts_with("rate 2.99 × at worst (1024 B, acks=all, 1 prod.,"),
            "{one_slow:?}"
        );
        assert_eq!(first(&found([300.0, 400.0], 51.0)).reached, Reached::No, "for its p99");
        assert_eq!(
            goals(&found([300.0, 400.0], 50.0))[2].reached,
            Reached::Unknown,
            "nobody measured Kafka's default"
        );
    }

    #[test]
    fn a_client_that_can_no_more_is_no_fault_of_the_server() {
        let mut found = found([250.0, 400.0], 50.0);
        for (limit, expect) in [(1000.0, Reached::No), (270.0, Reached::Yes)] {
            found.limits = vec![Limit { load: MIDDLE, told: told(limit, 1.0) }];
            assert_eq!(goals(&found)[0].reached, expect, "{limit}");
        }
    }

    #[test]
    fn the_sink_is_in_the_table_of_what_is_produced() {
        let mut found = found([250.0, 400.0], 50.0);
        found.limits = vec![Limit { load: MIDDLE, told: told(7777.0, 1.0) }];
        let report = report(&found);
        assert_eq!(report.matches("7777").count(), 1, "{report}");
        assert!(report.contains("| anabranch / kafka-flush | yes"), "{report}");
    }
}
