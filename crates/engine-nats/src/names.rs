//! What things are called in NATS.
//!
//! ```text
//! partition P of topic T    stream  ab-T-P         subject  ab.T.P.r        (a compacted topic: ab.T.P.k.TOKEN, one per key)
//! queue of group G          consumer  ab-q-G       of each partition's stream
//! registry of topics        bucket  ab-topics      key      topic.T
//! groups                    bucket  ab-groups      keys     in `group/mod.rs`
//! ```
//!
//! Kafka's names consist of letters, digits, `.`, `_` and `-`. A dot separates tokens in NATS, so it is written `=`, which no
//! topic can have in its name.

use anabranch_core::TopicPartition;
use anabranch_core::seam::{OsRandom, Random};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// The bucket with an entry for each topic.
pub(crate) const TOPICS_BUCKET: &str = "ab-topics";
/// The bucket of all groups.
pub(crate) const GROUPS_BUCKET: &str = "ab-groups";
/// The entry that tells this cluster from every other.
pub(crate) const CLUSTER_KEY: &str = "cluster";

/// Names of streams end there (`JSMaxNameLen` in the server).
const STREAM_NAME_BYTES_MAX: usize = 255;
/// `-`, and the digits of the largest partition.
const PARTITION_BYTES_MAX: usize = 11;
const PREFIX: &str = "ab-";

/// Longer keys are hashed: the line that carries a subject ends at 4,096 bytes, and each subject takes memory in the server.
const KEY_BYTES_MAX: usize = 48;

/// How long a topic's name may be, bytes.
pub(crate) const TOPIC_BYTES_MAX: usize = STREAM_NAME_BYTES_MAX - PREFIX.len() - PARTITION_BYTES_MAX;

/// Whether it is a topic's name by Kafka's rules, and short enough.
pub(crate) fn is_topic(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !matches!(name, "" | "." | "..") && name.len() <= TOPIC_BYTES_MAX && name.bytes().all(legal)
}

/// The token that stands for a topic.
pub(crate) fn token(topic: &str) -> String {
    topic.replace('.', "=")
}

/// The topic that a token stands for.
pub(crate) fn topic(token: &str) -> String {
    token.replace('=', ".")
}

/// The stream of a partition.
pub(crate) fn stream(at: &TopicPartition) -> String {
    format!("{PREFIX}{}-{}", token(&at.topic), at.partition)
}

/// What begins every subject of a partition.
pub(crate) fn subject(at: &TopicPartition) -> String {
    format!("ab.{}.{}", token(&at.topic), at.partition)
}

/// The entry of a topic.
pub(crate) fn topic_key(topic: &str) -> String {
    format!("topic.{}", token(topic))
}

/// The last token of the subject of a compacted topic's records with this key.
pub(crate) fn key_token(key: &[u8]) -> String {
    match key.len() <= KEY_BYTES_MAX {
        true => format!("k{}", URL_SAFE_NO_PAD.encode(key)),
        false => format!("h{}", URL_SAFE_NO_PAD.encode(Sha256::digest(key))),
    }
}

/// The consumer of a queue's group, of each partition's stream.
pub(crate) fn queue(group: &str) -> String {
    format!("{PREFIX}q-{}", token(group))
}

/// A token that nobody else has: 96 random bits. Short, since messages carry it.
pub(crate) fn unique() -> String {
    let (high, low) = (OsRandom.next_u64().to_le_bytes(), OsRandom.next_u64().to_le_bytes());
    URL_SAFE_NO_PAD.encode([&high[..], &low[..4]].concat())
}

/// A token for any text.
pub(crate) fn text_token(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// The text that a token stands for.
pub(crate) fn text(token: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_enough_and_tell_topics_apart() {
        let longest = "a".repeat(TOPIC_BYTES_MAX);
        assert!(is_topic(&longest) && !is_topic(&format!("{longest}a")));
        assert_eq!(stream(&TopicPartition::new(longest, i32::MAX)).len(), STREAM_NAME_BYTES_MAX);
        assert_eq!(text(&text_token("a.b >")), Some("a.b >".to_owned()));
        for bad in ["", ".", "..", "a b", "a>", "a=b", "ü"] {
            assert!(!is_topic(bad), "{bad}");
        }
        assert_eq!(stream(&TopicPartition::new("a.b-1", 0)), "ab-a=b-1-0");
        assert_ne!(stream(&TopicPartition::new("a.b", 0)), stream(&TopicPartition::new("a_b", 0)));
        assert_eq!(subject(&TopicPartition::new("a.b", 7)), "ab.a=b.7");
    }

    #[test]
    fn keys_have_tokens_of_their_own() {
        let long = vec![b'x'; KEY_BYTES_MAX + 1];
        let tokens = [&b""[..], b"k", b"\0", b"a.b", &long[1..], &long].map(key_token);
        for (at, one) in tokens.iter().enumerate() {
            assert!(!tokens[..at].contains(one));
            assert!(one.len() < 70 && !one.contains(['.', '*', '>', ' ']), "{one}");
        }
    }
}
