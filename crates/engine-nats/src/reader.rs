//! Reading one partition, by a pull consumer of our own that acknowledges nothing.
//!
//! While blocks are to be had, two requests for one are under way, so that the server need not wait for the next. It serves them by turns, and
//! does not tell which of them a message is for: so what is counted is what it may still send, over both. It says
//! with each message how many are behind it, so that a reader that has come to the end does not wait for more.
//! Where nothing came, the stream and the consumer are asked: that finds a consumer that was lost, and an end behind which
//! everything was deleted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{Block, EngineError, Fetched, Position, ReadLimits, Reader};
use anabranch_core::{Offset, TopicPartition};
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, IntoConsumerConfig, pull};
use async_nats::{Message, StatusCode, Subscriber};
use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use crate::engine::Inner;
use crate::envelope;
use crate::link::Bounds;
use crate::names;
use crate::trouble::Trouble;

/// Bytes of one request. The messages of two are fewer than the client keeps for a subscription (65,536): it drops what it cannot keep.
const REQUEST_BYTES_MAX: usize = 3 << 19;
/// With very many readers, lest each asks for single messages.
const REQUEST_BYTES_MIN: usize = 16 << 10;
/// What all readers of a connection ask for at once: the server hangs up on a client for which more than 64 MiB wait.
const UNDER_WAY_BYTES_MAX: usize = 32 << 20;
const REQUESTS_MAX: usize = 2;
/// No message is smaller, as both sides count them: its subject, `ab.T.P.r`, and `$JS.ACK.ab-T-P.` with the consumer's name and six
/// numbers, of which one is a time in ns.
const MESSAGE_BYTES_MIN: usize = 60;
/// What a message tells that ends a request early: how many of its bytes did not come.
const PENDING_BYTES: &str = "Nats-Pending-Bytes";
/// How long the server keeps a request, and a consumer that nobody asks for anything.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
const CONSUMER_EXPIRES: Duration = Duration::from_secs(60);
/// How long to wait for what the server says is there, and before it is asked whether the consumer is still there.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look for what the server says is there, before the consumer is made anew.
const LOOKS_MAX: u32 = 1;
/// How often a consumer is made anew before a read fails.
const CONSUMERS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// How long a read waits at most; an instant has to be told.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What of the records is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// Nothing but the timestamp: the payload stays at the server.
    Timestamp,
}

pub(crate) struct PartitionReader {
    inner: Arc<Inner>,
    at: TopicPartition,
    stream: String,
    part: Part,
    /// In a compacted topic records go missing everywhere, and it is no loss.
    compacted: bool,
    next: Position,
    latest: Position,
    consumer: Option<Consumer>,
    /// What has come and was not handed on yet.
    held: VecDeque<Held>,
    held_bytes: usize,
}

struct Held {
    sequence: u64,
    record: Record,
    bytes: usize,
}

struct Consumer {
    name: String,
    inbox: String,
    messages: Subscriber,
    /// Messages that have come from it.
    received: u64,
    /// Messages that are behind these.
    pending: u64,
    asked: Asked,
}

/// What the server was asked for, and has not sent.
#[derive(Debug, Default)]
struct Asked {
    /// Of all requests together, as both sides count them.
    bytes: usize,
    /// One message of any size, by a request for that alone.
    any: bool,
    /// When the newest ends, in case nobody says so.
    expires: Option<Instant>,
    /// The next message is larger than this, and a smaller request for it is in vain.
    next_exceeds: usize,
}

impl Asked {
    /// The next request, if one is due: for so many bytes, or for one message of any size (0). It counts as sent.
    fn next(&mut self, bytes: usize, at_once: usize) -> Option<usize> {
        if self.any || self.bytes > bytes * (at_once - 1) {
            return None;
        }
        if self.next_exceeds < bytes {
            self.bytes += bytes;
            return Some(bytes);
        }
        self.any = self.bytes == 0; // those under way end first
        self.any.then_some(0)
    }

    /// A message has come.
    fn came(&mut self, bytes: usize) {
        if !std::mem::take(&mut self.any) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        self.next_exceeds = 0;
    }

    /// A request has ended, of which so much did not come.
    fn ended(&mut self, pending: Option<usize>) {
        self.any = false;
        self.bytes = pending.map_or(0, |pending| self.bytes.saturating_sub(pending));
    }
}

/// What has come of waiting.
enum Came {
    Record,
    /// The request has ended.
    End,
    /// The consumer is not there any more.
    Lost(String),
    Nothing,
}

impl std::fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { at, next, .. } = self;
        f.debug_struct("PartitionReader").field("at", at).field("next", next).finish_non_exhaustive()
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        self.inner.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartitionReader {
    pub(crate) fn new(
        inner: Arc<Inner>,
        at: TopicPartition,
        compacted: bool,
        part: Part,
        next: Position,
    ) -> Self {
        inner.readers.fetch_add(1, Ordering::Relaxed);
        Self {
            stream: names::stream(&at),
            inner,
            at,
            part,
            compacted,
            next,
            latest: Position(0),
            consumer: None,
            held: VecDeque::new(),
            held_bytes: 0,
        }
    }

    /// Fills `held`, or moves `next` to where nothing is before it.
    async fn fill(&mut self, limits: ReadLimits) -> Result<(), Trouble> {
        let (start, give_up) = (self.next, Instant::now() + limits.wait_max.min(WAIT_MAX));
        let (mut made, mut looks) = (0, 0);
        loop {
            self.inner.check_open()?;
            if self.consumer.is_none() {
                if made > 0 {
                    sleep(PAUSE).await;
                }
                made += 1;
                match self.make_consumer().await {
                    Err(Trouble::Away(_)) if made < CONSUMERS_MAX => continue,
                    done => done?,
                }
            }
            if let Err(error) = self.request(limits.bytes_max).await {
                self.lose(&format!("{error:?}"));
                continue;
            }
            let pending = self.consumer.as_ref().map_or(0, |consumer| consumer.pending);
            let has_some = !self.held.is_empty();
            if self.next > start || self.held_bytes >= limits.bytes_max || has_some && pending == 0 {
                return Ok(());
            }
            let patience = Instant::now() + PATIENCE;
            let is_idle = !has_some && pending == 0;
            let until = if is_idle { patience.min(give_up) } else { patience };
            match self.wait(until, limits.bytes_max).await? {
                Came::Record => looks = 0,
                // Whoever takes what is held leaves room for what is asked for now.
                Came::End if has_some => return self.request(limits.bytes_max).await.or(Ok(())),
                Came::End => {}
                Came::Lost(why) => {
                    self.lose(&why);
                    if made >= CONSUMERS_MAX {
                        return Err(Trouble::Away(why));
                    }
                }
                Came::Nothing if has_some => return Ok(()),
                Came::Nothing => match self.look().await {
                    Ok(0) if Instant::now() >= give_up => return Ok(()),
                    Ok(0) => looks = 0,
                    Ok(_) if looks < LOOKS_MAX => looks += 1,
                    Ok(_) => self.lose("what the server says is there does not come"),
                    Err(Trouble::Away(why)) if made < CONSUMERS_MAX => self.lose(&why),
                    Err(trouble) => return Err(trouble),
                },
            }
        }
    }

    /// Makes a consumer that begins behind what is held.
    async fn make_consumer(&mut self) -> Result<(), Trouble> {
        let link = &self.inner.link;
        let bounds = link.bounds(&self.stream).await?;
        if self.held.is_empty() {
            self.check(bounds)?;
        }
        let (inbox, messages) = link.inbox().await?;
        let name = names::unique();
        let config = pull::Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.tail() },
            ack_policy: AckPolicy::None,
            headers_only: self.part == Part::Timestamp,
            inactive_threshold: CONSUMER_EXPIRES,
            // It holds nothing that could not be had again.
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let question = json!({ "stream_name": self.stream, "config": config.into_consumer_config() });
        let created = link.api(&format!("CONSUMER.CREATE.{}.{name}", self.stream), &question).await;
        let info: consumer::Info = created?;
        let pending = match info.num_pending {
            0 if self.held.is_empty() => self.pass_deleted(bounds).await?,
            pending => pending,
        };
        self.latest = self.latest.max(Position(bounds.last));
        self.consumer =
            Some(Consumer { name, inbox, messages, received: 0, pending, asked: Asked::default() });
        Ok(())
    }

    /// Asks for blocks: for one more than is under way, if it is to be had already.
    async fn request(&mut self, bytes_max: usize) -> Result<(), Trouble> {
        let readers = self.inner.readers.load(Ordering::Relaxed).max(1);
        let share = (UNDER_WAY_BYTES_MAX / REQUESTS_MAX / readers).max(REQUEST_BYTES_MIN);
        let bytes = bytes_max.clamp(1, REQUEST_BYTES_MAX.min(share));
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        let asked = &mut consumer.asked;
        let now = Instant::now();
        if asked.expires.is_some_and(|expires| expires <= now) {
            *asked = Asked::default();
        }
        let at_once = if consumer.pending > 0 { REQUESTS_MAX } else { 1 };
        while let Some(bytes) = asked.next(bytes, at_once) {
            let expires = REQUEST_EXPIRES.as_nanos() as u64;
            // The answer that it has expired may be lost.
            asked.expires = Some(now + REQUEST_EXPIRES + PATIENCE);
            let question = match bytes {
                0 => json!({ "batch": 1, "expires": expires }),
                // It never ends by the number of messages, of which the server says nothing.
                _ => {
                    json!({ "batch": bytes / MESSAGE_BYTES_MIN + 1, "max_bytes": bytes, "expires": expires })
                }
            };
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", self.stream, consumer.name);
            let client = self.inner.link.client();
            let sent =
                client.publish_with_reply(subject, consumer.inbox.clone(), question.to_string().into());
            match timeout_at(now + PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Trouble::Away(error.to_string())),
                Err(_) => return Err(Trouble::Away("the connection is slow".to_owned())),
            }
        }
        Ok(())
    }

    /// Waits for a message, and takes what has come with it.
    async fn wait(&mut self, until: Instant, bytes_max: usize) -> Result<Came, Trouble> {
        let Some(consumer) = &mut self.consumer else { return Ok(Came::Nothing) };
        let came = tokio::select! {
            biased;
            came = timeout_at(until, consumer.messages.next()) => came,
            () = self.inner.closed() => return Err(Trouble::Closed),
        };
        match came {
            Err(_) => Ok(Came::Nothing),
            Ok(None) => Ok(Came::Lost("its subscription has ended".to_owned())),
            Ok(Some(message)) => {
                let mut came = self.accept(message)?;
                while matches!(came, Came::Record)
                    && self.held_bytes < bytes_max
                    && let Some(consumer) = &mut self.consumer
                    && let Some(Some(message)) = consumer.messages.next().now_or_never()
                {
                    came = self.accept(message)?;
                }
                Ok(came)
            }
        }
    }

    fn accept(&mut self, message: Message) -> Result<Came, Trouble> {
        let tail = self.tail();
        let consumer = self.consumer.as_mut().expect("a message came from it");
        if let Some(status) = message.status {
            let told = message.description.unwrap_or_default();
            let pending = message.headers.as_ref().and_then(|headers| headers.get(PENDING_BYTES));
            let pending = pending.and_then(|pending| pending.as_str().parse().ok());
            return Ok(match (status, told.as_str()) {
                (StatusCode::IDLE_HEARTBEAT, _) => Came::Nothing,
                (StatusCode::NOT_FOUND | StatusCode::TIMEOUT, _) | (_, "Batch Completed") => {
                    consumer.asked.ended(pending);
                    Came::End
                }
                (_, "Message Size Exceeds MaxBytes") => {
                    consumer.asked.ended(pending);
                    consumer.asked.next_exceeds = pending.unwrap_or(usize::MAX);
                    Came::End
                }
                _ => Came::Lost(format!("{status} {told}")),
            });
        }
        let Some(place) = message.reply.as_deref().and_then(Delivered::parse) else {
            return Ok(Came::Lost("a message without its place".to_owned()));
        };
        if place.consumer_sequence != consumer.received + 1 || place.sequence < tail {
            return Ok(Came::Lost("a message is missing".to_owned()));
        }
        let arrived_ms = (place.time_ns / 1_000_000).cast_signed();
        let opened = match self.part {
            Part::All => envelope::open(message.headers.as_ref(), message.payload, arrived_ms),
            Part::Timestamp => envelope::timestamp_ms(message.headers.as_ref(), arrived_ms)
                .map(|timestamp_ms| Record::keyless("").at(timestamp_ms)),
        };
        let record = match opened {
            Ok(record) => record,
            // What came before it is handed on first, and it is met again.
            Err(damaged) if !self.held.is_empty() => return Ok(Came::Lost(damaged.to_string())),
            Err(damaged) => {
                self.consumer = None;
                return Err(Trouble::Failed(format!("message {}: {damaged}", place.sequence)));
            }
        };
        consumer.received += 1;
        consumer.pending = place.pending;
        consumer.asked.came(message.length);
        self.latest = self.latest.max(Position(place.sequence + place.pending));
        self.held_bytes += message.length;
        self.held.push_back(Held { sequence: place.sequence, record, bytes: message.length });
        Ok(Came::Record)
    }

    /// Asks the server what is there, after nothing came; moves behind what was deleted. Tells how many messages should come.
    async fn look(&mut self) -> Result<u64, Trouble> {
        let Some(consumer) = &self.consumer else { return Ok(0) };
        let bounds = self.inner.link.bounds(&self.stream).await?;
        let info = self.inner.link.consumer(&self.stream, &consumer.name).await?;
        let under_way = info.delivered.consumer_sequence.saturating_sub(consumer.received);
        let mut pending = info.num_pending + under_way;
        self.check(bounds)?;
        if pending == 0 {
            pending = self.pass_deleted(bounds).await?;
        }
        if let Some(consumer) = &mut self.consumer {
            consumer.pending = pending;
        }
        self.latest = self.latest.max(Position(bounds.last));
        Ok(pending)
    }

    /// Moves to the end if nothing is before it. Otherwise tells that something is there: the consumer is late.
    async fn pass_deleted(&mut self, bounds: Bounds) -> Result<u64, Trouble> {
        if self.next.0 >= bounds.last {
            return Ok(0);
        }
        match self.inner.link.first_from(&self.stream, self.next.0 + 1).await? {
            Some(sequence) if sequence <= bounds.last => Ok(1),
            _ => {
                self.next = Position(bounds.last);
                Ok(0)
            }
        }
    }

    /// Takes off what is held, up to a size, at least one.
    async fn take(&mut self, bytes_max: usize) -> Result<Vec<RecordAt>, Trouble> {
        if self.held.front().is_some_and(|front| front.sequence != self.next.0 + 1) && !self.compacted {
            // Deleted since the consumer was made: by a trim, by age, or one by one.
            self.check(self.inner.link.bounds(&self.stream).await?)?;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(front) = self.held.front() {
            let is_next = self.compacted || front.sequence == self.next.0 + 1;
            if !taken.is_empty() && (bytes + front.bytes > bytes_max || !is_next) {
                break;
            }
            let held = self.held.pop_front().expect("it was looked at");
            bytes += held.bytes;
            self.held_bytes -= held.bytes;
            self.next = Position(held.sequence);
            taken.push(RecordAt { offset: Offset::from(Position(held.sequence - 1)), record: held.record });
        }
        Ok(taken)
    }

    /// The sequence of what comes next, at least.
    fn tail(&self) -> u64 {
        self.held.back().map_or(self.next.0, |held| held.sequence).saturating_add(1)
    }

    fn lose(&mut self, why: &str) {
        tracing::debug!(partition = %self.at, why, "a reader makes its consumer anew");
        self.consumer = None;
    }

    fn check(&self, bounds: Bounds) -> Result<(), Trouble> {
        let (earliest, latest) = bounds.positions();
        let is_too_old = self.next < earliest && !self.compacted;
        match is_too_old || self.next > latest {
            true => Err(Trouble::OutOfRange { position: self.next, earliest, latest }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Reader for PartitionReader {
    fn position(&self) -> Position {
        self.next
    }

    async fn read(&mut self, limits: ReadLimits) -> Result<Fetched, EngineError> {
        self.fill(limits).await.map_err(|trouble| trouble.about(&self.at))?;
        let records = self.take(limits.bytes_max).await.map_err(|trouble| trouble.about(&self.at))?;
        let latest = self.latest.max(self.next);
        Ok(Fetched { block: Block::Records(records), next: self.next, latest })
    }

    fn seek(&mut self, to: Position) {
        if to != self.next {
            self.next = to;
            self.consumer = None;
            self.held.clear();
            self.held_bytes = 0;
        }
    }
}

/// Where a message is, as the subject tells that it would be acknowledged by (NATS ADR-15):
/// `$JS.ACK.[domain.account.]stream.consumer.deliveries.sequence.consumer sequence.time.pending[.more]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivered<'a> {
    pub(crate) stream: &'a str,
    pub(crate) deliveries: u32,
    pub(crate) sequence: u64,
    consumer_sequence: u64,
    pub(crate) time_ns: u64,
    pending: u64,
}

impl<'a> Delivered<'a> {
    pub(crate) fn parse(reply: &'a str) -> Option<Self> {
        let (mut tokens, mut count) = ([""; 9], 0);
        for token in reply.strip_prefix("$JS.ACK.")?.split('.').take(tokens.len()) {
            tokens[count] = token;
            count += 1;
        }
        let tokens = match count {
            7 => &tokens[..7],
            9 => &tokens[2..],
            _ => return None,
        };
        let number = |at: usize| tokens[at].parse().ok();
        Some(Self {
            stream: tokens[0],
            deliveries: tokens[2].parse().ok()?,
            sequence: number(3)?,
            consumer_sequence: number(4)?,
            time_ns: number(5)?,
            pending: number(6)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::seam::{Random, SeededRandom};

    use super::*;

    /// What of a request the server still has.
    struct Waits {
        left: usize,
        bytes: usize,
    }

    /// It serves requests by turns. A reader that took them to be answered one after the other believed that one had ended whenever two
    /// had come to half, and asked for more and more, until the server hung up on it: with sixteen partitions, every time.
    #[test]
    fn what_is_under_way_is_bounded_and_never_nothing() {
        const BYTES: usize = 10_000;
        let dice = SeededRandom::new(7);
        let die = |below: u64| (dice.next_u64() % below) as usize;
        for round in 0..200 {
            let (mut asked, mut server) = (Asked::default(), VecDeque::<Waits>::new());
            let (mut on_its_way, mut large) = (VecDeque::new(), 0);
            let sizes: Vec<usize> = (0..500)
                .map(|_| match die(40) {
                    0 => BYTES + die(3 * BYTES as u64),
                    1 => BYTES,
                    _ if round % 2 == 0 => 100,
                    _ => MESSAGE_BYTES_MIN + die(1_000),
                })
                .collect();
            for size in sizes {
                let mut has_come = false;
                while !has_come {
                    while let Some(bytes) = asked.next(BYTES, REQUESTS_MAX) {
                        let left = if bytes == 0 { 1 } else { bytes / MESSAGE_BYTES_MIN + 1 };
                        on_its_way.push_back(Waits { left, bytes });
                    }
                    // A request may be late: the server goes on with what it has.
                    while server.is_empty() || die(3) == 0 {
                        match on_its_way.pop_front() {
                            Some(request) => server.push_back(request),
                            None => break,
                        }
                    }
                    let under_way: usize = server.iter().chain(&on_its_way).map(|waits| waits.bytes).sum();
                    assert!(under_way <= REQUESTS_MAX * BYTES, "{under_way}");
                    let mut front = server.pop_front().expect("the server has something to answer");
                    if front.bytes > 0 && size > front.bytes {
                        asked.ended(Some(front.bytes));
                        asked.next_exceeds = front.bytes;
                        continue;
                    }
                    (has_come, front.left) = (true, front.left - 1);
                    large += usize::from(front.bytes == 0);
                    let is_over = front.left == 0 || front.bytes == size;
                    front.bytes = front.bytes.saturating_sub(size);
                    asked.came(size);
                    if !is_over {
                        server.push_back(front);
                    }
                }
            }
            assert!(large > 0);
        }
    }

    #[test]
    fn a_message_tells_its_place() {
        let place = Delivered {
            stream: "s",
            deliveries: 1,
            sequence: 3,
            consumer_sequence: 2,
            time_ns: 5,
            pending: 4,
        };
        for told in
            ["$JS.ACK.s.c.1.3.2.5.4", "$JS.ACK._.hash.s.c.1.3.2.5.4", "$JS.ACK.d.hash.s.c.1.3.2.5.4.x"]
        {
            assert_eq!(Delivered::parse(told), Some(place), "{told}");
        }
        for lie in ["", "$JS.ACK.s.c.1.3.2.5", "$JS.ACK.s.c.1.3.2.5.x", "_INBOX.s.c.1.3.2.5.4"] {
            assert_eq!(Delivered::parse(lie), None, "{lie}");
        }
    }
}
