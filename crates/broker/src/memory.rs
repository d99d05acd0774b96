//! The bytes that a broker allows itself, and what each kind of work may take of them.
//!
//! There is one budget: the smaller of `memory.budget.bytes` and four fifths of the cgroup's limit. Requests and answers in
//! flight, and what is read ahead of requests, and decompression have parts of it, so that none can keep another waiting
//! for ever: a batch that waits to be decompressed holds its request's bytes. What the parts leave is for what grows with
//! partitions and connections, which have limits of their own.

use std::num::NonZero;
use std::sync::Arc;

use anabranch_core::budget::Budget;
use anabranch_core::seam::Machine;

use crate::config::broker::BrokerConfig;

/// The budget and its parts. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    limit_bytes: usize,
    requests: Budget,
    read_ahead: Budget,
    decompression: Budget,
    recompression: Budget,
    fetch_sessions: Budget,
}

/// Where nothing is known of the machine.
const UNKNOWN_BYTES: u64 = 1 << 30;
/// What is recompressed is as large as one message, and there are as many at a time as processors.
const RECOMPRESSION_BYTES_MAX: u64 = 64 << 20;
/// Of 16 parts of the budget, requests and answers have 11, decompression 2, what is read ahead 1, compression half of one and fetch
/// sessions a quarter.
const REQUESTS_SIXTEENTHS: u64 = 11;
/// No codec but zstd takes more; with less, honest batches could not be checked.
const DECOMPRESSION_BYTES_MIN: u64 = 33 << 20;
/// The largest window of zstd, and some: one for each processor, since so many batches are checked at a time.
const DECOMPRESSION_BYTES_EACH: u64 = 129 << 20;
/// Enough for ten thousand connections that send at the same moment.
const READ_AHEAD_BYTES_MAX: u64 = 160 << 20;

impl Memory {
    /// What `config` says, within what the machine has.
    pub(crate) fn new(config: &BrokerConfig, machine: &Machine) -> Self {
        let set = u64::try_from(config.number("memory.budget.bytes")).ok();
        let limit = limit_bytes(set, machine);
        let queued = u64::try_from(config.number("queued.max.request.bytes")).unwrap_or(u64::MAX);
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get) as u64;
        let decompression =
            (limit / 8).max(DECOMPRESSION_BYTES_MIN).min(DECOMPRESSION_BYTES_EACH * processors);
        let budget = |bytes: u64| Budget::new(usize::try_from(bytes).unwrap_or(usize::MAX));
        Self(Arc::new(Parts {
            limit_bytes: usize::try_from(limit).unwrap_or(usize::MAX),
            requests: budget(queued.min(limit / 16 * REQUESTS_SIXTEENTHS)),
            read_ahead: budget((limit / 16).min(READ_AHEAD_BYTES_MAX)),
            decompression: budget(decompression),
            recompression: budget((limit / 32).min(RECOMPRESSION_BYTES_MAX)),
            fetch_sessions: budget(limit / 64),
        }))
    }

    /// The whole budget.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.0.limit_bytes
    }

    /// For requests and answers in flight: also bounded by `queued.max.request.bytes`.
    #[must_use]
    pub fn requests(&self) -> &Budget {
        &self.0.requests
    }

    /// For what is read of requests before it is known what they are.
    #[must_use]
    pub fn read_ahead(&self) -> &Budget {
        &self.0.read_ahead
    }

    /// For batches that are compressed anew, until they are written.
    #[must_use]
    pub fn recompression(&self) -> &Budget {
        &self.0.recompression
    }

    /// For what clients of fetch sessions need not say again (KIP-227).
    #[must_use]
    pub fn fetch_sessions(&self) -> &Budget {
        &self.0.fetch_sessions
    }

    /// For decompressors while batches are checked.
    #[must_use]
    pub fn decompression(&self) -> &Budget {
        &self.0.decompression
    }
}

/// Of a cgroup's limit a fifth is left to what nobody counts: the program itself, allocators, sockets. Without a limit and
/// without a setting half of the machine's memory is left to others.
fn limit_bytes(set: Option<u64>, machine: &Machine) -> u64 {
    let cgroup = machine.cgroup_bytes.map(|bytes| bytes / 5 * 4);
    let half = machine.memory_bytes.map(|bytes| bytes / 2);
    let own = set.or(cgroup).or(half).unwrap_or(UNKNOWN_BYTES);
    // A container's limit may be larger than its machine.
    let most = cgroup.into_iter().chain(machine.memory_bytes).min();
    own.min(most.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_budget_is_the_smaller_of_the_setting_and_the_cgroup() {
        let machine = |memory: Option<u64>, cgroup: Option<u64>| Machine {
            memory_bytes: memory.map(|mib| mib * MIB),
            cgroup_bytes: cgroup.map(|mib| mib * MIB),
            open_files: None,
        };
        for (set, memory, cgroup, expected) in [
            (None, Some(8000), None, 4000),
            (None, Some(8000), Some(250), 200),
            (Some(100), Some(8000), Some(250), 100),
            (Some(6000), Some(8000), Some(250), 200),
            (Some(6000), Some(8000), None, 6000),
            (Some(9000), Some(8000), None, 8000),
            (None, Some(100), Some(250), 100),
            (None, None, None, 1024),
        ] {
            let found = limit_bytes(set.map(|mib| mib * MIB), &machine(memory, cgroup));
            assert_eq!(found / MIB, expected, "{set:?} {memory:?} {cgroup:?}");
        }
    }

    #[test]
    fn the_parts_are_no_more_than_the_whole() {
        for limit in [256, 1000, 20_000] {
            let config = BrokerConfig::default()
                .with("memory.budget.bytes", &(limit * MIB).to_string())
                .and_then(|config| config.with("queued.max.request.bytes", &(1u64 << 40).to_string()))
                .unwrap();
            let memory = Memory::new(&config, &Machine::default());
            let parts = [
                memory.requests(),
                memory.read_ahead(),
                memory.decompression(),
                memory.recompression(),
                memory.fetch_sessions(),
            ];
            let sum: usize = parts.iter().map(|part| part.limit_bytes()).sum();
            assert!(sum <= memory.limit_bytes() / 16 * 15, "{limit} MiB: {sum}");
        }
        let small = BrokerConfig::default().with("queued.max.request.bytes", "1048576").unwrap();
        assert_eq!(Memory::new(&small, &Machine::default()).requests().limit_bytes(), 1 << 20);
    }
}
