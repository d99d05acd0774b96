//! From a frame to a request.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest};
use kafka_protocol::protocol::StrBytes;

use crate::api::{Request, api};
use crate::shape::{ShapeError, Walk};

/// What every request says before its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which API.
    pub key: ApiKey,
    /// In which version. One that is not served only for `ApiVersions`, whose answer says so.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<StrBytes>,
}

/// A frame that is no request which can be answered: all that is left is to close the connection. The peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// An API that is not served.
    #[error("API key {0} is not served")]
    UnknownApi(i16),
    /// A version that is not served.
    #[error("{name} version {version} is not served")]
    UnknownVersion {
        /// Which API.
        name: &'static str,
        /// What was asked for.
        version: i16,
    },
    /// The bytes are not what their key and version say.
    #[error("{name} version {version}: {error}")]
    Malformed {
        /// Which API.
        name: &'static str,
        /// Which version.
        version: i16,
        /// What is wrong.
        error: ShapeError,
    },
    /// The frame is too short for a header, or its header is malformed.
    #[error("malformed request header: {0}")]
    MalformedHeader(ShapeError),
    /// A string is not UTF-8, or null where there must be something.
    #[error("{name} version {version}: a field holds what it must not")]
    Invalid {
        /// Which API.
        name: &'static str,
        /// Which version.
        version: i16,
    },
}

/// Decodes a whole frame. Payloads are shared with it, not copied. Bytes after the body are ignored, as Kafka does.
///
/// An `ApiVersions` request of an unknown version is decoded as far as its header, so that it can be answered (KIP-511).
///
/// # Errors
/// [`DecodeError`].
pub fn decode_request(frame: &mut Bytes) -> Result<(Head, Request), DecodeError> {
    let mut walk = Walk::new(frame, false);
    let key = walk.take().map(i16::from_be_bytes).map_err(DecodeError::MalformedHeader)?;
    let version = walk.take().map(i16::from_be_bytes).map_err(DecodeError::MalformedHeader)?;
    let api = api(key).ok_or(DecodeError::UnknownApi(key))?;
    let name = api.name;
    let is_served = api.serves(version);
    if !is_served && api.key != ApiKey::ApiVersions {
        return Err(DecodeError::UnknownVersion { name, version });
    }
    let (correlation_id, client_id) = decode_header_rest(frame)?;
    let head = Head { key: api.key, version, correlation_id, client_id };
    if !is_served {
        return Ok((head, Request::ApiVersions(ApiVersionsRequest::default())));
    }
    let malformed = |error| DecodeError::Malformed { name, version, error };
    let mut walk = Walk::new(frame, api.is_flexible(version));
    if api.is_flexible(version) {
        // Request header 2 ends with tagged fields, none of which is known.
        walk.fields(&[], version).map_err(DecodeError::MalformedHeader)?;
        let header_tags_bytes = frame.len() - walk.left();
        walk.fields(api.shape, version).map_err(malformed)?;
        frame.advance(header_tags_bytes);
    } else {
        walk.fields(api.shape, version).map_err(malformed)?;
    }
    let request = Request::decode(api.key, frame, version).ok_or(DecodeError::Invalid { name, version })?;
    Ok((head, request))
}

/// Request header 1, which later ones extend (`RequestHeader.json`): key, version, correlation id, client id. The client
/// id's length is an i16 in every version.
fn decode_header_rest(frame: &mut Bytes) -> Result<(i32, Option<StrBytes>), DecodeError> {
    let mut walk = Walk::new(frame, false);
    let mut parse = || -> Result<(i32, i16), ShapeError> {
        walk.take::<4>()?;
        Ok((i32::from_be_bytes(walk.take()?), i16::from_be_bytes(walk.take()?)))
    };
    let (correlation_id, client_id_bytes) = parse().map_err(DecodeError::MalformedHeader)?;
    let rest = walk.left();
    frame.advance(frame.len() - rest);
    let client_id = match usize::try_from(client_id_bytes) {
        Err(_) if client_id_bytes == -1 => None,
        Err(_) => return Err(DecodeError::MalformedHeader(ShapeError::BadLength)),
        Ok(bytes) if bytes > rest => return Err(DecodeError::MalformedHeader(ShapeError::Truncated)),
        Ok(bytes) => Some(
            StrBytes::from_utf8(frame.split_to(bytes))
                .map_err(|_| DecodeError::MalformedHeader(ShapeError::BadLength))?,
        ),
    };
    Ok((correlation_id, client_id))
}
