//! A way to NATS that loses an answer on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What stands in every acknowledgement.
const ACKNOWLEDGEMENT: &[u8] = br#","seq":"#;

pub(crate) struct Proxy {
    pub(crate) address: String,
    answers_to_lose: Arc<AtomicU32>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let answers_to_lose = Arc::new(AtomicU32::new(0));
        let lose = Arc::clone(&answers_to_lose);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(carry(client, server, Arc::clone(&lose)));
            }
        });
        Self { address, answers_to_lose, task }
    }

    /// The next acknowledgement is lost, and the connection with it.
    pub(crate) fn lose_an_answer(&self) {
        self.answers_to_lose.store(1, Ordering::SeqCst);
    }

    pub(crate) fn has_lost_it(&self) -> bool {
        self.answers_to_lose.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries both ways until one side is done, or an answer is to be lost.
async fn carry(client: TcpStream, server: TcpStream, lose: Arc<AtomicU32>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let back = async {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let count = from_server.read(&mut bytes).await.unwrap_or(0);
            let is_answer = find(&bytes[..count], ACKNOWLEDGEMENT).is_some();
            if count == 0 || is_answer && lose.swap(0, Ordering::SeqCst) > 0 {
                return;
            }
            // Other servers of the cluster, to which there is no such way.
            while let Some(at) = find(&bytes[..count], b"connect_urls") {
                bytes[at] = b'C';
            }
            if to_client.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = there => {}
        () = back => {}
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
