//! A wire that can be cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to an address, until it is cut. Dropping it cuts it for good.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    /// Whether it is cut. Connections end when it changes.
    cut: Arc<watch::Sender<bool>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Listens at `at` (port 0: any that is free), and passes on to `to`.
    ///
    /// # Errors
    /// It cannot listen there.
    pub async fn listen(at: SocketAddr, to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let addr = listener.local_addr()?;
        let cut = Arc::new(watch::Sender::new(false));
        let state = cut.subscribe();
        let accepting = tokio::spawn(async move {
            // An error of one connection is that connection's.
            loop {
                if let Ok((from, _)) = listener.accept().await {
                    tokio::spawn(pass(from, to, state.clone()));
                }
            }
        });
        Ok(Self { addr, cut, accepting })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Breaks all connections, and takes no more.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    /// Takes connections again.
    pub fn mend(&self) {
        self.cut.send_replace(false);
    }
}

impl Proxy {
    /// Ends it, so that another may listen there.
    pub async fn end(mut self) {
        self.cut();
        self.accepting.abort();
        // It was aborted, and that is its end.
        (&mut self.accepting).await.ok();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.accepting.abort();
    }
}

async fn pass(mut from: TcpStream, to: SocketAddr, mut cut: watch::Receiver<bool>) {
    if *cut.borrow_and_update() {
        return;
    }
    let passing = async {
        let mut to = TcpStream::connect(to).await?;
        copy_bidirectional(&mut from, &mut to).await
    };
    tokio::select! {
        _ = cut.changed() => {}
        // Either side may end it, in whatever way.
        _ = passing => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_wire_is_cut_and_mended() {
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let echo = TcpListener::bind(any).await.unwrap();
        let proxy = Proxy::listen(any, echo.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = echo.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let says = async |stream: &mut TcpStream| {
            stream.write_all(b"x").await.ok();
            stream.read(&mut [0; 1]).await.unwrap_or(0)
        };
        let mut stream = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(says(&mut stream).await, 1);
        proxy.cut();
        assert_eq!(says(&mut stream).await, 0, "what is open is broken");
        let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(says(&mut refused).await, 0, "what is new is broken");
        proxy.mend();
        let mut mended = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(says(&mut mended).await, 1);
    }
}
