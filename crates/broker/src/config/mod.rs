//! Settings: what there is ([`topic`], [`broker`]: tables), what a value may be, and how they are shown.

pub mod broker;
pub mod group;
mod kafka;
pub mod topic;

use crate::error::ConfigError;

/// The type of a setting. The numbers are Kafka's (`DescribeConfigsResponse.ConfigType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigKind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// 32 bits.
    Int = 3,
    /// 16 bits.
    Short = 4,
    /// 64 bits.
    Long = 5,
    /// A fraction.
    Double = 6,
    /// Texts between commas.
    List = 7,
}

/// Where a setting's value comes from. The numbers are Kafka's (`DescribeConfigsResponse.ConfigSource`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic = 1,
    /// Set when the broker was started.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
    /// Set on the group.
    Group = 8,
}

/// One setting, as DescribeConfigs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: &'static str,
    /// The value that holds.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether no request can change it.
    pub read_only: bool,
    /// Whether it must not be shown; none is.
    pub sensitive: bool,
    /// Its type.
    pub kind: ConfigKind,
    /// What it does here.
    pub documentation: &'static str,
    /// Every place that says something about it, the one that holds first.
    pub synonyms: Vec<(&'static str, Option<String>, ConfigSource)>,
}

/// A change of a topic's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    /// Sets one.
    Set(String, String),
    /// Takes one back to its default.
    Delete(String),
    /// Adds to a list.
    Append(String, String),
    /// Takes away from a list.
    Subtract(String, String),
    /// Sets these and takes all others back to their defaults.
    ReplaceAll(Vec<(String, String)>),
}

/// Whether a request is carried out, or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// It is carried out.
    Now,
    /// It is checked, and nothing changes.
    ValidateOnly,
}

/// What a value may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Range {
    /// Whole numbers from one to the other, both included.
    Between(i64, i64),
    /// The first, or whole numbers from the second to the third.
    OneOrBetween(i64, i64, i64),
    /// Fractions from one to the other, both included.
    Fraction(f64, f64),
    /// `true` or `false`.
    Boolean,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// The same, written in any case.
    OneOfAnyCase(&'static [&'static str]),
    /// Some of these, between commas; at least one.
    SomeOf(&'static [&'static str]),
    /// `*`, or pairs of a partition and a node (`0:1`) between commas; or nothing.
    Replicas,
}

impl Range {
    /// Checks `value` and brings it into its normal form (Kafka trims, and reads booleans in any case).
    pub(crate) fn check(self, name: &str, value: &str) -> Result<String, ConfigError> {
        let value = value.trim();
        let invalid =
            |reason: String| ConfigError::Invalid { name: name.to_owned(), value: value.to_owned(), reason };
        match self {
            Self::Between(min, max) => match value.parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(number.to_string()),
                _ => Err(invalid(format!("it must be a whole number from {min} to {max}"))),
            },
            Self::OneOrBetween(one, min, max) => match value.parse::<i64>() {
                Ok(number) if number == one || (min..=max).contains(&number) => Ok(number.to_string()),
                _ => Err(invalid(format!("it must be {one}, or a whole number from {min} to {max}"))),
            },
            Self::Fraction(min, max) => match value.parse::<f64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(value.to_owned()),
                _ => Err(invalid(format!("it must be a number from {min} to {max}"))),
            },
            Self::Boolean => match value.to_ascii_lowercase().as_str() {
                truth @ ("true" | "false") => Ok(truth.to_owned()),
                _ => Err(invalid("it must be true or false".to_owned())),
            },
            Self::OneOf(options) => match options.contains(&value) {
                true => Ok(value.to_owned()),
                false => Err(invalid(format!("it must be one of {}", options.join(", ")))),
            },
            Self::OneOfAnyCase(options) => {
                match options.iter().find(|option| option.eq_ignore_ascii_case(value)) {
                    Some(option) => Ok((*option).to_owned()),
                    None => Err(invalid(format!("it must be one of {}", options.join(", ")))),
                }
            }
            Self::SomeOf(options) => {
                // Nothing is some, too: since Kafka 4.3 a topic may have no cleanup.policy, and then keeps everything.
                let items: Vec<&str> = match value {
                    "" => Vec::new(),
                    _ => value.split(',').map(str::trim).collect(),
                };
                match items.iter().all(|item| options.contains(item)) {
                    true => Ok(items.join(",")),
                    false => Err(invalid(format!("it must be some of {}", options.join(", ")))),
                }
            }
            Self::Replicas => {
                let is_pair = |item: &str| {
                    let pair = item.split_once(':');
                    pair.is_some_and(|(one, other)| {
                        one.parse::<i32>().is_ok() && other.parse::<i32>().is_ok()
                    })
                };
                match value == "*" || list(value).all(is_pair) {
                    true => Ok(value.to_owned()),
                    false => Err(invalid("it must be * or pairs PARTITION:NODE between commas".to_owned())),
                }
            }
        }
    }
}

/// The items of a list.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_brought_into_one_form() {
        let ok = |range: Range, value: &str| range.check("x", value).ok();
        assert_eq!(ok(Range::Between(0, 9), " 07 ").as_deref(), Some("7"));
        assert_eq!(ok(Range::Between(0, 9), "10"), None);
        assert_eq!(ok(Range::Between(0, 9), "1.5"), None);
        assert_eq!(ok(Range::Fraction(0.0, 1.0), "0.5").as_deref(), Some("0.5"));
        assert_eq!(ok(Range::Fraction(0.0, 1.0), "NaN"), None);
        assert_eq!(ok(Range::Boolean, "TRUE").as_deref(), Some("true"));
        assert_eq!(ok(Range::Boolean, "yes"), None);
        assert_eq!(ok(Range::OneOf(&["a", "b"]), "c"), None);
        assert_eq!(ok(Range::OneOfAnyCase(&["a", "b"]), "B").as_deref(), Some("b"));
        assert_eq!(ok(Range::OneOfAnyCase(&["a", "b"]), "c"), None);
        let level = |value| ok(Range::OneOrBetween(-1, 1, 9), value);
        assert_eq!(
            ["-1", "0", "1", "9", "10"].map(|value| level(value).is_some()),
            [true, false, true, true, false]
        );
        let replicas = |value| ok(Range::Replicas, value).is_some();
        assert_eq!(
            ["*", "", "0:1", "0:1,2:3", "x", "0", "0:x", "[0:1]"].map(replicas),
            [true, true, true, true, false, false, false, false]
        );
        assert_eq!(ok(Range::SomeOf(&["a", "b"]), " b , a ").as_deref(), Some("b,a"));
        assert_eq!(ok(Range::SomeOf(&["a", "b"]), "").as_deref(), Some(""));
        assert_eq!(ok(Range::SomeOf(&["a", "b"]), "a,,b"), None);
    }
}
