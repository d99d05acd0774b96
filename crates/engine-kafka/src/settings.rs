//! How to reach a cluster: `kafka://host:port,host:port?property=value`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rdkafka::ClientConfig;

/// What is not this engine's to change: it depends on them.
const FIXED: [&str; 10] = [
    "acks",
    "auto.offset.reset",
    "enable.auto.commit",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.protocol",
    "isolation.level",
    "partition.assignment.strategy",
    "transactional.id",
];

/// How long the engine tries to deliver what was appended, unless told otherwise.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long one question to the cluster may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach a cluster, and how its topics are made.
///
/// ```
/// use anabranch_engine_kafka::KafkaSettings;
///
/// let settings: KafkaSettings = "kafka://one:9092,two:9092?replication=3&compression.type=zstd".parse()?;
/// assert_eq!(settings.bootstrap(), "one:9092,two:9092");
/// # Ok::<(), anabranch_engine_kafka::SettingsError>(())
/// ```
///
/// Every property of librdkafka that the engine does not depend on can be given. A property `NAME_file` is read from the file
/// that it names, as passwords should be: `sasl.password_file=/run/secrets/kafka`. `kafkas://` is `kafka://` with
/// `security.protocol=ssl`, or `sasl_ssl` where a `sasl.username` is given.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    bootstrap: String,
    properties: BTreeMap<String, String>,
    replication: Option<i32>,
    delivery_timeout: Duration,
    request_timeout: Duration,
}

/// Why settings were refused: nothing was connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct SettingsError {
    /// The address without its properties, which may be secret.
    pub url: String,
    /// What is wrong.
    pub reason: String,
}

impl KafkaSettings {
    /// The cluster behind `bootstrap`, `host:port` once or more often with commas in between.
    pub fn new(bootstrap: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            properties: BTreeMap::new(),
            replication: None,
            delivery_timeout: DELIVERY_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
        }
    }

    /// The same with a property of librdkafka.
    #[must_use]
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// The same, and new topics have so many replicas; unless told, as many as the cluster gives by itself.
    #[must_use]
    pub fn replication(mut self, replicas: i32) -> Self {
        self.replication = Some(replicas);
        self
    }

    /// The same, and what was appended is tried for so long; 120 s unless told.
    #[must_use]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.delivery_timeout = timeout;
        self
    }

    /// The same, and a question to the cluster may take so long; 10 s unless told.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// `host:port`, with commas in between.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The same, beginning at any of these brokers as well: the one that was named first may be gone when a client is made.
    pub(crate) fn known(mut self, brokers: Vec<String>) -> Self {
        for broker in brokers {
            if !self.bootstrap.split(',').any(|there| there == broker) {
                self.bootstrap = format!("{},{broker}", self.bootstrap);
            }
        }
        self
    }

    pub(crate) fn replicas(&self) -> Option<i32> {
        self.replication
    }

    pub(crate) fn request_max(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn delivery_max(&self) -> Duration {
        self.delivery_timeout
    }

    /// What every client of the cluster is made from.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("client.id", "anabranch");
        // Who waits for a broker that is back waits no longer than this.
        config.set("reconnect.backoff.max.ms", "1000").set("socket.timeout.ms", "30000");
        // A topic that is gone is told as soon as that is sure.
        config.set("topic.metadata.propagation.max.ms", "5000");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
    }
}

impl fmt::Debug for KafkaSettings {
    /// Values of properties may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("bootstrap", &self.bootstrap)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("replication", &self.replication)
            .finish_non_exhaustive()
    }
}

impl FromStr for KafkaSettings {
    type Err = SettingsError;

    fn from_str(url: &str) -> Result<Self, SettingsError> {
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        // What stands before an @ may be a password.
        let shown = address.rsplit_once('@').map_or(address, |(_, servers)| servers);
        let refused = |reason: String| SettingsError { url: shown.to_owned(), reason };
        let (secure, servers) = match address.split_once("://") {
            Some(("kafka", servers)) => (false, servers),
            Some(("kafkas", servers)) => (true, servers),
            _ => return Err(refused("it must begin with kafka:// or kafkas://".into())),
        };
        let servers = servers.trim_end_matches('/');
        if servers.split(',').any(str::is_empty) {
            return Err(refused("it names no server: kafka://host:port".into()));
        }
        if servers.contains(['/', '@']) {
            return Err(refused(
                "names and passwords are properties: sasl.username, sasl.password_file".into(),
            ));
        }
        let with_port = |server: &str| match server.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => server.to_owned(),
            _ => format!("{server}:9092"),
        };
        let mut settings = Self::new(servers.split(',').map(with_port).collect::<Vec<_>>().join(","));
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) =
                pair.split_once('=').ok_or_else(|| refused(format!("{pair:?} is not NAME=VALUE")))?;
            let (name, value) = (decoded(name).map_err(&refused)?, decoded(value).map_err(&refused)?);
            settings.set(&name, value).map_err(&refused)?;
        }
        let has_name = settings.properties.contains_key("sasl.username");
        if secure {
            let protocol = if has_name { "sasl_ssl" } else { "ssl" };
            settings.properties.entry("security.protocol".into()).or_insert_with(|| protocol.into());
        }
        if !cfg!(feature = "tls")
            && settings.properties.get("security.protocol").is_some_and(|it| it.contains("ssl"))
        {
            return Err(refused(
                "this binary was built without TLS to Kafka (the cargo feature kafka-tls)".into(),
            ));
        }
        Ok(settings)
    }
}

impl KafkaSettings {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let (name, value) = match name.strip_suffix("_file") {
            Some(name) => {
                let secret = std::fs::read_to_string(&value)
                    .map_err(|error| format!("{name}_file: {value} cannot be read: {error}"))?;
                (name, secret.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => (name, value),
        };
        if FIXED.contains(&name) || name == "bootstrap.servers" {
            return Err(format!("{name} is not to be set: the engine depends on it"));
        }
        let whole =
            |what: &str| value.parse::<i32>().map_err(|_| format!("{name} must be {what}, not {value:?}"));
        match name {
            "replication" => self.replication = Some(whole("a number of replicas")?),
            "delivery.timeout.ms" => {
                self.delivery_timeout = Duration::from_millis(whole("milliseconds")?.unsigned_abs().into());
            }
            _ => {
                self.properties.insert(name.to_owned(), value);
            }
        }
        Ok(())
    }
}

/// Undoes percent encoding.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
            bytes.push((digit()? * 16 + digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let settings: KafkaSettings =
            "kafka://a:1,b?compression.type=zstd&client.rack=a%26b&replication=3".parse().unwrap();
        assert_eq!((settings.bootstrap(), settings.replicas()), ("a:1,b:9092", Some(3)));
        assert_eq!(settings.properties["client.rack"], "a&b");
        for (url, said) in [
            ("nats://a", "it must begin with"),
            ("kafka://", "names no server"),
            ("kafka://a,,b", "names no server"),
            ("kafka://name:secret@a", "are properties"),
            ("kafka://a?acks=1", "depends on it"),
            ("kafka://a?x", "NAME=VALUE"),
            ("kafka://a?x=%zz", "percent"),
            ("kafka://a?replication=many", "a number of replicas"),
            ("kafka://a?sasl.password_file=/no/such/file", "cannot be read"),
        ] {
            let error = url.parse::<KafkaSettings>().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn secrets_are_read_from_files_and_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush\n").unwrap();
        let url = format!("kafka://a?sasl.username=me&sasl.password_file={}", file.path().display());
        let settings: KafkaSettings = url.parse().unwrap();
        assert_eq!(settings.properties["sasl.password"], "hush");
        let shown = format!("{settings:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hush"), "{shown}");
        assert_eq!("kafkas://a".parse::<KafkaSettings>().is_ok(), cfg!(feature = "tls"));
    }
}
