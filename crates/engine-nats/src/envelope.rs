//! A record as a message, and back.
//!
//! The value is the message's payload, so that NATS's own tools can read it. The rest is one header, `Ab-Record`, in base64url:
//! NATS's headers are text, and lose the order of different names.
//!
//! ```text
//! header:   flags u8 | timestamp zigzag varint | rest, or the length of the rest in bytes (varint) if it is detached
//! rest:     key length varint, key  (unless the key is null) | { header's key length varint, key, value length + 1 varint
//!           (0: null), value }*
//! payload:  the rest, if it is detached | value
//! ```
//!
//! A message without that header was written by somebody else: its payload is a value without a key, its headers are those of
//! the record, in the order of their names, and its time is when it came.

use anabranch_core::batch::{Header, Record};
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::{Buf, BufMut, Bytes};

/// What of a record is not its value.
pub(crate) const RECORD_HEADER: HeaderName = HeaderName::from_static("Ab-Record");

const NULL_KEY: u8 = 1;
const NULL_VALUE: u8 = 1 << 1;
const DETACHED: u8 = 1 << 2;
const FLAGS: u8 = NULL_KEY | NULL_VALUE | DETACHED;

/// A longer rest goes before the payload: the server takes 65,535 bytes of headers.
const REST_BYTES_MAX: usize = 8 << 10;

/// Characters of an `Ab-Record` for which no memory is asked.
const SHORT_CHARS_MAX: usize = 128;

/// What a message takes beside its record, bytes: `Ab-Record` in base64, the headers of an atomic batch, of its id and of its
/// expiry.
pub(crate) const OVERHEAD_BYTES: usize = REST_BYTES_MAX / 3 + 1024;

/// A record, ready to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The value of `Ab-Record`.
    pub(crate) header: String,
    pub(crate) payload: Bytes,
}

/// The header does not say what a record's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message's Ab-Record header is damaged, or was not written by Anabranch")]
pub(crate) struct Damaged;

impl Envelope {
    pub(crate) fn seal(record: &Record) -> Self {
        let mut rest = Vec::new();
        if let Some(key) = &record.key {
            put_bytes(&mut rest, key);
        }
        for header in &record.headers {
            put_bytes(&mut rest, &header.key);
            match &header.value {
                None => put_varint(&mut rest, 0),
                Some(value) => {
                    put_varint(&mut rest, value.len() as u64 + 1);
                    rest.put_slice(value);
                }
            }
        }
        let detached = rest.len() > REST_BYTES_MAX;
        let flag = |bit: u8, set: bool| if set { bit } else { 0 };
        let mut head = vec![
            flag(NULL_KEY, record.key.is_none())
                | flag(NULL_VALUE, record.value.is_none())
                | flag(DETACHED, detached),
        ];
        put_varint(&mut head, zigzag(record.timestamp_ms));
        let value = record.value.clone().unwrap_or_default();
        let payload = match detached {
            false => {
                head.extend_from_slice(&rest);
                value
            }
            true => {
                put_varint(&mut head, rest.len() as u64);
                rest.extend_from_slice(&value);
                rest.into()
            }
        };
        Self { header: URL_SAFE_NO_PAD.encode(head), payload }
    }

    /// Bytes of the message.
    pub(crate) fn len_bytes(&self) -> usize {
        self.header.len() + self.payload.len()
    }
}

/// The record of a message that came at `arrived_ms`.
pub(crate) fn open(
    headers: Option<&HeaderMap>,
    mut payload: Bytes,
    arrived_ms: i64,
) -> Result<Record, Damaged> {
    let Some(head) = headers.and_then(sealed) else {
        let headers = headers.map(foreign_headers).unwrap_or_default();
        return Ok(Record { key: None, value: Some(payload), headers, timestamp_ms: arrived_ms });
    };
    let (flags, timestamp_ms, mut head) = open_head(head)?;
    let mut rest = match flags & DETACHED {
        0 => head,
        _ => {
            let len = take_varint(&mut head)?;
            take(&mut payload, len)?
        }
    };
    let key = match flags & NULL_KEY {
        0 => Some(take_bytes(&mut rest)?),
        _ => None,
    };
    let mut headers = Vec::new();
    while rest.has_remaining() {
        let key = take_bytes(&mut rest)?;
        let value = match take_varint(&mut rest)?.checked_sub(1) {
            None => None,
            Some(len) => Some(take(&mut rest, len)?),
        };
        headers.push(Header { key, value });
    }
    let value = (flags & NULL_VALUE == 0).then_some(payload);
    Ok(Record { key, value, headers, timestamp_ms })
}

/// The timestamp alone, for which the headers are enough.
pub(crate) fn timestamp_ms(headers: Option<&HeaderMap>, arrived_ms: i64) -> Result<i64, Damaged> {
    match headers.and_then(sealed) {
        None => Ok(arrived_ms),
        Some(head) => Ok(open_head(head)?.1),
    }
}

/// The value of `Ab-Record`. There are few headers: to look at each takes less than to hash a name.
fn sealed(headers: &HeaderMap) -> Option<&HeaderValue> {
    let (_, values) = headers.iter().find(|(name, _)| **name == RECORD_HEADER)?;
    values.first()
}

fn open_head(sealed: &HeaderValue) -> Result<(u8, i64, Bytes), Damaged> {
    let sealed = sealed.as_str();
    let (mut short, long);
    // Most are short, and there is one for each record.
    let mut head = match sealed.len() <= SHORT_CHARS_MAX {
        true => {
            short = [0; SHORT_CHARS_MAX];
            let len = URL_SAFE_NO_PAD.decode_slice(sealed, &mut short).map_err(|_| Damaged)?;
            &short[..len]
        }
        false => {
            long = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| Damaged)?;
            &long[..]
        }
    };
    let flags = head.try_get_u8().map_err(|_| Damaged)?;
    if flags & !FLAGS != 0 {
        return Err(Damaged);
    }
    let timestamp_ms = unzigzag(take_varint(&mut head)?);
    Ok((flags, timestamp_ms, Bytes::copy_from_slice(head)))
}

fn foreign_headers(headers: &HeaderMap) -> Vec<Header> {
    let mut all: Vec<_> = headers.iter().filter(|(name, _)| !name.to_string().starts_with("Nats-")).collect();
    all.sort_by_key(|(name, _)| name.to_string());
    let header = |name: &HeaderName, value: &HeaderValue| Header {
        key: name.to_string().into(),
        value: Some(Bytes::copy_from_slice(value.as_str().as_bytes())),
    };
    all.into_iter().flat_map(|(name, values)| values.iter().map(move |value| header(name, value))).collect()
}

const fn zigzag(number: i64) -> u64 {
    (number.cast_unsigned() << 1) ^ (number >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    into.put_u8(number as u8);
}

fn put_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(into, bytes.len() as u64);
    into.put_slice(bytes);
}

fn take_varint(from: &mut impl Buf) -> Result<u64, Damaged> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().map_err(|_| Damaged)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Damaged)
}

fn take(from: &mut Bytes, len: u64) -> Result<Bytes, Damaged> {
    match usize::try_from(len) {
        Ok(len) if len <= from.len() => Ok(from.split_to(len)),
        _ => Err(Damaged),
    }
}

fn take_bytes(from: &mut Bytes) -> Result<Bytes, Damaged> {
    let len = take_varint(from)?;
    take(from, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(record: &Record) -> Record {
        let Envelope { header, payload } = Envelope::seal(record);
        let mut headers = HeaderMap::new();
        headers.insert(RECORD_HEADER, header.as_str());
        assert_eq!(timestamp_ms(Some(&headers), 5).unwrap(), record.timestamp_ms);
        open(Some(&headers), payload, 5).unwrap()
    }

    #[test]
    fn every_record_comes_back_as_it_was() {
        let bare = Record::keyless("v");
        let null = Record { value: None, ..bare.clone() };
        let mut full = Record::new("", "").header("b", "1").header("a", "2").header("b", "1").at(i64::MIN);
        full.headers.push(Header { key: Bytes::from_static(b"\xff\0"), value: None });
        full.headers.push(Header { key: Bytes::new(), value: Some(Bytes::new()) });
        let binary: Bytes = (0..=255).collect::<Vec<u8>>().into();
        let long = Bytes::from(vec![7; 100_000]);
        let records = [
            bare,
            null,
            full.clone(),
            full.clone().at(i64::MAX),
            Record { key: Some(binary.clone()), value: Some(binary.clone()), ..full.clone() },
            Record { key: Some(long.clone()), value: None, ..full.clone() },
            Record { key: Some(long.clone()), value: Some(binary), ..full },
            Record::keyless("").header(long.clone(), long),
        ];
        for record in records {
            assert_eq!(back(&record), record);
            assert!(Envelope::seal(&record).header.len() <= REST_BYTES_MAX * 4 / 3 + 100);
        }
    }

    #[test]
    fn what_others_wrote_is_a_value_with_headers() {
        let mut headers = HeaderMap::new();
        headers.append("b", "1");
        headers.append("a", "2");
        headers.append("b", "0");
        headers.append("Nats-Msg-Id", "x");
        let record = open(Some(&headers), Bytes::from_static(b"v"), 5).unwrap();
        assert_eq!(record, Record::keyless("v").header("a", "2").header("b", "1").header("b", "0").at(5));
        assert_eq!(open(None, Bytes::new(), 6).unwrap(), Record::keyless("").at(6));
    }

    #[test]
    fn a_damaged_header_is_told() {
        let sealed =
            Envelope::seal(&Record::new("key", "value").header("h", "x").at(1_700_000_000_000)).header;
        let mut found = 0;
        for len in 0..sealed.len() {
            let mut headers = HeaderMap::new();
            headers.insert(RECORD_HEADER, &sealed[..len]);
            found += usize::from(open(Some(&headers), Bytes::new(), 0).is_err());
        }
        assert!(found > sealed.len() / 2);
        for bad in ["!", "", "_w", "CA", "BAAAAAAAAAAAAAAAAA", "BAL_____fw"] {
            let mut headers = HeaderMap::new();
            headers.insert(RECORD_HEADER, bad);
            assert_eq!(open(Some(&headers), Bytes::new(), 0), Err(Damaged), "{bad}");
        }
    }
}
