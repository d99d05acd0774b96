//! The machine that the figures are of.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::process::kib_of;

/// Enough syncs to tell a fast disk from a slow one, in a second or two on the slow one.
const SYNCS: usize = 300;

/// What is appended before each.
const SYNC_BYTES: usize = 4096;

/// What the figures depend on and the commit does not say.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    /// What this process may use.
    pub(super) processors: usize,
    pub(super) memory_bytes: u64,
    pub(super) kernel: String,
    /// Runnable processes over the last minute, before the run began: near 0 when the machine was quiet.
    pub(super) load_average: f64,
    pub(super) fdatasync: Fdatasync,
}

/// How fast the disk makes 4 KiB durable, when nothing else is asked of it.
#[derive(Debug, Serialize)]
pub(super) struct Fdatasync {
    pub(super) per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
}

impl Machine {
    /// Reads `/proc`, and tries the disk that `dir` is on.
    pub(super) fn inspect(dir: &Path) -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let model = read("/proc/cpuinfo")?.lines().find_map(|line| {
            line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned())
        });
        let load = read("/proc/loadavg")?;
        Ok(Self {
            processor: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            processors: thread::available_parallelism()?.get(),
            memory_bytes: kib_of("MemTotal", &read("/proc/meminfo")?)
                .context("no MemTotal in /proc/meminfo")?
                * 1024,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_average: load
                .split(' ')
                .next()
                .unwrap_or_default()
                .parse()
                .context("reading /proc/loadavg")?,
            fdatasync: Fdatasync::try_disk(&dir.join("fdatasync"))?,
        })
    }
}

impl Fdatasync {
    fn try_disk(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        let mut taken = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let start = Instant::now();
            file.write_all(&[1; SYNC_BYTES])?;
            file.sync_data()?;
            taken.push(start.elapsed());
        }
        fs::remove_file(path)?;
        Ok(Self::of(taken))
    }

    fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort();
        let total: Duration = taken.iter().sum();
        let share = |percent: usize| {
            let at = (taken.len() * percent).div_ceil(100).saturating_sub(1);
            taken.get(at).map_or(0, |taken| u64::try_from(taken.as_micros()).unwrap_or(u64::MAX))
        };
        Self { per_second: taken.len() as f64 / total.as_secs_f64(), p50_us: share(50), p99_us: share(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_a_hundred_syncs() {
        let of = Fdatasync::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((of.p50_us, of.p99_us), (50_000, 99_000));
        assert!((of.per_second - 100.0 / 5.05).abs() < 1e-9, "{}", of.per_second);
    }

    #[test]
    fn this_machine_can_be_inspected() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::inspect(dir.path()).unwrap();
        assert!(
            machine.processors > 0 && machine.memory_bytes > 1 << 20 && machine.fdatasync.per_second > 0.0
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
