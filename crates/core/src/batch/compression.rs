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

/// RFC 1952's window of 32 KiB, and what the decoder has beside it.
const GZIP_BYTES: usize = 64 << 10;
/// What the decoder keeps beside a block and the compressed block.
const LZ4_HISTORY_BYTES: usize = 128 << 10;
/// The decoder's state, and its buffers for a block that comes in and one that goes out.
const ZSTD_BUFFERS_BYTES: usize = 512 << 10;
/// RFC 8878, 3.1.1.1.2: the smallest window.
const ZSTD_WINDOW_LOG_MIN: u32 = 10;
/// The largest that the decoder accepts.
const ZSTD_WINDOW_BYTES_MAX: usize = 128 << 20;

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
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
                // What the first frame says was counted; a later one must not take more.
                let window_bytes = zstd_window_bytes(compressed).max(1 << ZSTD_WINDOW_LOG_MIN);
                decoder.window_log_max(window_bytes.next_power_of_two().ilog2())?;
                Box::new(BufReader::new(decoder))
            }
        })
    }

    /// The memory that [`Self::decompress`] takes at most, by what `compressed` says of itself. What is decompressed is not
    /// in it. Nonsense counts as little, for it is refused before it takes any.
    pub(super) fn memory_bytes(self, compressed: &[u8]) -> usize {
        match self {
            Self::None => 0,
            Self::Gzip => GZIP_BYTES,
            Self::Snappy => SnappyReader::new(compressed).largest_block_bytes(),
            Self::Lz4 => 2 * lz4_block_bytes(compressed) + LZ4_HISTORY_BYTES,
            Self::Zstd => zstd_window_bytes(compressed) + ZSTD_BUFFERS_BYTES,
        }
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

/// The window of the first frame (RFC 8878, 3.1.1.1): the content's size if it is one segment, or as the window descriptor
/// says.
fn zstd_window_bytes(compressed: &[u8]) -> usize {
    const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let window = || -> Option<u64> {
        let (descriptor, rest) = compressed.strip_prefix(&MAGIC)?.split_first()?;
        if descriptor & SINGLE_SEGMENT == 0 {
            let window = rest.first()?;
            let base = 1u64 << (u32::from(window >> 3) + ZSTD_WINDOW_LOG_MIN);
            return Some(base + base / 8 * u64::from(window & 7));
        }
        let rest = rest.get([0, 1, 2, 4][usize::from(descriptor & 3)]..)?;
        Some(match descriptor >> 6 {
            0 => u64::from(*rest.first()?),
            1 => u64::from(u16::from_le_bytes(*rest.first_chunk()?)) + 256,
            2 => u64::from(u32::from_le_bytes(*rest.first_chunk()?)),
            _ => u64::from_le_bytes(*rest.first_chunk()?),
        })
    };
    // Another kind of frame may stand in front, which honest producers never write.
    let window = window().map_or(usize::MAX, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    window.min(ZSTD_WINDOW_BYTES_MAX)
}

/// The block size of the first frame (LZ4 frame format, "BD byte"); the largest if it does not say.
fn lz4_block_bytes(compressed: &[u8]) -> usize {
    let size = compressed.get(5).map_or(7, |descriptor| descriptor >> 4 & 7);
    match size {
        4 => 64 << 10,
        5 => 256 << 10,
        6 => 1 << 20,
        7 => 4 << 20,
        _ => 8 << 20, // the legacy format
    }
}

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

    /// The largest block, as the blocks say.
    fn largest_block_bytes(mut self) -> usize {
        let mut largest = 0;
        while let Some(block) = (!self.rest.is_empty()).then(|| self.take_block().ok()).flatten() {
            largest = largest.max(snap::raw::decompress_len(block).unwrap_or(0));
        }
        largest.min(SNAPPY_BLOCK_BYTES_MAX)
    }

    /// The next block, compressed.
    fn take_block(&mut self) -> io::Result<&'a [u8]> {
        Ok(if self.framed {
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
        })
    }

    fn next_block(&mut self) -> io::Result<()> {
        let block = self.take_block()?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a decoder takes is known before it takes it.
    #[test]
    fn memory_is_told_by_the_first_bytes() {
        let text = b"a few words, ".repeat(100_000);
        let memory = |codec: Compression| codec.memory_bytes(&codec.compress(&text).unwrap());
        assert_eq!(memory(Compression::None), 0);
        assert_eq!(memory(Compression::Gzip), 64 << 10);
        assert_eq!(memory(Compression::Snappy), 32 << 10);
        assert!((256 << 10..=9 << 20).contains(&memory(Compression::Lz4)), "{}", memory(Compression::Lz4));
        assert!((1 << 20..4 << 20).contains(&memory(Compression::Zstd)), "{}", memory(Compression::Zstd));
        for log in [10, 19, 24, 27] {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&text).unwrap();
            let frame = encoder.finish().unwrap();
            assert_eq!(zstd_window_bytes(&frame), 1 << log);
            let mut decoded = Vec::new();
            Compression::Zstd.decompress(&frame).unwrap().read_to_end(&mut decoded).unwrap();
            assert!(decoded == text, "a window of 2^{log}");
        }
        for nonsense in [&[][..], &[0; 3], &[0xff; 40], &XERIAL_MAGIC] {
            for codec in [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
                codec.memory_bytes(nonsense);
            }
        }
    }

    /// A small frame that was counted, and behind it one with a large window that was not.
    #[test]
    fn a_later_frame_takes_no_more_than_the_first() {
        let frame = |log| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&[7; 5000]).unwrap();
            encoder.finish().unwrap()
        };
        let read = |frames: &[u8]| {
            Compression::Zstd
                .decompress(frames)
                .unwrap()
                .read_to_end(&mut Vec::new())
                .map_err(|e| e.to_string())
        };
        assert_eq!(read(&[frame(20), frame(20)].concat()), Ok(10_000));
        assert!(read(&[frame(20), frame(24)].concat()).is_err());
    }
}
