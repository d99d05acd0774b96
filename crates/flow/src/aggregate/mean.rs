//! How much on average.

use super::{Aggregate, Measure, Number, NumberOf, number_of};

/// The arithmetic mean of a number, as `Option<f64>`; records without it do not count, and `None` says that none had it.
pub struct Mean<T, N> {
    of: NumberOf<T, N>,
}

impl<T, N: Number> Mean<T, N> {
    /// Averages what `of` gives.
    pub fn of<M: Measure<Number = N>>(of: impl Fn(&T) -> M + Send + Sync + 'static) -> Self {
        Self { of: number_of(of) }
    }
}

impl<T: 'static, N: Number> Aggregate<T> for Mean<T, N> {
    /// How many, and their sum.
    type State = (u64, N);
    type Output = Option<f64>;

    fn name(&self) -> String {
        format!("mean of {}", N::NAME)
    }

    fn init(&self) -> Self::State {
        (0, N::ZERO)
    }

    fn add(&self, (count, sum): &mut Self::State, item: &T) {
        if let Some(number) = (self.of)(item) {
            *count += 1;
            *sum = sum.plus(number);
        }
    }

    fn merge(&self, (count, sum): &mut Self::State, other: Self::State) {
        *count += other.0;
        *sum = sum.plus(other.1);
    }

    fn finish(&self, (count, sum): &Self::State) -> Option<f64> {
        (*count > 0).then(|| sum.to_f64() / *count as f64)
    }
}
