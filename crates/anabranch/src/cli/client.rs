//! What the commands share that are clients of a Kafka: ours, Apache's or another.

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rdkafka::admin::{AdminClient, AdminOptions, TopicResult};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};
use tracing_subscriber::EnvFilter;

use super::failure::{Advise, advised, has_colours, usage};

/// How long one request to the cluster may take.
pub(super) const REQUEST_MAX: Duration = Duration::from_secs(15);
/// How long a TCP connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(5);
const KAFKA_PORT: u16 = 9092;

/// Which cluster, and how to talk to it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterArgs {
    /// Brokers to connect to first, with commas between
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        env = "ANABRANCH_BOOTSTRAP",
        hide_env_values = true,
        default_value = "127.0.0.1:9092",
        global = true
    )]
    bootstrap: String,
    /// A property of librdkafka, such as client.id=me; may be given many times
    #[arg(short = 'X', long = "property", value_name = "KEY=VALUE", global = true)]
    properties: Vec<String>,
}

impl ClusterArgs {
    /// The settings of any client of this cluster; `defaults` give way to what the user says.
    pub(super) fn config(&self, defaults: &[(&str, &str)]) -> anyhow::Result<ClientConfig> {
        start_logging();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "anabranch");
        config.set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for pair in &self.properties {
            match pair.split_once('=') {
                Some((name, value)) => config.set(name, value),
                None => return Err(usage(format!("--property {pair}: it is not KEY=VALUE"))),
            };
        }
        reach(&self.bootstrap)?;
        Ok(config)
    }

    /// Whether a connection needs nothing but TCP.
    pub(super) fn is_plain(&self) -> bool {
        let mut properties = self.properties.iter().filter_map(|pair| pair.split_once('='));
        let protocol = properties.rfind(|(name, _)| *name == "security.protocol");
        protocol.is_none_or(|(_, protocol)| protocol.eq_ignore_ascii_case("plaintext"))
    }

    /// The first of the brokers to connect to.
    pub(super) fn first_server(&self) -> &str {
        self.bootstrap.split(',').map(str::trim).find(|server| !server.is_empty()).unwrap_or_default()
    }

    /// A client that looks. In the name of a group (`group.id`) it can read the group's offsets too, and write them while
    /// the group has no members.
    pub(super) fn observe(&self, settings: &[(&str, &str)]) -> anyhow::Result<Observer> {
        let mut config = self.config(settings)?;
        config.set("enable.auto.commit", "false");
        let consumer = config.create_with_context(LogContext).map_err(client_error)?;
        Ok(Observer { consumer })
    }

    /// A client that creates, changes and deletes.
    pub(super) fn admin(&self) -> anyhow::Result<Admin> {
        let client = self.config(&[])?.create::<AdminClient<DefaultClientContext>>().map_err(client_error)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        Ok(Admin { client, runtime: runtime.context("cannot start the runtime")? })
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

pub(super) fn connect(server: &str) -> io::Result<TcpStream> {
    let named = server.rsplit("://").next().unwrap_or(server);
    let addresses = match named.contains(':') {
        true => named.to_socket_addrs()?,
        false => (named, KAFKA_PORT).to_socket_addrs()?,
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

pub(super) fn client_error(error: KafkaError) -> anyhow::Error {
    match error {
        KafkaError::ClientConfig(_, why, name, value) => usage(format!("--property {name}={value}: {why}")),
        other => anyhow::Error::from(other).context("cannot start the client"),
    }
}

/// Passes librdkafka's words on to `tracing`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogContext;

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error => tracing::error!(target: "librdkafka", "{facility}: {message}"),
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", "{facility}: {message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", "{facility}: {message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", "{facility}: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::info!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for LogContext {}

/// A partition's first offset, and the one after its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: i64,
    pub(super) end: i64,
}

/// Offsets by topic and partition.
pub(super) type Offsets = BTreeMap<(String, i32), i64>;

/// A client that looks.
pub(super) struct Observer {
    pub(super) consumer: BaseConsumer<LogContext>,
}

impl Observer {
    /// All topics, or one.
    pub(super) fn metadata(&self, topic: Option<&str>) -> anyhow::Result<Metadata> {
        let metadata = self.consumer.fetch_metadata(topic, REQUEST_MAX);
        metadata.context("cannot read the cluster's metadata")
    }

    /// The numbers of the topic's partitions.
    pub(super) fn partitions(&self, topic: &str) -> anyhow::Result<Vec<i32>> {
        let metadata = self.metadata(Some(topic))?;
        let found =
            metadata.topics().first().ok_or_else(|| anyhow!("the cluster says nothing of topic {topic}"))?;
        if let Some(error) = found.error() {
            return Err(code_error(error.into())).context(format!("cannot read topic {topic}"));
        }
        let mut partitions: Vec<i32> =
            found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// Where a partition begins and ends now.
    pub(super) fn span(&self, topic: &str, partition: i32) -> anyhow::Result<Span> {
        let (start, end) = self
            .consumer
            .fetch_watermarks(topic, partition, REQUEST_MAX)
            .with_context(|| format!("cannot read the offsets of {topic}-{partition}"))?;
        Ok(Span { start, end })
    }

    /// The first offsets at least as late as the time, ms; a partition's end when it has none.
    pub(super) fn at_time(&self, partitions: &[(String, i32)], time_ms: i64) -> anyhow::Result<Offsets> {
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in partitions {
            asked.add_partition_offset(topic, *partition, Offset::Offset(time_ms))?;
        }
        let found =
            self.consumer.offsets_for_times(asked, REQUEST_MAX).context("cannot look up offsets by time")?;
        let mut offsets = Offsets::new();
        for element in found.elements() {
            element
                .error()
                .with_context(|| format!("cannot look up {}-{}", element.topic(), element.partition()))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => self.span(element.topic(), element.partition())?.end,
            };
            offsets.insert((element.topic().to_owned(), element.partition()), offset);
        }
        Ok(offsets)
    }
}

/// A client that changes. Its calls block.
pub(super) struct Admin {
    client: AdminClient<DefaultClientContext>,
    runtime: tokio::runtime::Runtime,
}

impl Admin {
    /// Runs one request.
    pub(super) fn ask<T>(
        &self,
        request: impl AsyncFnOnce(&AdminClient<DefaultClientContext>, &AdminOptions) -> Result<T, KafkaError>,
    ) -> anyhow::Result<T> {
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST_MAX)).operation_timeout(Some(REQUEST_MAX));
        Ok(self.runtime.block_on(request(&self.client, &options))?)
    }
}

/// The outcome for each of the topics that a request was about; the first failure fails.
pub(super) fn each_topic(results: Vec<TopicResult>) -> anyhow::Result<()> {
    for result in results {
        if let Err((topic, code)) = result {
            return Err(code_error(code)).context(format!("topic {topic}"));
        }
    }
    Ok(())
}

/// Kafka's error code in words, and what to do about it where there is something to do.
pub(super) fn code_error(code: RDKafkaErrorCode) -> anyhow::Error {
    // "TopicAlreadyExists (Broker: Topic already exists)": the part between the brackets is for people.
    let text = code.to_string();
    let words = text.split_once(": ").map_or(&*text, |(_, words)| words.trim_end_matches(')'));
    let error = anyhow!("{words}");
    let advice = match code {
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            "`anabranch topic list` shows what there is."
        }
        RDKafkaErrorCode::TopicAlreadyExists => {
            "`anabranch topic create --if-missing` is content with that; `anabranch topic alter` changes it."
        }
        RDKafkaErrorCode::InvalidReplicationFactor => {
            "Leave --replication out to take the cluster's default."
        }
        RDKafkaErrorCode::InvalidTopic => "Names have 1 to 249 letters, digits, '.', '_' and '-'.",
        RDKafkaErrorCode::NonEmptyGroup => "Stop its members first; `anabranch group describe` shows them.",
        RDKafkaErrorCode::GroupIdNotFound => "`anabranch group list` shows what there is.",
        _ => return error,
    };
    advised(error, advice)
}
