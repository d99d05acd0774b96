//! What an operator may set.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where the doors are, and what they allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// Where the Kafka door listens; port 0 takes any that is free.
    pub kafka_addr: SocketAddr,
    /// `advertised.listeners`: where clients are told to connect. `None`: where the door listens.
    pub advertised: Option<Advertised>,
    /// Where the HTTP door listens, if it does.
    pub http_addr: Option<SocketAddr>,
    /// Where the control door is ([`crate::CONTROL_SOCKET`] in the data directory), if there is one. Where it cannot be made,
    /// that is told, and there is none.
    pub control: Option<PathBuf>,
    /// The limits.
    pub limits: Limits,
}

impl Default for ServeConfig {
    /// Kafka on loopback port 9092, no HTTP.
    fn default() -> Self {
        Self {
            kafka_addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092),
            advertised: None,
            http_addr: None,
            control: None,
            limits: Limits::default(),
        }
    }
}

/// Every bound of the doors. Bytes in flight over all connections are bounded by the broker's budget; small requests are
/// read outside of it, 24 KiB at most for each of `connections_max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `max.connections`: one more is closed as soon as it is accepted.
    pub connections_max: usize,
    /// The same for HTTP.
    pub http_connections_max: usize,
    /// How many requests of one connection may wait for their answers to leave. Only produce requests overlap.
    pub requests_in_flight_max: u32,
    /// `connections.max.idle.ms`: how long a connection may say nothing.
    pub idle_max: Duration,
    /// How long a request that has begun may stand still.
    pub frame_stall_max: Duration,
    /// How long a client may read nothing of an answer that waits for it.
    pub answer_stall_max: Duration,
    /// `fetch.max.bytes`: the most that one fetch brings, whatever the client asks for.
    pub fetch_bytes_max: usize,
    /// `max.request.partition.size.limit`: partitions that one DescribeTopicPartitions tells.
    pub describe_partitions_max: usize,
    /// How many partitions `/metrics` lists, in the order of their topics' names.
    pub metrics_partitions_max: usize,
    /// How long a shutdown waits for requests in flight.
    pub shutdown_max: Duration,
}

impl Default for Limits {
    /// Kafka's defaults, where it has them.
    fn default() -> Self {
        Self {
            request_bytes_max: anabranch_wire::REQUEST_BYTES_MAX,
            connections_max: 10_000,
            http_connections_max: 256,
            requests_in_flight_max: 256,
            idle_max: Duration::from_secs(600),
            frame_stall_max: Duration::from_secs(30),
            answer_stall_max: Duration::from_secs(30),
            fetch_bytes_max: 55 * 1024 * 1024,
            describe_partitions_max: 2000,
            metrics_partitions_max: 1000,
            shutdown_max: Duration::from_secs(10),
        }
    }
}

/// A host and port as clients see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertised {
    /// A name or an address.
    pub host: String,
    /// `None`: the port on which the door listens.
    pub port: Option<u16>,
}

/// What was given is not a host with or without a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST or HOST:PORT (an IPv6 address with a port stands in brackets)")]
pub struct AdvertisedError(String);

impl FromStr for Advertised {
    type Err = AdvertisedError;

    fn from_str(text: &str) -> Result<Self, AdvertisedError> {
        let error = || AdvertisedError(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| error())?)),
        };
        let is_named = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        match !host.is_empty() && host.len() <= 253 && host.chars().all(is_named) {
            true => Ok(Self { host: host.to_owned(), port }),
            false => Err(error()),
        }
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => f.write_str(&self.host),
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
        }
    }
}

/// Others than this machine could connect, and nothing would ask them who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} can be reached from other machines, and there is no authentication yet")]
pub struct NotLoopback(pub SocketAddr);

/// Refuses an address that other machines can reach. Whoever starts a [`crate::Server`] for a user asks this first, unless
/// the user insists.
///
/// # Errors
/// [`NotLoopback`].
pub fn check_loopback(addr: SocketAddr) -> Result<(), NotLoopback> {
    match addr.ip().to_canonical().is_loopback() {
        true => Ok(()),
        false => Err(NotLoopback(addr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_safe() {
        for (addr, safe) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.168.0.1:1", false),
        ] {
            assert_eq!(check_loopback(addr.parse().unwrap()).is_ok(), safe, "{addr}");
        }
    }

    #[test]
    fn advertised_addresses_read_as_they_are_written() {
        for text in ["broker-1.example", "broker:9092", "10.0.0.1", "10.0.0.1:1", "::1", "[::1]:9092"] {
            let read: Advertised = text.parse().unwrap();
            assert_eq!(read.to_string(), text);
            assert_eq!(
                read.port.is_some(),
                text.ends_with(|c: char| c.is_ascii_digit()) && text.contains(':') && text != "::1"
            );
        }
        for text in ["", ":9092", "a:b", "a:99999", "a b", "a/b", "PLAINTEXT://a:1"] {
            assert!(text.parse::<Advertised>().is_err(), "{text:?}");
        }
    }
}
