//! Appending: records go to librdkafka's queue at once, and an append is done when the last of them is acknowledged.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Appended, EngineError, Position};
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use tokio::sync::{Mutex as Turn, MutexGuard, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::engine::blocking;
use crate::error::{blame, failed};
use crate::watch::Watch;

/// Bytes that wait to be acknowledged; whoever has more waits.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// What a record takes beside its own bytes, while it waits.
const RECORD_BYTES: usize = 200;
/// What a record takes in a batch, beside its own bytes.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 100;

/// A producer that tells each append what became of it.
pub(crate) struct Appender {
    producer: ThreadedProducer<Deliveries>,
    room: Arc<Semaphore>,
    /// Who is handing records over, so that appends stay in their order.
    turn: Turn<()>,
}

/// Acknowledgements on their way to those who wait.
#[derive(Debug, Default)]
pub(crate) struct Deliveries(Watch);

/// An append that is under way.
#[derive(Debug)]
pub(crate) struct Pending(Mutex<State>);

#[derive(Debug)]
struct State {
    left: usize,
    first: i64,
    last: i64,
    failure: Option<KafkaError>,
    done: Option<oneshot::Sender<Outcome>>,
    _room: Option<Arc<OwnedSemaphorePermit>>,
}

/// The offsets of the first and the last record.
type Outcome = Result<(i64, i64), KafkaError>;

/// Waits for an append.
pub(crate) struct Waiting(oneshot::Receiver<Outcome>);

impl Appender {
    pub(crate) fn new(config: &ClientConfig) -> KafkaResult<Self> {
        let mut config = config.clone();
        // What may be under way is bounded here: the library's own bounds are never met.
        config.set("queue.buffering.max.messages", "0").set("queue.buffering.max.kbytes", "1048576");
        let producer = config.create_with_context(Deliveries::default())?;
        Ok(Self { producer, room: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)), turn: Turn::new(()) })
    }

    /// Waits until nothing is under way, for so long at most; what is left then fails.
    pub(crate) fn flush(&self, patience: Duration) {
        if let Err(error) = self.producer.flush(patience) {
            tracing::warn!(%error, "what is under way was not acknowledged in time");
            self.producer.purge(PurgeConfig::default().queue().inflight());
            let _ = self.producer.flush(patience); // it only hands out the failures
        }
    }

    pub(crate) fn producer(&self) -> &ThreadedProducer<Deliveries> {
        &self.producer
    }

    /// Whether it has failed for good; another one must take its place.
    pub(crate) fn is_dead(&self) -> bool {
        self.producer.client().fatal_error().is_some()
    }

    /// Waits until all that began before have handed their records over.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Hands `records` over, when there is room for them; it is the caller's turn.
    pub(crate) async fn send(
        &self,
        _turn: MutexGuard<'_, ()>,
        to: &TopicPartition,
        records: &[Record],
        patience: Duration,
    ) -> Result<Waiting, EngineError> {
        let bytes: usize = records.iter().map(|record| record.size_bytes() + RECORD_BYTES).sum();
        let permits = bytes.min(IN_FLIGHT_BYTES_MAX) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(permits).await.expect("it is never closed");
        let room = Arc::new(room);
        match self.hand_over(to, records, Some(Arc::clone(&room))) {
            Err(error) if is_news(&error) => {
                let (producer, topic) = (self.producer.clone(), to.topic.clone());
                blocking(move || look_again(&producer, &topic, patience)).await?;
                self.hand_over(to, records, Some(room))
            }
            handed_over => handed_over,
        }
        .map_err(|error| blame(to, &error))
    }

    /// The same on a thread that may block, and without a bound.
    pub(crate) fn send_blocking(
        &self,
        to: &TopicPartition,
        records: &[Record],
        patience: Duration,
    ) -> Result<Waiting, EngineError> {
        match self.hand_over(to, records, None) {
            Err(error) if is_news(&error) => {
                look_again(&self.producer, &to.topic, patience);
                self.hand_over(to, records, None)
            }
            handed_over => handed_over,
        }
        .map_err(|error| blame(to, &error))
    }

    /// Hands `records` over, all or none of them to begin with. It never blocks.
    fn hand_over(
        &self,
        to: &TopicPartition,
        records: &[Record],
        room: Option<Arc<OwnedSemaphorePermit>>,
    ) -> KafkaResult<Waiting> {
        let (done, waiting) = oneshot::channel();
        let state = State {
            left: records.len(),
            first: i64::MAX,
            last: -1,
            failure: None,
            done: Some(done),
            _room: room,
        };
        let pending = Arc::new(Pending(Mutex::new(state)));
        let count = records.len();
        for (index, record) in records.iter().enumerate() {
            let mut sent =
                BaseRecord::with_opaque_to(&to.topic, Arc::clone(&pending)).partition(to.partition);
            (sent.key, sent.payload) = (record.key.as_deref(), record.value.as_deref());
            sent.timestamp = (record.timestamp_ms >= 0).then_some(record.timestamp_ms);
            sent.headers = (!record.headers.is_empty()).then(|| headers(record));
            if let Err((error, _)) = self.producer.send(sent) {
                if index == 0 {
                    return Err(error);
                }
                pending.settle(count - index, Err(error));
                break;
            }
        }
        Ok(Waiting(waiting))
    }
}

/// Whether the library has not heard of a partition, which may be new.
fn is_news(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition)
}

/// Lets the library look how many partitions there are: by itself it does so every five minutes.
fn look_again(producer: &ThreadedProducer<Deliveries>, topic: &str, patience: Duration) {
    if let Err(error) = producer.client().fetch_metadata(Some(topic), patience) {
        tracing::debug!(topic, %error, "cannot look again how many partitions there are");
    }
}

fn headers(record: &Record) -> OwnedHeaders {
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for header in &record.headers {
        // Checked before: names are UTF-8.
        let key = str::from_utf8(&header.key).unwrap_or_default();
        headers = headers.insert(Header { key, value: header.value.as_deref() });
    }
    headers
}

impl Pending {
    /// `count` records have come to this; the last of all tells.
    fn settle(&self, count: usize, outcome: Result<i64, KafkaError>) {
        let mut state = self.0.lock();
        state.left -= count;
        match outcome {
            Ok(offset) => {
                state.first = state.first.min(offset);
                state.last = state.last.max(offset);
            }
            Err(error) => {
                state.failure.get_or_insert(error);
            }
        }
        if state.left == 0 {
            let outcome = state.failure.take().map_or(Ok((state.first, state.last)), Err);
            state._room = None;
            if let Some(done) = state.done.take() {
                let _ = done.send(outcome); // whoever asked may have gone
            }
        }
    }
}

impl Waiting {
    /// Where the records are, once they are all acknowledged.
    pub(crate) async fn appended(self, to: &TopicPartition) -> Result<Appended, EngineError> {
        match self.0.await {
            // The library knows no offset of a repeat that the broker has had for long.
            Ok(Ok((first, last))) if first >= 0 && last >= first => Ok(Appended {
                first: Position(first as u64),
                next: Position(last as u64 + 1),
                duplicate: false,
            }),
            Ok(Ok(_)) => Err(failed("the records are stored, and the broker does not tell where")),
            Ok(Err(error)) => Err(refusal(to, &error)),
            Err(_) => Err(EngineError::Closed),
        }
    }
}

/// Why an append failed that had been handed over. What was not answered may be stored all the same.
fn refusal(to: &TopicPartition, error: &KafkaError) -> EngineError {
    match error.rdkafka_error_code() {
        Some(
            RDKafkaErrorCode::MessageTimedOut
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::PurgeInflight
            | RDKafkaErrorCode::PurgeQueue,
        ) => failed(error.to_string()),
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidRecord) => {
            EngineError::Refused { topic: to.topic.clone(), reason: error.to_string() }
        }
        _ => match blame(to, error) {
            EngineError::Away { .. } => failed(error.to_string()),
            other => other,
        },
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Arc<Pending>) {
        match result {
            Ok(message) => pending.settle(1, Ok(message.offset())),
            Err((error, _)) => pending.settle(1, Err(error.clone())),
        }
    }
}

impl fmt::Debug for Appender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Appender").field("room", &self.room.available_permits()).finish_non_exhaustive()
    }
}
