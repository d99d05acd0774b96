//! The two encodings that `__transaction_state` needs: the classic one of keys and old values, and the flexible one
//! (KIP-482), which has lengths as unsigned varints, one more than what they count and 0 for null, and tagged fields at
//! the end of every struct.

use bytes::{BufMut, Bytes, BytesMut};

use crate::group::CodecError;

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

    pub(super) fn i8(&mut self) -> Result<i8, CodecError> {
        self.array().map(i8::from_be_bytes)
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

    pub(super) fn string(&mut self) -> Result<String, CodecError> {
        let len = self.i16()?;
        self.text(len.into())
    }

    pub(super) fn compact_string(&mut self) -> Result<String, CodecError> {
        let len = self.compact_len()?;
        self.text(len)
    }

    /// The items of an array; `None` for null. Nothing is allocated by what the length claims: each item takes bytes that
    /// must be there.
    pub(super) fn nullable_list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<Vec<T>>, CodecError> {
        let len = self.i32()?;
        self.items(len, item)
    }

    /// As [`Reader::nullable_list`].
    pub(super) fn compact_nullable_list<T>(
        &mut self,
        item: impl Fn(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Option<Vec<T>>, CodecError> {
        let len = self.compact_len()?;
        self.items(len, item)
    }

    /// The tagged fields of a struct; `field` reads those whose tag it knows, and leaves the others alone.
    pub(super) fn tagged(
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

    pub(super) fn end(self) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            trailing => Err(CodecError::TrailingBytes(trailing)),
        }
    }

    fn text(&mut self, len: i32) -> Result<String, CodecError> {
        let len = usize::try_from(len).map_err(|_| CodecError::BadLength(len))?;
        let text = str::from_utf8(self.take(len)?).map_err(|_| CodecError::NotUtf8)?;
        Ok(text.to_owned())
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
        i32::try_from(i64::from(self.varint()?) - 1).map_err(|_| CodecError::Truncated)
    }

    fn varint(&mut self) -> Result<u32, CodecError> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        // More than 32 bits claim more than there can be.
        u32::try_from(value).map_err(|_| CodecError::Truncated)
    }
}

#[derive(Default)]
pub(super) struct Writer {
    bytes: BytesMut,
}

impl Writer {
    pub(super) fn i8(&mut self, value: i8) -> &mut Self {
        self.bytes.put_i8(value);
        self
    }

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

    pub(super) fn compact_string(&mut self, text: &str) -> &mut Self {
        self.compact_len(text.len());
        self.bytes.put_slice(text.as_bytes());
        self
    }

    pub(super) fn compact_list<T>(
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

    pub(super) fn compact_null(&mut self) -> &mut Self {
        self.varint(0)
    }

    /// Ends a struct: its tagged fields, in the order of their tags.
    pub(super) fn tagged(&mut self, fields: &[(u32, Bytes)]) -> &mut Self {
        self.varint(fields.len() as u32);
        for (tag, bytes) in fields {
            self.varint(*tag).varint(bytes.len() as u32);
            self.bytes.put_slice(bytes);
        }
        self
    }

    pub(super) fn finish(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    fn compact_len(&mut self, len: usize) -> &mut Self {
        let len = u32::try_from(len).expect("lists and texts are bounded by requests of less than 2 GiB");
        self.varint(len + 1)
    }

    fn varint(&mut self, mut value: u32) -> &mut Self {
        while value >= 0x80 {
            self.bytes.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.put_u8(value as u8);
        self
    }
}
