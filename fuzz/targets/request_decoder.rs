//! Decodes any bytes as a request, as the Kafka door does: nothing panics, what is decoded says the same when it is encoded
//! again, and no length in it takes memory that the bytes behind it do not account for.

#![no_main]

#[path = "memory.rs"]
mod memory;

use anabranch_wire::messages::ApiKey;
use anabranch_wire::{FRAME_LENGTH_BYTES, Request, api, decode_request, encode_request};
use bytes::{Buf, Bytes};
use libfuzzer_sys::fuzz_target;

/// The most that a byte may cost: an unknown tagged field has two, and each first one begins a node of a map.
const COST_MAX: usize = 512;

fuzz_target!(|data: &[u8]| {
    let mut frame = Bytes::copy_from_slice(data);
    let (decoded, peak_bytes) = memory::peak(|| decode_request(&mut frame));
    assert!(peak_bytes <= COST_MAX * (data.len() + 8), "{} bytes took {peak_bytes}", data.len());
    let Ok((head, request)) = decoded else { return };
    assert_eq!(request.key(), head.key);
    let api = api(head.key as i16).expect("what is decoded is served");
    if !api.serves(head.version) {
        assert_eq!(head.key, ApiKey::ApiVersions, "only this is answered in any version (KIP-511)");
        return;
    }
    let mut again = encode_request(&head, &request).expect("its version can say what was said in it");
    assert_eq!(again.get_i32() as usize, again.len(), "{FRAME_LENGTH_BYTES} bytes say how long a frame is");
    let read_again = decode_request(&mut again);
    // The messages' crate counts unknown tags above `i32::MAX` and does not write them. Only tools write requests.
    let is_said = read_again == Ok((head, request.clone()));
    assert!(is_said || has_huge_tag(&request), "{request:?} was written and read as {read_again:?}");
});

fn has_huge_tag(request: &Request) -> bool {
    format!("{request:?}").contains("unknown_tagged_fields: {-")
}
