//! What a mover has to know of settlements: `anabranch move` takes them to another engine, where positions are others.

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Carried, Elsewhere, LastWord, Noted, Untranslatable};

use crate::snapshot::Snapshot;
use crate::{BETWEEN, settlements};

/// The topic of what a group has settled of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlements {
    group: String,
    of: String,
}

impl Settlements {
    /// By the name of the topic that they are in; `None` if it is no name of such a topic.
    #[must_use]
    pub fn named(topic: &str) -> Option<Self> {
        let (group, of) =
            topic.split_once(BETWEEN).filter(|(group, of)| !group.is_empty() && !of.is_empty())?;
        Some(Self { group: group.to_owned(), of: of.to_owned() })
    }

    /// Whose they are.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The topic whose records were settled.
    #[must_use]
    pub fn of(&self) -> &str {
        &self.of
    }

    /// Whether a record can be of such a topic. Of a topic that somebody has given such a name it is not.
    #[must_use]
    pub fn is_one(record: &Record) -> bool {
        Self::is(record, |value| Snapshot::decode(value).is_ok())
    }

    /// Whether it can, but in a form that this program does not know.
    #[must_use]
    pub fn is_foreign(record: &Record) -> bool {
        Self::is(record, Snapshot::is_foreign)
    }

    fn is(record: &Record, one: impl FnOnce(&[u8]) -> bool) -> bool {
        partition_in(record).is_some() && record.value.as_deref().is_some_and(one)
    }
}

/// The partition that a record tells of.
fn partition_in(record: &Record) -> Option<i32> {
    partition(record.key.as_deref()?)
}

fn partition(key: &[u8]) -> Option<i32> {
    std::str::from_utf8(key).ok()?.parse().ok().filter(|partition| *partition >= 0)
}

impl Carried for Settlements {
    fn topics(&self) -> Vec<String> {
        vec![settlements(&self.group, &self.of)]
    }

    fn needs(&self) -> Vec<String> {
        vec![self.of.clone()]
    }

    /// The newest snapshot of each partition.
    fn note(&self, _: &TopicPartition, record: &Record, noted: &mut Noted) {
        if let (Some(_), Some(key), Some(value)) = (partition_in(record), &record.key, &record.value) {
            noted.insert(key.to_vec(), value.to_vec());
        }
    }

    fn last_word(&self, at: &TopicPartition, there: &dyn Elsewhere) -> Result<LastWord, Untranslatable> {
        let failed = |reason| Untranslatable { at: at.clone(), reason };
        let mut word = LastWord::default();
        for (key, value) in there.noted(at).into_iter().flatten() {
            let partition = partition(key).expect("no other was noted");
            let of = TopicPartition::new(&self.of, partition);
            let snapshot =
                Snapshot::decode(value).map_err(|_| failed("it is not what a queue has settled"))?;
            let translated = snapshot.translate(|position| there.translate(&of, position));
            let (snapshot, positions, gone) =
                translated.ok_or_else(|| failed("the partition that it tells of is not moved"))?;
            word.positions += positions;
            word.gone += gone;
            word.records.push(Record::new(key.clone(), snapshot.encode()));
        }
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::engine::Position;

    use super::*;

    /// A target in which every second position is a hole, and whose source has lost 10 to 12.
    #[derive(Default)]
    struct Doubled(Noted);

    impl Elsewhere for Doubled {
        fn translate(&self, at: &TopicPartition, position: Position) -> Option<Position> {
            let next = if (10..13).contains(&position.0) { 13 } else { position.0 };
            (at.topic == "orders" && at.partition < 8).then_some(Position(2 * next))
        }

        fn end(&self, _: &TopicPartition) -> Option<Position> {
            None
        }

        fn noted(&self, _: &TopicPartition) -> Option<&Noted> {
            Some(&self.0)
        }

        fn now_ms(&self) -> i64 {
            0
        }
    }

    #[test]
    fn names_tell_whose_they_are() {
        let workers = Settlements::named("workers.queue.a.queue.b").unwrap();
        assert_eq!((workers.group(), workers.of()), ("workers", "a.queue.b"));
        assert_eq!(workers.topics(), ["workers.queue.a.queue.b"]);
        assert_eq!(workers.needs(), ["a.queue.b"]);
        for other in ["orders", ".queue.orders", "workers.queue.", "workers.queue"] {
            assert_eq!(Settlements::named(other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_of_each_partition_is_translated_and_what_is_gone_is_left_out() {
        let of = Settlements::named("workers.queue.orders").unwrap();
        let at = TopicPartition::new("workers.queue.orders", 0);
        let mut there = Doubled::default();
        let old = Record::new("3", r#"{"version":1,"next":2,"unsettled":[]}"#);
        let three = r#"{"version":1,"next":20,"unsettled":[[7,2,1,0],[9,4,2,5],[14,1,2,9]]}"#;
        let new = [Record::new("3", three), Record::new("7", r#"{"version":1,"next":4,"unsettled":[]}"#)];
        assert!(new.iter().all(Settlements::is_one));
        for other in [Record::keyless("x"), Record::new("a", three), Record::new("3", "x")] {
            assert!(!Settlements::is_one(&other) && !Settlements::is_foreign(&other));
        }
        let newer = Record::new("3", r#"{"version":2,"next":[20]}"#);
        assert!(!Settlements::is_one(&newer) && Settlements::is_foreign(&newer));
        for record in [&old, &new[0], &new[1]] {
            of.note(&at, record, &mut there.0);
        }
        let word = of.last_word(&at, &there).unwrap();
        let expected = r#"{"version":1,"next":40,"unsettled":[[14,1,1,0],[16,1,1,0],[18,1,2,5],[28,1,2,9]]}"#;
        let records =
            vec![Record::new("3", expected), Record::new("7", r#"{"version":1,"next":8,"unsettled":[]}"#)];
        assert_eq!(word, LastWord { records, positions: 6, gone: 3 });

        of.note(&at, &Record::new("9", three), &mut there.0);
        assert_eq!(
            of.last_word(&at, &there).unwrap_err().reason,
            "the partition that it tells of is not moved"
        );
    }
}
