//! Frames: four bytes of length, big endian, and as many bytes of request.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's length.
pub const FRAME_LENGTH_BYTES: usize = 4;

/// `socket.request.max.bytes`: Kafka's default.
pub const REQUEST_BYTES_MAX: usize = 100 * 1024 * 1024;

/// A frame that cannot be; nothing after it on the connection means anything. The peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is below zero.
    #[error("a frame of negative length {0}")]
    Negative(i32),
    /// The length is above the limit.
    #[error("a frame of {length_bytes} bytes, and the limit is {max_bytes}")]
    TooLarge {
        /// What the peer announced.
        length_bytes: usize,
        /// `socket.request.max.bytes`.
        max_bytes: usize,
    },
}

/// What a [`FrameDecoder`] found next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A frame of so many bytes begins. Told once per frame, before any memory is needed for it.
    Length(usize),
    /// A whole frame, without its length.
    Frame(Bytes),
    /// Neither, until more bytes come.
    More,
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    bytes_max: usize,
    /// The length of the frame that has begun.
    begun: Option<usize>,
}

impl FrameDecoder {
    /// Refuses frames larger than `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, begun: None }
    }

    /// Takes what comes next off the front of `input`. It reserves nothing: whoever reads makes room.
    ///
    /// # Errors
    /// [`FrameError`]; the stream cannot be read on.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Next, FrameError> {
        let Some(length) = self.begun else {
            if input.len() < FRAME_LENGTH_BYTES {
                return Ok(Next::More);
            }
            let signed = input.get_i32();
            let length_bytes = usize::try_from(signed).map_err(|_| FrameError::Negative(signed))?;
            if length_bytes > self.bytes_max {
                return Err(FrameError::TooLarge { length_bytes, max_bytes: self.bytes_max });
            }
            self.begun = Some(length_bytes);
            return Ok(Next::Length(length_bytes));
        };
        if input.len() < length {
            return Ok(Next::More);
        }
        self.begun = None;
        Ok(Next::Frame(input.split_to(length).freeze()))
    }

    /// Somebody else has taken the frame that has begun off the stream.
    pub fn skip(&mut self) {
        self.begun = None;
    }

    /// Whether the stream stands inside a frame, with `input` not yet taken: then its end is no clean end.
    #[must_use]
    pub fn is_inside(&self, input: &BytesMut) -> bool {
        self.begun.is_some() || !input.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_taken() {
        let next = |length: i32| FrameDecoder::new(100).next(&mut BytesMut::from(&length.to_be_bytes()[..]));
        assert_eq!(next(-1), Err(FrameError::Negative(-1)));
        assert_eq!(next(i32::MAX), Err(FrameError::TooLarge { length_bytes: 0x7fff_ffff, max_bytes: 100 }));
        assert_eq!(next(101), Err(FrameError::TooLarge { length_bytes: 101, max_bytes: 100 }));
        assert_eq!(next(100), Ok(Next::Length(100)));
        assert_eq!(next(0), Ok(Next::Length(0)));
    }

    proptest! {
        #[test]
        fn frames_come_out_however_the_stream_is_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in 1usize..60,
        ) {
            let mut stream = Vec::new();
            for frame in &frames {
                stream.extend_from_slice(&(frame.len() as i32).to_be_bytes());
                stream.extend_from_slice(frame);
            }
            let (mut decoder, mut input, mut got) = (FrameDecoder::new(40), BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                input.extend_from_slice(piece);
                loop {
                    match decoder.next(&mut input).unwrap() {
                        Next::Frame(frame) => got.push(frame.to_vec()),
                        Next::Length(_) => {}
                        Next::More => break,
                    }
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(!decoder.is_inside(&input));
        }
    }
}
