//! Kafka's classic (non-flexible) encoding: big-endian numbers, strings with an i16 length, bytes and arrays with an i32
//! length, -1 for null.

use bytes::{BufMut, Bytes, BytesMut};

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
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
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

    pub(super) fn i16(&mut self) -> Result<i16, CodecError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, CodecError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, CodecError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, CodecError> {
        let len = i32::from(self.i16()?);
        self.nullable(len)?
            .map(|text| str::from_utf8(text).map(str::to_owned).map_err(|_| CodecError::NotUtf8))
            .transpose()
    }

    pub(super) fn string(&mut self) -> Result<String, CodecError> {
        self.nullable_string()?.ok_or(CodecError::BadLength(-1))
    }

    pub(super) fn nullable_bytes(&mut self) -> Result<Option<Bytes>, CodecError> {
        let len = self.i32()?;
        Ok(self.nullable(len)?.map(Bytes::copy_from_slice))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        self.nullable_bytes()?.ok_or(CodecError::BadLength(-1))
    }

    /// The items of an array. Nothing is allocated by what the length claims: each item takes bytes that must be there.
    pub(super) fn list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let len = self.i32()?;
        if len < 0 {
            return Err(CodecError::BadLength(len));
        }
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(item(self)?);
        }
        Ok(items)
    }

    pub(super) fn end(self) -> Result<(), CodecError> {
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

#[derive(Default)]
pub(super) struct Writer {
    bytes: BytesMut,
}

impl Writer {
    pub(super) fn i16(&mut self, value: i16) -> &mut Self {
        self.bytes.put_i16(value);
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.bytes.put_i32(value);
        self
    }

    pub(super) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.put_i64(value);
        self
    }

    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        let len =
            i16::try_from(text.len()).expect("texts are checked against TEXT_BYTES_MAX when they arrive");
        self.bytes.put_i16(len);
        self.bytes.put_slice(text.as_bytes());
        self
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.string(text),
            None => self.i16(-1),
        }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let len = i32::try_from(bytes.len()).expect("a request of 2 GiB is refused before it is read");
        self.bytes.put_i32(len);
        self.bytes.put_slice(bytes);
        self
    }

    pub(super) fn nullable_bytes(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.i32(-1),
        }
    }

    pub(super) fn list<T>(
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

    pub(super) fn finish(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }
}
