//! What is computed over the records of a window: one file per aggregate.

mod count;
mod extreme;
mod mean;
mod number;
mod sum;
mod tuple;

pub use count::Count;
pub use extreme::{Max, Min};
pub use mean::Mean;
pub use number::{Measure, Number};
pub use sum::Sum;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A computation over the records `T` of one key and window. Tuples of aggregates are aggregates.
///
/// A window's state is kept on disk between records, so it is plain data. Aggregates of one window come together when
/// sessions merge; the order in which records are added and states merged should not matter to the result.
pub trait Aggregate<T>: Send + Sync + 'static {
    /// What is kept per key and window. It is stored by its serde form: a change of that form needs a new
    /// [`Aggregate::name`].
    type State: Serialize + DeserializeOwned + Send;
    /// What comes out.
    type Output;

    /// What is computed, in a word. State made under one name is not opened under another.
    fn name(&self) -> String;

    /// The state before any record.
    fn init(&self) -> Self::State;

    /// Takes `item` in.
    fn add(&self, state: &mut Self::State, item: &T);

    /// Takes in everything that `other` has taken in.
    fn merge(&self, state: &mut Self::State, other: Self::State);

    /// The result so far.
    fn finish(&self, state: &Self::State) -> Self::Output;
}

/// A number out of a record.
type NumberOf<T, N> = Box<dyn Fn(&T) -> Option<N> + Send + Sync>;

fn number_of<T, M: Measure>(of: impl Fn(&T) -> M + Send + Sync + 'static) -> NumberOf<T, M::Number> {
    Box::new(move |item| of(item).number())
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;

    /// Adds `parts` in separate states that it then merges, and once more through serde.
    fn over<A: Aggregate<Option<i64>>>(aggregate: &A, parts: &[Vec<Option<i64>>]) -> A::Output {
        let mut all = aggregate.init();
        for part in parts {
            let mut state = aggregate.init();
            part.iter().for_each(|item| aggregate.add(&mut state, item));
            let stored = postcard::to_allocvec(&state).unwrap();
            aggregate.merge(&mut all, postcard::from_bytes(&stored).unwrap());
        }
        aggregate.finish(&all)
    }

    fn check<A: Aggregate<Option<i64>>>(aggregate: &A, parts: &[Vec<Option<i64>>], expect: &A::Output)
    where
        A::Output: PartialEq + Debug,
    {
        assert_eq!(over(aggregate, parts), *expect, "{}", aggregate.name());
        assert_eq!(over(aggregate, &[parts.concat()]), *expect, "{} in one part", aggregate.name());
    }

    proptest! {
        #[test]
        fn merged_parts_give_what_one_pass_gives(
            parts in prop::collection::vec(prop::collection::vec(prop::option::of(-1000i64..1000), 0..8), 0..5),
        ) {
            let all = parts.concat();
            let numbers: Vec<i64> = all.iter().copied().flatten().collect();
            let sum = numbers.iter().sum();
            let mean = (!numbers.is_empty()).then(|| sum as f64 / numbers.len() as f64);
            let (min, max) = (numbers.iter().copied().min(), numbers.iter().copied().max());
            let of = |item: &Option<i64>| *item;
            check(&Count, &parts, &(all.len() as u64));
            check(&Sum::of(of), &parts, &sum);
            check(&Mean::of(of), &parts, &mean);
            check(&Min::of(of), &parts, &min);
            check(&Max::of(of), &parts, &max);
            check(&(Count, Sum::of(of), Max::of(of)), &parts, &(all.len() as u64, sum, max));
        }
    }

    #[test]
    fn a_sum_that_is_too_large_stops_at_the_end_of_its_range() {
        let sum = Sum::of(|item: &Option<i64>| *item);
        assert_eq!(over(&sum, &[vec![Some(i64::MAX), Some(1)], vec![Some(1)]]), i64::MAX);
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let mut state = None;
        let max = Max::of(|item: &f64| *item);
        [1.0, f64::NAN, 2.0].iter().for_each(|item| max.add(&mut state, item));
        assert_eq!(max.finish(&state), Some(2.0));
    }
}
