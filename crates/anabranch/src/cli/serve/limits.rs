//! The limits of the doors as settings, beside those of the broker.

use std::time::Duration;

use anabranch_serve::Limits;

/// One limit that can be set.
pub(super) struct Limit {
    /// Kafka's name, or one of ours in Kafka's manner.
    pub(super) name: &'static str,
    /// The smallest and largest value.
    pub(super) range: (u64, u64),
    pub(super) get: fn(&Limits) -> u64,
    pub(super) set: fn(&mut Limits, u64),
    pub(super) meaning: &'static str,
}

/// A day: longer than any of these times is an error in units.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Every limit, by name.
#[rustfmt::skip]
pub(super) const LIMITS: &[Limit] = &[
    Limit { name: "answer.stall.max.ms", range: (1, DAY_MS),
        get: |limits| ms(limits.answer_stall_max),
        set: |limits, value| limits.answer_stall_max = Duration::from_millis(value),
        meaning: "How long a client may read nothing of an answer that waits for it." },
    Limit { name: "connection.requests.max", range: (1, 1_000_000),
        get: |limits| limits.requests_in_flight_max.into(),
        set: |limits, value| limits.requests_in_flight_max = u32::try_from(value).unwrap_or(u32::MAX),
        meaning: "How many requests of one connection may wait for their answers to leave." },
    Limit { name: "connections.max.idle.ms", range: (1, 365 * DAY_MS),
        get: |limits| ms(limits.idle_max),
        set: |limits, value| limits.idle_max = Duration::from_millis(value),
        meaning: "How long a connection may say nothing." },
    Limit { name: "fetch.max.bytes", range: (1024, i32::MAX as u64),
        get: |limits| limits.fetch_bytes_max as u64,
        set: |limits, value| limits.fetch_bytes_max = size(value),
        meaning: "The most that one fetch brings, whatever the client asks for." },
    Limit { name: "http.connections.max", range: (1, 1_000_000),
        get: |limits| limits.http_connections_max as u64,
        set: |limits, value| limits.http_connections_max = size(value),
        meaning: "How many HTTP connections there may be." },
    Limit { name: "max.connections", range: (1, i32::MAX as u64),
        get: |limits| limits.connections_max as u64,
        set: |limits, value| limits.connections_max = size(value),
        meaning: "How many Kafka connections there may be; one more is closed as soon as it is accepted." },
    Limit { name: "max.request.partition.size.limit", range: (1, i32::MAX as u64),
        get: |limits| limits.describe_partitions_max as u64,
        set: |limits, value| limits.describe_partitions_max = size(value),
        meaning: "How many partitions one DescribeTopicPartitions tells." },
    Limit { name: "metrics.partitions.max", range: (0, 10_000_000),
        get: |limits| limits.metrics_partitions_max as u64,
        set: |limits, value| limits.metrics_partitions_max = size(value),
        meaning: "How many partitions /metrics lists." },
    Limit { name: "request.stall.max.ms", range: (1, DAY_MS),
        get: |limits| ms(limits.frame_stall_max),
        set: |limits, value| limits.frame_stall_max = Duration::from_millis(value),
        meaning: "How long a request that has begun may stand still." },
    Limit { name: "shutdown.wait.max.ms", range: (0, DAY_MS),
        get: |limits| ms(limits.shutdown_max),
        set: |limits, value| limits.shutdown_max = Duration::from_millis(value),
        meaning: "How long a graceful stop waits for requests in flight." },
    Limit { name: "socket.request.max.bytes", range: (1024, i32::MAX as u64),
        get: |limits| limits.request_bytes_max as u64,
        set: |limits, value| limits.request_bytes_max = size(value),
        meaning: "The largest request that is read." },
];

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use anabranch_broker::config::broker::BROKER_SETTINGS;

    use super::*;

    #[test]
    fn every_limit_is_set_where_it_is_read_and_its_default_is_in_range() {
        assert!(LIMITS.is_sorted_by_key(|limit| limit.name));
        for limit in LIMITS {
            let (min, max) = limit.range;
            let mut limits = Limits::default();
            assert!((min..=max).contains(&(limit.get)(&limits)), "{}", limit.name);
            let before = limits.clone();
            let other = if (limit.get)(&limits) == max { max - 1 } else { (limit.get)(&limits) + 1 };
            (limit.set)(&mut limits, other);
            assert_eq!((limit.get)(&limits), other, "{}", limit.name);
            assert_ne!(limits, before);
            assert!(BROKER_SETTINGS.iter().all(|setting| setting.name != limit.name), "{}", limit.name);
        }
    }
}
