//! What an operator may set.

use std::time::Duration;

/// Longest transactional id. Kafka's record format ends at 32,767 bytes.
pub const ID_BYTES_MAX: usize = 30_000;

/// Settings of the coordinator. Each names Kafka's property where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionConfig {
    /// `transaction.max.timeout.ms`.
    pub timeout_max: Duration,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: how often transactions are looked at, so how much
    /// longer than its timeout one may live.
    pub timeouts_check_interval: Duration,
    /// `transactional.id.expiration.ms`.
    pub id_expiration: Duration,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub id_expiration_check_interval: Duration,
    /// `transactional.ids.max`: how many transactional ids there may be.
    pub ids_max: usize,
    /// Requests that need a store are refused while this many are under way: the disk does not keep up.
    pub stores_in_flight_max: usize,
    /// The largest record, key and value, that the log takes. A transaction that would outgrow it takes no more partitions,
    /// so that the record which ends it always fits.
    pub record_bytes_max: usize,
    /// How long after a marker could not be written it is tried again; doubled each time, up to the second.
    pub marker_retry: (Duration, Duration),
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            timeout_max: Duration::from_secs(15 * 60),
            timeouts_check_interval: Duration::from_secs(10),
            id_expiration: Duration::from_secs(7 * 24 * 60 * 60),
            id_expiration_check_interval: Duration::from_secs(60 * 60),
            ids_max: 100_000,
            stores_in_flight_max: 10_000,
            record_bytes_max: 1_000_000,
            marker_retry: (Duration::from_millis(100), Duration::from_secs(10)),
        }
    }
}
