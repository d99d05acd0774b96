//! The records inside a batch. Layout of one (varint: zigzag, as in Protocol Buffers):
//!
//! ```text
//! length varint | attributes i8 | timestampDelta varlong | offsetDelta varint
//! keyLength varint (-1: null) | key | valueLength varint (-1: null) | value
//! headerCount varint | { keyLength varint | key | valueLength varint (-1: null) | value }*
//! ```

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use bytes::{Buf, BufMut, Bytes};

use super::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, Codec, Compression, DECOMPRESSED_BYTES_MAX,
    RECORDS_PER_BATCH_MAX,
};
use crate::Offset;

/// The timestamp of a record that has none.
pub const NO_TIMESTAMP: i64 = -1;

/// A key, a value, headers and a timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Decides the partition, and names the row in a table. `None` and empty differ.
    pub key: Option<Bytes>,
    /// `None` deletes the key from a table.
    pub value: Option<Bytes>,
    /// In order; keys may repeat.
    pub headers: Vec<Header>,
    /// Milliseconds since the Unix epoch, or [`NO_TIMESTAMP`].
    pub timestamp_ms: i64,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// UTF-8 by Kafka's rule, which no broker enforces.
    pub key: Bytes,
    /// `None` and empty differ.
    pub value: Option<Bytes>,
}

/// A record and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordAt {
    /// Where it is.
    pub offset: Offset,
    /// What it is.
    pub record: Record,
}

impl Record {
    /// A record without headers or timestamp.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
            timestamp_ms: NO_TIMESTAMP,
        }
    }

    /// A record without a key.
    pub fn keyless(value: impl Into<Bytes>) -> Self {
        Self { key: None, value: Some(value.into()), headers: Vec::new(), timestamp_ms: NO_TIMESTAMP }
    }

    /// A record that deletes `key` from a table.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: None, headers: Vec::new(), timestamp_ms: NO_TIMESTAMP }
    }

    /// The same at `timestamp_ms`.
    #[must_use]
    pub fn at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = timestamp_ms;
        self
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: Some(value.into()) });
        self
    }

    /// Bytes of its key, its value, and the names and values of its headers.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let nullable = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter().map(|header| header.key.len() + nullable(&header.value));
        nullable(&self.key) + nullable(&self.value) + headers.sum::<usize>()
    }

    /// Appends the record as it stands inside a batch.
    pub(super) fn write(&self, into: &mut Vec<u8>, offset_delta: i32, timestamp_delta_ms: i64) {
        let headers = self.headers.iter();
        let len_bytes = 1
            + varlong_bytes(timestamp_delta_ms)
            + varint_bytes(offset_delta)
            + nullable_bytes(self.key.as_ref())
            + nullable_bytes(self.value.as_ref())
            + varint_bytes(self.headers.len() as i32)
            + headers
                .map(|header| nullable_bytes(Some(&header.key)) + nullable_bytes(header.value.as_ref()))
                .sum::<usize>();
        put_varint(into, len_bytes as i32);
        let end = into.len() + len_bytes;
        into.put_i8(0); // attributes, unused
        put_varlong(into, timestamp_delta_ms);
        put_varint(into, offset_delta);
        put_nullable(into, self.key.as_ref());
        put_nullable(into, self.value.as_ref());
        put_varint(into, self.headers.len() as i32);
        for header in &self.headers {
            put_nullable(into, Some(&header.key));
            put_nullable(into, header.value.as_ref());
        }
        assert_eq!(into.len(), end, "a record is as long as was said before it");
    }
}

impl Header {
    /// The key as text; what is not UTF-8 is shown as U+FFFD.
    #[must_use]
    pub fn key_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

/// What a walk over a batch's records found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordSummary {
    /// Records without a key, which a compacted topic refuses.
    pub keyless_count: i32,
    /// The largest timestamp, ms; [`NO_TIMESTAMP`] when there is none.
    pub max_timestamp_ms: i64,
    /// The smallest timestamp, ms; `i64::MAX` when there is none.
    pub min_timestamp_ms: i64,
}

/// What the check of a batch sees of each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordGlance {
    /// Its place in the batch, from 0.
    pub index: i32,
    /// Its timestamp, ms, as the producer gave it.
    pub timestamp_ms: i64,
    /// Whether it has a key.
    pub has_key: bool,
}

/// See [`super::Batch::check_records`] and [`super::Batch::check_each_record`].
pub(super) fn check(
    header: &BatchHeader,
    bytes: &Bytes,
    bytes_max: u64,
    each: impl FnMut(RecordGlance),
) -> Result<RecordSummary, BatchError> {
    let compression = header.compression()?;
    if header.record_count != header.last_offset_delta.saturating_add(1) {
        return Err(BatchError::Invalid("record count and last offset disagree"));
    }
    if header.record_count == 0 {
        return Err(BatchError::Invalid("no records"));
    }
    check_count(header)?;
    let blame = |error| blame(compression, bytes_max, &error);
    let block = &bytes[BATCH_HEADER_BYTES..header.len_bytes];
    if compression == Compression::None {
        walk(header, block, block.len() as u64, each).map_err(blame)
    } else {
        compression.decompress(block).and_then(|stream| walk(header, stream, bytes_max, each)).map_err(blame)
    }
}

/// The records, which [`check`] has passed, compressed anew: at most `bytes_max` of them.
pub(super) fn recompress(
    header: &BatchHeader,
    bytes: &Bytes,
    codec: Codec,
    bytes_max: usize,
) -> Result<Vec<u8>, BatchError> {
    let from = header.compression()?;
    let mut into = Bounded { bytes: vec![0; BATCH_HEADER_BYTES], bytes_max };
    let block = &bytes[BATCH_HEADER_BYTES..header.len_bytes];
    let mut source = from.decompress(block).map_err(|error| blame(from, DECOMPRESSED_BYTES_MAX, &error))?;
    codec.compress(&mut source, &mut into).map_err(|error| blame(from, bytes_max as u64, &error))?;
    Ok(into.bytes)
}

/// Memory that is not written beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: usize,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            return Err(io::Error::other(LimitReached));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn check_count(header: &BatchHeader) -> Result<(), BatchError> {
    match header.record_count > RECORDS_PER_BATCH_MAX {
        true => Err(BatchError::TooMany(header.record_count)),
        false => Ok(()),
    }
}

fn walk(
    header: &BatchHeader,
    source: impl BufRead,
    bytes_max: u64,
    mut each: impl FnMut(RecordGlance),
) -> io::Result<RecordSummary> {
    let mut source = Limited { source, left: bytes_max };
    let mut summary =
        RecordSummary { keyless_count: 0, max_timestamp_ms: NO_TIMESTAMP, min_timestamp_ms: i64::MAX };
    for index in 0..header.record_count {
        let length = source.varint()?;
        let end =
            source.left.checked_sub(u64::try_from(length).map_err(|_| invalid("negative record length"))?);
        let end = end.ok_or_else(|| source.exhausted("a record is longer than its batch"))?;
        source.u8()?; // attributes, unused
        let timestamp_ms = header.base_timestamp_ms.wrapping_add(source.varlong()?);
        if source.varint()? != index {
            return Err(invalid("record offsets do not count up by one"));
        }
        let has_key = source.skip_nullable()?;
        source.skip_nullable()?;
        let header_count = source.varint()?;
        if header_count < 0 {
            return Err(invalid("negative header count"));
        }
        for _ in 0..header_count {
            if !source.skip_nullable()? {
                return Err(invalid("a header without a key"));
            }
            source.skip_nullable()?;
        }
        if source.left != end {
            return Err(invalid("a record's fields do not add up to its length"));
        }
        each(RecordGlance { index, timestamp_ms, has_key });
        summary.keyless_count += i32::from(!has_key);
        summary.max_timestamp_ms = summary.max_timestamp_ms.max(timestamp_ms);
        if timestamp_ms != NO_TIMESTAMP {
            summary.min_timestamp_ms = summary.min_timestamp_ms.min(timestamp_ms);
        }
    }
    match source.source.fill_buf()?.is_empty() {
        true => Ok(summary),
        false => Err(invalid("more records than the header says")),
    }
}

/// See [`super::Batch::records`].
pub(super) fn read(header: &BatchHeader, bytes: &Bytes, bytes_max: u64) -> Result<Vec<RecordAt>, BatchError> {
    check_count(header)?;
    let compression = header.compression()?;
    let block = bytes.slice(BATCH_HEADER_BYTES..header.len_bytes);
    let mut rest = if compression == Compression::None {
        block
    } else {
        let mut inflated = Vec::new();
        let read = compression
            .decompress(&block)
            .and_then(|stream| stream.take(bytes_max.saturating_add(1)).read_to_end(&mut inflated))
            .map_err(|error| blame(compression, bytes_max, &error))?;
        if read as u64 > bytes_max {
            return Err(BatchError::TooLarge { max_bytes: bytes_max });
        }
        inflated.into()
    };
    // A record takes at least seven bytes, so the header's word alone never sizes the allocation.
    let mut records = Vec::with_capacity((header.record_count as usize).min(rest.len() / 7));
    for _ in 0..header.record_count {
        records.push(read_one(header, &mut rest).map_err(|error| blame(compression, bytes_max, &error))?);
    }
    match rest.len() {
        0 => Ok(records),
        _ => Err(BatchError::Invalid("more records than the header says")),
    }
}

fn read_one(header: &BatchHeader, rest: &mut Bytes) -> io::Result<RecordAt> {
    let length = take_varint(rest)?;
    let length = usize::try_from(length).map_err(|_| invalid("negative record length"))?;
    if length > rest.len() {
        return Err(invalid("a record is longer than its batch"));
    }
    let mut body = rest.split_to(length);
    take(&mut body, 1)?; // attributes, unused
    let timestamp_delta_ms = take_varlong(&mut body)?;
    let offset_delta = take_varint(&mut body)?;
    if offset_delta < 0 || offset_delta > header.last_offset_delta {
        return Err(invalid("a record's offset lies outside its batch"));
    }
    let timestamp_ms = if header.is_log_append_time() {
        header.max_timestamp_ms
    } else {
        header.base_timestamp_ms.wrapping_add(timestamp_delta_ms)
    };
    let key = take_nullable(&mut body)?;
    let value = take_nullable(&mut body)?;
    let header_count = take_varint(&mut body)?;
    if header_count < 0 || header_count as usize > body.len() {
        return Err(invalid("impossible header count"));
    }
    let mut headers = Vec::with_capacity((header_count as usize).min(body.len() / 2));
    for _ in 0..header_count {
        let key = take_nullable(&mut body)?.ok_or_else(|| invalid("a header without a key"))?;
        headers.push(Header { key, value: take_nullable(&mut body)? });
    }
    if !body.is_empty() {
        return Err(invalid("a record's fields do not add up to its length"));
    }
    let offset = header.base_offset.plus(i64::from(offset_delta));
    Ok(RecordAt { offset, record: Record { key, value, headers, timestamp_ms } })
}

/// What is malformed in the records, carried through `io::Error` so that one walker serves slices and streams.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Malformed(&'static str);

#[derive(Debug, thiserror::Error)]
#[error("over the limit")]
struct LimitReached;

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Malformed(what))
}

fn blame(codec: Compression, max_bytes: u64, error: &io::Error) -> BatchError {
    let inner = error.get_ref();
    if let Some(Malformed(what)) = inner.and_then(|inner| inner.downcast_ref()) {
        BatchError::Invalid(what)
    } else if inner.and_then(|inner| inner.downcast_ref::<LimitReached>()).is_some() {
        BatchError::TooLarge { max_bytes }
    } else if codec == Compression::None {
        BatchError::Invalid("fewer records than the header says")
    } else {
        BatchError::Undecompressable { codec, reason: error.to_string() }
    }
}

/// A source that ends with an error after so many bytes.
struct Limited<R> {
    source: R,
    left: u64,
}

impl<R: BufRead> Limited<R> {
    fn exhausted(&mut self, or: &'static str) -> io::Error {
        // Under a limit of its own, a long record is the limit's affair; a slice ends where the batch ends.
        match self.source.fill_buf() {
            Ok(rest) if rest.len() as u64 >= self.left => invalid(or),
            Ok(_) => io::Error::other(LimitReached),
            Err(error) => error,
        }
    }

    fn u8(&mut self) -> io::Result<u8> {
        if self.left == 0 {
            return Err(self.exhausted("fewer records than the header says"));
        }
        let byte =
            *self.source.fill_buf()?.first().ok_or_else(|| invalid("fewer records than the header says"))?;
        self.source.consume(1);
        self.left -= 1;
        Ok(byte)
    }

    fn varint(&mut self) -> io::Result<i32> {
        read_varint(|| self.u8())
    }

    fn varlong(&mut self) -> io::Result<i64> {
        read_varlong(|| self.u8())
    }

    /// Skips a length-prefixed field; whether it was not null.
    fn skip_nullable(&mut self) -> io::Result<bool> {
        let length = self.varint()?;
        if length < -1 {
            return Err(invalid("negative field length"));
        }
        let mut bytes = u64::try_from(length).unwrap_or(0);
        if bytes > self.left {
            return Err(self.exhausted("a field is longer than its batch"));
        }
        self.left -= bytes;
        while bytes > 0 {
            let available = self.source.fill_buf()?.len() as u64;
            if available == 0 {
                return Err(invalid("a field is longer than its batch"));
            }
            let step = available.min(bytes);
            self.source.consume(step as usize);
            bytes -= step;
        }
        Ok(length >= 0)
    }
}

fn read_varint(next: impl FnMut() -> io::Result<u8>) -> io::Result<i32> {
    let raw = read_unsigned(next, 5)?;
    let raw = u32::try_from(raw).map_err(|_| invalid("a varint is too large"))?;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

fn read_varlong(next: impl FnMut() -> io::Result<u8>) -> io::Result<i64> {
    let raw = read_unsigned(next, 10)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

fn read_unsigned(mut next: impl FnMut() -> io::Result<u8>, bytes_max: u32) -> io::Result<u64> {
    let mut value = 0;
    for index in 0..bytes_max {
        let byte = next()?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(invalid("a varint is too long"))
}

fn take_u8(from: &mut Bytes) -> io::Result<u8> {
    from.try_get_u8().map_err(|_| invalid("a record ends early"))
}

fn take_varint(from: &mut Bytes) -> io::Result<i32> {
    read_varint(|| take_u8(from))
}

fn take_varlong(from: &mut Bytes) -> io::Result<i64> {
    read_varlong(|| take_u8(from))
}

fn take(from: &mut Bytes, count: usize) -> io::Result<Bytes> {
    match count <= from.len() {
        true => Ok(from.split_to(count)),
        false => Err(invalid("a field is longer than its record")),
    }
}

fn take_nullable(from: &mut Bytes) -> io::Result<Option<Bytes>> {
    match take_varint(from)? {
        -1 => Ok(None),
        length => {
            take(from, usize::try_from(length).map_err(|_| invalid("negative field length"))?).map(Some)
        }
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint_bytes(value: i32) -> usize {
    varlong_bytes(i64::from(value))
}

fn varlong_bytes(value: i64) -> usize {
    let bits = u64::BITS - zigzag(value).leading_zeros();
    bits.max(1).div_ceil(7) as usize
}

fn nullable_bytes(field: Option<&Bytes>) -> usize {
    field.map_or(1, |field| varlong_bytes(field.len() as i64) + field.len())
}

fn put_varint(into: &mut Vec<u8>, value: i32) {
    put_varlong(into, i64::from(value));
}

fn put_varlong(into: &mut Vec<u8>, value: i64) {
    put_unsigned(into, zigzag(value));
}

fn put_unsigned(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}

fn put_nullable(into: &mut Vec<u8>, field: Option<&Bytes>) {
    match field {
        None => put_varint(into, -1),
        Some(field) => {
            put_varint(
                into,
                i32::try_from(field.len()).expect("a field was checked against the batch limit"),
            );
            into.extend_from_slice(field);
        }
    }
}
