//! What the disk can do: writes into a file that is all there already (written with zeros and synced), each made durable.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde::Serialize;

use crate::latency::{Latencies, Latency};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the file is written
    #[arg(long)]
    dir: PathBuf,
    /// What is written at a time
    #[arg(long, default_value_t = 4096)]
    bytes: usize,
    #[arg(long, default_value_t = 1000)]
    writes: usize,
    /// The size of the file; writing begins anew at its end
    #[arg(long, default_value_t = 256 << 20)]
    file_bytes: usize,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Written {
    bytes: usize,
    mib_per_second: f64,
    /// Of one write with its fdatasync, in microseconds.
    latency_us: Latency,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Written> {
    let path = options.dir.join("pre-zeroed");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let zeros = vec![0; 1 << 20];
    for at in (0..options.file_bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, at as u64)?;
    }
    file.sync_all()?;
    let ones = vec![1; options.bytes];
    let mut latencies = Latencies::new();
    let start = Instant::now();
    let places = (options.file_bytes / options.bytes).max(1);
    for number in 0..options.writes {
        let begun = Instant::now();
        file.write_all_at(&ones, ((number % places) * options.bytes) as u64)?;
        file.sync_data()?;
        latencies.record(begun.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok(Written {
        bytes: options.bytes,
        mib_per_second: (options.writes * options.bytes) as f64 / f64::from(1 << 20) / seconds,
        latency_us: latencies.summary(),
    })
}
