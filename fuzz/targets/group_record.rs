//! Reads any bytes as a record of `__consumer_offsets`, and what members of a group send each other: nothing panics, what is
//! read says the same when it is written again, the readers of a subscription agree, and no length takes memory that the bytes
//! behind it do not account for.

#![no_main]

#[path = "memory.rs"]
mod memory;
#[path = "record.rs"]
mod record;

use anabranch_broker::group::consumer_protocol::{
    Assignment, Subscription, VERSION_MAX, subscribed_topics, version,
};
use anabranch_broker::group::record::{Decoded, GroupRecord};
use libfuzzer_sys::fuzz_target;

/// An empty list of a topic's partitions has two bytes beside its id, and stands in a map; so has an empty text.
const COST_MAX: usize = 256;

fuzz_target!(|data: &[u8]| {
    let Some((key, value)) = record::split(data) else { return };
    let (decoded, peak_bytes) = memory::peak(|| GroupRecord::decode(key, value));
    assert!(peak_bytes <= COST_MAX * (data.len() + 8), "{} bytes took {peak_bytes}", data.len());
    if let Ok(Decoded::Record(record)) = decoded {
        let written = record.encode();
        let read_again = GroupRecord::decode(&written.key, written.value.as_deref());
        assert_eq!(read_again, Ok(Decoded::Record(record)), "it says the same");
    }
    if let Some(value) = value {
        read_subscription(value);
        read_assignment(value);
    }
});

fn read_subscription(bytes: &[u8]) {
    let (read, peak_bytes) = memory::peak(|| Subscription::decode(bytes));
    assert!(peak_bytes <= COST_MAX * (bytes.len() + 8), "{} bytes took {peak_bytes}", bytes.len());
    let Ok(read) = read else { return };
    assert_eq!(
        subscribed_topics(bytes).as_ref(),
        Ok(&read.topics),
        "the coordinator sees what the member said"
    );
    let written = read.encode(version(bytes).clamp(0, VERSION_MAX));
    assert_eq!(Subscription::decode(&written), Ok(read), "it says the same");
}

fn read_assignment(bytes: &[u8]) {
    let (read, peak_bytes) = memory::peak(|| Assignment::decode(bytes));
    assert!(peak_bytes <= COST_MAX * (bytes.len() + 8), "{} bytes took {peak_bytes}", bytes.len());
    let Ok(read) = read else { return };
    let written = read.encode(VERSION_MAX);
    assert_eq!(Assignment::decode(&written), Ok(read), "it says the same");
}
