//! Several aggregates over the same records.

use super::Aggregate;

macro_rules! tuple {
    ($($part:ident $at:tt),+) => {
        impl<T, $($part: Aggregate<T>),+> Aggregate<T> for ($($part,)+) {
            type State = ($($part::State,)+);
            type Output = ($($part::Output,)+);

            fn name(&self) -> String {
                [$(self.$at.name()),+].join(", ")
            }

            fn init(&self) -> Self::State {
                ($(self.$at.init(),)+)
            }

            fn add(&self, state: &mut Self::State, item: &T) {
                $(self.$at.add(&mut state.$at, item);)+
            }

            fn merge(&self, state: &mut Self::State, other: Self::State) {
                $(self.$at.merge(&mut state.$at, other.$at);)+
            }

            fn finish(&self, state: &Self::State) -> Self::Output {
                ($(self.$at.finish(&state.$at),)+)
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);
