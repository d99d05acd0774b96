//! Reads any bytes as each of the small formats of a data directory: nothing panics, what is read is written as it was, one
//! flipped bit is always told, and no length takes memory that the bytes behind it do not account for.

#![no_main]

#[path = "memory.rs"]
mod memory;

use anabranch_log::fuzz::Kind;
use libfuzzer_sys::fuzz_target;

/// A producer in a snapshot has room for its last batches from the beginning; and all is read twice.
const COST_MAX: usize = 512;

fuzz_target!(|data: &[u8]| {
    let [kind, bit, bytes @ ..] = data else { return };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    read(kind, bytes, *bit);
    // No fuzzer guesses a CRC-32C: a liar who gets it right comes much further.
    if let Some(forged) = kind.forge(bytes) {
        read(kind, &forged, *bit);
    }
});

fn read(kind: Kind, bytes: &[u8], bit: u8) {
    let (read, peak_bytes) = memory::peak(|| kind.rewrite(bytes));
    assert!(peak_bytes <= COST_MAX * (bytes.len() + 64), "{} bytes took {peak_bytes}", bytes.len());
    let Some(written) = read else { return };
    assert_eq!(kind.rewrite(&written).as_ref(), Some(&written), "it is read as it was written");
    let bit = usize::from(bit) * 31 % (written.len() * 8);
    let mut damaged = written.clone();
    damaged[bit / 8] ^= 1 << (bit % 8);
    match kind.rewrite(&damaged) {
        None => {}
        // The rest of its sector says nothing, and an entry's payload has checksums of its own.
        Some(_) if kind == Kind::JournalFile => assert!(bit / 8 >= 24, "bit {bit} is damaged, and not told"),
        Some(read) if kind == Kind::JournalEntry => {
            let head_bytes =
                u32::from_le_bytes(*written[28..].first_chunk().expect("it has a head")) as usize;
            assert_eq!(read[..head_bytes], written[..head_bytes], "bit {bit} is damaged, and not told");
        }
        Some(_) => panic!("bit {bit} is damaged, and not told"),
    }
}
