//! A consumer of a queue: of each partition's stream it shares one durable pull consumer with all others of its group, so it is
//! the server that hands each message to one of them, counts, and takes back.
//!
//! The server settles a message by whichever of its deliveries is acknowledged, also by one that is over. So deadlines are kept
//! here, and the server's are [`MARGIN`] behind.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::batch::RecordAt;
use anabranch_core::engine::{
    AppendOptions, Delivery, Durability, EngineError, Position, QueueConsumer, QueueSpec, Settlement,
    TakeLimits, Ticket, Times, TooLate, dead_letter, stripped,
};
use anabranch_core::seam::{Clock, SystemClock};
use anabranch_core::{Offset, TopicPartition};
use async_nats::jetstream::consumer::{self, AckPolicy, IntoConsumerConfig, pull};
use async_nats::{Message, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::engine::Inner;
use crate::envelope;
use crate::lane::Lanes;
use crate::names;
use crate::reader::Delivered;
use crate::trouble::Trouble;

/// How much later the server takes back.
const MARGIN: Duration = Duration::from_secs(1);
/// How long the server keeps a request at most.
const REQUEST_EXPIRES_MAX: Duration = Duration::from_secs(30);
/// How much longer a request counts as under way whose end was not heard of.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long to wait for the rest of what has begun to come.
const GATHER: Duration = Duration::from_millis(20);
/// How long to wait before it asks again what has nothing.
const PAUSE: Duration = Duration::from_millis(50);
/// How long whoever leaves waits for what was asked for.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a call waits at most; an instant has to be told.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Messages of one request; fewer than the client keeps for a subscription, since it drops what it cannot keep.
const REQUEST_MESSAGES_MAX: usize = 1_000;
/// Bytes of one request.
const REQUEST_BYTES_MAX: usize = 64 << 20;

pub(crate) struct NatsConsumer {
    inner: Arc<Inner>,
    lanes: Arc<Lanes>,
    clock: SystemClock,
    spec: QueueSpec,
    /// What tells its tickets from those of others.
    by: u64,
    parts: Vec<Part>,
    /// By the names of their streams.
    numbers: HashMap<String, usize>,
    /// How many partitions the topics of dead letters have.
    dead: BTreeMap<String, i32>,
    /// What begins the subject to which a part's messages come; its number follows.
    inbox: String,
    messages: Subscriber,
    /// What has come and was not handed out.
    held: VecDeque<Held>,
    out: HashMap<u64, Held>,
    tickets: u64,
    /// When it looked for messages last: what is there now came later.
    looked: Instant,
    /// Why nothing comes.
    trouble: Option<Trouble>,
}

struct Part {
    at: TopicPartition,
    stream: String,
    request: Option<Request>,
    /// The next message is larger than a whole request.
    is_large: bool,
    /// The group's consumer is there, as far as is known.
    is_made: bool,
}

/// A request that is under way.
struct Request {
    left: usize,
    /// How many bytes of messages are still to come, as both sides count them; of a request for one message, any.
    bytes_left: usize,
    has_begun: bool,
    expires: Instant,
}

/// A message that is this consumer's for a time.
#[derive(Clone)]
struct Held {
    part: usize,
    sequence: u64,
    /// None where it cannot be read.
    record: Option<RecordAt>,
    count: u32,
    /// Where its settlement goes.
    reply: String,
    until: Instant,
}

impl fmt::Debug for NatsConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConsumer").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl NatsConsumer {
    pub(crate) async fn open(
        inner: Arc<Inner>,
        lanes: Arc<Lanes>,
        spec: QueueSpec,
        partitions: Vec<TopicPartition>,
        dead: BTreeMap<String, i32>,
    ) -> Result<Self, EngineError> {
        static CONSUMERS: AtomicU64 = AtomicU64::new(0);
        let told = |trouble: Trouble| trouble.about_topic(&spec.group);
        let inbox = inner.link.client().new_inbox();
        let messages = inner.link.client().subscribe(format!("{inbox}.*")).await;
        let messages = messages.map_err(|error| told(Trouble::Away(error.to_string())))?;
        let part = |at: TopicPartition| Part {
            stream: names::stream(&at),
            at,
            request: None,
            is_large: false,
            is_made: false,
        };
        let parts: Vec<_> = partitions.into_iter().map(part).collect();
        let numbers = parts.iter().enumerate().map(|(number, part)| (part.stream.clone(), number)).collect();
        let mut consumer = Self {
            inner,
            lanes,
            clock: SystemClock::new(),
            spec,
            by: CONSUMERS.fetch_add(1, Ordering::Relaxed),
            parts,
            numbers,
            dead,
            inbox,
            messages,
            held: VecDeque::new(),
            out: HashMap::new(),
            tickets: 0,
            looked: Instant::now(),
            trouble: None,
        };
        for number in 0..consumer.parts.len() {
            let made = consumer.ensure(number).await;
            made.map_err(|trouble| trouble.about(&consumer.parts[number].at))?;
        }
        Ok(consumer)
    }

    /// Makes the group's consumer of a partition, unless it is there as it should be.
    async fn ensure(&mut self, number: usize) -> Result<(), Trouble> {
        let part = &mut self.parts[number];
        if part.is_made {
            return Ok(());
        }
        let name = names::queue(&self.spec.group);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.spec.settle_within + MARGIN,
            // What was delivered too often is to become a dead letter, which the server does not know.
            max_deliver: -1,
            max_ack_pending: i64::from(self.spec.unsettled_max),
            ..pull::Config::default()
        };
        let question = json!({ "stream_name": part.stream, "config": config.into_consumer_config() });
        let subject = format!("CONSUMER.CREATE.{}.{name}", part.stream);
        self.inner.link.api::<consumer::Info>(&subject, &question).await?;
        part.is_made = true;
        Ok(())
    }

    /// Asks every partition for its part, unless it is asked already.
    async fn request(&mut self, limits: TakeLimits, deadline: Instant) -> Result<(), Trouble> {
        let share = limits.deliveries_max / self.parts.len().max(1);
        let share = share.clamp(1, REQUEST_MESSAGES_MAX);
        let bytes = (limits.bytes_max / self.parts.len().max(1)).clamp(1, REQUEST_BYTES_MAX);
        for number in 0..self.parts.len() {
            let now = Instant::now();
            let part = &self.parts[number];
            if part.request.as_ref().is_some_and(|request| now < request.expires) {
                continue;
            }
            self.ensure(number).await?;
            let part = &self.parts[number];
            let expires = deadline.saturating_duration_since(now).min(REQUEST_EXPIRES_MAX);
            let expires = expires.max(GATHER);
            // It ends with the last message that is there, and waits as long as there is none.
            let mut question = json!({ "expires": expires.as_nanos() as u64, "no_wait": true });
            let (left, bytes_left) = match part.is_large {
                true => (1, usize::MAX),
                false => {
                    question["max_bytes"] = bytes.into();
                    (share, bytes)
                }
            };
            question["batch"] = left.into();
            let subject =
                format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", part.stream, names::queue(&self.spec.group));
            let client = self.inner.link.client();
            let inbox = format!("{}.{number}", self.inbox);
            let sent = client.publish_with_reply(subject, inbox, question.to_string().into());
            match timeout_at(now + PATIENCE, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Trouble::Away(error.to_string())),
                Err(_) => return Err(Trouble::Away("the connection is slow".to_owned())),
            }
            let expires = now + expires + PATIENCE;
            self.parts[number].request = Some(Request { left, bytes_left, has_begun: false, expires });
        }
        Ok(())
    }

    /// Takes in what has come already. It came after it was looked for last.
    fn drain(&mut self) {
        let since = self.looked;
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            self.accept(message, since);
        }
        self.looked = Instant::now();
    }

    fn accept(&mut self, message: Message, came: Instant) {
        if let Some(status) = message.status {
            let number = message.subject.rsplit('.').next().and_then(|number| number.parse::<usize>().ok());
            let Some(part) = number.and_then(|number| self.parts.get_mut(number)) else { return };
            let told = message.description.unwrap_or_default();
            let request = part.request.take();
            match (status.as_u16(), told.as_str()) {
                // No messages, and none by the time it expired.
                (404 | 408, _) | (_, "Batch Completed") => {}
                (_, "Message Size Exceeds MaxBytes") => {
                    part.is_large = request.is_some_and(|request| !request.has_begun);
                }
                _ => {
                    part.is_made = false;
                    self.trouble = Some(Trouble::Away(format!("{} says {status} {told}", part.stream)));
                }
            }
            return;
        }
        let Some(reply) = message.reply else { return };
        let Some(place) = Delivered::parse(&reply) else { return };
        let Some(&number) = self.numbers.get(place.stream) else { return };
        let part = &mut self.parts[number];
        part.is_large = false;
        part.request.take_if(|request| {
            request.has_begun = true;
            request.left = request.left.saturating_sub(1);
            request.bytes_left = request.bytes_left.saturating_sub(message.length);
            request.left == 0 || request.bytes_left == 0 // the server says nothing where it comes out even
        });
        self.trouble = None;
        let arrived_ms = (place.time_ns / 1_000_000).cast_signed();
        let offset = Offset::from(Position(place.sequence - 1));
        let record = envelope::open(message.headers.as_ref(), message.payload, arrived_ms);
        self.held.push_back(Held {
            part: number,
            sequence: place.sequence,
            record: record.ok().map(|record| RecordAt { offset, record }),
            count: place.deliveries,
            until: came + self.spec.settle_within,
            reply: reply.to_string(),
        });
    }

    /// Waits until something comes, and for the rest of what begins to come.
    async fn wait(&mut self, deadline: Instant) -> Result<(), Trouble> {
        let (before, mut until) = (self.held.len(), deadline);
        loop {
            let asks = self.parts.iter().any(|part| part.request.is_some());
            let comes =
                self.parts.iter().filter_map(|part| part.request.as_ref()).any(|request| request.has_begun);
            let has_some = self.held.len() > before;
            if !asks || has_some && !comes {
                return Ok(());
            }
            let came = tokio::select! {
                biased;
                came = timeout_at(until, self.messages.next()) => came,
                () = self.inner.closed() => return Err(Trouble::Closed),
            };
            match came {
                Err(_) => return Ok(()),
                Ok(None) => return Err(Trouble::Away("the subscription has ended".to_owned())),
                Ok(Some(message)) => {
                    self.looked = Instant::now();
                    self.accept(message, self.looked);
                    if self.held.len() > before {
                        until = until.min(self.looked + GATHER);
                    }
                }
            }
        }
    }

    /// Does what is to be done with those that are not for the application: what is left in front is. When it is dropped, it is
    /// done again.
    async fn sift(&mut self, most: usize) -> Result<(), EngineError> {
        let mut place = 0;
        while place < most
            && let Some(held) = self.held.get(place)
        {
            if held.until <= Instant::now() {
                // The server gives it to somebody again.
                self.held.remove(place);
                continue;
            }
            match self.verdict(held) {
                Ok(None) => {
                    if held.until < Instant::now() + self.spec.settle_within * 9 / 10 {
                        // It has waited here: the application has all its time nevertheless.
                        self.send(&held.reply, Bytes::from_static(b"+WPI")).await?;
                        self.held[place].until = Instant::now() + self.spec.settle_within;
                    }
                    place += 1;
                }
                Ok(Some(early)) => {
                    let delay = json!({ "delay": early.as_nanos() as u64 });
                    self.send(&held.reply, format!("-NAK {delay}").into()).await?;
                    self.held.remove(place);
                }
                Err(reason) => {
                    let held = held.clone();
                    // It was not delivered this time.
                    self.bury(&held, held.count - 1, &reason).await?;
                    self.held.remove(place);
                }
            }
        }
        Ok(())
    }

    /// For how long it is too early, or why it is too late.
    fn verdict(&self, held: &Held) -> Result<Option<Duration>, String> {
        let record = held.record.as_ref().ok_or("its headers cannot be read")?;
        let (times, now_ms) = (Times::of(&record.record)?, self.clock.now_ms());
        // To be given back until it was time was no delivery that anybody has seen.
        let most = self.spec.deliveries_max + u32::from(times.deliver_at_ms.is_some());
        if times.has_expired(now_ms) {
            return Err("expired".to_owned());
        }
        if held.count > most {
            return Err(format!("delivered {} times, and never accepted", held.count - 1));
        }
        let early = times.is_early(now_ms).map(|at_ms| (at_ms - now_ms).unsigned_abs());
        Ok(early.map(Duration::from_millis))
    }

    /// Appends the dead letter, and takes the message out of the queue. What is done again is known by its id.
    async fn bury(&self, held: &Held, count: u32, reason: &str) -> Result<(), EngineError> {
        let part = &self.parts[held.part];
        let (from, group) = (&part.at, &self.spec.group);
        let topic = self.spec.dead_letters_of(&from.topic);
        let to = TopicPartition::new(&topic, from.partition % self.dead[&topic]);
        let record = held.record.as_ref().map(|at| at.record.clone());
        let position = Position(held.sequence - 1);
        let bytes_max = self.inner.description.limits.record_bytes_max;
        let letter = dead_letter(record, from, position, (group, count, reason), bytes_max);
        let id = Some(format!("{group}/{}/{}", part.stream, held.sequence));
        let how = AppendOptions { durability: Durability::Durable, expected: None, id };
        match self.lanes.append(&to, vec![letter.clone()], how.clone()).await {
            // The topic does not take it: less is better than none, and all is at the source.
            Err(EngineError::TooLarge { .. } | EngineError::Refused { .. }) => {
                self.lanes.append(&to, vec![stripped(&letter)], how).await?;
            }
            appended => drop(appended?),
        }
        self.ask(held, Bytes::from_static(b"+TERM")).await
    }

    /// Says what becomes of a message, and waits until the server has it.
    async fn ask(&self, held: &Held, what: Bytes) -> Result<(), EngineError> {
        let said = self.inner.link.ask(held.reply.clone(), None, what).await;
        let at = &self.parts[held.part].at;
        said.map(drop).map_err(|error| Trouble::from(error).of_a_change().about(at))
    }

    /// Says it, and does not wait.
    async fn send(&self, reply: &str, what: Bytes) -> Result<(), EngineError> {
        let sent = self.inner.link.client().publish(reply.to_owned(), what).await;
        sent.map_err(|error| Trouble::Away(error.to_string()).about_topic(&self.spec.group))
    }

    /// What is held, as far as `limits` go.
    fn hand_out(&mut self, limits: TakeLimits) -> Vec<Delivery> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < limits.deliveries_max
            && let Some(front) = self.held.front()
        {
            // Sifted before: what cannot be read is not here.
            let Some(record) = front.record.clone() else { break };
            bytes += record.record.size_bytes();
            if bytes > limits.bytes_max && !taken.is_empty() {
                break;
            }
            let held = self.held.pop_front().expect("it was looked at");
            self.tickets += 1;
            let ticket = Ticket { by: self.by, number: self.tickets };
            let (at, count) = (self.parts[held.part].at.clone(), held.count);
            taken.push(Delivery { ticket, at, record, count });
            self.out.insert(self.tickets, held);
        }
        taken
    }

    /// The delivery, unless it is over.
    fn out(&self, ticket: Ticket) -> Option<&Held> {
        let held = self.out.get(&ticket.number).filter(|_| ticket.by == self.by)?;
        (held.until > Instant::now()).then_some(held)
    }

    /// Takes off all that it has, and tells where the settlements go.
    fn all(&mut self) -> Vec<String> {
        let now = Instant::now();
        let out = self.out.drain().map(|(_, held)| held);
        let all = self.held.drain(..).chain(out).filter(|held| held.until > now);
        all.map(|held| held.reply).collect()
    }

    async fn settle_one(&self, held: &Held, settlement: Settlement) -> Result<(), EngineError> {
        match settlement {
            Settlement::Accept => self.ask(held, Bytes::from_static(b"+ACK")).await,
            Settlement::Release { delay } if delay.is_zero() => {
                self.ask(held, Bytes::from_static(b"-NAK")).await
            }
            Settlement::Release { delay } => {
                // The server counts in an i64.
                let ns = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX / 4);
                self.ask(held, format!("-NAK {}", json!({ "delay": ns })).into()).await
            }
            Settlement::Reject { reason } => self.bury(held, held.count, &reason).await,
        }
    }
}

#[async_trait]
impl QueueConsumer for NatsConsumer {
    async fn next(&mut self, limits: TakeLimits) -> Result<Vec<Delivery>, EngineError> {
        let told = |trouble: Trouble, spec: &QueueSpec| trouble.about_topic(&spec.group);
        let deadline = Instant::now() + limits.wait_max.min(WAIT_MAX);
        self.out.retain(|_, held| held.until > Instant::now());
        loop {
            self.inner.check_open().map_err(|trouble| told(trouble, &self.spec))?;
            self.drain();
            self.sift(limits.deliveries_max).await?;
            let taken = self.hand_out(limits);
            if !taken.is_empty() {
                return Ok(taken);
            }
            if Instant::now() >= deadline {
                return match self.trouble.take() {
                    Some(trouble) => Err(told(trouble, &self.spec)),
                    None => Ok(taken),
                };
            }
            self.request(limits, deadline).await.map_err(|trouble| told(trouble, &self.spec))?;
            self.wait(deadline).await.map_err(|trouble| told(trouble, &self.spec))?;
            if self.held.is_empty() {
                // Others' requests come first, or the server is in trouble: it said so at once, and would again.
                sleep_until(deadline.min(Instant::now() + PAUSE)).await;
            }
        }
    }

    async fn settle(
        &mut self,
        what: Vec<(Ticket, Settlement)>,
    ) -> Result<Vec<Result<(), TooLate>>, EngineError> {
        self.inner.check_open().map_err(|trouble| trouble.about_topic(&self.spec.group))?;
        let mut settled = Vec::with_capacity(what.len());
        for (ticket, settlement) in what {
            let held = self.out(ticket).cloned();
            if held.is_some() {
                self.out.remove(&ticket.number);
            }
            settled.push((held, settlement));
        }
        let this = &*self;
        let said = settled.into_iter().map(async |(held, settlement)| match held {
            Some(held) => this.settle_one(&held, settlement).await.map(Ok),
            None => Ok(Err(TooLate)),
        });
        join_all(said).await.into_iter().collect()
    }

    async fn extend(&mut self, tickets: &[Ticket]) -> Result<Vec<Result<(), TooLate>>, EngineError> {
        self.inner.check_open().map_err(|trouble| trouble.about_topic(&self.spec.group))?;
        let this = &*self;
        let said = tickets.iter().map(async |ticket| {
            let Some(held) = this.out(*ticket) else { return Ok(Err(TooLate)) };
            let until = Instant::now() + this.spec.settle_within;
            this.ask(held, Bytes::from_static(b"+WPI")).await.map(|()| Ok(until))
        });
        let said = join_all(said).await.into_iter().collect::<Result<Vec<_>, EngineError>>()?;
        let note = |(ticket, until): (&Ticket, Result<Instant, TooLate>)| {
            let held = self.out.get_mut(&ticket.number).ok_or(TooLate)?;
            held.until = until?;
            Ok(())
        };
        Ok(tickets.iter().zip(said).map(note).collect())
    }

    async fn leave(mut self: Box<Self>) -> Result<(), EngineError> {
        // What was asked for may be on its way, and would be nobody's until its time is up.
        let until = Instant::now() + LEAVE_PATIENCE;
        while self.parts.iter().any(|part| part.request.is_some())
            && let Ok(Some(message)) = timeout_at(until, self.messages.next()).await
        {
            self.accept(message, Instant::now());
        }
        let _ = self.messages.drain().await;
        while let Ok(Some(message)) = timeout_at(until + LEAVE_PATIENCE, self.messages.next()).await {
            self.accept(message, Instant::now());
        }
        for reply in self.all() {
            self.send(&reply, Bytes::from_static(b"-NAK")).await?;
        }
        let flushed = self.inner.link.client().flush().await;
        flushed.map_err(|error| Trouble::Away(error.to_string()).about_topic(&self.spec.group))
    }
}

impl Drop for NatsConsumer {
    /// Where there is a runtime, others get at once what it had; otherwise when its time is up.
    fn drop(&mut self) {
        let (all, client) = (self.all(), self.inner.link.client().clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !all.is_empty()
        {
            runtime.spawn(async move {
                for reply in all {
                    let _ = client.publish(reply, Bytes::from_static(b"-NAK")).await;
                }
            });
        }
    }
}
