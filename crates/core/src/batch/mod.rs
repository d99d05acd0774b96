//! Kafka's RecordBatch v2: the unit of append, storage and transfer.
//!
//! A [`Batch`] is a view over the bytes that a client sent. Only `baseOffset` and `partitionLeaderEpoch`, which lie
//! outside the checksum, are ever patched. Layout, big-endian (source: Kafka's `DefaultRecordBatch`):
//!
//! ```text
//!  0  baseOffset            i64
//!  8  batchLength           i32   bytes that follow this field
//! 12  partitionLeaderEpoch  i32
//! 16  magic                 i8    2
//! 17  crc                   u32   CRC-32C of everything from 21 on
//! 21  attributes            i16   0-2 codec, 3 log-append time, 4 transactional, 5 control, 6 delete horizon
//! 23  lastOffsetDelta       i32
//! 27  baseTimestamp         i64   ms
//! 35  maxTimestamp          i64   ms
//! 43  producerId            i64   -1: none
//! 51  producerEpoch         i16
//! 53  baseSequence          i32
//! 57  recordCount           i32
//! 61  records               compressed as one block
//! ```

mod build;
mod compression;
mod control;
mod rebuild;
mod record;

pub use build::BatchBuilder;
pub use compression::{Codec, Compression};
pub use control::{EndKind, EndMarker};
pub use record::{Header, NO_TIMESTAMP, Record, RecordAt, RecordGlance, RecordSummary};

use bytes::Bytes;

use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};

/// Bytes of a batch before its records.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes of a batch that `batchLength` does not count.
pub const BATCH_LENGTH_PREFIX_BYTES: usize = 12;
/// A batch's records may not grow beyond this when decompressed: a bomb is refused, not inflated.
pub const DECOMPRESSED_BYTES_MAX: u64 = 256 << 20;
/// A batch may not have more records than this: read, each takes about a hundred bytes of memory, whatever it is in the
/// batch.
pub const RECORDS_PER_BATCH_MAX: i32 = 4 << 20;

const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
const ATTRIBUTES_AT: usize = 21;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;
/// The attributes that say how the records are compressed.
const CODEC: i16 = 0x07;
/// The attribute that says who set the timestamps.
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Why bytes are not a batch. All of these are the fault of whoever wrote the bytes: a client, or the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the batch is cut short: it needs {needed_bytes} bytes and has {got_bytes}")]
    Truncated {
        /// What its header promises.
        needed_bytes: usize,
        /// What is there.
        got_bytes: usize,
    },
    /// More bytes than the one batch that belongs there.
    #[error("{0} bytes follow the batch where exactly one batch belongs")]
    TrailingBytes(usize),
    /// A length that no batch can have.
    #[error("batch length {0} is impossible")]
    BadLength(i32),
    /// Formats 0 and 1 ended with Kafka 4; others do not exist.
    #[error("batch format {0} is not supported (only 2 is)")]
    UnsupportedMagic(i8),
    /// The bytes changed after they were written.
    #[error("the checksum does not match: stored {stored:#010x}, computed {computed:#010x}")]
    BadChecksum {
        /// In the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// The header contradicts itself or the records.
    #[error("invalid batch: {0}")]
    Invalid(&'static str),
    /// Unknown compression codec.
    #[error("compression codec {0} is unknown")]
    UnknownCodec(u8),
    /// The compressed block cannot be read.
    #[error("the records cannot be decompressed ({codec}): {reason}")]
    Undecompressable {
        /// The codec that the batch names.
        codec: Compression,
        /// What the codec says.
        reason: String,
    },
    /// More records than any honest batch has.
    #[error("{0} records are more than a batch may have ({RECORDS_PER_BATCH_MAX})")]
    TooMany(i32),
    /// The records are larger than whoever reads them allows.
    #[error("the records decompress to more than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
}

/// The numbers of a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Bytes of the whole batch, header included.
    pub len_bytes: usize,
    /// Who wrote it to the log.
    pub leader_epoch: LeaderEpoch,
    /// Checksum as stored.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Last offset minus first.
    pub last_offset_delta: i32,
    /// Timestamp that the records' deltas count from, ms.
    pub base_timestamp_ms: i64,
    /// Largest timestamp, ms.
    pub max_timestamp_ms: i64,
    /// The idempotent producer, or none.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// Sequence number of the first record; -1 without a producer.
    pub base_sequence: i32,
    /// How many records there are.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header from the front of `bytes` and checks what can be checked without the records.
    ///
    /// # Errors
    /// [`BatchError`] if these are not the first bytes of a batch.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else {
            return Err(BatchError::Truncated { needed_bytes: BATCH_HEADER_BYTES, got_bytes: bytes.len() });
        };
        let length = i32::from_be_bytes(field(head, 8));
        // The magic byte stands at the same place in every format: an old format is told as such.
        let magic = head[16] as i8;
        if magic != 2 {
            return Err(BatchError::UnsupportedMagic(magic));
        }
        let len_bytes =
            usize::try_from(length).map_err(|_| BatchError::BadLength(length))? + BATCH_LENGTH_PREFIX_BYTES;
        if len_bytes < BATCH_HEADER_BYTES {
            return Err(BatchError::BadLength(length));
        }
        let header = Self {
            base_offset: Offset(i64::from_be_bytes(field(head, 0))),
            len_bytes,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(head, 12))),
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            attributes: i16::from_be_bytes(field(head, ATTRIBUTES_AT)),
            last_offset_delta: i32::from_be_bytes(field(head, 23)),
            base_timestamp_ms: i64::from_be_bytes(field(head, 27)),
            max_timestamp_ms: i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT)),
            producer_id: ProducerId(i64::from_be_bytes(field(head, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(head, 51))),
            base_sequence: i32::from_be_bytes(field(head, 53)),
            record_count: i32::from_be_bytes(field(head, 57)),
        };
        if header.last_offset_delta < 0 || header.record_count < 0 {
            return Err(BatchError::Invalid("negative record count or offset delta"));
        }
        if header.record_count > header.last_offset_delta.saturating_add(1) {
            return Err(BatchError::Invalid("more records than offsets"));
        }
        Ok(header)
    }

    /// Writes what [`Batch::with_log_append_time`] and [`Batch::with_max_timestamp`] change.
    fn put_times(&self, head: &mut [u8; BATCH_HEADER_BYTES]) {
        head[CRC_AT..CRC_AT + 4].copy_from_slice(&self.crc.to_be_bytes());
        head[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&self.attributes.to_be_bytes());
        head[MAX_TIMESTAMP_AT..MAX_TIMESTAMP_AT + 8].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::UnknownCodec`].
    pub fn compression(&self) -> Result<Compression, BatchError> {
        Compression::from_attributes(self.attributes)
    }

    /// Whether the broker, not the producer, set the timestamps.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether the batch is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a transaction marker instead of a client's records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Sequence number of the last record; sequences wrap from `i32::MAX` to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        i32::try_from(last % (i64::from(i32::MAX) + 1)).expect("a remainder of 2^31 fits")
    }
}

/// One whole batch whose length and checksum are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: BatchHeader,
    bytes: Bytes,
}

/// Checks that `bytes` are exactly one batch: format, length and checksum.
///
/// # Errors
/// [`BatchError`] says what is wrong.
pub fn check_batch(bytes: &Bytes) -> Result<Batch, BatchError> {
    let (batch, rest) = split_batch(bytes)?;
    match rest.len() {
        0 => Ok(batch),
        surplus => Err(BatchError::TrailingBytes(surplus)),
    }
}

/// Takes the first batch off the front of `bytes`, and checks it.
///
/// # Errors
/// [`BatchError`] says what is wrong with it.
pub fn split_batch(bytes: &Bytes) -> Result<(Batch, Bytes), BatchError> {
    let header = BatchHeader::parse(bytes)?;
    if bytes.len() < header.len_bytes {
        return Err(BatchError::Truncated { needed_bytes: header.len_bytes, got_bytes: bytes.len() });
    }
    let mut checksum = BatchChecksum::of(&header);
    checksum.add(&bytes[..header.len_bytes]);
    checksum.finish()?;
    Ok((Batch { header, bytes: bytes.slice(..header.len_bytes) }, bytes.slice(header.len_bytes..)))
}

/// The checksum of a batch that comes in parts.
#[derive(Debug, Clone, Copy)]
pub struct BatchChecksum {
    stored: u32,
    computed: u32,
    /// Bytes before those that it is of.
    skip: usize,
}

impl BatchChecksum {
    /// Of the batch that begins with `header`.
    #[must_use]
    pub fn of(header: &BatchHeader) -> Self {
        Self { stored: header.crc, computed: 0, skip: CRC_FROM }
    }

    /// The next bytes of the batch, from its very first one on.
    pub fn add(&mut self, bytes: &[u8]) {
        let skip = self.skip.min(bytes.len());
        self.skip -= skip;
        self.computed = crc32c::crc32c_append(self.computed, &bytes[skip..]);
    }

    /// After all bytes.
    ///
    /// # Errors
    /// [`BatchError::BadChecksum`].
    pub fn finish(self) -> Result<(), BatchError> {
        match self.computed == self.stored {
            true => Ok(()),
            false => Err(BatchError::BadChecksum { stored: self.stored, computed: self.computed }),
        }
    }
}

/// The batches that stand one after another in `bytes`; ends after the first error.
pub fn split_batches(mut bytes: Bytes) -> impl Iterator<Item = Result<Batch, BatchError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (batch, rest) = match split_batch(&bytes) {
            Ok((batch, rest)) => (Ok(batch), rest),
            Err(error) => (Err(error), Bytes::new()),
        };
        bytes = rest;
        Some(batch)
    })
}

impl Batch {
    /// The header.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch as it was received. What is stored begins with [`Self::stored_prefix`] instead.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The records, decompressed; their payloads share memory.
    ///
    /// # Errors
    /// [`BatchError`] if the records are not what the header says, or decompress to more than
    /// [`DECOMPRESSED_BYTES_MAX`].
    pub fn records(&self) -> Result<Vec<RecordAt>, BatchError> {
        record::read(&self.header, &self.bytes, DECOMPRESSED_BYTES_MAX)
    }

    /// Walks the records in constant memory, checking that each is well formed, that there are as many as the header
    /// says, and that their offsets count up by one: what a batch fresh from a producer must be.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong.
    pub fn check_records(&self) -> Result<RecordSummary, BatchError> {
        self.check_records_within(usize::MAX)
    }

    /// The same, and shows each record to `each`, up to the first that is malformed.
    ///
    /// # Errors
    /// As [`Batch::check_records`].
    pub fn check_each_record(&self, each: impl FnMut(RecordGlance)) -> Result<RecordSummary, BatchError> {
        record::check(&self.header, &self.bytes, DECOMPRESSED_BYTES_MAX, each)
    }

    /// The same batch with its records, which [`Batch::check_records`] has passed, compressed by `codec`. Only the codec in
    /// the attributes, the length and the checksum differ: records, offsets, times and the producer's fields stay.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] when it would have more than `bytes_max` bytes.
    pub fn recompress(&self, codec: Codec, bytes_max: usize) -> Result<Self, BatchError> {
        let mut bytes = record::recompress(&self.header, &self.bytes, codec, bytes_max)?;
        let too_large = BatchError::TooLarge { max_bytes: i32::MAX as u64 };
        let length = i32::try_from(bytes.len() - BATCH_LENGTH_PREFIX_BYTES).map_err(|_| too_large)?;
        let attributes = self.header.attributes & !CODEC | codec.compression as i16;
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(&self.head());
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        let header = BatchHeader { attributes, len_bytes: bytes.len(), crc, ..self.header };
        Ok(Self { header, bytes: bytes.into() })
    }

    /// The same batch, its bytes held together with `guard`, which is dropped when the last of them is.
    #[must_use]
    pub fn guarded(self, guard: impl Send + 'static) -> Self {
        Self { header: self.header, bytes: Bytes::from_owner(Guarded { bytes: self.bytes, _guard: guard }) }
    }

    /// The same in `memory_bytes` at most. A batch that may take more ([`Self::decompression_bytes`]) can be checked as
    /// long as its records are no larger than that: a decompressor fills no more of its window than it has read.
    ///
    /// # Errors
    /// As [`Self::check_records`]; [`BatchError::TooLarge`] when the memory is not enough.
    pub fn check_records_within(&self, memory_bytes: usize) -> Result<RecordSummary, BatchError> {
        let bytes_max = match self.decompression_bytes() <= memory_bytes {
            true => DECOMPRESSED_BYTES_MAX,
            false => DECOMPRESSED_BYTES_MAX.min(memory_bytes as u64),
        };
        record::check(&self.header, &self.bytes, bytes_max, |_| {})
    }

    /// See [`decompression_bytes`].
    #[must_use]
    pub fn decompression_bytes(&self) -> usize {
        decompression_bytes(&self.bytes)
    }

    /// The header as it is stored at `base_offset` by the leader of `epoch`; the records are stored unchanged.
    #[must_use]
    pub fn stored_prefix(&self, base_offset: Offset, epoch: LeaderEpoch) -> [u8; BATCH_HEADER_BYTES] {
        let mut prefix = self.head();
        prefix[..8].copy_from_slice(&base_offset.0.to_be_bytes());
        prefix[12..16].copy_from_slice(&epoch.0.to_be_bytes());
        prefix
    }

    /// The header's bytes, with the times that it has now.
    fn head(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut head = *self.bytes.first_chunk().expect("a batch has a header");
        self.header.put_times(&mut head);
        head
    }

    /// The same batch stamped with the broker's time (`message.timestamp.type=LogAppendTime`).
    #[must_use]
    pub fn with_log_append_time(&self, now_ms: i64) -> Self {
        self.with_times(self.header.attributes | LOG_APPEND_TIME, now_ms)
    }

    /// The same batch with the largest timestamp that its records really have. A producer may claim another, and searches
    /// by time believe the header.
    #[must_use]
    pub fn with_max_timestamp(&self, max_timestamp_ms: i64) -> Self {
        self.with_times(self.header.attributes, max_timestamp_ms)
    }

    /// The same batch as a part of its producer's transaction, for whoever is that producer on behalf of others. The
    /// checksum is computed anew, and all of it copied: it goes on as bytes.
    #[must_use]
    pub fn in_transaction(&self, producer: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Bytes {
        let mut bytes = self.bytes.to_vec();
        bytes[..BATCH_HEADER_BYTES].copy_from_slice(&self.head());
        let attributes = self.header.attributes | TRANSACTIONAL;
        bytes[ATTRIBUTES_AT..ATTRIBUTES_AT + 2].copy_from_slice(&attributes.to_be_bytes());
        bytes[PRODUCER_AT..PRODUCER_AT + 8].copy_from_slice(&producer.0.to_be_bytes());
        bytes[PRODUCER_AT + 8..PRODUCER_AT + 10].copy_from_slice(&epoch.0.to_be_bytes());
        bytes[PRODUCER_AT + 10..PRODUCER_AT + 14].copy_from_slice(&base_sequence.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    /// Changed inside the checksum, which is computed anew. Only the header tells of it: the records may be large and are
    /// not copied.
    fn with_times(&self, attributes: i16, max_timestamp_ms: i64) -> Self {
        let mut header = BatchHeader { attributes, max_timestamp_ms, ..self.header };
        let mut head = *self.bytes.first_chunk().expect("a batch has a header");
        header.put_times(&mut head);
        let crc = crc32c::crc32c(&head[CRC_FROM..]);
        header.crc = crc32c::crc32c_append(crc, &self.bytes[BATCH_HEADER_BYTES..]);
        Self { header, bytes: self.bytes.clone() }
    }
}

struct Guarded<T> {
    bytes: Bytes,
    _guard: T,
}

impl<T> AsRef<[u8]> for Guarded<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The memory that decompressing a batch's records as a stream takes at most, by what they say. 0 if they are not
/// compressed, or no batch.
#[must_use]
pub fn decompression_bytes(batch: &[u8]) -> usize {
    let codec = BatchHeader::parse(batch).and_then(|header| header.compression()).unwrap_or_default();
    codec.memory_bytes(batch.get(BATCH_HEADER_BYTES..).unwrap_or_default())
}

fn field<const N: usize>(head: &[u8; BATCH_HEADER_BYTES], at: usize) -> [u8; N] {
    *head[at..].first_chunk().expect("a field lies inside the header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Bytes {
        BatchBuilder::new(Compression::None).push(&Record::new("k", "v").at(5)).build().unwrap()
    }

    fn broken(change: impl FnOnce(&mut Vec<u8>)) -> BatchError {
        let mut bytes = one().to_vec();
        change(&mut bytes);
        check_batch(&bytes.into()).unwrap_err()
    }

    #[test]
    fn what_is_not_a_batch_is_told() {
        assert!(matches!(
            broken(|b| b.truncate(60)),
            BatchError::Truncated { needed_bytes: 61, got_bytes: 60 }
        ));
        assert!(matches!(broken(|b| b.truncate(62)), BatchError::Truncated { .. }));
        assert!(matches!(broken(|b| b.push(0)), BatchError::TrailingBytes(1)));
        assert!(matches!(broken(|b| b[16] = 1), BatchError::UnsupportedMagic(1)));
        assert!(matches!(broken(|b| b[8] = 0xff), BatchError::BadLength(_)));
        assert!(matches!(broken(|b| b[11] = 3), BatchError::BadLength(3)));
        assert!(matches!(broken(|b| b[57] = 0xff), BatchError::Invalid(_)));
        assert!(matches!(broken(|b| b[60] = 9), BatchError::Invalid(_)));
        let last = one().len() - 1;
        assert!(matches!(broken(|b| b[last] ^= 1), BatchError::BadChecksum { .. }));
    }

    #[test]
    fn every_flipped_bit_inside_the_checksum_is_seen() {
        let good = one();
        for bit in CRC_AT * 8..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check_batch(&bytes.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_offset_and_epoch_lie_outside_the_checksum() {
        let batch = check_batch(&one()).unwrap();
        let mut stored = batch.bytes().to_vec();
        stored[..BATCH_HEADER_BYTES].copy_from_slice(&batch.stored_prefix(Offset(7), LeaderEpoch(3)));
        let read = check_batch(&stored.into()).unwrap();
        assert_eq!((read.header().base_offset, read.header().leader_epoch), (Offset(7), LeaderEpoch(3)));
        assert_eq!(read.records().unwrap()[0].offset, Offset(7));
    }

    #[test]
    fn log_append_time_replaces_every_timestamp() {
        let batch = check_batch(&one()).unwrap().with_log_append_time(99);
        let mut stored = batch.bytes().to_vec();
        stored[..BATCH_HEADER_BYTES].copy_from_slice(&batch.stored_prefix(Offset(0), LeaderEpoch(-1)));
        let again = check_batch(&stored.into()).unwrap();
        assert_eq!(again.header(), batch.header());
        assert_eq!(again.records().unwrap()[0].record.timestamp_ms, 99);
    }

    #[test]
    fn sequences_wrap() {
        let header = BatchHeader::parse(&one()).unwrap();
        let at =
            |base_sequence| BatchHeader { base_sequence, last_offset_delta: 1, ..header }.last_sequence();
        assert_eq!((at(-1), at(0), at(i32::MAX)), (-1, 1, 0));
    }
}
