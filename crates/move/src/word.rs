//! The last words of topics in whose records positions of others stand ([`Carried`]): what is appended when all else is there.
//!
//! A record of a last word has a header that names the move. One that a killed mover has said, or that was said before the source went
//! on, stays where it is: whoever compares passes over it, and what comes behind it counts. What the source itself has of such
//! records, from a move by which it came to be, is copied like everything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Header, Record};
use anabranch_core::engine::{Carried, Elsewhere, LastWord, Noted, Position};
use bytes::Bytes;

use crate::error::MoveError;
use crate::lane::{Lane, Matched};
use crate::write::Piece;

/// The header that names the move.
const HEADER: &str = "anabranch.move";

/// Whose own the topic of a lane is, and which move it is.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    pub(crate) carried: Arc<dyn Carried>,
    pub(crate) id: Arc<str>,
}

impl Speaker {
    /// Whether a record is of a last word of this move; or of another between the same two engines.
    pub(crate) fn may_have_said(&self, record: &Record) -> bool {
        record.headers.first().is_some_and(|first| *first == self.signature())
    }

    /// Comes first: whose own the topic is may look at the last.
    fn signed(&self, mut record: Record, now_ms: i64) -> Record {
        record.headers.insert(0, self.signature());
        record.at(now_ms)
    }

    fn signature(&self) -> Header {
        let value = Bytes::copy_from_slice(self.id.as_bytes());
        Header { key: Bytes::from_static(HEADER.as_bytes()), value: Some(value) }
    }
}

/// Where lanes stand, all of which were compared to their ends.
struct Stand<'a> {
    partitions: BTreeMap<&'a TopicPartition, &'a Matched>,
    now_ms: i64,
}

impl Elsewhere for Stand<'_> {
    fn translate(&self, at: &TopicPartition, position: Position) -> Option<Position> {
        self.partitions.get(at).map(|matched| matched.translate(position))
    }

    fn end(&self, at: &TopicPartition) -> Option<Position> {
        self.partitions.get(at).map(|matched| matched.end.1)
    }

    fn noted(&self, at: &TopicPartition) -> Option<&Noted> {
        self.partitions.get(at).map(|matched| &matched.noted)
    }

    fn now_ms(&self) -> i64 {
        self.now_ms
    }
}

/// What is to be said, by lane. All lanes were compared to their ends.
pub(crate) fn last_words(lanes: &[Lane], now_ms: i64) -> Result<Vec<(usize, LastWord)>, MoveError> {
    let partitions = lanes.iter().map(|lane| (&lane.matched.at, &lane.matched)).collect();
    let stand = Stand { partitions, now_ms };
    let mut words = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        let Some(speaker) = &lane.speaker else { continue };
        let mut word = speaker.carried.last_word(&lane.matched.at, &stand)?;
        word.records = word.records.into_iter().map(|record| speaker.signed(record, now_ms)).collect();
        words.push((number, word));
    }
    Ok(words)
}

/// To be written.
pub(crate) fn pieces(words: &[(usize, LastWord)]) -> Vec<Piece> {
    let pieces = words.iter().filter(|(_, word)| !word.records.is_empty());
    pieces.map(|(lane, word)| Piece { lane: *lane, records: word.records.clone() }).collect()
}
