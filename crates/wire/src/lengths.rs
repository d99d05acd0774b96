//! Where the lengths in a request stand, for tests that falsify them.

use std::ops::Range;

use kafka_protocol::messages::ApiKey;

use crate::api::api;
use crate::shape::{Field, Kind};

/// A length in the body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Length {
    /// Its own bytes.
    pub at: Range<usize>,
    /// Whether it is a compact one (KIP-482): as a varint, and one more.
    pub is_compact: bool,
    /// Of what.
    pub of: LengthOf,
}

/// What a length is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LengthOf {
    /// A string, so many bytes.
    Text(usize),
    /// Bytes, so many.
    Blob(usize),
    /// An array, with these elements.
    List(Vec<Range<usize>>),
}

/// All lengths in a valid body; null is as long as nothing.
///
/// # Panics
/// If the API is not served, or the body is not valid.
#[must_use]
pub fn lengths(key: ApiKey, version: i16, body: &[u8]) -> Vec<Length> {
    let api = api(key as i16).expect("the API is served");
    let mut finder = Finder { body, at: 0, version, is_compact: api.is_flexible(version), found: Vec::new() };
    finder.fields(api.shape);
    assert_eq!(finder.at, body.len(), "the body ends where its fields end");
    finder.found
}

struct Finder<'a> {
    body: &'a [u8],
    at: usize,
    version: i16,
    is_compact: bool,
    found: Vec<Length>,
}

impl Finder<'_> {
    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.kind(field.kind);
        }
        if self.is_compact {
            for _ in 0..self.varint() {
                self.varint();
                let bytes = self.varint();
                self.at += bytes;
            }
        }
    }

    fn kind(&mut self, kind: Kind) {
        match kind {
            Kind::Fixed(bytes) => self.at += bytes,
            Kind::Text => {
                let (at, bytes) = self.length(size_of::<i16>());
                self.found.push(Length { at, is_compact: self.is_compact, of: LengthOf::Text(bytes) });
                self.at += bytes;
            }
            Kind::Blob => {
                let (at, bytes) = self.length(size_of::<i32>());
                self.found.push(Length { at, is_compact: self.is_compact, of: LengthOf::Blob(bytes) });
                self.at += bytes;
            }
            Kind::List(of) => {
                let (at, count) = self.length(size_of::<i32>());
                let place = self.found.len();
                let mut elements = Vec::with_capacity(count);
                for _ in 0..count {
                    let from = self.at;
                    self.kind(*of);
                    elements.push(from..self.at);
                }
                let list = Length { at, is_compact: self.is_compact, of: LengthOf::List(elements) };
                self.found.insert(place, list);
            }
            Kind::Struct(fields) => self.fields(fields),
            Kind::NullableStruct(fields) => {
                let is_there = self.body[self.at] == 1;
                self.at += 1;
                if is_there {
                    self.fields(fields);
                }
            }
        }
    }

    fn length(&mut self, wide: usize) -> (Range<usize>, usize) {
        let from = self.at;
        let length = if self.is_compact {
            self.varint().saturating_sub(1)
        } else {
            let bytes = &self.body[from..from + wide];
            self.at += wide;
            let sign = if bytes[0] & 0x80 == 0 { 0 } else { -1_i64 };
            let length = bytes.iter().fold(sign, |length, byte| length << 8 | i64::from(*byte));
            usize::try_from(length).unwrap_or(0)
        };
        (from..self.at, length)
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.body[self.at];
            self.at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one element is what there is
    fn each_length_is_found_with_what_it_is_of() {
        // DeleteRecords: topics of a name and partitions, then a timeout.
        let old = [&[0, 0, 0, 1, 0, 2, b'a', b'b', 0, 0, 0, 1][..], &[7; 12], &[0; 4]].concat();
        let list = |at, elements| Length { at, is_compact: false, of: LengthOf::List(elements) };
        let text = Length { at: 4..6, is_compact: false, of: LengthOf::Text(2) };
        let expected = [list(0..4, vec![4..24]), text, list(8..12, vec![12..24])];
        assert_eq!(lengths(ApiKey::DeleteRecords, 1, &old), expected);

        let compact = [&[2, 3, b'a', b'b', 2][..], &[7; 12], &[0, 0], &[0; 4], &[0]].concat();
        let found = lengths(ApiKey::DeleteRecords, 2, &compact);
        assert_eq!(found.iter().map(|length| length.at.clone()).collect::<Vec<_>>(), [0..1, 1..2, 4..5]);
        assert_eq!(found[0].of, LengthOf::List(vec![1..19]));
    }
}
