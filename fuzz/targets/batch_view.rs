//! Reads any bytes as record batches: nothing panics, the two readers of a batch's records agree, and the end of a transaction is
//! the same when it is written again.

#![no_main]

use anabranch_core::Offset;
use anabranch_core::batch::{BATCH_HEADER_BYTES, BATCH_LENGTH_PREFIX_BYTES, Batch, NO_TIMESTAMP};
use anabranch_core::batch::{check_batch, split_batches};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    read(Bytes::copy_from_slice(data));
    // No fuzzer guesses a CRC-32C: a liar who gets it right comes much further.
    if data.len() >= BATCH_HEADER_BYTES {
        read(forged(data));
    }
});

/// The same bytes as one batch whose format, length and checksum are right.
fn forged(data: &[u8]) -> Bytes {
    let mut bytes = data.to_vec();
    let length = (bytes.len() - BATCH_LENGTH_PREFIX_BYTES) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = 2;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn read(bytes: Bytes) {
    let mut rest = bytes.clone();
    for batch in split_batches(bytes) {
        let Ok(batch) = batch else { return };
        assert_eq!(
            rest.split_to(batch.header().len_bytes),
            batch.bytes(),
            "batches are cut out whole, in order"
        );
        assert_eq!(check_batch(batch.bytes()).as_ref(), Ok(&batch), "a batch by itself is the same batch");
        read_records(&batch);
        read_marker(&batch);
    }
    assert!(rest.is_empty(), "without an error every byte belongs to a batch");
}

fn read_records(batch: &Batch) {
    let read = batch.records();
    let Ok(summary) = batch.check_records() else { return };
    let read = read.expect("records that pass the check can be read");
    let header = batch.header();
    assert_eq!(read.len(), header.record_count as usize);
    let offsets = (0..).map(|at| header.base_offset.plus(at));
    assert!(read.iter().map(|at| at.offset).eq(offsets.take(read.len()).collect::<Vec<Offset>>()));
    assert_eq!(read.iter().filter(|at| at.record.key.is_none()).count(), summary.keyless_count as usize);
    if !header.is_log_append_time() {
        let timestamps = || read.iter().map(|at| at.record.timestamp_ms);
        assert_eq!(timestamps().chain([NO_TIMESTAMP]).max(), Some(summary.max_timestamp_ms));
        let told = timestamps().filter(|at| *at != NO_TIMESTAMP);
        assert_eq!(told.min().unwrap_or(i64::MAX), summary.min_timestamp_ms);
    }
}

fn read_marker(batch: &Batch) {
    let Ok(Some(marker)) = batch.end_marker() else { return };
    let header = batch.header();
    assert!(header.is_control() && header.record_count > 0, "a client's record is no marker");
    let written = marker.batch(header.producer_id, header.producer_epoch, header.base_timestamp_ms);
    assert_eq!(written.end_marker(), Ok(Some(marker)), "it says the same");
}
