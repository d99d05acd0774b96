//! How many.

use super::Aggregate;

/// The number of records, as `u64`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count;

impl<T> Aggregate<T> for Count {
    type State = u64;
    type Output = u64;

    fn name(&self) -> String {
        "count".into()
    }

    fn init(&self) -> u64 {
        0
    }

    fn add(&self, state: &mut u64, _: &T) {
        *state += 1;
    }

    fn merge(&self, state: &mut u64, other: u64) {
        *state += other;
    }

    fn finish(&self, state: &u64) -> u64 {
        *state
    }
}
