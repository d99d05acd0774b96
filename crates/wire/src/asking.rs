//! The other end's part: from a request to a frame, and from a frame to a response.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::api::{Request, Response};
use crate::frame::FRAME_LENGTH_BYTES;
use crate::request::Head;

/// The whole frame of a request, length included. `None` when the request cannot be said in the head's version, or is of
/// another API.
#[must_use]
pub fn encode_request(head: &Head, request: &Request) -> Option<Bytes> {
    if request.key() != head.key {
        return None;
    }
    let header = RequestHeader::default()
        .with_request_api_key(head.key as i16)
        .with_request_api_version(head.version)
        .with_correlation_id(head.correlation_id)
        .with_client_id(head.client_id.clone());
    let mut frame = BytesMut::new();
    frame.put_i32(0); // the length, below
    header.encode(&mut frame, head.key.request_header_version(head.version)).ok()?;
    request.encode(&mut frame, head.version)?;
    let length = i32::try_from(frame.len() - FRAME_LENGTH_BYTES).ok()?;
    frame[..FRAME_LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
    Some(frame.freeze())
}

/// What a frame without its length answers to the request of `head`: `None` unless it is all of an answer, and nothing else.
///
/// It believes lengths: for peers that are trusted.
#[must_use]
pub fn decode_response(head: &Head, mut frame: Bytes) -> Option<Response> {
    let header = ResponseHeader::decode(&mut frame, head.key.response_header_version(head.version)).ok()?;
    let response = Response::decode(head.key, &mut frame, head.version)?;
    (header.correlation_id == head.correlation_id && frame.is_empty()).then_some(response)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::{ApiKey, HeartbeatRequest, HeartbeatResponse};
    use kafka_protocol::protocol::StrBytes;

    use super::*;
    use crate::{decode_request, encode_response};

    #[test]
    fn both_ends_understand_each_other() {
        let client_id = Some(StrBytes::from_static_str("c"));
        for version in 0..=4 {
            let head =
                Head { key: ApiKey::Heartbeat, version, correlation_id: 7, client_id: client_id.clone() };
            let request = Request::from(HeartbeatRequest::default().with_generation_id(3));
            let mut frame = encode_request(&head, &request).unwrap().slice(FRAME_LENGTH_BYTES..);
            assert_eq!(decode_request(&mut frame), Ok((head.clone(), request)));

            let response = Response::from(HeartbeatResponse::default().with_error_code(22));
            let frame = encode_response(&head, response.clone()).unwrap().concat();
            let frame = Bytes::from(frame).slice(FRAME_LENGTH_BYTES..);
            assert_eq!(decode_response(&head, frame.clone()), Some(response));
            let longer = Bytes::from([&frame[..], &[0]].concat());
            assert_eq!(decode_response(&head, longer), None);
            assert_eq!(decode_response(&Head { correlation_id: 8, ..head }, frame), None);
        }
    }

    #[test]
    fn what_a_version_cannot_say_is_not_said() {
        let head = Head { key: ApiKey::Heartbeat, version: 0, correlation_id: 7, client_id: None };
        let request =
            HeartbeatRequest::default().with_group_instance_id(Some(StrBytes::from_static_str("i")));
        assert_eq!(encode_request(&head, &request.into()), None);
    }
}
