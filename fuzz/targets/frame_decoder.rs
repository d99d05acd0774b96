//! Reads any bytes as a client's stream: nothing panics, and frames and requests do not depend on how the stream is cut.

#![no_main]

use anabranch_wire::messages::ApiKey;
use anabranch_wire::{FrameDecoder, FrameError, Next, api, decode_request};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;

/// Above what the fuzzer sends, below what a length can say.
const FRAME_BYTES_MAX: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = frames(stream, stream.len().max(1));
    assert_eq!(whole, frames(stream, usize::from(cut).max(1)), "a stream is the same however it is cut");
    for frame in whole.0 {
        decode(frame);
    }
    // Most streams begin with an impossible length: what follows is worth a try as a request.
    decode(Bytes::copy_from_slice(stream));
});

/// The frames of a stream that arrives in pieces of `cut` bytes, what ends it, and whether it ends inside a frame.
fn frames(stream: &[u8], cut: usize) -> (Vec<Bytes>, Result<bool, FrameError>) {
    let (mut decoder, mut input, mut frames) =
        (FrameDecoder::new(FRAME_BYTES_MAX), BytesMut::new(), Vec::new());
    for piece in stream.chunks(cut) {
        input.extend_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Next::Frame(frame)) => frames.push(frame),
                Ok(Next::Length(bytes)) => assert!(bytes <= FRAME_BYTES_MAX),
                Ok(Next::More) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, Ok(decoder.is_inside(&input)))
}

fn decode(mut frame: Bytes) {
    if let Ok((head, _)) = decode_request(&mut frame) {
        let api = api(head.key as i16).expect("what is decoded is served");
        assert!(api.serves(head.version) || head.key == ApiKey::ApiVersions, "what is decoded is served");
    }
}
