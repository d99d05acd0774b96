//! The records of a changelog. A record's key begins with a byte that tells what it is about:
//!
//! ```text
//! 'c' "claim"      nothing                                        whoever writes the log from here on, without transactions
//! 'o' "origin"     u32 format, big-endian | the Origin            the first record, written once
//! 'p' "progress"   the Progress                                   the last of every step
//! 's' record key   its sessions; a tombstone when it has none
//! 'w' window key   its stage and state; a tombstone when it is over
//! ```
//!
//! Values are in the form in which the store keeps them.

use anabranch_core::batch::Record;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::FORMAT;
use super::store::serialise;
use crate::FlowError;

const ORIGIN_KEY: &[u8] = b"origin";
const CLAIM_KEY: &[u8] = b"claim";

/// What a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum About {
    Claim = b'c',
    Origin = b'o',
    Progress = b'p',
    Sessions = b's',
    Window = b'w',
}

/// Which changelog it is, and whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// What the shape of the state depends on, in words.
    pub(crate) identity: String,
    /// When it was begun, on the wall clock, ms: a store that follows another one of this name is told by it.
    pub(crate) made_ms: i64,
}

/// Why a record is not an origin.
pub(crate) enum NoOrigin {
    /// It is something else.
    Other,
    /// It is in a format of another version of this program.
    Format(u32),
}

/// What the record with this key is about, and the rest of the key.
pub(crate) fn about(key: &[u8]) -> Option<(About, &[u8])> {
    let (first, rest) = key.split_first()?;
    let about = [About::Claim, About::Origin, About::Progress, About::Sessions, About::Window]
        .into_iter()
        .find(|about| *about as u8 == *first)?;
    Some((about, rest))
}

/// The record that sets or deletes what is at `key`.
pub(crate) fn of(about: About, key: &[u8], value: Option<Vec<u8>>) -> Record {
    let key = Bytes::from([&[about as u8], key].concat());
    match value {
        Some(value) => Record::new(key, value),
        None => Record::tombstone(key),
    }
}

/// A record that tells of progress under a key of its own, which `name` tells from others: no other record takes its place.
pub(crate) fn about_progress(name: &str, value: Vec<u8>) -> Record {
    of(About::Progress, name.as_bytes(), Some(value))
}

/// Whether it is the first record of a log, in whatever format.
pub(crate) fn is_origin(record: &Record) -> bool {
    record.key.as_deref().and_then(about) == Some((About::Origin, ORIGIN_KEY))
}

/// Whether it tells of progress.
pub(crate) fn is_progress(record: &Record) -> bool {
    record.key.as_deref().and_then(about).is_some_and(|(about, _)| about == About::Progress)
}

/// Says nothing: that it is there moves the end of the log, so that whoever appends on the condition of the old one cannot.
pub(crate) fn claim() -> Record {
    of(About::Claim, CLAIM_KEY, Some(Vec::new()))
}

impl Origin {
    pub(crate) fn to_record(&self) -> Result<Record, FlowError> {
        let value = [&FORMAT.to_be_bytes()[..], &serialise(self, "flow's origin")?].concat();
        Ok(of(About::Origin, ORIGIN_KEY, Some(value)))
    }

    pub(crate) fn parse(record: &Record) -> Result<Self, NoOrigin> {
        if !is_origin(record) {
            return Err(NoOrigin::Other);
        }
        let value = record.value.as_deref().unwrap_or_default();
        let (format, origin) = value.split_first_chunk().ok_or(NoOrigin::Other)?;
        match u32::from_be_bytes(*format) {
            FORMAT => postcard::from_bytes(origin).map_err(|_| NoOrigin::Other),
            format => Err(NoOrigin::Format(format)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_what_they_are_about() {
        for about_what in [About::Claim, About::Origin, About::Progress, About::Sessions, About::Window] {
            let record = of(about_what, b"key", Some(b"value".to_vec()));
            assert_eq!(about(record.key.as_deref().unwrap()), Some((about_what, &b"key"[..])));
        }
        assert_eq!(of(About::Window, b"", None), Record::tombstone("w"));
        assert_eq!((about(b""), about(b"x")), (None, None));
    }

    #[test]
    fn an_origin_comes_back_and_nothing_else_is_taken_for_one() {
        let origin = Origin { identity: "flow f".to_owned(), made_ms: 7 };
        let record = origin.to_record().unwrap();
        assert!(Origin::parse(&record).is_ok_and(|found| found == origin));
        let value = record.value.clone().unwrap();
        let newer = Record::new("oorigin", [&3u32.to_be_bytes()[..], &value[4..]].concat());
        assert!(matches!(Origin::parse(&newer), Err(NoOrigin::Format(3))));
        let cut = Record::new("oorigin", value.slice(..value.len() - 1));
        let others =
            [cut, Record::new("o", value.clone()), Record::new("porigin", value), Record::keyless("")];
        for other in others {
            assert!(matches!(Origin::parse(&other), Err(NoOrigin::Other)), "{other:?}");
        }
    }
}
