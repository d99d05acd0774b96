//! A frame on its way out, in pieces.
//!
//! Records that are not read yet are read through one buffer: a piece is read, checked and written while it is in the
//! processor's cache, off the async threads, until the socket takes no more; then the connection waits for the socket, and no
//! thread does. While the peer takes one piece out of the socket, the next is read. `docs/adr/0011` has the figures.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use anabranch_broker::BatchRange;
use anabranch_wire::{Absent, Piece};
use bytes::{Buf, Bytes};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, timeout_at};

use super::Door;
use super::connection::Closed;
use super::memory::Held;

/// A frame or an answer of so many bytes may take a second, beyond what the limits for standing still allow: whoever holds
/// memory must not hold it for ever a byte at a time.
const BYTES_PER_SECOND_MIN: usize = 64 << 10;

/// How long so many bytes may take.
pub(super) fn slowest(bytes: usize) -> Duration {
    Duration::from_secs((bytes / BYTES_PER_SECOND_MIN) as u64)
}

/// Records that were found and not read.
#[derive(Debug)]
pub(super) struct Unread(pub(super) BatchRange);

impl Absent for Unread {
    fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }
}

/// A frame that is not written yet.
#[derive(Debug)]
pub(super) struct Frame {
    pieces: Vec<Piece<Unread>>,
    /// For pieces that are not read yet.
    buffer_bytes: usize,
    /// The memory for all of it.
    held: Option<Held>,
}

impl Frame {
    /// All of it is there.
    pub(super) fn whole(pieces: Vec<Bytes>) -> Self {
        Self { pieces: pieces.into_iter().map(Piece::Bytes).collect(), buffer_bytes: 0, held: None }
    }

    /// What is not read is read through a buffer of so many bytes, which are part of what is held.
    pub(super) fn of(pieces: Vec<Piece<Unread>>, buffer_bytes: usize, held: Option<Held>) -> Self {
        Self { pieces, buffer_bytes, held }
    }

    /// Writes all of it, as long as the peer goes on reading it; gives the writer back.
    pub(super) async fn write(
        self,
        door: &Door,
        mut writer: OwnedWriteHalf,
    ) -> Result<OwnedWriteHalf, Closed> {
        let bytes = self.pieces.iter().map(Piece::len_bytes).sum();
        let patience = Patience::new(door, bytes);
        let mut there = Pieces::default();
        let mut buffer = Buffer { _held: self.held, ..Buffer::default() };
        for piece in self.pieces {
            match piece {
                Piece::Bytes(bytes) => there.push(bytes),
                Piece::Absent(Unread(range)) => {
                    write_pieces(door, &mut writer, &mut there, &patience).await?;
                    buffer.bytes.resize(self.buffer_bytes, 0);
                    (writer, buffer) = write_range(door, writer, range, buffer, &patience).await?;
                }
            }
        }
        write_pieces(door, &mut writer, &mut there, &patience).await?;
        Ok(writer)
    }
}

/// How long the peer of a frame may take.
#[derive(Debug)]
struct Patience {
    each: Duration,
    deadline: Instant,
}

impl Patience {
    fn new(door: &Door, frame_bytes: usize) -> Self {
        let each = door.limits.answer_stall_max;
        Self { each, deadline: Instant::now() + each + slowest(frame_bytes) }
    }

    /// Waits until the peer has taken something.
    async fn wait<T>(&self, taken: impl Future<Output = io::Result<T>>) -> Result<T, Closed> {
        let until = self.deadline.min(Instant::now() + self.each);
        Ok(timeout_at(until, taken).await.map_err(|_| Closed::NotRead(self.each))??)
    }
}

async fn write_pieces(
    door: &Door,
    writer: &mut OwnedWriteHalf,
    pieces: &mut Pieces,
    patience: &Patience,
) -> Result<(), Closed> {
    while pieces.has_remaining() {
        let written = patience.wait(writer.write_buf(pieces)).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        door.metrics.bytes_out.add(written as u64);
    }
    Ok(())
}

/// What was read, checked and not written yet stands at `from..to`.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
    /// It is given back when the last one is done who uses it, whatever becomes of the connection.
    _held: Option<Held>,
}

async fn write_range(
    door: &Door,
    mut writer: OwnedWriteHalf,
    mut range: BatchRange,
    mut buffer: Buffer,
    patience: &Patience,
) -> Result<(OwnedWriteHalf, Buffer), Closed> {
    loop {
        let pushed = tokio::task::spawn_blocking(move || {
            let pushed = push(&writer, &mut range, &mut buffer);
            (writer, range, buffer, pushed)
        });
        let (is_done, written);
        (writer, range, buffer, (is_done, written)) = {
            let (writer, range, buffer, pushed) = pushed.await.expect("reading a log does not panic");
            (writer, range, buffer, pushed?)
        };
        door.metrics.bytes_out.add(written);
        if is_done {
            door.metrics.records_out.add(range.record_count());
            return Ok((writer, buffer));
        }
        patience.wait(writer.writable()).await?;
    }
}

/// Reads and writes until the socket takes no more. Whether all is written, and how much was.
fn push(writer: &OwnedWriteHalf, range: &mut BatchRange, buffer: &mut Buffer) -> Result<(bool, u64), Closed> {
    let mut written = 0;
    loop {
        while buffer.from < buffer.to {
            match writer.try_write(&buffer.bytes[buffer.from..buffer.to]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(count) => {
                    buffer.from += count;
                    written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((false, written)),
                Err(error) => return Err(error.into()),
            }
        }
        let read = range.read_next(&mut buffer.bytes).map_err(Closed::Unreadable)?;
        if read == 0 {
            return Ok((true, written));
        }
        (buffer.from, buffer.to) = (0, read);
    }
}

/// The pieces of a frame that are there and not written yet; none of them is empty.
#[derive(Debug, Default)]
struct Pieces(VecDeque<Bytes>);

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.0.push_back(piece);
        }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.0.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let filled = into.len().min(self.0.len());
        into.iter_mut().zip(&self.0).for_each(|(slice, piece)| *slice = IoSlice::new(piece));
        filled
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            let piece = self.0.front_mut().expect("nobody advances beyond the end");
            if bytes < piece.len() {
                return piece.advance(bytes);
            }
            bytes -= piece.len();
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_one_stream_however_they_are_taken() {
        let pieces = [&b"one"[..], b"", b"two", b"three"].map(Bytes::from_static);
        for step in 1..12 {
            let (mut frame, mut taken) = (Pieces::default(), Vec::new());
            pieces.iter().for_each(|piece| frame.push(piece.clone()));
            while frame.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 2];
                let filled = frame.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                assert!(seen.starts_with(frame.chunk()));
                let bytes = step.min(seen.len());
                taken.extend_from_slice(&seen[..bytes]);
                frame.advance(bytes);
            }
            assert_eq!(taken, b"onetwothree", "{step} at a time");
        }
    }
}
