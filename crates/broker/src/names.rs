//! Topic names by Kafka's rules, and ids as Kafka prints them.

use uuid::Uuid;

use crate::error::TopicError;

/// Kafka's `Topic.MAX_NAME_LENGTH`: with a partition number it must fit a file name.
const NAME_BYTES_MAX: usize = 249;

/// Checks a name by the rules of Kafka's `Topic.validate`.
pub(crate) fn check_topic_name(name: &str) -> Result<(), TopicError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reason = match name {
        "" => "it is empty",
        "." | ".." => "it is '.' or '..'",
        _ if name.len() > NAME_BYTES_MAX => "it is longer than 249 characters",
        _ if !name.bytes().all(legal) => "it has characters other than letters, digits, '.', '_' and '-'",
        _ => return Ok(()),
    };
    Err(TopicError::InvalidName { name: name.to_owned(), reason })
}

/// Whether two names are the same but for `.` and `_`, which Kafka's metrics do not tell apart.
pub(crate) fn collide(one: &str, other: &str) -> bool {
    let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().map(unify).eq(other.bytes().map(unify))
}

/// The 22 characters of URL-safe base64 (RFC 4648, section 5, without padding) in which Kafka shows UUIDs.
pub(crate) fn base64_url(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 128 bits are 21 digits of six bits and one of two, which stands for the high bits of its digit.
    let bits = id.as_u128();
    (0..22u32)
        .map(|index| match 122u32.checked_sub(6 * index) {
            Some(shift) => bits >> shift,
            None => bits << 4,
        })
        .map(|digit| char::from(ALPHABET[(digit & 0x3f) as usize]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        for good in ["a", "A-1_b.c", "...", "__x", &"x".repeat(249)] {
            assert!(check_topic_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(check_topic_name(bad).is_err(), "{bad}");
        }
        assert!(collide("a.b_c", "a_b.c"));
        assert!(!collide("a.b", "a-b") && !collide("a", "aa"));
    }

    #[test]
    fn ids_print_as_kafka_prints_them() {
        // The metadata topic's id, as Kafka's documentation shows it: a UUID of 1.
        assert_eq!(base64_url(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(base64_url(Uuid::from_u128(u128::MAX)), "_____________________w");
        assert_eq!(base64_url(Uuid::from_u128(0xfb << 120)), "-wAAAAAAAAAAAAAAAAAAAA");
    }
}
