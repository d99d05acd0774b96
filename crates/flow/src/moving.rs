//! What a mover has to know of a flow's own topics: `anabranch move` takes them to another engine, where positions are others.
//!
//! Windows and sessions mean the same everywhere, and are copied. The place of a shard, and of an intake, is the newest progress in its
//! log: behind all that was copied there comes one more, with the new engine's positions, under a key of its own, so that no compaction
//! brings it into the place of another. Between sources and shards there may be records that a shard has not taken in. In them stand
//! positions of the old engine, and positions of the new in what intakes bring there: progress tells where the one goes
//! over into the other, and which record of each source comes next there ([`crate::state::Change`]).

use std::collections::VecDeque;

use anabranch_core::TopicPartition;
use anabranch_core::batch::Record;
use anabranch_core::engine::{Carried, Elsewhere, LastWord, Noted, Position, Untranslatable};

use crate::changelog::{CHANGELOG, changelog_of, places_of};
use crate::layout::{Layout, repartition_of};
use crate::repartition::Envelope;
use crate::state::{Change, Moved, Origin, Progress, about_progress, is_origin, is_progress};

/// Under what the newest progress of a log is noted.
const PROGRESS: &[u8] = b"p";

/// A flow's own topics: its changelog, and, with several shards, the places of its intakes and what is between these and shards.
#[derive(Debug, Clone)]
pub struct OwnTopics {
    flow: String,
    layout: Layout,
}

impl OwnTopics {
    /// The flow whose changelog a topic of this name may be.
    #[must_use]
    pub fn flow_of(topic: &str) -> Option<&str> {
        topic.strip_suffix(CHANGELOG).filter(|flow| !flow.is_empty())
    }

    /// What a flow of this name calls its own topics, whether it has all of them or not.
    #[must_use]
    pub fn names(flow: &str) -> [String; 3] {
        [changelog_of(flow), places_of(flow), repartition_of(flow)]
    }

    /// Whether a changelog begins with this record, be it in a form that this program knows or not.
    #[must_use]
    pub fn is_beginning(first: &Record) -> bool {
        is_origin(first)
    }

    /// Those of the flow whose changelog is `topic`, one of whose partitions begins with `first`; `None` if it is nobody's changelog, or in a
    /// form that this program does not know.
    #[must_use]
    pub fn of(topic: &str, first: &Record) -> Option<Self> {
        let flow = Self::flow_of(topic)?;
        let identity = Origin::parse(first).ok()?.identity;
        Some(Self { flow: flow.to_owned(), layout: Layout::of_identity(flow, &identity)? })
    }

    /// Its name.
    #[must_use]
    pub fn flow(&self) -> &str {
        &self.flow
    }

    fn is_between(&self, topic: &str) -> bool {
        self.layout.repartition().is_some_and(|between| between.topic == topic)
    }

    /// Whether a shard has records to take in: one that has not begun could not be told that these have the old engine's positions.
    fn is_awaited(&self, at: &TopicPartition, there: &dyn Elsewhere) -> bool {
        let Some(between) = self.layout.repartition().filter(|_| at.topic == changelog_of(&self.flow)) else {
            return false;
        };
        let input = TopicPartition::new(between.topic, at.partition);
        there.noted(&input).is_some_and(|noted| !noted.is_empty())
    }

    /// The newest progress of an intake or a shard, with positions of the new engine; and how many these are.
    fn translate(
        &self,
        at: &TopicPartition,
        mut progress: Progress,
        there: &dyn Elsewhere,
    ) -> Result<(Progress, u64), Untranslatable> {
        // What the shard has come to since the flow was moved last counts, though nothing was committed behind it.
        progress.pass_changes();
        let failed = |reason| Untranslatable { at: at.clone(), reason };
        let is_shard = at.topic == changelog_of(&self.flow);
        let inputs = match is_shard {
            true => self.layout.inputs_of(at.partition),
            false => {
                self.layout.sources.get(at.partition.unsigned_abs() as usize).cloned().into_iter().collect()
            }
        };
        let has_taken = is_shard && self.layout.repartition().is_some();
        if progress.positions.len() != inputs.len() || progress.taken.is_some() != has_taken {
            return Err(failed("its positions are not the sources'"));
        }
        let translate = |of: &TopicPartition, position: u64| {
            let translated = there.translate(of, Position(position));
            translated.map(|position| position.0).ok_or_else(|| failed("what the flow reads is not moved"))
        };
        let at_ms = there.now_ms();
        let mut moved = Progress { moved: Some(Moved { at_ms, ahead: VecDeque::new() }), ..progress.clone() };
        for (input, position) in inputs.iter().zip(&mut moved.positions) {
            *position = translate(input, *position)?;
        }
        let mut count = inputs.len() as u64;
        if has_taken {
            let ahead = self.changes(at, progress, &inputs[0], there, &translate)?;
            count += ahead.iter().map(|change| 1 + change.taken.len() as u64).sum::<u64>();
            moved.moved = Some(Moved { at_ms, ahead });
            moved.pass_changes();
        }
        Ok((moved, count))
    }

    /// Where a shard's `input` goes over to the new engine's positions, and before that, from one engine to another, if the shard has not come so
    /// far since the flow was moved last.
    fn changes(
        &self,
        at: &TopicPartition,
        progress: Progress,
        input: &TopicPartition,
        there: &dyn Elsewhere,
        translate: &impl Fn(&TopicPartition, u64) -> Result<u64, Untranslatable>,
    ) -> Result<VecDeque<Change>, Untranslatable> {
        let failed = |reason| Untranslatable { at: at.clone(), reason };
        let taken = progress.taken.expect("it was looked at").positions;
        let mut ahead = progress.moved.map(|moved| moved.ahead).unwrap_or_default();
        let mut next = ahead.back().map_or(taken, |change| change.taken.clone());
        for change in &mut ahead {
            change.at = translate(input, change.at)?;
        }
        if next.len() != self.layout.sources.len() {
            return Err(failed("its positions are not the sources'"));
        }
        for (number, (source, next)) in self.layout.sources.iter().zip(&mut next).enumerate() {
            // What the shard has taken in when it comes there: an intake that was killed may have brought it before it noted that.
            let brought = there.noted(input).and_then(|noted| noted.get(&number_of(number)));
            let brought = brought.and_then(|brought| brought.as_slice().try_into().ok());
            *next = translate(source, (*next).max(brought.map_or(0, u64::from_be_bytes)))?;
        }
        let end = there.end(input).ok_or_else(|| failed("what the flow reads is not moved"))?;
        ahead.push_back(Change { at: end.0, taken: next });
        Ok(ahead)
    }
}

/// Under what it is noted which record of a source comes next.
fn number_of(source: usize) -> Vec<u8> {
    (source as u64).to_be_bytes().to_vec()
}

impl Carried for OwnTopics {
    fn topics(&self) -> Vec<String> {
        let mut topics = vec![changelog_of(&self.flow)];
        if let Some(between) = self.layout.repartition() {
            topics.extend([places_of(&self.flow), between.topic]);
        }
        topics
    }

    fn needs(&self) -> Vec<String> {
        let mut topics: Vec<_> = self.layout.sources.iter().map(|source| source.topic.clone()).collect();
        topics.dedup();
        topics
    }

    /// The newest progress; between sources and shards which record of each source comes next, of those since the topic came from another
    /// engine.
    fn note(&self, at: &TopicPartition, record: &Record, noted: &mut Noted) {
        if !self.is_between(&at.topic) {
            if let Some(value) = record.value.as_ref().filter(|_| is_progress(record)) {
                noted.insert(PROGRESS.to_vec(), value.to_vec());
            }
            return;
        }
        let Some(envelope) = Envelope::of(record) else { return };
        if envelope.is_change() {
            return noted.clear();
        }
        let next = envelope.next().to_be_bytes().to_vec();
        let known = noted.entry(number_of(envelope.source as usize)).or_insert_with(|| next.clone());
        if *known < next {
            *known = next;
        }
    }

    fn last_word(&self, at: &TopicPartition, there: &dyn Elsewhere) -> Result<LastWord, Untranslatable> {
        let failed = |reason| Untranslatable { at: at.clone(), reason };
        let Some(noted) = there.noted(at).filter(|noted| !noted.is_empty()) else {
            return match self.is_awaited(at, there) {
                true => Err(failed(
                    "the shard has not begun, and records wait for it: start the flow's processes, and run this again when it has",
                )),
                false => Ok(LastWord::default()), // nobody was here yet
            };
        };
        if self.is_between(&at.topic) {
            let change = Envelope::change().map_err(|_| failed("it cannot be written"))?;
            return Ok(LastWord { records: vec![change], ..LastWord::default() });
        }
        let progress = noted.get(PROGRESS).and_then(|value| Progress::from_bytes(value));
        let progress = progress.ok_or_else(|| failed("the flow's progress cannot be read"))?;
        let (progress, positions) = self.translate(at, progress, there)?;
        let end = there.end(at).ok_or_else(|| failed("it is not moved"))?;
        let value = progress.to_bytes().map_err(|_| failed("it cannot be written"))?;
        let record = about_progress(&format!("moved@{end}"), value);
        Ok(LastWord { records: vec![record], positions, gone: 0 })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anabranch_core::batch::NO_TIMESTAMP;

    use super::*;
    use crate::repartition::Idle;
    use crate::state::{FORMAT, Taken};

    const SHARDED: &str =
        "flow f from a (2 partitions), b (1 partitions); windows w; aggregate (x; 3 shards); 2 shards";

    fn own(identity: &str) -> OwnTopics {
        let origin = Origin { identity: identity.to_owned(), made_ms: 5 }.to_record().unwrap();
        assert!(OwnTopics::is_beginning(&origin));
        OwnTopics::of("f-changelog", &origin).unwrap()
    }

    fn at(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    /// Everything is at a tenth of its position; between sources and shards, a thousand further.
    #[derive(Default)]
    struct There {
        noted: BTreeMap<TopicPartition, Noted>,
        ends: BTreeMap<TopicPartition, u64>,
        now_ms: i64,
    }

    impl There {
        fn see(&mut self, own: &OwnTopics, at: &TopicPartition, record: &Record) {
            own.note(at, record, self.noted.entry(at.clone()).or_default());
        }
    }

    impl Elsewhere for There {
        fn translate(&self, at: &TopicPartition, position: Position) -> Option<Position> {
            match &*at.topic {
                "a" | "b" => Some(Position(position.0 / 10)),
                "f-repartition" => Some(Position(position.0 + 1000)),
                _ => None,
            }
        }

        fn end(&self, at: &TopicPartition) -> Option<Position> {
            self.ends.get(at).copied().map(Position)
        }

        fn noted(&self, at: &TopicPartition) -> Option<&Noted> {
            self.noted.get(at)
        }

        fn now_ms(&self) -> i64 {
            self.now_ms
        }
    }

    fn progress_in(word: &LastWord) -> Progress {
        let [record] = &word.records[..] else { panic!("{word:?}") };
        assert_eq!(record.key.as_deref(), Some(&b"pmoved@50"[..]));
        Progress::parse(record).unwrap()
    }

    #[test]
    fn an_identity_tells_topics_and_nothing_else_does() {
        let flow = own(SHARDED);
        assert_eq!(flow.topics(), ["f-changelog", "f-sources", "f-repartition"]);
        assert_eq!((flow.needs(), flow.flow()), (vec!["a".to_owned(), "b".to_owned()], "f"));
        let one = own("flow f from a (2 partitions); windows w; aggregate x");
        assert_eq!((one.topics(), one.layout.inputs_of(0).len()), (vec!["f-changelog".to_owned()], 2));
        let each = own(
            "flow f from a (2 partitions), b (2 partitions); windows w; aggregate x; a shard per partition",
        );
        assert_eq!(each.layout.inputs_of(1), [at("a", 1), at("b", 1)]);
        for other in [
            "",
            "flow g from a (2 partitions); windows w; aggregate x",
            "flow f from a; windows w; aggregate",
        ] {
            let origin = Origin { identity: other.to_owned(), made_ms: 5 }.to_record().unwrap();
            assert!(OwnTopics::of("f-changelog", &origin).is_none(), "{other}");
        }
        let newer = Record::new("oorigin", (FORMAT + 1).to_be_bytes().to_vec());
        assert!(OwnTopics::is_beginning(&newer) && OwnTopics::of("f-changelog", &newer).is_none());
    }

    #[test]
    fn one_shard_goes_on_at_the_same_records() {
        let (flow, log) = (own("flow f from a (2 partitions); windows w; aggregate x"), at("f-changelog", 0));
        let mut there = There { ends: [(log.clone(), 50)].into(), now_ms: 1, ..There::default() };
        assert_eq!(flow.last_word(&log, &there).unwrap(), LastWord::default());
        for step in [1, 2] {
            let progress = Progress { step, ..Progress::beginning(vec![70 * step, 30], 2) };
            there.see(&flow, &log, &progress.to_record().unwrap());
            there.see(&flow, &log, &Record::new("wwindow", "state"));
        }
        let word = flow.last_word(&log, &there).unwrap();
        assert_eq!(word.positions, 2);
        let progress = progress_in(&word);
        assert_eq!(
            (progress.step, progress.positions.clone(), progress.moved_at_ms()),
            (2, vec![14, 3], Some(1))
        );
        // And once more from there.
        there.see(&flow, &log, &word.records[0]);
        there.now_ms = 2;
        assert_eq!(progress_in(&flow.last_word(&log, &there).unwrap()).moved_at_ms(), Some(2));
    }

    /// A shard has taken in records of a up to 300 and 40, of b up to 100; what comes to it then are 300 to 330 of a, and 90 again
    /// of b, since an intake was killed. Then it is moved once more, before it has taken these in.
    #[test]
    fn a_shard_goes_over_to_other_positions_behind_what_was_between() {
        let (flow, log, between) = (own(SHARDED), at("f-changelog", 1), at("f-repartition", 1));
        let ends = [(log.clone(), 50), (between.clone(), 1200)];
        let mut there = There { ends: ends.into(), now_ms: 1, ..There::default() };
        let taken = Taken { positions: vec![300, 40, 100], idle: vec![false; 3] };
        let progress = Progress { taken: Some(taken), ..Progress::beginning(vec![150], 3) };
        there.see(&flow, &log, &progress.to_record().unwrap());
        let bring = |source, position, marker| {
            let envelope =
                Envelope { source, position, latest_event_ms: None, timestamp_ms: NO_TIMESTAMP, marker };
            match marker {
                None => envelope.close(Record::new("k", "v")).unwrap(),
                Some(_) => envelope.to_marker().unwrap(),
            }
        };
        for (source, position) in [(0, 300), (0, 329), (2, 90)] {
            there.see(&flow, &between, &bring(source, position, None));
        }
        there.see(&flow, &between, &bring(1, 50, Some(Idle(true))));
        let word = flow.last_word(&log, &there).unwrap();
        let moved = progress_in(&word);
        assert_eq!((moved.positions.clone(), moved.taken.clone()), (vec![1150], progress.taken.clone()));
        let first = Change { at: 1200, taken: vec![33, 5, 10] };
        assert_eq!(moved.moved, Some(Moved { at_ms: 1, ahead: [first.clone()].into() }));
        assert_eq!(word.positions, 5);

        // Whoever has taken in all that is between needs no change.
        there.ends.insert(between.clone(), 1150);
        let level = progress_in(&flow.last_word(&log, &there).unwrap());
        assert_eq!(level.taken.unwrap().positions, [33, 5, 10]);
        assert_eq!(level.moved.unwrap().ahead, []);

        let change = flow.last_word(&between, &there).unwrap();
        there.see(&flow, &between, &change.records[0]);
        assert_eq!(there.noted[&between], Noted::new());
        there.see(&flow, &between, &bring(0, 40, None));
        there.see(&flow, &log, &word.records[0]);
        there.ends.insert(between, 2300);
        there.now_ms = 2;
        let again = progress_in(&flow.last_word(&log, &there).unwrap());
        let second = Change { at: 2300, taken: vec![4, 0, 1] };
        let ahead = [Change { at: 2200, ..first }, second].into();
        assert_eq!((again.positions, again.moved), (vec![2150], Some(Moved { at_ms: 2, ahead })));
    }

    /// Intakes have brought records to a shard that no process has opened yet. It would begin in the new engine and take these records'
    /// positions for that one's, and drop what comes then.
    #[test]
    fn a_shard_for_which_records_wait_has_to_begin_first() {
        let (flow, log, between) = (own(SHARDED), at("f-changelog", 1), at("f-repartition", 1));
        let mut there = There { ends: [(log.clone(), 50), (between.clone(), 7)].into(), ..There::default() };
        assert_eq!(flow.last_word(&log, &there).unwrap(), LastWord::default());
        let envelope = Envelope {
            source: 0,
            position: 300,
            latest_event_ms: None,
            timestamp_ms: NO_TIMESTAMP,
            marker: None,
        };
        there.see(&flow, &between, &envelope.close(Record::new("k", "v")).unwrap());
        let reason = flow.last_word(&log, &there).unwrap_err().reason;
        assert!(reason.contains("has not begun"), "{reason}");
        // It is no other shard's trouble, and none that has begun.
        assert_eq!(flow.last_word(&at("f-changelog", 0), &there).unwrap(), LastWord::default());
        let taken = Taken { positions: vec![0; 3], idle: vec![false; 3] };
        let progress = Progress { taken: Some(taken), ..Progress::beginning(vec![0], 3) };
        there.see(&flow, &log, &progress.to_record().unwrap());
        assert_eq!(progress_in(&flow.last_word(&log, &there).unwrap()).positions, [1000]);
    }

    /// A shard that was moved has committed right before the first record with the new engine's positions, and is moved on. What it had
    /// taken in there was forgotten, so that the old engine's positions stayed, and records that the new one brought were dropped.
    #[test]
    fn a_change_that_a_shard_has_just_come_to_is_not_lost_by_the_next_move() {
        let (flow, log, between) = (own(SHARDED), at("f-changelog", 1), at("f-repartition", 1));
        let mut there =
            There { ends: [(log.clone(), 50), (between, 1300)].into(), now_ms: 2, ..There::default() };
        let taken = Taken { positions: vec![300, 40, 100], idle: vec![false; 3] };
        let ahead = [Change { at: 150, taken: vec![30, 10, 20] }].into();
        let moved = Some(Moved { at_ms: 1, ahead });
        let progress = Progress { taken: Some(taken), moved, ..Progress::beginning(vec![150], 3) };
        there.see(&flow, &log, &progress.to_record().unwrap());
        let again = progress_in(&flow.last_word(&log, &there).unwrap());
        assert_eq!((again.positions, again.taken.unwrap().positions), (vec![1150], vec![30, 10, 20]));
        let ahead = [Change { at: 1300, taken: vec![3, 1, 2] }].into();
        assert_eq!(again.moved, Some(Moved { at_ms: 2, ahead }));
    }

    #[test]
    fn an_intake_goes_on_at_the_same_record() {
        let (flow, log) = (own(SHARDED), at("f-sources", 2));
        let mut there = There { ends: [(log.clone(), 50)].into(), ..There::default() };
        there.see(&flow, &log, &Progress::beginning(vec![500], 1).to_record().unwrap());
        assert_eq!(progress_in(&flow.last_word(&log, &there).unwrap()).positions, [50]);
        let wrong = at("f-sources", 3);
        there.see(&flow, &wrong, &Progress::beginning(vec![500], 1).to_record().unwrap());
        assert_eq!(flow.last_word(&wrong, &there).unwrap_err().reason, "its positions are not the sources'");
    }
}
