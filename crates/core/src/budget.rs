//! The bytes that a process allows itself for data in flight.
//!
//! A permit is taken before memory is; while none is to be had, whoever asks waits, so that pressure goes back to the
//! sender instead of growing a queue.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Permits are counted in units, so that a budget of terabytes fits the counter.
const UNIT_BYTES: usize = 1024;

/// A shared, bounded number of bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    units: u32,
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
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// Waits until `bytes` are free and takes them. First come, first served.
    ///
    /// # Errors
    /// Fails at once when `bytes` is more than the whole budget.
    pub async fn acquire(&self, bytes: usize) -> Result<Permit, OverBudget> {
        let asked = self.check(bytes)?;
        let held = Arc::clone(&self.free).acquire_many_owned(asked).await;
        Ok(Permit { held: held.expect("the semaphore of a budget is never closed") })
    }

    /// Takes `bytes` if they are free now.
    #[must_use]
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let asked = self.check(bytes).ok()?;
        Arc::clone(&self.free).try_acquire_many_owned(asked).ok().map(|held| Permit { held })
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
        u32::try_from(units(bytes))
            .ok()
            .filter(|asked| *asked <= self.units)
            .ok_or(OverBudget { asked_bytes: bytes, budget_bytes: self.limit_bytes() })
    }
}

impl Permit {
    /// Gives everything above `bytes` back early.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.held.num_permits().saturating_sub(units(bytes));
        drop(self.held.split(surplus));
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
    }
}
