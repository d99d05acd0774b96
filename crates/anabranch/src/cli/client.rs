//! What the commands share that work on an engine: one of ours, a Kafka or a NATS.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anabranch::engine::{self, Engine, EngineError, KafkaSettings, OpenError, Position};
use anabranch_broker::BrokerError;
use anabranch_core::TopicPartition;
use anabranch_core::engine::Place as SeamPlace;
use anyhow::{Context, anyhow};
use tracing_subscriber::EnvFilter;

use super::failure::{Advise, advised, has_colours, usage};

/// How long a TCP connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const KAFKA_PORT: u16 = 9092;

/// Which engine, and how to talk to it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub(super) struct EngineArgs {
    /// Where the topics are: embedded:DIR, kafka://HOST:PORT or nats://HOST:PORT, with ?NAME=VALUE&... for its settings
    /// [env: ANABRANCH_ENGINE]
    #[arg(short, long, value_name = "URL", global = true)]
    engine: Option<String>,
    /// Brokers of a Kafka, with commas between: short for --engine kafka://HOST:PORT
    /// [env: ANABRANCH_BOOTSTRAP] [default: 127.0.0.1:9092]
    #[arg(short, long, value_name = "HOST:PORT", conflicts_with = "engine", global = true)]
    bootstrap: Option<String>,
    /// A setting of the engine, such as client.id=me; may be given many times
    #[arg(short = 'X', long = "property", value_name = "KEY=VALUE", global = true)]
    properties: Vec<String>,
}

impl EngineArgs {
    /// Opens the engine, works with it, and closes it.
    pub(super) fn run<T>(
        &self,
        work: impl AsyncFnOnce(&Arc<dyn Engine>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.run_with(&[], work)
    }

    /// The same, with settings of the user's Kafka that the command wants; elsewhere there is nothing like them.
    pub(super) fn run_with<T>(
        &self,
        for_kafka: &[(&str, &str)],
        work: impl AsyncFnOnce(&Arc<dyn Engine>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        start_logging();
        let url = self.url(for_kafka)?;
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(async {
            let engine = open(&url).await?;
            let outcome = work(&engine).await;
            engine.close().await;
            outcome
        })
    }

    /// What is given on the command line goes before the environment.
    fn url(&self, for_kafka: &[(&str, &str)]) -> anyhow::Result<String> {
        let env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let kafka = |servers: String| format!("kafka://{servers}");
        let url = match (&self.engine, &self.bootstrap) {
            (Some(url), _) => url.clone(),
            (None, Some(servers)) => kafka(servers.clone()),
            (None, None) => env("ANABRANCH_ENGINE")
                .or_else(|| env("ANABRANCH_BOOTSTRAP").map(kafka))
                .unwrap_or_else(|| kafka(format!("127.0.0.1:{KAFKA_PORT}"))),
        };
        let pair = |pair: &String| match pair.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(usage(format!("--property {pair}: it is not KEY=VALUE"))),
        };
        let mut pairs = self.properties.iter().map(pair).collect::<anyhow::Result<Vec<_>>>()?;
        if url.starts_with("kafka") {
            pairs.extend(for_kafka.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        Ok(pairs.iter().fold(url, |url, (name, value)| {
            let before = if url.contains('?') { '&' } else { '?' };
            format!("{url}{before}{}={}", encoded(name), encoded(value))
        }))
    }
}

/// As a part of an address: what has a meaning there is written in hexadecimal digits.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/' | b':' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// Opens the engine that a user has named.
pub(super) async fn open(url: &str) -> anyhow::Result<Arc<dyn Engine>> {
    if let Ok(kafka) = url.parse::<KafkaSettings>() {
        reach(kafka.bootstrap())?;
    }
    opened(engine::open(url, &[]).await)
}

/// Why an engine was not opened, and what to do.
pub(super) fn opened<T>(opened: Result<T, OpenError>) -> anyhow::Result<T> {
    match opened {
        Ok(engine) => Ok(engine),
        Err(error @ OpenError::Address { .. }) => Err(usage(error.to_string())),
        Err(error @ OpenError::Broker(BrokerError::Open(_))) => {
            let advice = "A directory has one owner at a time: while `anabranch serve` has it, ask that one, by kafka://HOST:PORT.";
            Err::<_, OpenError>(error).context("cannot open the embedded engine").advise(advice)
        }
        Err(OpenError::Engine(error)) => Err(told(error)).context("cannot open the engine"),
        Err(error) => Err(error).context("cannot open the engine"),
    }
}

/// librdkafka would try for ever and say nothing; one connection tells at once whether anybody is there.
fn reach(bootstrap: &str) -> anyhow::Result<()> {
    let mut outcome = Err(io::Error::other("it names no broker"));
    for server in bootstrap.split(',').map(str::trim).filter(|server| !server.is_empty()) {
        outcome = connect(server).map(drop);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
        .with_context(|| format!("cannot reach a broker at {bootstrap}"))
        .advise("Is one running there? `anabranch serve` starts one; --bootstrap HOST:PORT names another.")
}

fn connect(server: &str) -> io::Result<TcpStream> {
    let addresses = match server.contains(':') {
        true => server.to_socket_addrs()?,
        false => (server, KAFKA_PORT).to_socket_addrs()?,
    };
    let mut outcome = Err(io::Error::other("the name has no address"));
    for addr in addresses {
        outcome = TcpStream::connect_timeout(&addr, CONNECT_MAX);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Warnings go to standard error, and what librdkafka says if it is an error.
pub(super) fn start_logging() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,librdkafka=error"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // It fails when it was started already, which is as good.
    let _ = lines.with_ansi(has_colours()).without_time().try_init();
}

/// What the engine says, and what to do about it where there is something to do.
pub(super) fn told(error: EngineError) -> anyhow::Error {
    let (error, advice) = match error {
        EngineError::NotFound(TopicPartition { topic, .. }) => {
            (anyhow!("topic {topic} does not exist"), "`anabranch topic list` shows what there is.")
        }
        // It begins with the name, which the context tells.
        EngineError::Refused { reason, .. } => return anyhow!("{reason}"),
        EngineError::OutOfRange { partition, position, earliest, latest } => (
            anyhow!("{partition} has no position {position}: it keeps {earliest} to {latest}"),
            "Name one in between.",
        ),
        other => return other.into(),
    };
    advised(error, advice)
}

/// Says what failed, as [`told`] does.
pub(super) trait Told<T> {
    fn told(self) -> anyhow::Result<T>;
}

impl<T> Told<T> for Result<T, EngineError> {
    fn told(self) -> anyhow::Result<T> {
        self.map_err(told)
    }
}

/// A partition's first position, and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: Position,
    pub(super) end: Position,
}

/// Where a partition begins and ends now.
pub(super) async fn span(engine: &dyn Engine, at: &TopicPartition) -> anyhow::Result<Span> {
    let failed = || format!("cannot read the positions of {at}");
    let start = engine.locate(at, SeamPlace::Earliest).await.told().with_context(failed)?;
    let end = engine.locate(at, SeamPlace::Latest).await.told().with_context(failed)?;
    // A record may have gone in between.
    Ok(Span { start, end: end.max(start) })
}

/// The partitions of a topic.
pub(super) async fn partitions(engine: &dyn Engine, topic: &str) -> anyhow::Result<Vec<TopicPartition>> {
    let count = engine.partition_count(topic).await.told()?;
    Ok((0..count).map(|number| TopicPartition::new(topic, number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_behind_the_address() {
        let args = |engine: Option<&str>, bootstrap: Option<&str>, properties: &[&str]| EngineArgs {
            engine: engine.map(str::to_owned),
            bootstrap: bootstrap.map(str::to_owned),
            properties: properties.iter().map(|&pair| pair.to_owned()).collect(),
        };
        let url = |args: &EngineArgs| args.url(&[("compression.type", "zstd")]).unwrap();
        assert_eq!(url(&args(Some("embedded:./data"), None, &[])), "embedded:./data");
        assert_eq!(
            url(&args(None, Some("a:1,b:2"), &["client.id=you & me"])),
            "kafka://a:1,b:2?client.id=you%20%26%20me&compression.type=zstd"
        );
        assert_eq!(url(&args(Some("nats://a?replicas=3"), None, &["x=1"])), "nats://a?replicas=3&x=1");
        assert!(args(None, None, &["x"]).url(&[]).is_err());
    }
}
