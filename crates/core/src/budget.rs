//! The bytes that a process allows itself for data in flight.
//!
//! A permit is taken before memory is; while none is to be had, whoever asks waits, so that pressure goes back to the
//! sender instead of growing a queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units, so that a budget of terabytes fits the counter.
const UNIT_BYTES: usize = 1024;

/// A shared, bounded number of bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
    pressure: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    waited: AtomicU64,
    refused: AtomicU64,
}

/// How far a [`Budget`] was short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Who waits now.
    pub waiting: u64,
    /// How often somebody had to wait.
    pub waited: u64,
    /// How often somebody who would not wait got nothing, or asked for more than there can be.
    pub refused: u64,
}

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    held: OwnedSemaphorePermit,
}

/// More was asked for than the whole budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{asked_bytes} bytes were asked for, and the whole memory budget is {budget_bytes}")]
pub struct OverBudget {
    /// What was asked for.
    pub asked_bytes: usize,
    /// What there is.
    pub budget_bytes: usize,
}

impl Budget {
    /// A budget of `bytes`, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let units = units(bytes).min(u32::MAX as usize >> 3) as u32;
        Self { free: Arc::new(Semaphore::new(units as usize)), units, pressure: Arc::default() }
    }

    /// Waits until `bytes` are free and takes them. First come, first served.
    ///
    /// # Errors
    /// Fails at once when `bytes` is more than the whole budget.
    pub async fn acquire(&self, bytes: usize) -> Result<Permit, OverBudget> {
        let asked = self.check(bytes)?;
        // While anybody waits nothing is free, so that this overtakes nobody.
        if let Ok(held) = Arc::clone(&self.free).try_acquire_many_owned(asked) {
            return Ok(Permit { held });
        }
        self.pressure.waited.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting::new(&self.pressure.waiting);
        let held = Arc::clone(&self.free).acquire_many_owned(asked).await;
        Ok(Permit { held: held.expect("the semaphore of a budget is never closed") })
    }

    /// Takes `bytes` if they are free now.
    #[must_use]
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let asked = self.check(bytes).ok()?;
        let taken = Arc::clone(&self.free).try_acquire_many_owned(asked);
        if taken.is_err() {
            self.pressure.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.ok().map(|held| Permit { held })
    }

    /// How far it is short, and was.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Pressure {
            waiting: get(&self.pressure.waiting),
            waited: get(&self.pressure.waited),
            refused: get(&self.pressure.refused),
        }
    }

    /// The whole budget in bytes.
    #[must_use]
    pub fn limit_bytes(&self) -> usize {
        self.units as usize * UNIT_BYTES
    }

    /// What is taken now, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> usize {
        (self.units as usize).saturating_sub(self.free.available_permits()) * UNIT_BYTES
    }

    fn check(&self, bytes: usize) -> Result<u32, OverBudget> {
        u32::try_from(units(bytes)).ok().filter(|asked| *asked <= self.units).ok_or_else(|| {
            self.pressure.refused.fetch_add(1, Ordering::Relaxed);
            OverBudget { asked_bytes: bytes, budget_bytes: self.limit_bytes() }
        })
    }
}

/// Counts somebody who waits, however the waiting ends.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Permit {
    /// Takes the bytes of `other`, which is of the same budget, into this one.
    pub fn merge(&mut self, other: Self) {
        self.held.merge(other.held);
    }

    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.num_permits() * UNIT_BYTES
    }

    /// The same bytes, which have this permit from now on: it comes back when the last part of them is gone.
    #[must_use]
    pub fn attach(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Permitted { bytes, _permit: self })
    }

    /// Gives everything above `bytes` back early.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.held.num_permits().saturating_sub(units(bytes));
        drop(self.held.split(surplus));
    }
}

/// Bytes and the permit for them.
struct Permitted {
    bytes: Bytes,
    _permit: Permit,
}

impl AsRef<[u8]> for Permitted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_and_come_back() {
        let budget = Budget::new(10 * 1024);
        let mut first = budget.try_acquire(9 * 1024).unwrap();
        assert!(budget.try_acquire(2 * 1024).is_none());
        first.shrink_to(1024);
        assert_eq!(budget.used_bytes(), 1024);
        assert!(budget.try_acquire(9 * 1024).is_some());
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.try_acquire(11 * 1024).is_none());
    }

    #[tokio::test]
    async fn asking_for_more_than_there_is_fails_instead_of_waiting_for_ever() {
        let budget = Budget::new(1024);
        let error = budget.acquire(4096).await.unwrap_err();
        assert_eq!(error, OverBudget { asked_bytes: 4096, budget_bytes: 1024 });
        assert_eq!(budget.pressure(), Pressure { refused: 1, ..Pressure::default() });
    }

    #[test]
    fn bytes_keep_their_permit_as_long_as_any_part_lives() {
        let budget = Budget::new(4096);
        let bytes = budget.try_acquire(4096).unwrap().attach(Bytes::from(vec![7; 4096]));
        let part = bytes.slice(10..20);
        drop(bytes);
        assert_eq!((budget.used_bytes(), &part[..]), (4096, &[7; 10][..]));
        drop(part);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_counted_until_the_wait_ends() {
        let budget = Budget::new(2048);
        let mut first = budget.acquire(1024).await.unwrap();
        first.merge(budget.acquire(1024).await.unwrap());
        assert_eq!(budget.pressure(), Pressure::default());
        let mut second = Box::pin(budget.acquire(1024));
        assert!(waits(&mut second).await);
        assert_eq!(budget.pressure(), Pressure { waiting: 1, waited: 1, refused: 0 });
        let mut third = Box::pin(budget.acquire(1024));
        assert!(waits(&mut third).await);
        drop(third);
        assert_eq!(budget.pressure(), Pressure { waiting: 1, waited: 2, refused: 0 });
        drop(first);
        drop(second.await.unwrap());
        assert_eq!(budget.pressure().waiting, 0);
        assert_eq!(budget.used_bytes(), 0);
    }

    /// Whether `future` waits after it was asked once.
    async fn waits(future: &mut (impl Future + Unpin)) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
