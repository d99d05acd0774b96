//! What the demo shows: on a terminal a progress bar and a live table, elsewhere a line now and then, as JSON the end.

use std::collections::BTreeMap;
use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anabranch::flow::Metrics;
use anabranch_core::TopicPartition;
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Engine, Position, ReadLimits};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::feed::Acknowledged;
use super::flights::{FLIGHTS_BY_ORIGIN, FLIGHTS_TOTAL};
use super::totals::{AT_LEAST_ONCE, Check, Report};
use super::{Departures, REFRESH, RESULTS};
use crate::cli::Column::{Number, Text};
use crate::cli::{grouped, table};

/// Away from a terminal, a line per so many records.
const RECORDS_PER_LINE: u64 = 50_000;

/// Where the demo speaks.
#[derive(Debug)]
pub(super) struct View {
    json: bool,
    /// What the flights go through.
    through: &'static str,
    acknowledged: Acknowledged,
}

impl View {
    pub(super) fn new(json: bool, through: &'static str) -> Self {
        Self { json, through, acknowledged: Acknowledged::default() }
    }

    /// Tells a person something.
    pub(super) fn say(&self, text: impl AsRef<str>) {
        if !self.json {
            println!("{}", text.as_ref());
        }
    }

    /// What the producer counts on.
    pub(super) fn progress(&self) -> Acknowledged {
        self.acknowledged.clone()
    }

    /// Shows progress and the newest results until told to stop.
    pub(super) async fn watch(&self, engine: &dyn Engine, metrics: &Arc<Metrics>) -> anyhow::Result<Live> {
        let newest = Arc::new(Mutex::new(Newest::new()));
        let mut results = engine.reader(&TopicPartition::new(RESULTS, 0), Position(0)).await?;
        let reader = tokio::spawn({
            let newest = Arc::clone(&newest);
            async move {
                loop {
                    let from = results.position();
                    let Ok(fetched) = results.read(ReadLimits::default()).await else { return };
                    for RecordAt { record, .. } in fetched.block.into_records(from).unwrap_or_default() {
                        let value = record.value.unwrap_or_default();
                        if let Ok(result) = serde_json::from_slice::<Departures>(&value) {
                            newest.lock().insert(result.airport.clone(), result);
                        }
                    }
                }
            }
        });
        let bar = match self.json {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()),
            false => ProgressBar::new(FLIGHTS_TOTAL),
        };
        let style =
            ProgressStyle::with_template("{msg}\n{bar:40} {human_pos}/{human_len} flights, {rate} a second");
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            // Nobody to tell when the terminal is gone.
            let _ = out.write_str(&grouped(state.per_sec() as u64));
        };
        bar.set_style(style.context("the progress bar's template")?.with_key("rate", rate));
        let ticker = tokio::spawn(refresh(
            bar.clone(),
            self.json || std::io::stderr().is_terminal(),
            self.acknowledged.clone(),
            Arc::clone(metrics),
            newest,
        ));
        Ok(Live { tasks: [reader, ticker], bar })
    }

    /// Prints the totals and the throughput. Whether all totals are right.
    pub(super) fn report(&self, report: &Report) -> anyhow::Result<bool> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
            return Ok(report.is_right());
        }
        let columns = [Text("total"), Number("expected"), Number("found"), Number("reopened"), Text("")];
        let row = |check: &Check| {
            let [expected, found, reopened] = [check.expected, check.found, check.reopened].map(grouped);
            let verdict = if check.is_right() { "ok" } else { "WRONG" };
            vec![check.name.clone(), expected, found, reopened, verdict.to_owned()]
        };
        println!("\n{}\n", table(&columns, report.checks.iter().map(row).collect()));
        println!(
            "{} flights ({:.1} MB) through {} in {:.1} s: {} a second, all acknowledged.",
            grouped(report.records),
            report.bytes as f64 / 1e6,
            self.through,
            report.produce_seconds,
            grouped(report.records_per_second as u64),
        );
        println!(
            "{} windows; {} flights came more than an hour out of order and went to flights-late. {:.1} s in all.",
            grouped(report.windows),
            grouped(report.late),
            report.total_seconds,
        );
        println!(
            "{}",
            match report.delivery == AT_LEAST_ONCE {
                true =>
                    "DELIVERED AT LEAST ONCE: this engine has no transactions. A crash may repeat results, of which the \
                     newest per key is right; the counts behind them take in each record once.",
                false => "Delivered exactly once: input, state and results of each step are one transaction.",
            }
        );
        println!("{}", if report.is_right() { "Every total is right." } else { "SOME TOTALS ARE WRONG." });
        Ok(report.is_right())
    }

    /// What to try after the demo.
    pub(super) fn what_next(&self, data: Option<&Path>) {
        self.say("\nTry next:");
        match data {
            Some(data) => self.say(format!("  anabranch serve --data {}", data.display())),
            None => self.say("  anabranch demo --keep                  the same, and the server stays up"),
        }
        self.say("  anabranch demo --rate 20000            slower, to watch it");
        self.say("  anabranch serve                        a broker for any Kafka client, data in ./data");
        self.say("  anabranch --help                       everything else");
    }

    /// What to try while the server is up.
    pub(super) fn kept(&self, kafka: SocketAddr, root: &Path) {
        self.say(format!("\nThe server is up at {kafka}, with its data in {}. Try:", root.display()));
        for command in
            ["topic list", "consume departures-by-hour --from beginning", "consume flights-late -c 5"]
        {
            self.say(format!("  anabranch {command} --bootstrap {kafka}"));
        }
        self.say("Ctrl-C stops it.");
    }
}

/// The newest result per airport.
type Newest = BTreeMap<String, Departures>;

/// Progress on its way.
#[derive(Debug)]
pub(super) struct Live {
    tasks: [JoinHandle<()>; 2],
    bar: ProgressBar,
}

impl Live {
    /// The last picture stays.
    pub(super) fn finish(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.bar.set_position(FLIGHTS_TOTAL);
        self.bar.abandon();
    }
}

async fn refresh(
    bar: ProgressBar,
    quiet: bool,
    acknowledged: Acknowledged,
    metrics: Arc<Metrics>,
    newest: Arc<Mutex<Newest>>,
) {
    let mut lines = 0;
    loop {
        let records = acknowledged.records();
        bar.set_position(records);
        bar.set_message(picture(&newest.lock(), metrics.snapshot().counts.late_sent));
        if !quiet && records / RECORDS_PER_LINE > lines {
            lines = records / RECORDS_PER_LINE;
            println!("{} of {} flights", grouped(records), grouped(FLIGHTS_TOTAL));
        }
        tokio::time::sleep(REFRESH).await;
    }
}

/// The newest hour of each airport.
fn picture(newest: &Newest, late: u64) -> String {
    let columns = [
        Text("airport"),
        Text("hour (UTC)"),
        Number("departures"),
        Number("mean delay (min)"),
        Number("worst (min)"),
    ];
    let row = |(airport, _): (&str, u64)| {
        let Some(result) = newest.get(airport) else {
            return vec![String::from(airport), String::new(), String::new(), String::new(), String::new()];
        };
        let hour = jiff::Timestamp::from_millisecond(result.hour_ms);
        vec![
            airport.to_owned(),
            hour.map_or(String::new(), |hour| hour.strftime("%F %H:%M").to_string()),
            result.departures.to_string(),
            result.mean_delay.map_or(String::new(), |minutes| format!("{minutes:.1}")),
            result.worst_delay.map_or(String::new(), |minutes| minutes.to_string()),
        ]
    };
    let rows = FLIGHTS_BY_ORIGIN.into_iter().map(row).collect();
    format!("{}\n{} came more than an hour out of order\n", table(&columns, rows), grouped(late))
}
