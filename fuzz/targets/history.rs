//! Reads any bytes as a history of clients, and judges it: nothing panics, what is read says the same when it is written again,
//! and the verdict is the same.

#![no_main]

use anabranch_sim::history::{judge, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(events) = parse(data) else { return };
    let mut lines = Vec::new();
    for event in &events {
        serde_json::to_writer(&mut lines, event).expect("an event is plain data");
        lines.push(b'\n');
    }
    assert_eq!(parse(&lines[..]).expect("what was written is read"), events, "it says the same");
    if let Ok(verdict) = judge(&events) {
        assert_eq!(verdict.events, events.len());
        assert!(!verdict.to_string().is_empty());
    }
});
