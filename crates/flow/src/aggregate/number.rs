//! The numbers that are added up and compared.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A number that aggregates compute with: `i64` or `f64`.
pub trait Number: Copy + PartialOrd + Serialize + DeserializeOwned + Send + 'static {
    /// Which one.
    const NAME: &'static str;
    /// Nothing.
    const ZERO: Self;

    /// The sum; integers stop at the ends of their range.
    #[must_use]
    fn plus(self, other: Self) -> Self;

    /// As a fraction; exact up to 2^53.
    fn to_f64(self) -> f64;
}

/// What a closure may give where a number is asked for: any integer up to 32 bits or `i64`, a float, or an `Option` of
/// one. `None` and not-a-number say that the record has none.
pub trait Measure {
    /// What it is computed as.
    type Number: Number;

    /// The number, if there is one.
    fn number(self) -> Option<Self::Number>;
}

impl Number for i64 {
    const NAME: &'static str = "i64";
    const ZERO: Self = 0;

    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }

    fn to_f64(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    const NAME: &'static str = "f64";
    const ZERO: Self = 0.0;

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn to_f64(self) -> f64 {
        self
    }
}

macro_rules! measure {
    ($number:ty: $($from:ty),*) => {$(
        impl Measure for $from {
            type Number = $number;

            fn number(self) -> Option<$number> {
                let number = <$number>::from(self);
                // Only what is not a number differs from itself.
                (number == number).then_some(number)
            }
        }
    )*};
}

measure!(i64: i8, i16, i32, i64, u8, u16, u32);
measure!(f64: f32, f64);

impl<M: Measure> Measure for Option<M> {
    type Number = M::Number;

    fn number(self) -> Option<M::Number> {
        self.and_then(M::number)
    }
}
