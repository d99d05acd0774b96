//! One partition's task: reads it, stores what becomes of its records, and hands them out.
//!
//! It does one thing at a time, so all that is said while it stores is stored together by the next transaction. A transaction
//! whose outcome it does not know, or that failed for another reason than a passing one, ends the session: the next one begins
//! with what is stored, and whoever has something out is too late.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::{
    Delivery, EngineError, Fetched, Payload, Place, Position, ReadLimits, Reader, Ticket, TooLate,
    TransactionalProducer, dead_letter, stripped,
};
use anabranch_core::{Offset, TopicPartition};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::backlog::{Backlog, Dead, Handed, Rules};
use crate::letters::Again;
use crate::settlements;
use crate::shared::{Answer, Command, Shared};
use crate::snapshot::Snapshot;

/// What is read ahead.
const READ: ReadLimits = ReadLimits { bytes_max: 256 << 10, wait_max: Duration::from_secs(5) };
/// After so long the engine aborts what we have begun and not ended. Kafka keeps whoever takes over from a dead one waiting till then.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of records that are ready and not handed out.
const READY_BYTES_MAX: usize = 1 << 20;
/// How long a transaction is tried of which nothing was done: several times, and for longer than a move to another engine holds its topics
/// still.
const TRIED_FOR: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(100);
/// How long after an error it begins anew.
const BACKOFF: Duration = Duration::from_secs(1);
/// How long it waits to be told that the partition is another's, when that one has fenced it.
const FENCED_BACKOFF: Duration = Duration::from_secs(10);
/// How many records before the end of its topic the newest snapshot is looked for at first.
const LOOK_BACK: u64 = 64;
/// The clock of the world may jump, so it is looked at now and then.
const REST_MAX: Duration = Duration::from_secs(60);

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It goes on.
    No,
    /// It waits this long for what is out to be settled, and then gives back the rest.
    Within(Duration),
    /// The partition is another's.
    Lost,
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) at: TopicPartition,
    /// Where the group stands, for a partition of which nothing was settled yet.
    pub(crate) start: Option<Position>,
    /// In its tickets.
    pub(crate) number: u64,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) stop: watch::Receiver<Stop>,
    /// All before it is settled.
    pub(crate) settled_to: watch::Sender<Option<Position>>,
}

/// Who is told what, when it is stored.
type Told = (oneshot::Sender<Answer>, Vec<Result<(), TooLate>>);

/// One owner's time with a partition.
struct Session<'a> {
    shared: &'a Shared,
    at: &'a TopicPartition,
    number: u64,
    to: TopicPartition,
    producer: Box<dyn TransactionalProducer>,
    backlog: Backlog,
    reader: Box<dyn Reader>,
    /// Read, and not seen.
    ahead: VecDeque<RecordAt>,
    again: Again,
    /// To be buried.
    dead: Vec<Dead>,
    /// To be told what they were answered, when it is stored.
    told: Vec<Told>,
}

impl Worker {
    /// Works until it is stopped.
    pub(crate) async fn run(mut self) {
        let mut stop = self.stop.clone();
        loop {
            let error = match self.serve().await {
                Ok(()) => break,
                Err(error) => error,
            };
            tracing::debug!(partition = %self.at, %error, "a queue's partition begins anew");
            let pause = match error {
                EngineError::ProducerFenced { .. } => FENCED_BACKOFF,
                EngineError::Closed => {
                    self.shared.report(error);
                    break;
                }
                error => {
                    self.shared.report(error);
                    BACKOFF
                }
            };
            if timeout(pause, stop.wait_for(|stop| *stop != Stop::No)).await.is_ok() {
                break;
            }
        }
        self.shared.forget_worker(self.number);
        self.shared.withdraw(self.number);
    }

    async fn serve(&mut self) -> Result<(), EngineError> {
        let mut session = Session::open(&self.shared, &self.at, self.number, self.start).await?;
        let done = session.serve(&mut self.commands, &mut self.stop, &self.settled_to).await;
        self.shared.withdraw(self.number);
        if let Err(error) = &done {
            session.tell_failure(error);
        }
        done
    }
}

impl<'a> Session<'a> {
    /// Fences whoever had the partition before, and goes on where that one was.
    async fn open(
        shared: &'a Shared,
        at: &'a TopicPartition,
        number: u64,
        start: Option<Position>,
    ) -> Result<Self, EngineError> {
        let engine = &shared.engine;
        let topic = settlements(&shared.spec.group, &at.topic);
        let id = format!("{topic}-{}", at.partition);
        let transactions = engine.transactions().expect("they were asked for when the consumer was made");
        let producer = transactions.producer(&id, TRANSACTION_TIMEOUT).await?;
        // The topic may have grown since; its settlements have not.
        let to = TopicPartition::new(&topic, at.partition % engine.partition_count(&topic).await?);
        let snapshot = match newest(shared, &to, at).await? {
            Some(snapshot) => snapshot,
            None => {
                let start = match start {
                    Some(start) => start,
                    None => engine.locate(at, Place::Earliest).await?,
                };
                Snapshot::new(start, Vec::new())
            }
        };
        let backlog = Backlog::restore(Rules::from(&*shared.spec), &snapshot);
        let reader = engine.reader(at, backlog.next()).await?;
        Ok(Self {
            shared,
            at,
            number,
            to,
            producer,
            backlog,
            reader,
            ahead: VecDeque::new(),
            again: Again::new(at.clone()),
            dead: Vec::new(),
            told: Vec::new(),
        })
    }

    async fn serve(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut watch::Receiver<Stop>,
        settled_to: &watch::Sender<Option<Position>>,
    ) -> Result<(), EngineError> {
        let mut asked = self.shared.asked();
        let mut stops_at = None;
        loop {
            self.backlog.tick(self.shared.now());
            while let Ok(command) = commands.try_recv() {
                self.obey(command);
            }
            let how = *stop.borrow_and_update();
            match how {
                Stop::No => {}
                Stop::Lost => return Ok(()),
                Stop::Within(time) => {
                    let stops_at = *stops_at.get_or_insert_with(|| Instant::now() + time);
                    self.shared
                        .withdraw(self.number)
                        .into_iter()
                        .for_each(|ticket| self.backlog.withdraw(ticket));
                    if !self.backlog.has_out() || Instant::now() >= stops_at {
                        self.backlog.stop();
                        self.store().await?;
                        settled_to.send_replace(Some(self.backlog.settled_to()));
                        return Ok(());
                    }
                }
            }
            if stops_at.is_none() {
                asked.borrow_and_update();
                self.make_ready().await?;
            }
            self.store().await?;
            settled_to.send_if_modified(|place| place.replace(self.backlog.settled_to()) != *place);
            if stops_at.is_none() {
                self.hand_out();
                if self.backlog.is_changed() || self.wants_what_is_due() {
                    continue;
                }
            }
            let rest = self.backlog.rest(self.shared.now()).unwrap_or(REST_MAX).min(REST_MAX);
            let rest = stops_at.map_or(rest, |at| rest.min(at.saturating_duration_since(Instant::now())));
            let reads = stops_at.is_none() && self.ahead.is_empty() && self.backlog.room() > 0;
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Ok(()),
                },
                _ = stop.changed() => {}
                _ = asked.changed(), if stops_at.is_none() => {}
                fetched = self.reader.read(READ), if reads => self.take_in(fetched)?,
                () = sleep(rest) => {}
            }
        }
    }

    fn take_in(&mut self, fetched: Result<Fetched, EngineError>) -> Result<(), EngineError> {
        match fetched {
            Ok(fetched) => self.ahead = fetched.block.into_records(self.backlog.next())?.into(),
            Err(EngineError::OutOfRange { earliest, .. }) if earliest > self.reader.position() => {
                tracing::warn!(partition = %self.at, %earliest, "records grew too old before they were delivered");
                self.reader.seek(earliest);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        let now = self.shared.now();
        let (answers, tell) = match command {
            Command::Settle { what, tell } => {
                let settled = what.into_iter().map(|(ticket, settlement)| {
                    self.dead.extend(self.backlog.settle(ticket, settlement, now)?);
                    Ok(())
                });
                (settled.collect(), tell)
            }
            Command::Extend { tickets, tell } => {
                let extended = tickets.into_iter().map(|ticket| self.backlog.extend(ticket, now));
                (extended.collect(), tell)
            }
        };
        self.told.push((tell, answers));
    }

    /// Makes ready what is wanted, or will be: what becomes of other records is stored anyway.
    async fn make_ready(&mut self) -> Result<(), EngineError> {
        let wanted = self.shared.wanted();
        if wanted == 0 && !self.backlog.is_changed() {
            return Ok(());
        }
        if wanted > 0 {
            let due = self.backlog.due(self.shared.now(), self.lacking());
            for (position, record) in self.again.read(&*self.shared.engine, &due).await? {
                if record.is_none() {
                    tracing::warn!(partition = %self.at, %position, "a record grew too old before it was settled");
                }
                self.dead.extend(self.backlog.again(position, record, self.shared.now()));
            }
        }
        while self.lacking() > 0
            && self.backlog.room() > 0
            && let Some(record) = self.ahead.pop_front()
        {
            self.dead.extend(self.backlog.see(record, self.shared.now()));
        }
        Ok(())
    }

    /// How many more are to be ready.
    fn lacking(&self) -> usize {
        match self.backlog.ready_bytes() < READY_BYTES_MAX {
            true => self.shared.wanted().max(self.shared.batch()).saturating_sub(self.backlog.ready()),
            false => 0,
        }
    }

    fn wants_what_is_due(&self) -> bool {
        self.shared.wanted() > 0 && !self.backlog.due(self.shared.now(), self.lacking().min(1)).is_empty()
    }

    /// Stores what has changed, with dead letters, and then tells those who wait for it.
    async fn store(&mut self) -> Result<(), EngineError> {
        while self.backlog.is_changed() || !self.dead.is_empty() {
            let letters = self.letters().await?;
            let snapshot = Record::new(self.at.partition.to_string(), self.backlog.snapshot().encode());
            self.backlog.stored();
            let mut appends = vec![(self.to.clone(), Payload::from(snapshot))];
            appends.extend(letters.into_iter().map(|(to, letter)| (to, Payload::from(letter))));
            self.commit(appends).await?;
        }
        for (tell, answers) in self.told.drain(..) {
            // Whoever asked may have gone.
            let _ = tell.send(Ok(answers));
        }
        Ok(())
    }

    /// Some of the dead, as letters.
    async fn letters(&mut self) -> Result<Vec<(TopicPartition, Record)>, EngineError> {
        if self.dead.is_empty() {
            return Ok(Vec::new());
        }
        let engine = &*self.shared.engine;
        let spec = &self.shared.spec;
        let topic = spec.dead_letters_of(&self.at.topic);
        let to = TopicPartition::new(&topic, self.at.partition % engine.partition_count(&topic).await?);
        let bytes_max = engine.description().limits.record_bytes_max;
        let mut unread: Vec<_> =
            self.dead.iter().filter(|dead| dead.record.is_none()).map(|dead| dead.position).collect();
        unread.sort_unstable();
        let mut found: BTreeMap<_, _> = self.again.read(engine, &unread).await?.into_iter().collect();
        let (mut letters, mut later) = (Vec::new(), Vec::new());
        for Dead { position, reason, count, record } in std::mem::take(&mut self.dead) {
            let record = match (record, found.remove(&position)) {
                (None, None) => {
                    later.push(Dead { position, reason, count, record: None });
                    continue;
                }
                (record, found) => record.or(found.flatten()),
            };
            let about = (spec.group.as_str(), count, reason.as_str());
            let letter = dead_letter(record.map(|at| at.record), self.at, position, about, bytes_max);
            letters.push((to.clone(), letter));
            self.backlog.buried(position);
        }
        self.dead = later;
        tracing::info!(partition = %self.at, letters = letters.len(), to = %to, "records become dead letters");
        Ok(letters)
    }

    async fn commit(&mut self, mut appends: Vec<(TopicPartition, Payload)>) -> Result<(), EngineError> {
        let (until, mut is_stripped) = (Instant::now() + TRIED_FOR, false);
        loop {
            match self.producer.commit(appends.clone(), None).await {
                Ok(_) => return Ok(()),
                Err(EngineError::Aborted { .. } | EngineError::Away { .. }) if Instant::now() < until => {
                    sleep(PAUSE).await;
                }
                // The topic of dead letters does not take one: less is better than none, and all is at the source.
                Err(EngineError::TooLarge { .. } | EngineError::Refused { .. })
                    if appends.len() > 1 && !is_stripped =>
                {
                    is_stripped = true;
                    for (_, letter) in &mut appends[1..] {
                        let whole = std::mem::replace(letter, Payload::Records(Vec::new())).into_records()?;
                        *letter = whole.iter().map(stripped).collect::<Vec<_>>().into();
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn hand_out(&mut self) {
        let Self { shared, at, number, backlog, dead, .. } = self;
        shared.give(|limits| {
            let (handed, expired) = backlog.hand_out(limits, shared.now(), || shared.number());
            dead.extend(expired);
            let delivery = |handed: Handed| {
                let Handed { ticket, record, count, until } = handed;
                let ticket = Ticket { by: *number, number: ticket };
                (Delivery { ticket, at: at.clone(), record, count }, until)
            };
            handed.into_iter().map(delivery).collect()
        });
    }

    /// Tells those who wait for what was to be stored.
    fn tell_failure(&mut self, error: &EngineError) {
        for (tell, answers) in self.told.drain(..) {
            let answer = match error {
                EngineError::ProducerFenced { .. } => Ok(vec![Err(TooLate); answers.len()]),
                EngineError::Closed => Err(EngineError::Closed),
                EngineError::Away { engine, reason } => {
                    Err(EngineError::Away { engine, reason: reason.clone() })
                }
                error => Err(EngineError::Failed(error.to_string().into())),
            };
            let _ = tell.send(answer);
        }
    }
}

/// The newest snapshot of a partition, if there is any. It is near the end of its topic, as a rule.
async fn newest(
    shared: &Shared,
    to: &TopicPartition,
    of: &TopicPartition,
) -> Result<Option<Snapshot>, EngineError> {
    let engine = &shared.engine;
    let earliest = engine.locate(to, Place::Earliest).await?;
    let mut end = engine.locate(to, Place::Latest).await?;
    let key = of.partition.to_string();
    let mut back = LOOK_BACK;
    while end > earliest {
        let from = Position(end.0.saturating_sub(back)).max(earliest);
        let mut reader = engine.reader(to, from).await?;
        let mut found = None;
        while reader.position() < end {
            let from = reader.position();
            for RecordAt { offset, record } in reader.read(READ).await?.block.into_records(from)? {
                let is_its = record.key.as_deref() == Some(key.as_bytes());
                if is_its && Position::from(offset) < end {
                    found = Some((offset, record.value.unwrap_or_default()));
                }
            }
        }
        if let Some((offset, value)) = found {
            let damaged = |error| damage(to, offset, &error);
            return Snapshot::decode(&value).map(Some).map_err(damaged);
        }
        end = from;
        back *= 8;
    }
    Ok(None)
}

fn damage(at: &TopicPartition, offset: Offset, error: &crate::snapshot::Damaged) -> EngineError {
    EngineError::Failed(format!("{at} at {offset}, which tells what a queue has settled: {error}").into())
}
