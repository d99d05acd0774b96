//! The least and the greatest.

use super::{Aggregate, Measure, Number, NumberOf, number_of};

macro_rules! extreme {
    ($(#[$doc:meta])* $name:ident, $word:literal, $better:tt) => {
        $(#[$doc])*
        /// Records without the number do not count, and `None` says that none had it.
        pub struct $name<T, N> {
            of: NumberOf<T, N>,
        }

        impl<T, N: Number> $name<T, N> {
            /// Compares what `of` gives.
            pub fn of<M: Measure<Number = N>>(of: impl Fn(&T) -> M + Send + Sync + 'static) -> Self {
                Self { of: number_of(of) }
            }
        }

        impl<T: 'static, N: Number> Aggregate<T> for $name<T, N> {
            type State = Option<N>;
            type Output = Option<N>;

            fn name(&self) -> String {
                format!(concat!($word, " of {}"), N::NAME)
            }

            fn init(&self) -> Option<N> {
                None
            }

            fn add(&self, state: &mut Option<N>, item: &T) {
                self.merge(state, (self.of)(item));
            }

            fn merge(&self, state: &mut Option<N>, other: Option<N>) {
                if let Some(number) = other && state.is_none_or(|best| number $better best) {
                    *state = Some(number);
                }
            }

            fn finish(&self, state: &Option<N>) -> Option<N> {
                *state
            }
        }
    };
}

extreme! {
    /// The least of a number.
    Min, "min", <
}
extreme! {
    /// The greatest of a number.
    Max, "max", >
}
