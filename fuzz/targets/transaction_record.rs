//! Reads any bytes as a record of `__transaction_state`: nothing panics, what is read says the same when it is written again,
//! and no length takes memory that the bytes behind it do not account for.

#![no_main]

#[path = "memory.rs"]
mod memory;
#[path = "record.rs"]
mod record;

use anabranch_broker::fuzz::rewrite_transaction;
use libfuzzer_sys::fuzz_target;

/// A partition stands in a set, beside the name of its topic, which it has once more; and all is read twice.
const COST_MAX: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let Some((key, value)) = record::split(data) else { return };
    let (read, peak_bytes) = memory::peak(|| rewrite_transaction(key, value));
    assert!(peak_bytes <= COST_MAX * (data.len() + 8), "{} bytes took {peak_bytes}", data.len());
    let Ok(Some(written)) = read else { return };
    assert_eq!(written.key, key, "there is one way to write a key");
    assert_eq!(written.value.is_some(), value.is_some());
    let read_again = rewrite_transaction(&written.key, written.value.as_deref());
    assert_eq!(read_again, Ok(Some(written)), "it says the same");
});
