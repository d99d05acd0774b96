//! `anabranch demo`: a year of real flights, through the Kafka protocol, into a table of windows.
//!
//! Everything is real: a broker in a directory, its Kafka door, a librdkafka producer, a flow on the engine; or, with
//! `--engine`, the same on whatever engine is named. At the end the totals are compared with what is known of the data, and
//! once more after the engine was opened again.

mod feed;
mod flights;
mod totals;
mod view;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch::engine::{self, KafkaEngine, KafkaSettings};
use anabranch::flow::{
    Count, Definition, Disorder, Flow, Guarantee, Late, Max, Mean, Sum, Tumbling, Undecodable, Window,
};
use anabranch_broker::{Broker, Record};
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{Capability, Engine, EngineError, TopicSpec};
use anabranch_core::seam::SystemClock;
use anabranch_serve::{ServeConfig, ServeError, Server};
use anyhow::{Context, bail};

use self::feed::Fed;
use self::flights::{FLIGHTS_TOTAL, Flight};
use self::totals::Totals;
use self::view::View;
use crate::cli::grouped;

/// What `anabranch demo` may be told.
#[derive(Debug, clap::Args)]
pub(crate) struct DemoArgs {
    /// Leave the server up when the demo is over
    #[arg(long)]
    pub(crate) keep: bool,
    /// Slow the replay down to so many records a second
    #[arg(long, value_name = "RECORDS_PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// The data directory; a fresh temporary one unless given
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Another engine than the one in this process, such as kafka://HOST:PORT
    #[arg(long, value_name = "ENGINE", conflicts_with_all = ["data", "keep"])]
    pub(crate) engine: Option<String>,
    /// Print JSON; set from the option that all commands share.
    #[arg(skip)]
    pub(crate) json: bool,
}

/// Where flights go in.
const FLIGHTS: &str = "flights";
/// Those that came more than an hour out of order.
const LATE: &str = "flights-late";
/// Where results come out.
const RESULTS: &str = "departures-by-hour";
const PARTITIONS: i32 = 3;
/// What the flow's keys are divided among, so that several processes could share it.
const SHARDS: i32 = 3;
/// The flow's results are as fresh as its commits.
const COMMIT_RECORDS: u64 = 20_000;
const REFRESH: Duration = Duration::from_millis(250);
const HOUR: Duration = Duration::from_secs(3600);
/// How long the flow may take for what is left when everything is sent.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);

/// What one window and airport comes to, as it stands in the results topic.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
struct Departures {
    airport: String,
    hour_ms: i64,
    departures: u64,
    /// Minutes.
    mean_delay: Option<f64>,
    /// Minutes.
    worst_delay: Option<i64>,
    /// Minutes, over all flights with a delay.
    delay_total: i64,
    /// Cancelled, mostly.
    without_delay: u64,
}

/// Runs the demo. Fails unless every total is right.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(demo(args))
}

async fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("anabranch-demo-")
                .tempdir()
                .context("cannot make a directory")?,
        ),
    };
    let root = args.data.clone().or_else(|| Some(temporary.as_ref()?.path().to_owned()));
    let root = root.expect("a directory is given or made");
    let through = args.engine.as_ref().map_or("the Kafka protocol", |_| "the engine");
    let view = View::new(args.json, through);
    view.say(format!("Replaying the {} departures of New York's airports in 2013.", grouped(FLIGHTS_TOTAL)));

    let flights = flights::load().context("the flights that come with this program cannot be read")?;
    let replay = match &args.engine {
        Some(url) => {
            let engine = open(url).await?;
            let description = engine.description();
            view.say(format!("Engine: {}, {} node(s)", description.engine, description.nodes));
            if !description.has(Capability::Transactions) {
                view.say("It has no transactions: THE FLOW DELIVERS AT LEAST ONCE.");
            }
            view.say("");
            let replay = replay(&engine, &*engine, &root, &args, &view, &flights).await?;
            engine.close().await;
            replay
        }
        None => replay_here(&root, &args, &view, &flights).await?,
    };

    // The proof that it is durable: another engine, over what the first one left.
    let reopened = Instant::now();
    let (engine, broker): (Arc<dyn Engine>, _) = match &args.engine {
        Some(url) => (open(url).await?, None),
        None => {
            let broker = Broker::open(&root).await.context("cannot open the data directory again")?;
            (Arc::new(broker.clone()), Some(broker))
        }
    };
    let open_ms = reopened.elapsed().as_millis();
    let again = Totals::read(&*engine).await?;
    view.say(format!("Closed, opened again in {open_ms} ms, and counted again."));
    let delivery = replay.delivery;
    let report = totals::Report::new(&replay.totals, &again, &replay.fed, delivery, started.elapsed());
    let right = view.report(&report)?;
    match broker {
        Some(broker) if args.keep => {
            keep(broker, &root, &view).await?;
            if let Some(temporary) = temporary {
                let _ = temporary.keep();
            }
        }
        Some(_) => {
            engine.close().await;
            view.what_next(args.data.as_deref());
        }
        None => engine.close().await,
    }
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn open(url: &str) -> anyhow::Result<Arc<dyn Engine>> {
    engine::open(url, &[Capability::PartitionOrder, Capability::Replay])
        .await
        .context("cannot open the engine")
}

struct Replay {
    fed: Fed,
    totals: Totals,
    /// What the flow promises there.
    delivery: Guarantee,
}

/// On a broker in this process, whose producer comes through its Kafka door.
async fn replay_here(
    root: &Path,
    args: &DemoArgs,
    view: &View,
    flights: &[Flight],
) -> anyhow::Result<Replay> {
    view.say(format!("Data directory: {}", root.display()));
    let broker = Broker::open(root).await.with_context(|| format!("cannot open {}", root.display()))?;
    let server = start(&broker, 0).await?;
    view.say(format!("Kafka clients: {}\n", server.kafka_addr()));
    let settings = KafkaSettings::new(server.kafka_addr().to_string()).property("compression.type", "lz4");
    let producer = KafkaEngine::open(settings, &[]).await.context("cannot reach the Kafka door")?;
    let engine: Arc<dyn Engine> = Arc::new(broker.clone());
    let replay = replay(&engine, &producer, root, args, view, flights).await;
    producer.close().await;
    server.shutdown().await;
    drop(engine);
    broker.close().await;
    replay
}

/// Flow and producer, from the first record to the last result.
async fn replay(
    engine: &Arc<dyn Engine>,
    producer: &dyn Engine,
    root: &Path,
    args: &DemoArgs,
    view: &View,
    flights: &[Flight],
) -> anyhow::Result<Replay> {
    match engine.partition_count(FLIGHTS).await {
        Err(EngineError::NotFound(_)) => {}
        Ok(_) => {
            bail!("there is a topic {FLIGHTS:?} already: the demo counts what is in it, and wants it new")
        }
        Err(error) => return Err(error).context("cannot look at the topics"),
    }
    for (topic, partitions) in [(FLIGHTS, PARTITIONS), (LATE, PARTITIONS), (RESULTS, 1)] {
        // The records are of 2013: any retention by time would be over.
        let spec = TopicSpec::new(topic, partitions).config("retention.ms", "-1");
        engine.ensure_topic(&spec).await.with_context(|| format!("cannot create the topic {topic}"))?;
    }
    let state = root.join("flows").join("departures");
    let flow = departures().open(engine.clone(), &state, Arc::new(SystemClock::new())).await?;
    let metrics = flow.metrics();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(flow.run(async {
        let _ = stopped.await;
    }));
    let live = view.watch(&**engine, &metrics).await?;

    let fed = feed::feed(producer, flights, args.rate, &view.progress()).await?;
    let deadline = Instant::now() + CATCH_UP_MAX;
    while metrics.snapshot().counts.records_in < fed.records && !running.is_finished() {
        if Instant::now() > deadline {
            bail!("the flow has read {} of {} records", metrics.snapshot().counts.records_in, fed.records);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(stop);
    running.await.context("the flow's task failed")??;
    // Opened again, the flow goes on where it stood; its input ends here, and so every window closes.
    let flow = departures().open(engine.clone(), &state, Arc::new(SystemClock::new())).await?;
    let delivery = flow.run_until_end().await?.delivery;
    live.finish();
    Ok(Replay { fed, totals: Totals::read(&**engine).await?, delivery })
}

/// Departures, mean and worst delay per airport and hour of scheduled departure.
fn departures() -> Definition<Flight, String, impl anabranch::flow::Aggregate<Flight, Output = Results>> {
    let json =
        |at: &RecordAt| serde_json::from_slice::<Flight>(at.record.value.as_deref().unwrap_or_default());
    Flow::named("departures")
        .source([FLIGHTS])
        .decode(json, Undecodable::Fail)
        .event_time(|flight| flight.scheduled_ms, Disorder::bounded(HOUR))
        .key_by(|flight| flight.origin.clone())
        .window(Tumbling::of(HOUR), Late::ToTopic(LATE.to_owned()))
        .aggregate((
            Count,
            Mean::of(|flight: &Flight| flight.dep_delay),
            Max::of(|flight: &Flight| flight.dep_delay),
            Sum::of(|flight: &Flight| flight.dep_delay),
            Sum::of(|flight: &Flight| i64::from(flight.dep_delay.is_none())),
        ))
        .sink(RESULTS, result)
        .emit_early()
        .shards(SHARDS)
        .or_at_least_once()
        .commit_every(COMMIT_RECORDS, REFRESH)
}

/// Departures, mean, worst, total, and how many have no delay.
type Results = (u64, Option<f64>, Option<i64>, i64, i64);

fn result(airport: &String, window: Window, results: Results) -> Record {
    let (departures, mean_delay, worst_delay, delay_total, without_delay) = results;
    let result = Departures {
        airport: airport.clone(),
        hour_ms: window.start_ms,
        departures,
        mean_delay,
        worst_delay,
        delay_total,
        without_delay: without_delay.unsigned_abs(),
    };
    let value = serde_json::to_vec(&result).expect("numbers and names have a JSON form");
    Record::new(format!("{airport}/{}", window.start_ms), value).at(window.start_ms)
}

/// Opens the Kafka door on loopback.
async fn start(broker: &Broker, port: u16) -> Result<Server, ServeError> {
    let kafka_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Server::start(broker.clone(), ServeConfig { kafka_addr, ..ServeConfig::default() }).await
}

/// Serves what the demo left until it is told to stop.
async fn keep(broker: Broker, root: &Path, view: &View) -> anyhow::Result<()> {
    // The port that clients know; another one when it is taken.
    let server = match start(&broker, ServeConfig::default().kafka_addr.port()).await {
        Ok(server) => server,
        Err(_) => start(&broker, 0).await?,
    };
    view.kept(server.kafka_addr(), root);
    tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    server.shutdown().await;
    broker.close().await;
    Ok(())
}
