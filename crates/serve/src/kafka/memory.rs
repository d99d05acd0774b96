//! Who may hold how much of the broker's byte budget (`queued.max.request.bytes`).
//!
//! What only waits for a peer must never hold everything: a frame whose bytes do not come, or an answer that nobody reads.
//! Each of the two has a share of the budget, and holds its bytes in the share and in the whole. What the shares leave is
//! for requests that are there and are being served; these end by themselves and give their bytes back.
//!
//! Outside of the budget, a connection holds up to twice [`READ_AHEAD_BYTES`] of what it has read, and one request that
//! came in these and does not produce. So heartbeats, metadata and fetches wait for nobody's memory, and the bound for them
//! is `connections_max` times as much.

use anabranch_core::budget::{Budget, Permit};

/// Read of a frame before it must have its bytes from the budget.
pub(super) const READ_AHEAD_BYTES: usize = 8 * 1024;
/// The share of frames that are not whole yet: a quarter.
const UNFINISHED_SHARE: usize = 4;
/// The share of fetched records on their way out: a half.
const ANSWERS_SHARE: usize = 2;
/// One answer takes an eighth of what is free in its share, so that a few slow readers leave something to all others.
const ANSWER_PART: usize = 8;
/// But this much it may always take: a batch of the default size must fit. If it is not to be had, there is no answer.
const ANSWER_BYTES_MIN: usize = 1 << 20;

/// The budget and its shares.
#[derive(Debug)]
pub(super) struct Memory {
    whole: Budget,
    unfinished: Budget,
    answers: Budget,
}

/// Bytes held in a share and in the whole budget.
#[derive(Debug)]
pub(super) struct Held {
    share: Permit,
    whole: Permit,
}

impl Memory {
    pub(super) fn new(whole: Budget) -> Self {
        let bytes = whole.limit_bytes();
        let (unfinished, answers) = (bytes / UNFINISHED_SHARE, bytes / ANSWERS_SHARE);
        Self { whole, unfinished: Budget::new(unfinished), answers: Budget::new(answers) }
    }

    /// The largest frame for which there can ever be memory.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.whole.limit_bytes()
    }

    /// For a frame that is not whole yet, before more of it is read. One that is larger than the share waits until it has
    /// the share alone.
    pub(super) async fn unfinished(&self, frame_bytes: usize) -> Held {
        let share = acquire(&self.unfinished, frame_bytes.min(self.unfinished.limit_bytes())).await;
        Held { share, whole: acquire(&self.whole, frame_bytes).await }
    }

    /// For a frame that is there.
    pub(super) async fn finished(&self, frame_bytes: usize) -> Permit {
        acquire(&self.whole, frame_bytes).await
    }

    /// As much of `wanted` as an answer may have now, and how much to read for it. Answers do not wait.
    pub(super) fn answer(&self, wanted: usize) -> Option<(Held, usize)> {
        let least = ANSWER_BYTES_MIN.min(self.answers.limit_bytes());
        let free = free(&self.answers).min(free(&self.whole));
        let most = (free / ANSWER_PART).max(least);
        let mut bytes = wanted.clamp(least, most);
        while bytes >= least {
            if let Some((share, whole)) = self.answers.try_acquire(bytes).zip(self.whole.try_acquire(bytes)) {
                return Some((Held { share, whole }, wanted.min(bytes)));
            }
            bytes /= 2;
        }
        None
    }
}

impl Held {
    /// The frame is whole: others may use the share.
    pub(super) fn finish(self) -> Permit {
        self.whole
    }

    /// Gives everything above `bytes` back early.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        self.share.shrink_to(bytes);
        self.whole.shrink_to(bytes);
    }
}

async fn acquire(budget: &Budget, bytes: usize) -> Permit {
    budget.acquire(bytes).await.expect("frames are no larger than the budget, and so are parts of it")
}

fn free(budget: &Budget) -> usize {
    budget.limit_bytes().saturating_sub(budget.used_bytes())
}
