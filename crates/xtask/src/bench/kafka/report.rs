//! Tables for people, in Markdown: figures, and their ratios to Kafka's.

use std::collections::BTreeSet;

use super::super::contender::Contender;
use super::super::table::{Spread, cell, mib, table};
use super::load::{Load, Work};
use super::{AtRest, Found, Measurement, Options};

/// All of a run's tables.
pub(super) fn report(options: &Options, results: &Found) -> String {
    let measured: Vec<&Measurement> = results.measurements.iter().filter(|one| !one.warm_up).collect();
    let pace = options.pace;
    [
        "## At rest".to_owned(),
        at_rest(results),
        "## Producing as fast as possible".to_owned(),
        figures(&measured, Work::Produce),
        "Latency is the time in the producer's full buffer here, and says again what the rate says."
            .to_owned(),
        format!("## Producing {pace} records/s"),
        figures(&measured, Work::Paced),
        "## Consuming".to_owned(),
        figures(&measured, Work::Consume),
        "## Ratios to Kafka".to_owned(),
        "Each round's own. Rates: more is better. Latency and CPU: less is better.".to_owned(),
        ratios(&measured),
    ]
    .join("\n\n")
}

fn at_rest(results: &Found) -> String {
    let header = ["", "start ms", "RSS MiB", "RSS MiB with partitions", "program MiB"];
    let row = |one: &AtRest| {
        vec![
            one.contender.name().to_owned(),
            one.start_ms.to_string(),
            mib(one.resident_bytes),
            format!("{} ({})", mib(one.resident_bytes_with_partitions), one.partitions),
            mib(one.program_bytes),
        ]
    };
    table(&header, &results.at_rest.iter().map(row).collect::<Vec<_>>())
}

/// A figure of a measurement; `None` where it has none.
type Figure = fn(&Measurement) -> Option<f64>;

/// The columns of the tables of figures, with the digits after the point.
const FIGURES: [(&str, usize, Figure); 9] = [
    ("records/s", 0, |one| Some(one.measured.records_per_second)),
    ("MiB/s", 1, |one| Some(one.measured.mib_per_second)),
    ("p50 ms", 0, |one| Some(one.measured.latency_ms?.p50 as f64)),
    ("p95 ms", 0, |one| Some(one.measured.latency_ms?.p95 as f64)),
    ("p99 ms", 0, |one| Some(one.measured.latency_ms?.p99 as f64)),
    ("p99.9 ms", 0, |one| Some(one.measured.latency_ms?.p99_9 as f64)),
    ("CPU µs/record", 2, |one| Some(one.cpu_us_per_record())),
    ("written MiB", 0, |one| Some(one.usage.disk_written_bytes? as f64 / f64::from(1 << 20))),
    ("RSS MiB after", 0, |one| Some(one.resident_bytes_after as f64 / f64::from(1 << 20))),
];

/// The columns of the table of ratios.
const RATIOS: [(&str, Work, Figure); 6] = [
    ("produce", Work::Produce, |one| Some(one.measured.records_per_second)),
    ("consume", Work::Consume, |one| Some(one.measured.records_per_second)),
    ("paced p50", Work::Paced, |one| Some(one.measured.latency_ms?.p50 as f64)),
    ("paced p99", Work::Paced, |one| Some(one.measured.latency_ms?.p99 as f64)),
    ("produce CPU", Work::Produce, |one| Some(one.cpu_us_per_record())),
    ("consume CPU", Work::Consume, |one| Some(one.cpu_us_per_record())),
];

fn loads(measured: &[&Measurement]) -> BTreeSet<Load> {
    measured.iter().map(|one| one.load).collect()
}

fn contenders(measured: &[&Measurement], is_kafka: bool) -> BTreeSet<Contender> {
    measured.iter().map(|one| one.contender).filter(|contender| contender.is_kafka() == is_kafka).collect()
}

fn figures(measured: &[&Measurement], work: Work) -> String {
    let columns: Vec<_> = FIGURES
        .iter()
        .filter(|(_, _, figure)| measured.iter().any(|one| one.work == work && figure(one).is_some()))
        .collect();
    let mut rows = Vec::new();
    for load in loads(measured) {
        for contender in contenders(measured, false).into_iter().chain(contenders(measured, true)) {
            let is_meant =
                |one: &&&Measurement| (one.load, one.contender, one.work) == (load, contender, work);
            let column = |&&(_, digits, figure): &&(&str, usize, Figure)| {
                cell(measured.iter().filter(is_meant).filter_map(|one| figure(one)), digits)
            };
            let mut row = vec![load.to_string(), contender.name().to_owned()];
            row.extend(columns.iter().map(column));
            rows.push(row);
        }
    }
    let mut header = vec!["", ""];
    header.extend(columns.iter().map(|(name, _, _)| *name));
    table(&header, &rows)
}

fn ratios(measured: &[&Measurement]) -> String {
    let mut rows = Vec::new();
    for load in loads(measured) {
        for ours in contenders(measured, false) {
            for kafka in contenders(measured, true) {
                let equal = if ours.syncs() == kafka.syncs() { "yes" } else { "no" };
                let pair = format!("{} / {}", ours.name(), kafka.name());
                let mut row = vec![load.to_string(), pair, equal.to_owned()];
                row.extend(RATIOS.iter().map(|&(_, work, figure)| {
                    let spread = ratio(measured, load, work, (ours, kafka), figure);
                    spread.map_or_else(String::new, |spread| format!("{spread:.2}"))
                }));
                rows.push(row);
            }
        }
    }
    let mut header = vec!["", "", "equal durability"];
    header.extend(RATIOS.iter().map(|(name, _, _)| *name));
    table(&header, &rows)
}

/// How one contender's figure relates to another's of the same round.
fn ratio(
    measured: &[&Measurement],
    load: Load,
    work: Work,
    (ours, kafka): (Contender, Contender),
    figure: Figure,
) -> Option<Spread> {
    let of = |contender| {
        let is_meant =
            move |one: &&&Measurement| (one.load, one.contender, one.work) == (load, contender, work);
        measured.iter().filter(is_meant)
    };
    let rounds = of(ours).filter_map(|our| {
        let theirs = of(kafka).find(|their| their.round == our.round)?;
        Some(figure(our)? / figure(theirs)?).filter(|ratio| ratio.is_finite())
    });
    Spread::of(rounds)
}

#[cfg(test)]
mod tests {
    use super::super::super::process::Usage;
    use super::super::super::tool::{Latency, Measured};
    use super::super::load::Acks;
    use super::*;

    const LOAD: Load = Load { record_bytes: 1024, acks: Acks::All, partitions: 16 };

    fn measurement(round: u32, contender: Contender, work: Work, rate: f64, p99: u64) -> Measurement {
        let latency = Latency { p50: 1, p95: 2, p99, p99_9: 40 };
        Measurement {
            round,
            warm_up: false,
            contender,
            load: LOAD,
            work,
            measured: Measured {
                records: 1000,
                records_per_second: rate,
                mib_per_second: rate / 1024.0,
                latency_ms: (work != Work::Consume).then_some(latency),
            },
            usage: Usage { cpu_seconds: 0.25, disk_written_bytes: Some(3 << 20) },
            resident_bytes_after: 30 << 20,
        }
    }

    #[test]
    fn a_ratio_compares_what_the_same_round_measured() {
        // A machine that was twice as fast in the second round changes no ratio.
        let (ours, kafka) = (Contender::Anabranch, Contender::KafkaFlush);
        let all = [
            measurement(1, ours, Work::Produce, 300.0, 4),
            measurement(1, kafka, Work::Produce, 100.0, 8),
            measurement(2, kafka, Work::Produce, 200.0, 0),
            measurement(2, ours, Work::Produce, 600.0, 4),
            measurement(3, ours, Work::Produce, 777.0, 4),
        ];
        let all: Vec<&Measurement> = all.iter().collect();
        let rate = ratio(&all, LOAD, Work::Produce, (ours, kafka), RATIOS[0].2);
        assert_eq!(rate, Some(Spread { min: 3.0, median: 3.0, max: 3.0 }));
        let p99 = ratio(&all, LOAD, Work::Produce, (ours, kafka), RATIOS[3].2);
        assert_eq!(p99, Some(Spread { min: 0.5, median: 0.5, max: 0.5 }), "and nothing is divided by zero");
        assert_eq!(ratio(&all, LOAD, Work::Paced, (ours, kafka), RATIOS[0].2), None);
        let table = ratios(&all);
        assert!(table.contains("| 1024 B, acks=all, 16 part. | anabranch / kafka-flush | yes"), "{table}");
        assert!(table.contains("| 3.00"), "{table}");
    }

    #[test]
    fn consuming_has_no_columns_for_latency() {
        let all = [
            measurement(1, Contender::Kafka, Work::Consume, 5000.4, 0),
            measurement(1, Contender::Kafka, Work::Produce, 100.0, 12),
        ];
        let all: Vec<&Measurement> = all.iter().collect();
        let consumed = "\
|                            |       | records/s | MiB/s | CPU µs/record | written MiB | RSS MiB after |
| -------------------------- | ----- | --------- | ----- | ------------- | ----------- | ------------- |
| 1024 B, acks=all, 16 part. | kafka | 5000      | 4.9   | 250.00        | 3           | 30            |";
        assert_eq!(figures(&all, Work::Consume), consumed);
        assert!(figures(&all, Work::Produce).contains("| p99 ms |"));
    }
}
