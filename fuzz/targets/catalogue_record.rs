//! Reads any bytes as a record of the catalogue, as the start does: nothing panics, and what is read says the same when it is
//! written again.

#![no_main]

#[path = "record.rs"]
mod record;

use anabranch_broker::fuzz::rewrite_catalogue;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((key, value)) = record::split(data) else { return };
    let read = rewrite_catalogue(Bytes::copy_from_slice(key), value.map(Bytes::copy_from_slice));
    let Ok(written) = read else { return };
    assert_eq!(written.key.as_deref(), Some(key), "there is one way to write a key");
    let read_again = rewrite_catalogue(written.key.clone().expect("it has one"), written.value.clone());
    assert_eq!(read_again, Ok(written), "it says the same");
});
