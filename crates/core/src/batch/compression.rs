//! The four codecs of Kafka, read and written as streams so that a small block cannot become a large allocation.

use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};

use super::BatchError;

/// How a batch's records are compressed. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy in the block framing of the xerial library, which Kafka's Java client writes; bare blocks are read too.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

/// Starts xerial's framing; two big-endian version numbers follow (16 bytes in all), then length-prefixed blocks.
const XERIAL_MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;
/// The xerial library's own block size is 32 KiB; whoever writes larger ones gets this far.
const SNAPPY_BLOCK_BYTES_MAX: usize = 32 << 20;

impl Compression {
    /// The codec in the low three bits of a batch's attributes.
    pub(super) fn from_attributes(attributes: i16) -> Result<Self, BatchError> {
        match attributes & 0x07 {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            other => Err(BatchError::UnknownCodec(other as u8)),
        }
    }

    /// A stream of what `compressed` holds. Errors come out of reading it.
    pub(super) fn decompress(self, compressed: &[u8]) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(match self {
            Self::None => Box::new(compressed),
            Self::Gzip => Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(compressed))),
            Self::Snappy => Box::new(SnappyReader::new(compressed)),
            Self::Lz4 => Box::new(BufReader::new(lz4_flex::frame::FrameDecoder::new(compressed))),
            Self::Zstd => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(compressed)?)),
        })
    }

    /// Compresses `records` as Kafka's own client would by default.
    pub(super) fn compress(self, records: &[u8]) -> io::Result<Vec<u8>> {
        let mut compressed = Vec::new();
        Codec::of(self).compress(&mut &records[..], &mut compressed)?;
        Ok(compressed)
    }
}

/// A codec and how hard it works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codec {
    /// Which.
    pub compression: Compression,
    /// The level, for gzip (1 to 9) and zstd (-131,072 to 22); the others have one. `None`: the codec's own default.
    pub level: Option<i32>,
}

impl Codec {
    /// A codec at its default level.
    #[must_use]
    pub fn of(compression: Compression) -> Self {
        Self { compression, level: None }
    }

    /// Compresses all that `records` brings, in memory that does not grow with it.
    pub(super) fn compress(self, records: &mut dyn Read, into: &mut dyn Write) -> io::Result<()> {
        match self.compression {
            Compression::None => io::copy(records, into).map(drop),
            Compression::Gzip => {
                let default = flate2::Compression::default();
                let level = self.level.and_then(|level| u32::try_from(level).ok());
                let level = level.map_or(default, flate2::Compression::new);
                let mut encoder = flate2::write::GzEncoder::new(into, level);
                io::copy(records, &mut encoder)?;
                encoder.finish().map(drop)
            }
            Compression::Snappy => compress_snappy(records, into),
            Compression::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(into);
                io::copy(records, &mut encoder)?;
                encoder.finish().map(drop).map_err(io::Error::from)
            }
            Compression::Zstd => zstd::stream::copy_encode(records, into, self.level.unwrap_or(0)),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

impl std::str::FromStr for Compression {
    type Err = UnknownCompression;

    /// Kafka's names.
    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd]
            .into_iter()
            .find(|codec| codec.to_string() == name)
            .ok_or(UnknownCompression)
    }
}

/// A codec's name that Kafka does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the compression codecs are none, gzip, snappy, lz4 and zstd")]
pub struct UnknownCompression;

fn compress_snappy(records: &mut dyn Read, into: &mut dyn Write) -> io::Result<()> {
    const BLOCK_BYTES: u64 = 32 << 10;
    into.write_all(&XERIAL_MAGIC)?;
    into.write_all(&1u32.to_be_bytes())?;
    into.write_all(&1u32.to_be_bytes())?;
    let mut encoder = snap::raw::Encoder::new();
    let mut block = Vec::with_capacity(BLOCK_BYTES as usize);
    loop {
        block.clear();
        if (&mut *records).take(BLOCK_BYTES).read_to_end(&mut block)? == 0 {
            return Ok(());
        }
        let compressed = encoder.compress_vec(&block)?;
        into.write_all(&(compressed.len() as u32).to_be_bytes())?;
        into.write_all(&compressed)?;
    }
}

/// Reads xerial-framed snappy block by block, or one bare block.
struct SnappyReader<'a> {
    rest: &'a [u8],
    framed: bool,
    block: Cursor<Vec<u8>>,
}

impl<'a> SnappyReader<'a> {
    fn new(compressed: &'a [u8]) -> Self {
        let framed = compressed.len() >= XERIAL_HEADER_BYTES && compressed.starts_with(&XERIAL_MAGIC);
        let rest = if framed { &compressed[XERIAL_HEADER_BYTES..] } else { compressed };
        Self { rest, framed, block: Cursor::default() }
    }

    fn next_block(&mut self) -> io::Result<()> {
        let block = if self.framed {
            let Some((length, after)) = self.rest.split_first_chunk::<4>() else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let length = u32::from_be_bytes(*length) as usize;
            if length > after.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (block, rest) = after.split_at(length);
            self.rest = rest;
            block
        } else {
            std::mem::take(&mut self.rest)
        };
        if snap::raw::decompress_len(block)? > SNAPPY_BLOCK_BYTES_MAX {
            return Err(io::Error::other("a snappy block claims to be larger than 32 MiB"));
        }
        self.block = Cursor::new(snap::raw::Decoder::new().decompress_vec(block)?);
        Ok(())
    }
}

impl Read for SnappyReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for SnappyReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.block.position() as usize >= self.block.get_ref().len() && !self.rest.is_empty() {
            self.next_block()?;
        }
        self.block.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.block.consume(bytes);
    }
}
