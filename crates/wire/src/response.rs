//! From a response to a frame.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::ApiKey;

use crate::api::{Response, api};
use crate::fetched;
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
    let error = EncodeError { key: head.key, version: head.version };
    if response.key() != head.key {
        return Err(error);
    }
    // KIP-511: an ApiVersions request of an unknown version is answered in version 0, which every client reads.
    let version = match api(head.key as i16) {
        Some(api) if api.serves(head.version) => head.version,
        _ => 0,
    };
    // Response header 0 is the correlation id; 1 adds tagged fields. ApiVersions has 0 in every version.
    let has_tags = head.key.response_header_version(version) >= 1;
    let body_bytes = response.size_bytes(version).ok_or(error)?;
    let length = size_of::<i32>() + usize::from(has_tags) + body_bytes;
    let is_fetch = matches!(response, Response::Fetch(_));
    let mut frame = BytesMut::with_capacity(if is_fetch { 0 } else { FRAME_LENGTH_BYTES + length });
    frame.put_i32(i32::try_from(length).map_err(|_| error)?);
    frame.put_i32(head.correlation_id);
    if has_tags {
        frame.put_u8(0);
    }
    let pieces = match response {
        Response::Fetch(response) => fetched::encode(frame, response, version).ok_or(error)?.finish(),
        response => {
            response.encode(&mut frame, version).ok_or(error)?;
            vec![frame.freeze()]
        }
    };
    match pieces.iter().map(Bytes::len).sum::<usize>() == FRAME_LENGTH_BYTES + length {
        true => Ok(pieces),
        false => Err(error),
    }
}
