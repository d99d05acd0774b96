//! A frame on its way out, in pieces.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// The pieces of a frame that are not written yet; none of them is empty.
#[derive(Debug)]
pub(super) struct Pieces(VecDeque<Bytes>);

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        Self(pieces.into_iter().filter(|piece| !piece.is_empty()).collect())
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
            let (mut frame, mut taken) = (Pieces::new(pieces.to_vec()), Vec::new());
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
