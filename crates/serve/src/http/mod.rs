//! The HTTP door: `/healthz` (the process lives), `/readyz` (it serves), `/metrics` (Prometheus).

mod prometheus;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anabranch_broker::Broker;
use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Limits;
use crate::kafka::memory::Memory;
use crate::metrics::Metrics;
use crate::server::ACCEPT_PAUSE;

/// What the pages show.
#[derive(Debug, Clone)]
pub(crate) struct State {
    pub(crate) broker: Broker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: Memory,
    pub(crate) limits: Limits,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Serves until the door closes.
pub(crate) async fn serve(listener: TcpListener, state: State) {
    let (closing, limit) = (stopped(&state), state.limits.shutdown_max);
    let deadline = async move {
        closing.await;
        tokio::time::sleep(limit).await;
    };
    let closing = stopped(&state);
    let slots = Arc::new(Semaphore::new(state.limits.http_connections_max.max(1)));
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    let serving = axum::serve(Bounded { listener, slots }, router).with_graceful_shutdown(closing);
    tokio::select! {
        served = serving.into_future() => if let Err(error) = served {
            tracing::error!(%error, "the HTTP door failed");
        },
        () = deadline => tracing::warn!("HTTP requests were still in flight at the deadline: cut off"),
    }
}

/// Returns when the door closes.
fn stopped(state: &State) -> impl Future<Output = ()> + use<> {
    let mut stopping = state.stopping.clone();
    async move {
        // An error means that the server is gone, which is to stop as well.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// Open and not about to close. A partition that stopped is told by `/metrics`: others go on, and so does the process.
async fn ready(Extract(state): Extract<State>) -> impl IntoResponse {
    match *state.stopping.borrow() {
        false => (StatusCode::OK, "ready\n"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

async fn metrics(Extract(state): Extract<State>) -> impl IntoResponse {
    let text = prometheus::page(&state);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Accepts a connection when there is a slot for it; until then it waits in the operating system's queue.
struct Bounded {
    listener: TcpListener,
    slots: Arc<Semaphore>,
}

impl Listener for Bounded {
    type Io = Slotted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Slotted, SocketAddr) {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.expect("the slots of the HTTP door are never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return (Slotted { stream, _slot: slot }, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection in its slot.
struct Slotted {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Slotted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slotted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
