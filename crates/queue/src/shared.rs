//! Between a consumer and its workers.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::engine::{Delivery, Engine, EngineError, QueueSpec, Settlement, TakeLimits, TooLate};
use anabranch_core::seam::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::backlog::Now;

/// Commands of one consumer to one partition. They come one at a time, but for those whose futures were dropped.
pub(crate) const COMMANDS_MAX: usize = 64;

pub(crate) type Answer = Result<Vec<Result<(), TooLate>>, EngineError>;

/// What the application says of a partition's deliveries.
#[derive(Debug)]
pub(crate) enum Command {
    Settle { what: Vec<(u64, Settlement)>, tell: oneshot::Sender<Answer> },
    Extend { tickets: Vec<u64>, tell: oneshot::Sender<Answer> },
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) spec: Arc<QueueSpec>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Deliveries on their way to the application. The lock is held to put in and to take out.
    slot: Mutex<Slot>,
    /// Something has come into the slot.
    came: Notify,
    /// The application waits; the number changes with every call.
    asked: watch::Sender<u64>,
    /// The workers, by the numbers in their tickets. The lock is held to look and to note.
    workers: Mutex<HashMap<u64, mpsc::Sender<Command>>>,
    numbers: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    wants: Option<TakeLimits>,
    /// What was asked for last.
    batch: usize,
    deliveries: VecDeque<(Delivery, Duration)>,
    bytes: usize,
    error: Option<EngineError>,
    is_closed: bool,
}

impl Shared {
    pub(crate) fn new(engine: Arc<dyn Engine>, spec: Arc<QueueSpec>, clock: Arc<dyn Clock>) -> Self {
        Self {
            engine,
            spec,
            clock,
            slot: Mutex::default(),
            came: Notify::new(),
            asked: watch::Sender::new(0),
            workers: Mutex::default(),
            numbers: AtomicU64::default(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { wall_ms: self.clock.now_ms(), passed: self.clock.monotonic() }
    }

    /// A number that this consumer has not used.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn came(&self) -> &Notify {
        &self.came
    }

    pub(crate) fn asked(&self) -> watch::Receiver<u64> {
        self.asked.subscribe()
    }

    pub(crate) fn note_worker(&self, number: u64, commands: mpsc::Sender<Command>) {
        self.workers.lock().insert(number, commands);
    }

    pub(crate) fn worker(&self, number: u64) -> Option<mpsc::Sender<Command>> {
        self.workers.lock().get(&number).cloned()
    }

    pub(crate) fn forget_worker(&self, number: u64) {
        self.workers.lock().remove(&number);
    }

    /// The application waits for so much.
    pub(crate) fn ask(&self, limits: TakeLimits) {
        {
            let mut slot = self.slot.lock();
            slot.wants = Some(limits);
            slot.batch = limits.deliveries_max;
        }
        self.asked.send_modify(|asked| *asked = asked.wrapping_add(1));
    }

    /// The application waits no longer.
    pub(crate) fn stop_asking(&self) {
        self.slot.lock().wants = None;
    }

    /// How much is wanted now.
    pub(crate) fn wanted(&self) -> usize {
        let slot = self.slot.lock();
        slot.wants.map_or(0, |wants| wants.deliveries_max.saturating_sub(slot.deliveries.len()))
    }

    /// How much was wanted last.
    pub(crate) fn batch(&self) -> usize {
        self.slot.lock().batch
    }

    /// Puts in as much as is wanted, if anything is.
    pub(crate) fn give(&self, hand_out: impl FnOnce(TakeLimits) -> Vec<(Delivery, Duration)>) {
        let mut slot = self.slot.lock();
        let Some(wants) = slot.wants else { return };
        let left = TakeLimits {
            deliveries_max: wants.deliveries_max.saturating_sub(slot.deliveries.len()),
            bytes_max: wants.bytes_max.saturating_sub(slot.bytes),
            ..wants
        };
        // The first may be larger than all that is wanted, and no other.
        if left.deliveries_max == 0 || left.bytes_max == 0 && !slot.deliveries.is_empty() {
            return;
        }
        let given = hand_out(left);
        if !given.is_empty() {
            slot.bytes +=
                given.iter().map(|(delivery, _)| delivery.record.record.size_bytes()).sum::<usize>();
            slot.deliveries.extend(given);
            self.came.notify_one();
        }
    }

    /// Takes out what came, but for what has come too long ago.
    pub(crate) fn take(&self, limits: TakeLimits) -> Result<Vec<Delivery>, EngineError> {
        let passed = self.clock.monotonic();
        let mut slot = self.slot.lock();
        if slot.is_closed {
            return Err(EngineError::Closed);
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < limits.deliveries_max
            && let Some((front, until)) = slot.deliveries.front()
        {
            let size = front.record.record.size_bytes();
            let is_over = *until <= passed;
            if !is_over && bytes + size > limits.bytes_max && !taken.is_empty() {
                break;
            }
            let (delivery, _) = slot.deliveries.pop_front().expect("it was looked at");
            slot.bytes -= size;
            if !is_over {
                bytes += size;
                taken.push(delivery);
            }
        }
        if !taken.is_empty() {
            slot.wants = None;
            return Ok(taken);
        }
        match slot.error.take() {
            Some(error) => Err(error),
            None => Ok(taken),
        }
    }

    /// Fails when the engine is closed.
    pub(crate) fn check_open(&self) -> Result<(), EngineError> {
        match self.slot.lock().is_closed {
            true => Err(EngineError::Closed),
            false => Ok(()),
        }
    }

    /// Takes out what a worker has given and nobody has taken; tells the numbers of the tickets.
    pub(crate) fn withdraw(&self, by: u64) -> Vec<u64> {
        let mut slot = self.slot.lock();
        let mut withdrawn = Vec::new();
        let mut bytes = 0;
        slot.deliveries.retain(|(delivery, _)| {
            let is_others = delivery.ticket.by != by;
            match is_others {
                true => bytes += delivery.record.record.size_bytes(),
                false => withdrawn.push(delivery.ticket.number),
            }
            is_others
        });
        slot.bytes = bytes;
        withdrawn
    }

    /// The next call of the application fails with `error`.
    pub(crate) fn report(&self, error: EngineError) {
        let mut slot = self.slot.lock();
        match error {
            EngineError::Closed => slot.is_closed = true,
            error => slot.error = Some(error),
        }
        self.came.notify_one();
    }
}
