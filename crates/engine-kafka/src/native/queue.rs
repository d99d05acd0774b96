//! One partition's queue of fetched messages, by librdkafka's own functions.
//!
//! The binding hands over message by message, each with allocations of its own, and keeps back two things that a reader
//! has to know: the offset at which a partition ended, and header names that are not UTF-8. So this module calls the library
//! itself.

use std::ffi::{CStr, CString, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use anabranch_core::batch::{Header, Record, RecordAt};
use anabranch_core::{Offset, TopicPartition};
use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;
use rdkafka_sys as native;
use tokio::sync::Notify;

use crate::watch::Watch;

/// Messages that are taken from the queue at once.
const TAKE: usize = 512;

/// What comes from a partition.
#[derive(Debug)]
pub(crate) enum Event {
    /// A record.
    Record(RecordAt),
    /// Everything before this offset has come, or is not shown.
    End(Offset),
    /// The partition cannot be read.
    Failed(RDKafkaErrorCode, String),
}

/// What was fetched of one partition, apart from all others of its consumer.
pub(crate) struct PartitionQueue {
    queue: NonNull<native::rd_kafka_queue_t>,
    topic: CString,
    partition: i32,
    /// The queue has something; the library holds a pointer to it.
    news: Arc<Notify>,
    /// Outlives the queue.
    consumer: Arc<BaseConsumer<Watch>>,
}

// SAFETY: librdkafka's queues may be used from any thread, and by several.
unsafe impl Send for PartitionQueue {}
// SAFETY: as above.
unsafe impl Sync for PartitionQueue {}

/// A message that is destroyed in the end.
struct Message(NonNull<native::rd_kafka_message_t>);

impl PartitionQueue {
    /// Of a partition that is not assigned to `consumer` yet: assigned first, its messages could go elsewhere.
    pub(crate) fn split(consumer: Arc<BaseConsumer<Watch>>, at: &TopicPartition) -> Option<Self> {
        let topic = CString::new(at.topic.as_str()).ok()?;
        let client = consumer.client().native_ptr();
        // SAFETY: the client lives as long as `consumer`, the name as long as the call.
        let queue = unsafe { native::rd_kafka_queue_get_partition(client, topic.as_ptr(), at.partition) };
        let queue = NonNull::new(queue)?;
        let news = Arc::new(Notify::new());
        let opaque = Arc::as_ptr(&news).cast_mut().cast::<c_void>();
        // SAFETY: the queue is ours until it is destroyed in `drop`, where the callback is taken away before `news` goes.
        unsafe {
            native::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            native::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(has_news), opaque);
        }
        Some(Self { queue, topic, partition: at.partition, news, consumer })
    }

    /// Wakes when something has come since it was called last.
    pub(crate) fn news(&self) -> &Notify {
        &self.news
    }

    /// Takes what is there, but not for ever; tells whether there was anything.
    pub(crate) fn take(&self, mut each: impl FnMut(Event)) -> bool {
        let mut messages = [ptr::null_mut(); TAKE];
        // SAFETY: the array has room for `TAKE` pointers, and 0 says not to wait.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, messages.as_mut_ptr(), TAKE)
        };
        let count = usize::try_from(count).unwrap_or(0);
        let messages: Vec<Message> =
            messages[..count].iter().filter_map(|message| NonNull::new(*message).map(Message)).collect();
        let arena = Arena::of(&messages);
        let mut at = 0;
        for message in &messages {
            each(message.event(&arena, &mut at));
        }
        count > 0
    }

    /// Where the partition ended when the cluster answered last; none yet is `None`.
    pub(crate) fn known_end(&self) -> Option<Offset> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client lives as long as `self.consumer`, the rest as long as the call.
        let answer = unsafe {
            native::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                self.topic.as_ptr(),
                self.partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (answer == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
    }
}

impl std::fmt::Debug for PartitionQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionQueue")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .finish_non_exhaustive()
    }
}

impl Drop for PartitionQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours. The callback runs under the queue's lock only, which taking it away takes, too.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

unsafe extern "C" fn has_news(_: *mut native::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: it is the `Notify` of a queue that lives, see `PartitionQueue::drop`.
    unsafe { &*opaque.cast::<Notify>() }.notify_one();
}

/// The bytes of many messages in one allocation.
struct Arena(Bytes);

impl Arena {
    fn of(messages: &[Message]) -> Self {
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len_bytes).sum());
        for message in messages.iter().filter(|message| message.is_record()) {
            message.each_part(|part| bytes.extend_from_slice(part.unwrap_or_default()));
        }
        Self(bytes.into())
    }

    /// The next `len` bytes.
    fn next(&self, at: &mut usize, len: usize) -> Bytes {
        let start = *at;
        *at += len;
        self.0.slice(start..*at)
    }
}

impl Message {
    fn raw(&self) -> &native::rd_kafka_message_t {
        // SAFETY: it is not destroyed before `self` is.
        unsafe { self.0.as_ref() }
    }

    fn is_record(&self) -> bool {
        self.raw().err == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    fn key(&self) -> Option<&[u8]> {
        // SAFETY: what the message says of its key.
        unsafe { slice(self.raw().key, self.raw().key_len) }
    }

    fn value(&self) -> Option<&[u8]> {
        // SAFETY: what the message says of its payload.
        unsafe { slice(self.raw().payload, self.raw().len) }
    }

    fn len_bytes(&self) -> usize {
        match self.is_record() {
            true => self.raw().key_len + self.raw().len,
            false => 0,
        }
    }

    /// Key, value, and name and value of each header.
    fn each_part(&self, mut each: impl FnMut(Option<&[u8]>)) {
        each(self.key());
        each(self.value());
        self.each_header(|name, value| {
            each(Some(name));
            each(value);
        });
    }

    fn each_header(&self, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives, and the headers stay its own.
        let answer = unsafe { native::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return; // it has none
        }
        for index in 0.. {
            let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers live as long as the message; past the last one it fails.
            let name = unsafe {
                let answer = native::rd_kafka_header_get_all(
                    headers,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut len,
                );
                if answer != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return;
                }
                CStr::from_ptr(name)
            };
            // SAFETY: as the library has told.
            each(name.to_bytes(), unsafe { slice(value, len) });
        }
    }

    fn event(&self, arena: &Arena, at: &mut usize) -> Event {
        let raw = self.raw();
        match raw.err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Event::Record(self.record(arena, at)),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Event::End(Offset(raw.offset)),
            code => {
                let said = String::from_utf8_lossy(self.value().unwrap_or_default()).into_owned();
                Event::Failed(code.into(), said)
            }
        }
    }

    /// Its parts were written to the arena in this order.
    fn record(&self, arena: &Arena, at: &mut usize) -> RecordAt {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives.
        let timestamp_ms = unsafe { native::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        let key = self.key().map(|key| arena.next(at, key.len()));
        let value = self.value().map(|value| arena.next(at, value.len()));
        let mut headers = Vec::new();
        self.each_header(|name, value| {
            let key = arena.next(at, name.len());
            headers.push(Header { key, value: value.map(|value| arena.next(at, value.len())) });
        });
        RecordAt { offset: Offset(self.raw().offset), record: Record { key, value, headers, timestamp_ms } }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nothing borrowed of it is left.
        unsafe { native::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

/// `len` bytes, which live as long as whom they are borrowed from; none where there is no pointer.
///
/// # Safety
/// The bytes are there.
unsafe fn slice<'a>(bytes: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller's word.
    NonNull::new(bytes.cast_mut())
        .map(|bytes| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), len) })
}
