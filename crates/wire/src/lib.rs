//! Kafka protocol frames: how bytes become requests, how responses become bytes, and what is advertised.
//!
//! This room does no I/O and keeps no state but a frame decoder's. The messages are those of the `kafka-protocol`
//! crate, generated from Kafka's own schemas; record batches pass through as bytes.
//!
//! ```text
//! bytes ─► FrameDecoder ─► decode_request ─► (Head, Request)        serve does the rest
//! bytes ◄────────────────── encode_response ◄─ Response
//! ```
//!
//! Whoever asks has [`encode_request`] and [`decode_response`]; the latter believes its peer, and is for tests and tools.
//!
//! Nothing here trusts the peer: a frame's length is checked before memory is taken for it, and a request is walked
//! against its shape (see `shape`) before the generated decoder, which believes array lengths, gets to see it.
//!
//! ```
//! use anabranch_wire::{FrameDecoder, Next};
//! let mut input = bytes::BytesMut::from(&[0, 0, 0, 2, 7, 7, 0, 0][..]);
//! let mut frames = FrameDecoder::new(1024);
//! assert_eq!(frames.next(&mut input)?, Next::Length(2)); // take memory for two bytes, then go on
//! assert_eq!(frames.next(&mut input)?, Next::Frame(bytes::Bytes::from_static(&[7, 7])));
//! assert_eq!(frames.next(&mut input)?, Next::More);
//! # Ok::<(), anabranch_wire::FrameError>(())
//! ```

mod api;
mod asking;
mod fetched;
mod frame;
mod lengths;
mod request;
mod response;
mod shape;
#[cfg(test)]
mod tests;

pub use api::{Api, Request, Response, api, apis};
pub use asking::{decode_response, encode_request};
pub use fetched::{Absent, Fetched, Piece};
pub use frame::{FRAME_LENGTH_BYTES, FrameDecoder, FrameError, Next, REQUEST_BYTES_MAX};
pub use lengths::{Length, LengthOf, lengths};
pub use request::{DecodeError, Head, decode_request};
pub use response::{EncodeError, encode_fetched, encode_response};
pub use shape::{REQUEST_ELEMENTS_MAX, ShapeError};

/// Kafka's error codes, by name. 0, no error, is [`NO_ERROR`].
pub use kafka_protocol::error::ResponseError as ErrorCode;
/// The messages, and the types of their fields.
pub use kafka_protocol::{messages, protocol};

/// The error code of success.
pub const NO_ERROR: i16 = 0;
