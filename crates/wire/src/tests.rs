//! Requests of every API and version, whole, cut and bent.

use anabranch_core::seam::{Random, SeededRandom};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{self, ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use crate::shape::{Field, Kind, Walk};
use crate::{Api, DecodeError, Head, REQUEST_ELEMENTS_MAX, Response, ShapeError, apis};
use crate::{decode_request, encode_response};

/// Writes random requests that have a shape.
struct Writer {
    random: SeededRandom,
    into: BytesMut,
    flexible: bool,
    version: i16,
}

impl Writer {
    fn below(&self, limit: u64) -> u64 {
        self.random.next_u64() % limit
    }

    fn fields(&mut self, shape: &[Field]) {
        let (tagged, plain): (Vec<&Field>, Vec<&Field>) =
            shape.iter().filter(|field| field.is_in(self.version)).partition(|field| field.tag.is_some());
        plain.iter().for_each(|field| self.kind(&field.kind));
        if !self.flexible {
            return;
        }
        self.varint(tagged.len() as u32 + 1);
        for field in tagged {
            let outside = std::mem::take(&mut self.into);
            self.kind(&field.kind);
            let body = std::mem::replace(&mut self.into, outside);
            self.varint(field.tag.unwrap());
            self.varint(body.len() as u32);
            self.into.put_slice(&body);
        }
        // One that nobody knows.
        self.varint(77);
        self.varint(3);
        self.into.put_slice(b"abc");
    }

    fn kind(&mut self, kind: &Kind) {
        match *kind {
            Kind::Fixed(bytes) => (0..bytes).for_each(|_| self.into.put_u8(self.random.next_u64() as u8)),
            Kind::Text => {
                let text = vec![b'x'; self.below(200) as usize];
                match self.flexible {
                    true => self.varint(text.len() as u32 + 1),
                    false => self.into.put_i16(text.len() as i16),
                }
                self.into.put_slice(&text);
            }
            Kind::Blob => {
                let length = self.below(20) as usize;
                self.length(length);
                self.into.put_bytes(0xee, length);
            }
            Kind::List(element) => {
                let length = self.below(4) as usize;
                self.length(length);
                (0..length).for_each(|_| self.kind(element));
            }
            Kind::Struct(shape) => self.fields(shape),
            Kind::NullableStruct(shape) => {
                let present = self.below(2) == 1;
                self.into.put_i8(if present { 1 } else { -1 });
                if present {
                    self.fields(shape);
                }
            }
        }
    }

    fn length(&mut self, length: usize) {
        match self.flexible {
            true => self.varint(length as u32 + 1),
            false => self.into.put_i32(length as i32),
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.into.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.into.put_u8(value as u8);
    }
}

fn random_request(api: &Api, version: i16, seed: u64) -> (Bytes, usize) {
    let mut into = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(api.key as i16)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(StrBytes::from_static_str("tester")));
    header.encode(&mut into, api.key.request_header_version(version)).unwrap();
    let header_bytes = into.len();
    let flexible = api.is_flexible(version);
    let mut writer = Writer { random: SeededRandom::new(seed), into, flexible, version };
    writer.fields(api.shape);
    (writer.into.freeze(), header_bytes)
}

fn every_version() -> impl Iterator<Item = (&'static Api, i16)> {
    apis().iter().flat_map(|api| (api.served_min..=api.max).map(move |version| (api, version)))
}

/// The shapes are written by hand, so they are held against the generated decoder: it must end where the shape ends.
#[test]
fn the_decoder_reads_what_the_shapes_say() {
    for (api, version) in every_version() {
        for seed in 0..40 {
            let (mut bytes, _) = random_request(api, version, seed);
            let at = (api.name, version, seed);
            let (head, _) = decode_request(&mut bytes).unwrap_or_else(|error| panic!("{at:?}: {error}"));
            assert_eq!((head.correlation_id, head.client_id.as_deref()), (7, Some("tester")), "{at:?}");
            assert_eq!(bytes.len(), 0, "{at:?}");
        }
    }
}

#[test]
fn every_request_that_is_cut_is_refused() {
    for (api, version) in every_version() {
        let (bytes, _) = random_request(api, version, 3);
        for end in 0..bytes.len() {
            decode_request(&mut bytes.slice(..end)).unwrap_err();
        }
    }
}

/// If a length were believed, this would ask for gigabytes and abort.
#[test]
fn no_length_is_believed() {
    for (api, version) in every_version() {
        let (bytes, header_bytes) = random_request(api, version, 5);
        for at in header_bytes..bytes.len() {
            for huge in [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0xff, 0x7f]]
            {
                let mut bent = bytes[..at].to_vec();
                bent.extend_from_slice(huge);
                bent.extend_from_slice(bytes.get(at + huge.len()..).unwrap_or_default());
                let _ = decode_request(&mut bent.into());
            }
        }
    }
}

#[test]
fn elements_are_bounded_even_when_they_are_there() {
    let request = |count: usize| {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0, 42, 0, 0, 0, 0, 0, 1, 0xff, 0xff]); // DeleteGroups 0, no client id
        bytes.put_i32(count as i32);
        bytes.put_bytes(0, 2 * count);
        decode_request(&mut bytes.freeze())
    };
    assert!(request(REQUEST_ELEMENTS_MAX).is_ok());
    let error = request(REQUEST_ELEMENTS_MAX + 1).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { error: ShapeError::TooManyElements, .. }), "{error}");
}

#[test]
fn a_tag_that_lies_about_its_length_is_refused() {
    // The generated decoder reads a known tag by its type: a body longer than its length would shift all that follows.
    let shape = apis().iter().find(|api| api.key == ApiKey::Fetch).unwrap().shape;
    let mut body = BytesMut::new();
    body.put_bytes(0, 4 + 4 + 4 + 1 + 4 + 4); // replica_state is tagged; the fixed fields of v15
    body.put_slice(&[1, 1, 1]); // no topics, none forgotten, empty rack
    body.put_slice(&[1, 0, 2, 2]); // one tag: cluster id, two bytes, of which the text takes one and its length one
    body.put_u8(b'c');
    assert_eq!(Walk::new(&body, true).fields(shape, 15), Ok(()));
    let length_at = body.len() - 3;
    body[length_at] = 1;
    assert_eq!(Walk::new(&body, true).fields(shape, 15), Err(ShapeError::BadTag));
}

#[test]
fn what_is_not_served_is_told_by_name() {
    let decode = |key: i16, version: i16| {
        let mut bytes = BytesMut::new();
        bytes.put_i16(key);
        bytes.put_i16(version);
        bytes.put_slice(&[0, 0, 0, 9, 0xff, 0xff, 0, 0, 0]);
        decode_request(&mut bytes.freeze())
    };
    assert_eq!(decode(17, 0), Err(DecodeError::UnknownApi(17)));
    assert_eq!(decode(-1, 0), Err(DecodeError::UnknownApi(-1)));
    assert_eq!(decode(0, 2), Err(DecodeError::UnknownVersion { name: "Produce", version: 2 }));
    assert_eq!(decode(2, 11), Err(DecodeError::UnknownVersion { name: "ListOffsets", version: 11 }));
    assert!(matches!(decode(3, -1), Err(DecodeError::UnknownVersion { .. })));
    let (head, _) = decode(18, 99).unwrap();
    assert_eq!((head.version, head.correlation_id), (99, 9));
    assert!(matches!(decode_request(&mut Bytes::from_static(&[0])), Err(DecodeError::MalformedHeader(_))));
}

#[test]
fn an_api_versions_response_has_the_old_header_and_falls_back_to_version_0() {
    let response = Response::from(messages::ApiVersionsResponse::default().with_error_code(35));
    let encode = |version| {
        let head = Head { key: ApiKey::ApiVersions, version, correlation_id: 5, client_id: None };
        Bytes::from(encode_response(&head, response.clone()).unwrap().concat())
    };
    assert_eq!(&encode(99)[..], &[0, 0, 0, 10, 0, 0, 0, 5, 0, 35, 0, 0, 0, 0]);
    // Version 3 and up: compact array, throttle time, tags; the header is the same.
    assert_eq!(&encode(4)[..], &[0, 0, 0, 12, 0, 0, 0, 5, 0, 35, 1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_response_has_the_header_of_its_version() {
    for (version, header_version) in [(3, 0), (4, 1)] {
        let head = Head { key: ApiKey::Heartbeat, version, correlation_id: 5, client_id: None };
        let mut frame = Bytes::from(
            encode_response(&head, messages::HeartbeatResponse::default().into()).unwrap().concat(),
        );
        assert_eq!(bytes::Buf::get_i32(&mut frame) as usize, frame.len());
        assert_eq!(ResponseHeader::decode(&mut frame, header_version).unwrap().correlation_id, 5);
        messages::HeartbeatResponse::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty());
    }
    let head = Head { key: ApiKey::Heartbeat, version: 0, correlation_id: 5, client_id: None };
    assert!(encode_response(&head, messages::LeaveGroupResponse::default().into()).is_err());
}

proptest! {
    #[test]
    fn garbage_is_refused_or_decoded_and_never_worse(
        index in 0..apis().len(),
        version in 0i16..20,
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = BytesMut::new();
        bytes.put_i16(apis()[index].key as i16);
        bytes.put_i16(version.min(apis()[index].max));
        bytes.put_slice(&body);
        let _ = decode_request(&mut bytes.freeze());
    }

    #[test]
    fn garbage_without_even_a_key(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode_request(&mut bytes.into());
    }
}
