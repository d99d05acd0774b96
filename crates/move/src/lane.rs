//! One partition on its way: how far the target was read and found equal to the source. All that is believed about what was
//! moved comes from here, and nothing from acknowledgements.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use anabranch_core::TopicPartition;
use anabranch_core::batch::{NO_TIMESTAMP, Record, RecordAt};
use anabranch_core::engine::{Engine, EngineError, Noted, Place, Position};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;

use crate::anchors::Anchors;
use crate::checksum::Checksum;
use crate::error::MoveError;
use crate::stream::Stream;
use crate::word::Speaker;

/// What of a partition was read on both sides, and is equal. Plain data: it goes on from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Matched {
    /// The partition.
    #[serde(with = "place")]
    pub at: TopicPartition,
    /// Where it began, in the source and in the target.
    #[serde(with = "positions")]
    pub start: (Position, Position),
    /// After the last record that was compared.
    #[serde(with = "positions")]
    pub end: (Position, Position),
    /// Records.
    pub records: u64,
    /// Their bytes: keys, values and headers.
    pub bytes: u64,
    /// What the source's records come to.
    pub source_checksum: Checksum,
    /// What the target's come to.
    pub target_checksum: Checksum,
    /// Which position is which.
    pub anchors: Anchors,
    /// The target compacts while it is written, and has lost records by now of whose keys there are newer ones.
    pub thinned: Option<Thinned>,
    /// What was noted of its records, where positions of others stand in them.
    #[serde(default, with = "entries")]
    pub noted: Noted,
    /// Whether that was done from the beginning: what has a last word now may have been anybody's when it was begun.
    #[serde(default)]
    pub is_heard: bool,
    /// Positions in its last word, and those that were left out of it.
    #[serde(default)]
    pub translated: (u64, u64),
}

/// What a target that compacts has thinned out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Thinned {
    /// How many records.
    pub records: u64,
    /// Keys (their hashes) of which no newer record was seen yet. In the end there are none.
    owed: BTreeSet<u64>,
}

impl Matched {
    /// Nothing yet of a partition that begins at `start`.
    #[must_use]
    pub fn new(at: TopicPartition, start: (Position, Position), is_thinned: bool) -> Self {
        Self {
            at,
            start,
            end: start,
            records: 0,
            bytes: 0,
            source_checksum: Checksum::default(),
            target_checksum: Checksum::default(),
            anchors: Anchors::default(),
            thinned: is_thinned.then(Thinned::default),
            noted: Noted::new(),
            is_heard: false,
            translated: (0, 0),
        }
    }

    /// How many records the target has thinned out before its record at `target`: there, positions count records.
    fn thinned_before(&self, target: &RecordAt) -> u64 {
        match &self.thinned {
            Some(_) => Position::from(target.offset).0.saturating_sub(self.end.1.0),
            None => 0,
        }
    }

    /// A record of the source that the target had, and has no more.
    fn supersede(&mut self, source: &RecordAt, speaker: Option<&Speaker>) {
        let place = Position::from(source.offset);
        self.anchors.note(place, self.end.1);
        self.end = (Position(place.0 + 1), Position(self.end.1.0 + 1));
        if let Some(thinned) = &mut self.thinned {
            thinned.records += 1;
            // Tombstones go by themselves after a while.
            if source.record.value.is_some() {
                thinned.owed.insert(key_hash(&source.record));
            }
        }
        self.note(&source.record, speaker);
    }

    fn note(&mut self, record: &Record, speaker: Option<&Speaker>) {
        if let Some(Speaker { carried, .. }) = speaker {
            carried.note(&self.at, record, &mut self.noted);
        }
    }

    /// Fails if a record is gone from the target of whose key there is no newer one.
    pub(crate) fn check_owed(&self) -> Result<(), MoveError> {
        match self.thinned.as_ref().is_none_or(|thinned| thinned.owed.is_empty()) {
            true => Ok(()),
            false => Err(MoveError::Diverged {
                at: self.at.clone(),
                source_position: self.end.0,
                target_position: self.end.1,
            }),
        }
    }

    /// The target ends before that.
    pub(crate) fn lost(&self, target_end: Position) -> MoveError {
        MoveError::Lost { at: self.at.clone(), source_position: self.end.0, target_end }
    }

    /// Where the target reads next what the source reads from `position` on. What was not compared yet cannot be translated;
    /// whoever asks has compared all there is.
    #[must_use]
    pub fn translate(&self, position: Position) -> Position {
        self.anchors.translate(position, self.end)
    }

    /// Whether a position may mean another record in the target.
    #[must_use]
    pub fn is_shifted(&self) -> bool {
        self.end.0 != self.end.1 || self.anchors.are_shifted()
    }

    fn take(
        &mut self,
        source: &RecordAt,
        mut target: RecordAt,
        speaker: Option<&Speaker>,
    ) -> Result<(), MoveError> {
        // A record without a time may get that of its append: the one thing that a target adds.
        if source.record.timestamp_ms == NO_TIMESTAMP {
            target.record.timestamp_ms = NO_TIMESTAMP;
        }
        if source.record != target.record {
            return Err(MoveError::Diverged {
                at: self.at.clone(),
                source_position: source.offset.into(),
                target_position: target.offset.into(),
            });
        }
        let places = (Position::from(source.offset), Position::from(target.offset));
        self.anchors.note(places.0, places.1);
        self.end = (Position(places.0.0 + 1), Position(places.1.0 + 1));
        if let Some(thinned) = &mut self.thinned {
            thinned.owed.remove(&key_hash(&target.record));
        }
        self.records += 1;
        self.bytes += target.record.size_bytes() as u64;
        self.source_checksum.take(&source.record);
        self.target_checksum.take(&target.record);
        self.note(&source.record, speaker);
        Ok(())
    }
}

fn key_hash(record: &Record) -> u64 {
    let mut hasher = SipHasher24::new();
    record.key.hash(&mut hasher);
    hasher.finish()
}

/// Compares a partition.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) matched: Matched,
    /// Where positions of others stand in its records.
    pub(crate) speaker: Option<Speaker>,
    /// Last words that were read in the target.
    pub(crate) words: Vec<Record>,
    source: Stream,
    target: Stream,
}

impl Lane {
    pub(crate) async fn open(
        source: &dyn Engine,
        target: &dyn Engine,
        mut matched: Matched,
        speaker: Option<Speaker>,
        bytes_max: usize,
    ) -> Result<Self, MoveError> {
        matched.is_heard |= speaker.is_some() && matched.end == matched.start;
        let open = |engine, from| Stream::open(engine, &matched.at, from, bytes_max);
        let (from, to) = matched.end;
        let source = open(source, from).await.map_err(MoveError::Source)?;
        let target = open(target, to).await.map_err(MoveError::Target)?;
        Ok(Self { matched, speaker, words: Vec::new(), source, target })
    }

    /// Compares what the target has before `end`. The source has all of that, or they have diverged.
    pub(crate) async fn catch_up(&mut self, source: &dyn Engine, end: Position) -> Result<(), MoveError> {
        while self.target.fill(end).await.map_err(MoveError::Target)? {
            let latest = source.locate(&self.matched.at, Place::Latest).await.map_err(MoveError::Source)?;
            self.compare_to(latest, end).await?;
        }
        Ok(())
    }

    /// Compares the records of the target that are here with those that the source has before `latest`.
    async fn compare_to(&mut self, latest: Position, end: Position) -> Result<(), MoveError> {
        while self.target.ready(end) > 0 {
            if self.pass_over_word(latest).await? {
                continue;
            }
            let is_there = self.source.fill(latest).await;
            if !is_there.map_err(|error| gone_in_source(&self.matched, error))? {
                let surplus = self.target.first().expect("it is ready");
                return Err(MoveError::Surplus {
                    at: self.matched.at.clone(),
                    target_position: surplus.offset.into(),
                    source_end: latest,
                });
            }
            let gap = self.target.first().map_or(0, |first| self.matched.thinned_before(first));
            if gap > 0 {
                for _ in 0..gap.min(self.source.ready(latest) as u64) {
                    let source = self.source.take().expect("it is ready");
                    self.matched.supersede(&source, self.speaker.as_ref());
                }
                continue;
            }
            for number in 0..self.target.ready(end).min(self.source.ready(latest)) {
                let first = self.target.first().expect("it is ready");
                if self.matched.thinned_before(first) > 0 || number > 0 && self.may_be_word(first) {
                    break;
                }
                let source = self.source.take().expect("it is ready");
                let target = self.target.take().expect("it is ready");
                self.matched.take(&source, target, self.speaker.as_ref())?;
            }
        }
        Ok(())
    }

    /// All of the target was compared, which ends at `there`: fails unless that is all which the source has before `end`.
    pub(crate) async fn complete(&mut self, end: Position, there: Position) -> Result<(), MoveError> {
        loop {
            let is_more = self.source.fill(end).await;
            if !is_more.map_err(|error| gone_in_source(&self.matched, error))? {
                return Ok(());
            }
            // At the end, a target that compacts may have lost tombstones. What else is gone there is owed.
            let is_superseded = self.matched.thinned.is_some() && self.matched.end.1 < there;
            let source = self.source.take().expect("it is ready");
            if !is_superseded {
                self.matched.end.0 = Position(Position::from(source.offset).0 + 1);
                return Err(self.matched.lost(there));
            }
            self.matched.supersede(&source, self.speaker.as_ref());
        }
    }

    fn may_be_word(&self, record: &RecordAt) -> bool {
        self.speaker.as_ref().is_some_and(|speaker| speaker.may_have_said(&record.record))
    }

    /// Passes over the target's next record, if that is of a last word, and not copied from the source.
    async fn pass_over_word(&mut self, latest: Position) -> Result<bool, MoveError> {
        let first = self.target.first().expect("it is ready");
        if !self.may_be_word(first) || self.matched.thinned_before(first) > 0 {
            return Ok(false);
        }
        let is_there = self.source.fill(latest).await;
        is_there.map_err(|error| gone_in_source(&self.matched, error))?;
        let (source, target) = (self.source.first(), self.target.first());
        // Both have the time at which they were said, so no two are equal.
        if source.zip(target).is_some_and(|(source, target)| source.record == target.record) {
            return Ok(false);
        }
        let word = self.target.take().expect("it is ready");
        self.matched.end.1 = Position(Position::from(word.offset).0 + 1);
        self.words.push(word.record);
        Ok(true)
    }
}

fn gone_in_source(matched: &Matched, error: EngineError) -> MoveError {
    match error {
        EngineError::OutOfRange { earliest, .. } => {
            MoveError::Gone { at: matched.at.clone(), wanted: matched.end.0, earliest }
        }
        error => MoveError::Source(error),
    }
}

mod place {
    use anabranch_core::TopicPartition;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &TopicPartition, to: S) -> Result<S::Ok, S::Error> {
        (&at.topic, at.partition).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TopicPartition, D::Error> {
        let (topic, partition) = <(String, i32)>::deserialize(from)?;
        Ok(TopicPartition::new(topic, partition))
    }
}

mod entries {
    use anabranch_core::engine::Noted;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(noted: &Noted, to: S) -> Result<S::Ok, S::Error> {
        noted.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Noted, D::Error> {
        Ok(Vec::<(Vec<u8>, Vec<u8>)>::deserialize(from)?.into_iter().collect())
    }
}

mod positions {
    use anabranch_core::engine::Position;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(pair: &(Position, Position), to: S) -> Result<S::Ok, S::Error> {
        (pair.0.0, pair.1.0).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<(Position, Position), D::Error> {
        let (source, target) = <(u64, u64)>::deserialize(from)?;
        Ok((Position(source), Position(target)))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_broker::Broker;
    use anabranch_core::Offset;
    use anabranch_core::engine::{AppendOptions, Payload, TopicSpec};

    use super::*;

    fn at(offset: i64, record: Record) -> RecordAt {
        RecordAt { offset: Offset(offset), record }
    }

    fn matched(is_thinned: bool) -> Matched {
        Matched::new(TopicPartition::new("t", 0), (Position(0), Position(0)), is_thinned)
    }

    #[test]
    fn a_record_without_a_time_may_get_one_and_nothing_else_may_differ() {
        let mut matched = matched(false);
        let timeless = Record::new("k", "v");
        matched.take(&at(0, timeless.clone()), at(0, timeless.clone().at(5)), None).unwrap();
        assert_eq!(matched.source_checksum, matched.target_checksum);
        for other in [Record::new("k", "w"), Record::new("l", "v"), Record::tombstone("k")] {
            assert!(matched.take(&at(1, timeless.clone()), at(1, other), None).is_err());
        }
        assert!(matched.take(&at(1, timeless.clone().at(1)), at(1, timeless.at(2)), None).is_err());
        assert_eq!((matched.records, matched.end), (1, (Position(1), Position(1))));
    }

    /// The target had 0 to 3, and keeps 3 and what has no newer record.
    #[test]
    fn what_a_compacting_target_has_lost_must_come_again() {
        let record = |key: &'static str| Record::new(key, "v").at(1);
        let mut matched = matched(true);
        let newest = at(2, record("a"));
        assert_eq!(matched.thinned_before(&newest), 2);
        matched.supersede(&at(10, record("a")), None);
        matched.supersede(&at(12, Record::tombstone("gone")), None);
        assert_eq!(matched.thinned_before(&newest), 0);
        assert!(matched.check_owed().is_err());
        matched.take(&at(13, record("a")), newest, None).unwrap();
        matched.check_owed().unwrap();
        for (source, target) in [(10, 0), (11, 1), (12, 1), (13, 2), (14, 3)] {
            assert_eq!(matched.translate(Position(source)), Position(target), "{source}");
        }
        matched.supersede(&at(14, record("lost")), None);
        assert!(matched.check_owed().is_err());
    }

    /// The target acknowledged a record and does not have it. All that it has is equal, and it lacks the source's last.
    #[tokio::test]
    async fn what_the_target_never_had_is_found_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let at = TopicPartition::new("t", 0);
        let mut sides = Vec::new();
        for (name, count) in [("here", 3), ("there", 2)] {
            let broker = Broker::open(home.path().join(name)).await.unwrap();
            broker.ensure_topic(&TopicSpec::new("t", 1)).await.unwrap();
            let records = (0..count).map(|time| Record::new("k", "v").at(time)).collect();
            let how = AppendOptions::default();
            Engine::append(&broker, &at, Payload::Records(records), how).await.unwrap();
            sides.push(broker);
        }
        let mut lane = Lane::open(&sides[0], &sides[1], matched(false), None, 1 << 16).await.unwrap();
        lane.catch_up(&sides[0], Position(2)).await.unwrap();
        lane.complete(Position(2), Position(2)).await.unwrap();
        let lost = lane.complete(Position(3), Position(2)).await;
        assert!(matches!(lost, Err(MoveError::Lost { source_position: Position(3), .. })), "{lost:?}");
    }
}
