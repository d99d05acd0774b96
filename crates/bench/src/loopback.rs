//! How fast one thread can send a file, out of the page cache, to another one over loopback: nothing is between the file
//! and the socket, so no server that reads the same bytes is faster on one core.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, ensure};
use rustix::fs::sendfile;
use serde::Serialize;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the file is written
    #[arg(long)]
    dir: PathBuf,
    /// The size of the file
    #[arg(long, default_value_t = 256 << 20)]
    bytes: u64,
    /// How many times it is sent
    #[arg(long, default_value_t = 4)]
    times: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Sent {
    bytes: u64,
    mib_per_second: f64,
}

const READ_BYTES: usize = 1 << 20;

pub(crate) fn run(options: &Options) -> anyhow::Result<Sent> {
    let path = options.dir.join("sendfile");
    let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let block = vec![1; 1 << 20];
    for _ in 0..options.bytes.div_ceil(block.len() as u64) {
        file.write_all(&block)?;
    }
    let file_bytes = file.metadata()?.len();
    let total = file_bytes * u64::from(options.times);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut receiver = TcpStream::connect(listener.local_addr()?)?;
    let (sender, _) = listener.accept()?;
    let file = File::open(&path)?;
    let start = Instant::now();
    let sending = thread::spawn(move || -> anyhow::Result<()> {
        let mut left = total;
        let mut at = 0;
        while left > 0 {
            let want = (file_bytes - at).min(left);
            let sent = sendfile(&sender, &file, Some(&mut at), usize::try_from(want)?)? as u64;
            ensure!(sent > 0, "sendfile sent nothing");
            left -= sent;
            at %= file_bytes;
        }
        Ok(())
    });
    let mut buffer = vec![0; READ_BYTES];
    let mut got = 0;
    while got < total {
        let count = receiver.read(&mut buffer)?;
        ensure!(count > 0, "the sender ended early");
        got += count as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    sending.join().expect("the sender does not panic")?;
    fs::remove_file(path)?;
    Ok(Sent { bytes: total, mib_per_second: total as f64 / f64::from(1 << 20) / seconds })
}
