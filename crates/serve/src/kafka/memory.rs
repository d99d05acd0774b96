//! Who may hold how much of the broker's memory.
//!
//! What only waits for a peer must never hold everything: a frame whose bytes do not come, or an answer that nobody reads.
//! Each of the two has a share of what there is for requests ([`anabranch_broker::Memory::requests`]), and holds its bytes
//! in the share and in the whole. What the shares leave is for requests that are there and are being served; these end by
//! themselves and give their bytes back.
//!
//! A frame or an answer that is larger than half of its share does not fit beside others of its kind. There is one such at a
//! time in the whole server. It takes its bytes a piece at a time, between all others, and never so many that nothing is
//! left to them.
//!
//! What is read of a frame before it has its bytes comes from a budget of its own. Outside of all this are requests of up to
//! [`READ_AHEAD_BYTES`] that do not produce, while they are served, one for each connection: heartbeats, metadata and
//! fetches wait for nobody's memory. The bound for them is `max.connections` times as much.

use anabranch_broker::FetchLimits;
use anabranch_core::budget::{Budget, Permit};
use bytes::Bytes;

/// Read of a frame before it must have its bytes from the budget.
pub(super) const READ_AHEAD_BYTES: usize = 8 * 1024;
/// The share of frames that are not whole yet: a quarter.
const UNFINISHED_SHARE: usize = 4;
/// The share of fetched records on their way out: a half.
const ANSWERS_SHARE: usize = 2;
/// One answer takes an eighth of what is free in its share, so that a few slow readers leave something to all others.
const ANSWER_PART: usize = 8;
/// But this much it may always take, for what is read at once and for a buffer. If it is not to be had, there is no answer.
const ANSWER_BYTES_MIN: usize = 4 * FetchLimits::IN_FILE_BYTES;
/// What a large frame or answer takes at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The budget and its shares.
#[derive(Debug, Clone)]
pub(crate) struct Memory {
    whole: Budget,
    unfinished: Budget,
    answers: Budget,
    /// Who has it has all of it.
    large: Budget,
    read_ahead: Budget,
}

/// Bytes held in a share and in the whole budget.
#[derive(Debug)]
pub(super) struct Held {
    share: Permit,
    whole: Permit,
    is_large: bool,
}

impl Memory {
    pub(crate) fn new(memory: &anabranch_broker::Memory) -> Self {
        let whole = memory.requests().clone();
        let bytes = whole.limit_bytes();
        Self {
            unfinished: Budget::new(bytes / UNFINISHED_SHARE),
            answers: Budget::new(bytes / ANSWERS_SHARE),
            large: Budget::new(bytes - bytes / UNFINISHED_SHARE),
            read_ahead: memory.read_ahead().clone(),
            whole,
        }
    }

    /// Everything that there is, by what it is for.
    pub(crate) fn kinds(&self) -> [(&'static str, &Budget); 5] {
        [
            ("requests", &self.whole),
            ("unfinished_requests", &self.unfinished),
            ("answers", &self.answers),
            ("large", &self.large),
            ("read_ahead", &self.read_ahead),
        ]
    }

    /// The largest frame or answer for which there can ever be memory: others must have some beside it.
    pub(super) fn bytes_max(&self) -> usize {
        self.large.limit_bytes()
    }

    /// For what is read before it is known what it is.
    pub(super) async fn read_ahead(&self) -> Permit {
        acquire(&self.read_ahead, READ_AHEAD_BYTES.min(self.read_ahead.limit_bytes())).await
    }

    /// For a frame that is not whole yet, before more of it is read.
    pub(super) async fn unfinished(&self, frame_bytes: usize) -> Held {
        self.in_share(&self.unfinished, frame_bytes).await
    }

    /// For a small frame that is there.
    pub(super) async fn finished(&self, frame_bytes: usize) -> Permit {
        acquire(&self.whole, frame_bytes).await
    }

    /// As much of `wanted` as an answer may have now. Answers do not wait.
    pub(super) fn answer(&self, wanted: usize) -> Option<Held> {
        let least = ANSWER_BYTES_MIN.min(self.answers.limit_bytes());
        let free = free(&self.answers).min(free(&self.whole));
        let most = (free / ANSWER_PART).max(least);
        let mut bytes = wanted.clamp(least, most);
        while bytes >= least {
            if let Some((share, whole)) = self.answers.try_acquire(bytes).zip(self.whole.try_acquire(bytes)) {
                return Some(Held { share, whole, is_large: false });
            }
            bytes /= 2;
        }
        None
    }

    async fn in_share(&self, share: &Budget, bytes: usize) -> Held {
        if bytes <= share.limit_bytes() / 2 {
            let share = acquire(share, bytes).await;
            return Held { share, whole: acquire(&self.whole, bytes).await, is_large: false };
        }
        let share = acquire(&self.large, self.large.limit_bytes()).await;
        let mut whole = acquire(&self.whole, bytes.min(PIECE_BYTES)).await;
        let mut left = bytes.saturating_sub(PIECE_BYTES);
        while left > 0 {
            whole.merge(acquire(&self.whole, left.min(PIECE_BYTES)).await);
            left = left.saturating_sub(PIECE_BYTES);
        }
        Held { share, whole, is_large: true }
    }
}

impl Held {
    /// The frame is whole, and keeps its bytes as long as any part of it is used. Others may use the share; but there is
    /// no second large one before this is gone.
    pub(super) fn attach(self, frame: Bytes) -> Bytes {
        let frame = self.whole.attach(frame);
        match self.is_large {
            true => self.share.attach(frame),
            false => frame,
        }
    }

    /// How much it is.
    pub(super) fn bytes(&self) -> usize {
        self.whole.bytes()
    }

    /// Gives everything above `bytes` back early.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        if !self.is_large {
            self.share.shrink_to(bytes);
        }
        self.whole.shrink_to(bytes);
    }
}

async fn acquire(budget: &Budget, bytes: usize) -> Permit {
    budget.acquire(bytes).await.expect("nobody is let in with more than the budget")
}

fn free(budget: &Budget) -> usize {
    budget.limit_bytes().saturating_sub(budget.used_bytes())
}
