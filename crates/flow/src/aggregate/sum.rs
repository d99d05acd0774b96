//! How much in all.

use super::{Aggregate, Measure, Number, NumberOf, number_of};

/// The sum of a number; records without it do not count. A sum of integers that is too large stops at the end of the
/// range of `i64`, where it can be seen, and does not wrap.
pub struct Sum<T, N> {
    of: NumberOf<T, N>,
}

impl<T, N: Number> Sum<T, N> {
    /// Sums what `of` gives.
    pub fn of<M: Measure<Number = N>>(of: impl Fn(&T) -> M + Send + Sync + 'static) -> Self {
        Self { of: number_of(of) }
    }
}

impl<T: 'static, N: Number> Aggregate<T> for Sum<T, N> {
    type State = N;
    type Output = N;

    fn name(&self) -> String {
        format!("sum of {}", N::NAME)
    }

    fn init(&self) -> N {
        N::ZERO
    }

    fn add(&self, state: &mut N, item: &T) {
        if let Some(number) = (self.of)(item) {
            *state = state.plus(number);
        }
    }

    fn merge(&self, state: &mut N, other: N) {
        *state = state.plus(other);
    }

    fn finish(&self, state: &N) -> N {
        *state
    }
}
