//! Queue mode: records are work, each for one of the consumers, who say what became of it.
//!
//! It is another mode than reading, and not a flag on it: there are no positions to commit. A record is *delivered* to one
//! consumer of the group, who *settles* the delivery: the record is done, or is to come again, or is a dead letter. What
//! nobody settles comes again. So a record is delivered at least once, and one that was accepted never again.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::EngineError;
use crate::TopicPartition;
use crate::batch::{Record, RecordAt};

/// A header of a record: it is not delivered before this time, in milliseconds since the Unix epoch, in decimal. In the
/// log it is there at once.
pub const DELIVER_AT_MS: &str = "anabranch.deliver.at.ms";
/// A header of a record: from this time on it is not delivered, and becomes a dead letter when it would be. In milliseconds
/// since the Unix epoch, in decimal.
pub const EXPIRES_AT_MS: &str = "anabranch.expires.at.ms";

/// A header of a dead letter: why it is one.
pub const DEAD_REASON: &str = "anabranch.dead.reason";
/// The group that could do nothing with it.
pub const DEAD_GROUP: &str = "anabranch.dead.group";
/// How often it was delivered, in decimal.
pub const DEAD_COUNT: &str = "anabranch.dead.count";
/// There where the record would not have fitted with these headers, so that its value was left out, or was not there any
/// more: its value is at the source, if at all.
pub const DEAD_INCOMPLETE: &str = "anabranch.dead.incomplete";
/// The topic that the record is from.
pub const SOURCE_TOPIC: &str = "anabranch.source.topic";
/// Its partition, in decimal.
pub const SOURCE_PARTITION: &str = "anabranch.source.partition";
/// Its position there, in decimal.
pub const SOURCE_POSITION: &str = "anabranch.source.position";

/// What an engine with [`super::Capability::Queue`] can do beside.
#[async_trait]
pub trait Queues: Send + Sync + fmt::Debug {
    /// A consumer of the group, which begins at the oldest record that is kept when it is new. All consumers of one group
    /// are given the same `spec`. A group of this name that shares partitions ([`super::Engine::join`]) is another's, and
    /// must not be there.
    async fn consumer(&self, spec: QueueSpec) -> Result<Box<dyn QueueConsumer>, EngineError>;
}

/// One consumer of a queue.
///
/// ```
/// use anabranch_core::batch::Record;
/// use anabranch_core::engine::{Delivery, EngineError, QueueConsumer, Settlement, TakeLimits};
/// # use std::time::Duration;
///
/// /// Ships orders, until there are none for a while.
/// async fn ship(consumer: &mut dyn QueueConsumer) -> Result<(), EngineError> {
///     loop {
///         let orders = consumer.next(TakeLimits::default()).await?;
///         if orders.is_empty() {
///             return Ok(());
///         }
///         let settle = |order: Delivery| match shipped(&order.record.record) {
///             Ok(()) => (order.ticket, Settlement::Accept),
///             Err(_) if order.count < 3 => (order.ticket, Settlement::Release { delay: Duration::from_secs(60) }),
///             Err(reason) => (order.ticket, Settlement::Reject { reason }),
///         };
///         let done = consumer.settle(orders.into_iter().map(settle).collect()).await?;
///         let late = done.iter().filter(|done| done.is_err()).count();
///         println!("{late} orders took too long, and come again");
///     }
/// }
/// # fn shipped(_: &Record) -> Result<(), String> { Ok(()) }
/// ```
///
/// Dropping it gives back what is unsettled when the engine notices; [`QueueConsumer::leave`] at once.
#[async_trait]
pub trait QueueConsumer: Send + fmt::Debug {
    /// What there is to do next, waiting for it as long as `limits` say; nothing when the wait was in vain. Safe to drop
    /// and call again.
    async fn next(&mut self, limits: TakeLimits) -> Result<Vec<Delivery>, EngineError>;

    /// Says what became of deliveries, and tells of each, in this order, whether that was in time. Durable when it returns.
    /// After an error, or when the future is dropped, some of it may have been done, and what was not comes again.
    async fn settle(
        &mut self,
        what: Vec<(Ticket, Settlement)>,
    ) -> Result<Vec<Result<(), TooLate>>, EngineError>;

    /// Asks for as much time again as there was at first, from now on; tells of each whether that was in time.
    async fn extend(&mut self, tickets: &[Ticket]) -> Result<Vec<Result<(), TooLate>>, EngineError>;

    /// Leaves the group, and gives back what is unsettled at once.
    async fn leave(self: Box<Self>) -> Result<(), EngineError>;
}

/// What a group is to do with its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name: letters, digits, `.`, `_` and `-`.
    pub group: String,
    /// Whose records it works on.
    pub topics: Vec<String>,
    /// What is not settled for so long after it was delivered comes again.
    pub settle_within: Duration,
    /// What was delivered so often, and was not accepted, is a dead letter.
    pub deliveries_max: u32,
    /// How many records of one partition may be delivered and unsettled, put off or released; further ones wait. At most
    /// [`QueueSpec::UNSETTLED_MAX`].
    pub unsettled_max: u32,
    /// The topic of dead letters; by default that of [`QueueSpec::dead_letters_of`] each topic. It is created with one
    /// partition if it is not there.
    pub dead_letters: Option<String>,
}

impl QueueSpec {
    /// The most that [`QueueSpec::unsettled_max`] may be.
    pub const UNSETTLED_MAX: u32 = 10_000;

    /// 30 s to settle, 5 deliveries (Kafka's defaults for share groups, KIP-932), 1,000 unsettled records per partition.
    pub fn new<T: Into<String>>(group: impl Into<String>, topics: impl IntoIterator<Item = T>) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            settle_within: Duration::from_secs(30),
            deliveries_max: 5,
            unsettled_max: 1000,
            dead_letters: None,
        }
    }

    /// Where the dead letters of `topic` go.
    #[must_use]
    pub fn dead_letters_of(&self, topic: &str) -> String {
        self.dead_letters.clone().unwrap_or_else(|| format!("{topic}-dead"))
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// [`EngineError::Refused`] says what does not.
    pub fn check(&self) -> Result<(), EngineError> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let why = match self {
            Self { group, .. } if group.is_empty() || !group.bytes().all(legal) => {
                "the name of a queue's group consists of letters, digits, dots, underscores and hyphens"
            }
            Self { topics, .. } if topics.is_empty() => "a queue has at least one topic",
            Self { topics, dead_letters: Some(dead), .. } if topics.contains(dead) => {
                "dead letters go to another topic than they come from"
            }
            Self { settle_within, .. } if settle_within.is_zero() => "there is some time to settle",
            Self { deliveries_max: 0, .. } => "a record is delivered at least once",
            Self { unsettled_max, .. } if !(1..=Self::UNSETTLED_MAX).contains(unsettled_max) => {
                "unsettled_max is from 1 to 10,000"
            }
            _ => return Ok(()),
        };
        Err(EngineError::Refused { topic: self.group.clone(), reason: why.to_owned() })
    }
}

/// How much to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeLimits {
    /// Deliveries at most.
    pub deliveries_max: usize,
    /// Bytes of records; the first comes also when it is larger.
    pub bytes_max: usize,
    /// How long to wait for the first.
    pub wait_max: Duration,
}

impl Default for TakeLimits {
    fn default() -> Self {
        Self { deliveries_max: 500, bytes_max: 1 << 20, wait_max: Duration::from_millis(500) }
    }
}

/// A record that a consumer is to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Names this delivery when it is settled.
    pub ticket: Ticket,
    /// Where the record is from.
    pub at: TopicPartition,
    /// The record.
    pub record: RecordAt,
    /// How often it was delivered, this time included. It may be more, where a consumer was gone before it handed a record on,
    /// and never less.
    pub count: u32,
}

/// Names one delivery of one consumer: what is delivered again has another. The numbers are the engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// Who delivered.
    pub by: u64,
    /// What.
    pub number: u64,
}

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// It is done: the record is not delivered to the group again.
    Accept,
    /// It is to come again.
    Release {
        /// After so long.
        delay: Duration,
    },
    /// Nobody can do anything with it: it becomes a dead letter.
    Reject {
        /// Why, for whoever looks at dead letters.
        reason: String,
    },
}

/// The delivery was over: its time was up, it was settled before, or the consumer has lost the partition. The record has come
/// again, or will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the delivery is over: the record comes again, or was settled before")]
pub struct TooLate;

/// What a record's headers say about when it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Not before.
    pub deliver_at_ms: Option<i64>,
    /// Not from then on.
    pub expires_at_ms: Option<i64>,
}

impl Times {
    /// Of a record. Of several headers of a name the last counts, as for Kafka's clients.
    ///
    /// # Errors
    /// A header is no number; it tells which, as the reason why the record is a dead letter.
    pub fn of(record: &Record) -> Result<Self, String> {
        let last = |name: &str| {
            let found = record.headers.iter().rev().find(|header| header.key == name.as_bytes());
            let text = found.map(|header| header.value.as_deref().unwrap_or_default());
            let number = text.map(|text| std::str::from_utf8(text).ok()?.trim().parse().ok());
            match number {
                Some(None) => Err(format!("the header {name} is not a time in milliseconds")),
                number => Ok(number.flatten()),
            }
        };
        Ok(Self { deliver_at_ms: last(DELIVER_AT_MS)?, expires_at_ms: last(EXPIRES_AT_MS)? })
    }

    /// Whether it is too late to deliver.
    #[must_use]
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }

    /// Until when it is too early to deliver.
    #[must_use]
    pub fn is_early(&self, now_ms: i64) -> Option<i64> {
        self.deliver_at_ms.filter(|at| *at > now_ms)
    }
}

/// A dead letter: the record, with where it is from and why. `record` is none where it was not there any more.
#[must_use]
pub fn dead_letter(
    record: Option<Record>,
    from: &TopicPartition,
    at: super::Position,
    (group, count, reason): (&str, u32, &str),
    bytes_max: u64,
) -> Record {
    let marked = |record: Record| {
        record
            .header(DEAD_REASON, reason.to_owned())
            .header(DEAD_GROUP, group.to_owned())
            .header(DEAD_COUNT, count.to_string())
            .header(SOURCE_TOPIC, from.topic.clone())
            .header(SOURCE_PARTITION, from.partition.to_string())
            .header(SOURCE_POSITION, at.to_string())
    };
    let incomplete = |record: Record| Record { value: None, ..record }.header(DEAD_INCOMPLETE, "1");
    let Some(record) = record else { return marked(incomplete(Record::keyless(""))) };
    let whole = marked(record.clone());
    if whole.size_bytes() as u64 <= bytes_max {
        return whole;
    }
    let valueless = marked(incomplete(record.clone()));
    match valueless.size_bytes() as u64 <= bytes_max {
        true => valueless,
        // Its own key or headers are what is large.
        false => marked(incomplete(Record { key: None, headers: Vec::new(), ..record })),
    }
}

/// What is left of a dead letter that its topic does not take: where it is from, and why.
#[must_use]
pub fn stripped(letter: &Record) -> Record {
    const KEPT: [&str; 6] =
        [DEAD_REASON, DEAD_GROUP, DEAD_COUNT, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_POSITION];
    let last = |name: &&str| letter.headers.iter().rev().find(|header| header.key == name.as_bytes());
    let headers = KEPT.iter().filter_map(last).cloned().collect();
    Record { value: None, headers, ..Record::keyless("") }.header(DEAD_INCOMPLETE, "1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Position;

    #[test]
    fn times_are_numbers_and_the_last_counts() {
        let plain = Record::keyless("x");
        assert_eq!(Times::of(&plain).unwrap(), Times::default());
        let twice = plain.clone().header(DELIVER_AT_MS, "5").header(DELIVER_AT_MS, " 7");
        let times = Times::of(&twice.header(EXPIRES_AT_MS, "9")).unwrap();
        assert_eq!(times, Times { deliver_at_ms: Some(7), expires_at_ms: Some(9) });
        assert_eq!((times.is_early(6), times.is_early(7)), (Some(7), None));
        assert_eq!((times.has_expired(8), times.has_expired(9)), (false, true));
        for bad in ["", "soon", "1e3", "99999999999999999999"] {
            let told = Times::of(&plain.clone().header(EXPIRES_AT_MS, bad)).unwrap_err();
            assert!(told.contains(EXPIRES_AT_MS), "{told}");
        }
    }

    #[test]
    fn a_spec_that_makes_no_sense_is_refused() {
        let spec = QueueSpec::new("shipping", ["orders"]);
        spec.check().unwrap();
        let bad = [
            QueueSpec { group: String::new(), ..spec.clone() },
            QueueSpec { group: "a b".to_owned(), ..spec.clone() },
            QueueSpec { topics: Vec::new(), ..spec.clone() },
            QueueSpec { settle_within: Duration::ZERO, ..spec.clone() },
            QueueSpec { deliveries_max: 0, ..spec.clone() },
            QueueSpec { unsettled_max: 0, ..spec.clone() },
            QueueSpec { unsettled_max: QueueSpec::UNSETTLED_MAX + 1, ..spec.clone() },
            QueueSpec { dead_letters: Some("orders".to_owned()), ..spec.clone() },
        ];
        for bad in bad {
            assert!(matches!(bad.check(), Err(EngineError::Refused { .. })), "{bad:?}");
        }
        assert_eq!(spec.dead_letters_of("orders"), "orders-dead");
    }

    #[test]
    fn a_dead_letter_fits() {
        let from = TopicPartition::new("orders", 3);
        let letter = |record, max| dead_letter(record, &from, Position(7), ("g", 2, "no"), max);
        let record = Record::new("k", vec![1; 1000]).header("own", "x").at(5);
        let whole = letter(Some(record.clone()), 2000);
        assert_eq!((&whole.key, &whole.value, whole.timestamp_ms), (&record.key, &record.value, 5));
        let names: Vec<_> = whole.headers.iter().map(|header| header.key_text().into_owned()).collect();
        let expected =
            ["own", DEAD_REASON, DEAD_GROUP, DEAD_COUNT, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_POSITION];
        assert_eq!(names, expected);
        let cut = letter(Some(record.clone()), 1000);
        assert_eq!((&cut.key, cut.value.is_none()), (&record.key, true));
        assert!(cut.headers.iter().any(|header| header.key == DEAD_INCOMPLETE));
        let bare = letter(Some(Record::new(vec![1; 1000], "v")), 500);
        assert!(bare.key.is_none() && bare.size_bytes() < 500);
        let stripped = stripped(&whole);
        assert_eq!((&stripped.key, &stripped.value, stripped.headers.len()), (&None, &None, 7));
        assert!(stripped.headers.iter().all(|header| header.key != "own"));
        assert!(letter(None, 500).headers.iter().any(|header| header.key == DEAD_INCOMPLETE));
    }
}
