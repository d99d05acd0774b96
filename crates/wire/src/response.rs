//! From a response to a frame.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;

use crate::api::{Response, api};
use crate::fetched::{self, Absent, Fetched, Piece};
use crate::frame::FRAME_LENGTH_BYTES;
use crate::request::Head;

/// A response that cannot be said in the version that was asked. Our fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response to {key:?} version {version} cannot be encoded")]
pub struct EncodeError {
    /// Which API.
    pub key: ApiKey,
    /// Which version.
    pub version: i16,
}

/// The whole frame that answers the request of `head`, length included, in pieces: the records of a fetch are not copied.
///
/// # Errors
/// [`EncodeError`] when the response does not fit the version, or is of another API.
pub fn encode_response(head: &Head, response: Response) -> Result<Vec<Bytes>, EncodeError> {
    if let Response::Fetch(response) = response {
        let pieces = encode_fetched(head, Fetched::<Infallible>::from(response))?;
        let bytes = pieces.into_iter().map(|piece| match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::Absent(never) => match never {},
        });
        return Ok(bytes.collect());
    }
    let error = EncodeError { key: head.key, version: head.version };
    if response.key() != head.key {
        return Err(error);
    }
    let version = version_of(head);
    let body_bytes = response.size_bytes(version).ok_or(error)?;
    let mut frame = BytesMut::with_capacity(HEAD_BYTES_MAX + body_bytes);
    put_head(&mut frame, head, body_bytes).ok_or(error)?;
    let head_bytes = frame.len();
    response.encode(&mut frame, version).ok_or(error)?;
    match frame.len() == head_bytes + body_bytes {
        true => Ok(vec![frame.freeze()]),
        false => Err(error),
    }
}

/// The same for a fetch some of whose records are not in memory.
///
/// # Errors
/// [`EncodeError`]
pub fn encode_fetched<A: Absent>(head: &Head, fetched: Fetched<A>) -> Result<Vec<Piece<A>>, EncodeError> {
    let error = EncodeError { key: head.key, version: head.version };
    if head.key != ApiKey::Fetch {
        return Err(error);
    }
    let mut pieces = fetched::encode(fetched, version_of(head)).ok_or(error)?;
    let mut frame = BytesMut::with_capacity(HEAD_BYTES_MAX);
    put_head(&mut frame, head, pieces.iter().map(Piece::len_bytes).sum()).ok_or(error)?;
    pieces.insert(0, Piece::Bytes(frame.freeze()));
    Ok(pieces)
}

/// Of the length, the correlation id and no tags.
const HEAD_BYTES_MAX: usize = FRAME_LENGTH_BYTES + size_of::<i32>() + 1;

/// KIP-511: an ApiVersions request of an unknown version is answered in version 0, which every client reads.
fn version_of(head: &Head) -> i16 {
    match api(head.key as i16) {
        Some(api) if api.serves(head.version) => head.version,
        _ => 0,
    }
}

/// The length of the frame and the response header: version 0 is the correlation id; 1 adds tagged fields. ApiVersions has 0
/// in every version.
fn put_head(frame: &mut BytesMut, head: &Head, body_bytes: usize) -> Option<()> {
    let has_tags = head.key.response_header_version(version_of(head)) >= 1;
    let length = size_of::<i32>() + usize::from(has_tags) + body_bytes;
    frame.put_i32(i32::try_from(length).ok()?);
    frame.put_i32(head.correlation_id);
    if has_tags {
        frame.put_u8(0);
    }
    Some(())
}
