//! How Kafka writes the records of its internal topics.
//!
//! The classic encoding has big-endian numbers, strings with an i16 length, bytes and arrays with an i32 length, and -1 for
//! null. The flexible one (KIP-482; methods named `compact`) has lengths as unsigned varints, one more than what they count
//! and 0 for null, and tagged fields at the end of every struct, which readers that do not know a tag pass over.

use anabranch_core::batch::Record;
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Why bytes cannot be read. The fault of whoever wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A field ends after the bytes do.
    #[error("the bytes end in the middle of a field")]
    Truncated,
    /// A length below -1, or null where there must be something.
    #[error("length {0} is impossible")]
    BadLength(i32),
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// Bytes follow the last field.
    #[error("{0} bytes follow the last field")]
    TrailingBytes(usize),
    /// A varint of more than 32 bits.
    #[error("a varint does not end")]
    BadVarint,
}

/// Why a record cannot be read. The fault of the disk, or of a newer version of whatever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes are damaged.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A known key whose value has a version that is not known.
    #[error("value version {0} is not supported")]
    ValueVersion(i16),
    /// The record contradicts itself.
    #[error("invalid record: {0}")]
    Invalid(&'static str),
}

/// A record as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRecord {
    /// What it is about.
    pub key: Bytes,
    /// The new state; `None` deletes.
    pub value: Option<Bytes>,
}

impl EncodedRecord {
    /// For the log.
    pub(crate) fn at(self, now_ms: i64) -> Record {
        Record { key: Some(self.key), value: self.value, headers: Vec::new(), timestamp_ms: now_ms }
    }
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, CodecError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, CodecError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, CodecError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CodecError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, CodecError> {
        self.array().map(Uuid::from_bytes)
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<String>, CodecError> {
        let len = i32::from(self.i16()?);
        self.nullable(len)?.map(text).transpose()
    }

    pub(crate) fn string(&mut self) -> Result<String, CodecError> {
        self.nullable_string()?.ok_or(CodecError::BadLength(-1))
    }

    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<Bytes>, CodecError> {
        let len = self.i32()?;
        Ok(self.nullable(len)?.map(Bytes::copy_from_slice))
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        self.nullable_bytes()?.ok_or(CodecError::BadLength(-1))
    }

    /// The items of an array; `None` for null. Nothing is allocated by what the length claims: each item takes bytes that
    /// must be there.
    pub(crate) fn nullable_list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<Vec<T>>, CodecError> {
        let len = self.i32()?;
        self.items(len, item)
    }

    pub(crate) fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        self.nullable_list(item)?.ok_or(CodecError::BadLength(-1))
    }

    pub(crate) fn compact_nullable_string(&mut self) -> Result<Option<String>, CodecError> {
        let len = self.compact_len()?;
        self.nullable(len)?.map(text).transpose()
    }

    pub(crate) fn compact_string(&mut self) -> Result<String, CodecError> {
        self.compact_nullable_string()?.ok_or(CodecError::BadLength(-1))
    }

    pub(crate) fn compact_bytes(&mut self) -> Result<Bytes, CodecError> {
        let len = self.compact_len()?;
        self.nullable(len)?.map(Bytes::copy_from_slice).ok_or(CodecError::BadLength(-1))
    }

    /// As [`Reader::nullable_list`].
    pub(crate) fn compact_nullable_list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<Vec<T>>, CodecError> {
        let len = self.compact_len()?;
        self.items(len, item)
    }

    pub(crate) fn compact_list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        self.compact_nullable_list(item)?.ok_or(CodecError::BadLength(-1))
    }

    /// The tagged fields of a struct; `field` gets those it knows by tag, each with its bytes, and leaves the others alone.
    pub(crate) fn tagged(
        &mut self,
        mut field: impl FnMut(u32, &mut Reader<'a>) -> Result<(), CodecError>,
    ) -> Result<(), CodecError> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = usize::try_from(self.varint()?).map_err(|_| CodecError::Truncated)?;
            field(tag, &mut Reader::new(self.take(len)?))?;
        }
        Ok(())
    }

    fn items<T>(
        &mut self,
        len: i32,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<Vec<T>>, CodecError> {
        match len {
            -1 => return Ok(None),
            ..-1 => return Err(CodecError::BadLength(len)),
            _ => {}
        }
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(item(self)?);
        }
        Ok(Some(items))
    }

    /// -1 for null.
    fn compact_len(&mut self) -> Result<i32, CodecError> {
        let len = i64::from(self.varint()?) - 1;
        i32::try_from(len).map_err(|_| CodecError::Truncated)
    }

    fn varint(&mut self) -> Result<u32, CodecError> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| CodecError::BadVarint);
            }
        }
        Err(CodecError::BadVarint)
    }

    pub(crate) fn end(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            trailing => Err(CodecError::TrailingBytes(trailing)),
        }
    }

    fn nullable(&mut self, len: i32) -> Result<Option<&'a [u8]>, CodecError> {
        match usize::try_from(len) {
            Ok(len) => self.take(len).map(Some),
            Err(_) if len == -1 => Ok(None),
            Err(_) => Err(CodecError::BadLength(len)),
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, CodecError> {
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::NotUtf8)
}

#[derive(Default)]
pub(crate) struct Writer {
    bytes: BytesMut,
}

impl Writer {
    pub(crate) fn i8(&mut self, value: i8) -> &mut Self {
        self.bytes.put_i8(value);
        self
    }

    pub(crate) fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes.put_i16(value);
        self
    }

    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.put_i32(value);
        self
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.put_i64(value);
        self
    }

    pub(crate) fn uuid(&mut self, value: Uuid) -> &mut Self {
        self.bytes.put_slice(value.as_bytes());
        self
    }

    pub(crate) fn string(&mut self, text: &str) -> &mut Self {
        let len =
            i16::try_from(text.len()).expect("texts are checked against TEXT_BYTES_MAX when they arrive");
        self.bytes.put_i16(len);
        self.bytes.put_slice(text.as_bytes());
        self
    }

    pub(crate) fn nullable_string(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.string(text),
            None => self.i16(-1),
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = i32::try_from(bytes.len()).expect("a request of 2 GiB is refused before it is read");
        self.bytes.put_i32(len);
        self.bytes.put_slice(bytes);
        self
    }

    pub(crate) fn nullable_bytes(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.i32(-1),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        item: impl Fn(&mut Self, T),
    ) -> &mut Self {
        self.i32(i32::try_from(items.len()).expect("lists are bounded by requests of less than 2 GiB"));
        for each in items {
            item(self, each);
        }
        self
    }

    pub(crate) fn compact_string(&mut self, text: &str) -> &mut Self {
        self.compact_bytes(text.as_bytes())
    }

    pub(crate) fn compact_nullable_string(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.compact_string(text),
            None => self.compact_null(),
        }
    }

    /// Instead of a text or of a list.
    pub(crate) fn compact_null(&mut self) -> &mut Self {
        self.varint(0)
    }

    pub(crate) fn compact_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.compact_len(bytes.len());
        self.bytes.put_slice(bytes);
        self
    }

    pub(crate) fn compact_list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        item: impl Fn(&mut Self, T),
    ) -> &mut Self {
        self.compact_len(items.len());
        for each in items {
            item(self, each);
        }
        self
    }

    /// Ends a struct: its tagged fields, in the order of their tags.
    pub(crate) fn tagged(&mut self, fields: &[(u32, Bytes)]) -> &mut Self {
        self.varint(fields.len() as u32);
        for (tag, bytes) in fields {
            self.varint(*tag).varint(bytes.len() as u32);
            self.bytes.put_slice(bytes);
        }
        self
    }

    fn compact_len(&mut self, len: usize) -> &mut Self {
        let len = u32::try_from(len).expect("lists and texts are bounded by requests of less than 2 GiB");
        self.varint(len + 1)
    }

    fn varint(&mut self, mut value: u32) -> &mut Self {
        while value >= 0x80 {
            self.bytes.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
        self
    }

    pub(crate) fn finish(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flexible_fields_come_back() {
        let long = "x".repeat(300);
        let id = Uuid::from_u128(7);
        let bytes = Writer::default()
            .i8(-2)
            .uuid(id)
            .compact_string("")
            .compact_nullable_string(None)
            .compact_nullable_string(Some(&long))
            .compact_bytes(b"raw")
            .compact_list([1, 2].iter(), |writer, number| {
                writer.i32(*number).tagged(&[]);
            })
            .tagged(&[(0, Bytes::from_static(b"ab")), (200, Bytes::from_static(b"cd"))])
            .finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.i8(), reader.uuid()), (Ok(-2), Ok(id)));
        assert_eq!(reader.compact_string(), Ok(String::new()));
        assert_eq!(reader.compact_nullable_string(), Ok(None));
        assert_eq!(reader.compact_nullable_string(), Ok(Some(long)));
        assert_eq!(reader.compact_bytes(), Ok(Bytes::from_static(b"raw")));
        let number = |reader: &mut Reader<'_>| {
            let number = reader.i32();
            reader.tagged(|_, _| Ok(()))?;
            number
        };
        assert_eq!(reader.compact_list(number), Ok(vec![1, 2]));
        let mut seen = Vec::new();
        let read = reader.tagged(|tag, field| {
            seen.push((tag, field.i16()?));
            Ok(())
        });
        assert_eq!((read, seen), (Ok(()), vec![(0, 0x6162), (200, 0x6364)]));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let check = |bytes: &[u8], error| {
            assert_eq!(Reader::new(bytes).compact_list(Reader::i32), Err(error), "{bytes:?}");
        };
        check(b"\xff\xff\xff\xff\x7f", CodecError::BadVarint);
        check(b"\xff\xff\xff\xff\xff", CodecError::BadVarint);
        check(b"\xff\xff\xff\xff\x0f", CodecError::Truncated);
        check(b"\xff\xff\xff\xff", CodecError::Truncated);
        check(b"\x02\0\0\0", CodecError::Truncated);
        check(b"\0", CodecError::BadLength(-1));
        let read = Reader::new(b"\x01\0\x05ab").tagged(|_, _| Ok(()));
        assert_eq!(read, Err(CodecError::Truncated));
    }
}
