//! Opens the doors, and closes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_broker::Broker;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{Advertised, ServeConfig};
use crate::control;
use crate::http;
use crate::kafka::memory::Memory;
use crate::kafka::{self, Door};
use crate::metrics::Metrics;
use crate::pressure;

/// Why the doors did not open.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {addr} for {door}: {error}")]
    Bind {
        /// `Kafka` or `HTTP`.
        door: &'static str,
        /// The address.
        addr: SocketAddr,
        /// What the operating system said.
        #[source]
        error: std::io::Error,
    },
    /// Clients cannot connect to "any address".
    #[error("{0} is no address that clients can connect to: say which one to advertise")]
    NothingToAdvertise(SocketAddr),
}

/// How long accepting rests when the operating system has no more connections to give.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Open doors. Dropping it closes them without waiting; [`Server::shutdown`] lets requests finish.
#[derive(Debug)]
pub struct Server {
    kafka_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    advertised: Advertised,
    stopping: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Opens the doors to `broker`.
    ///
    /// # Errors
    /// [`ServeError`]; no door is open then.
    pub async fn start(broker: Broker, config: ServeConfig) -> Result<Self, ServeError> {
        let kafka = bind("Kafka", config.kafka_addr).await?;
        let kafka_addr = kafka.1;
        let http = match config.http_addr {
            Some(addr) => Some(bind("HTTP", addr).await?),
            None => None,
        };
        let advertised = match config.advertised {
            Some(Advertised { host, port }) => {
                Advertised { host, port: Some(port.unwrap_or(kafka_addr.port())) }
            }
            None if kafka_addr.ip().is_unspecified() => {
                return Err(ServeError::NothingToAdvertise(kafka_addr));
            }
            None => Advertised { host: kafka_addr.ip().to_string(), port: Some(kafka_addr.port()) },
        };
        let (stopping, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::new());
        let memory = Memory::new(broker.memory());
        let http_addr = http.as_ref().map(|(_, addr)| *addr);
        let mut tasks = Vec::new();
        if let Some((listener, _)) = http {
            let state = http::State {
                broker: broker.clone(),
                metrics: Arc::clone(&metrics),
                memory: memory.clone(),
                limits: config.limits.clone(),
                stopping: stopped.clone(),
            };
            tasks.push(tokio::spawn(http::serve(listener, state)));
        }
        // Whoever asks by the control door may see the directory after its clients were sent on.
        let pass = broker.random().uuid().to_string();
        if let Some(path) = config.control {
            match control::bind(&path) {
                Ok(listener) => {
                    let (broker, stopped) = (broker.clone(), stopped.clone());
                    let kafka = control::Kafka { address: advertised.to_string(), pass: pass.clone() };
                    tasks.push(tokio::spawn(control::serve(listener, path, broker, kafka, stopped)));
                }
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "no control door: `anabranch move` does not find this server");
                }
            }
        }
        tasks.push(tokio::spawn(pressure::watch(broker.clone(), memory.clone(), stopped.clone())));
        let door = Door::new(broker, (&advertised, pass), config.limits, metrics, memory, stopped);
        tasks.push(tokio::spawn(kafka::serve(Arc::new(door), kafka.0)));
        Ok(Self { kafka_addr, http_addr, advertised, stopping, tasks })
    }

    /// Where the Kafka door listens.
    #[must_use]
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// Where the HTTP door listens, if it does.
    #[must_use]
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Where Kafka clients are told to connect.
    #[must_use]
    pub fn advertised(&self) -> &Advertised {
        &self.advertised
    }

    /// Accepts nothing more, lets requests in flight finish for as long as `shutdown_max` says, and closes every
    /// connection.
    pub async fn shutdown(mut self) {
        self.stopping.send_replace(true);
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a door failed; this is a bug");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.send_replace(true);
    }
}

async fn bind(door: &'static str, addr: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let blame = |error| ServeError::Bind { door, addr, error };
    let listener = TcpListener::bind(addr).await.map_err(blame)?;
    let bound = listener.local_addr().map_err(blame)?;
    Ok((listener, bound))
}
