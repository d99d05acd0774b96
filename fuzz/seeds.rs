//! Writes the seeds that the fuzzers start from, so that they need not invent a valid input first:
//! `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. The seeds are committed; write them anew when a format
//! changes.

use std::path::Path;
use std::{fs, io};

use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId};

fn main() -> io::Result<()> {
    write("batch_view", &batches())
}

fn write(target: &str, seeds: &[(String, Vec<u8>)]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    seeds.iter().try_for_each(|(name, bytes)| fs::write(folder.join(name), bytes))
}

/// One batch per codec, and two in a row as a fetch returns them.
fn batches() -> Vec<(String, Vec<u8>)> {
    use Compression::{Gzip, Lz4, None, Snappy, Zstd};
    let mut seeds: Vec<_> =
        [None, Gzip, Snappy, Lz4, Zstd].into_iter().map(|codec| (codec.to_string(), batch(codec))).collect();
    seeds.push(("two".to_owned(), [batch(None), batch(Zstd)].concat()));
    seeds
}

/// Every shape of a record: with headers of one key, without a key, without a value.
fn batch(codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec);
    builder.producer(ProducerId(7), ProducerEpoch(1), 3);
    builder.push(&Record::new("key", "value").at(1_700_000_000_000).header("h", "1").header("h", "2"));
    builder.push(&Record::keyless("value value value value").at(1_700_000_000_009));
    builder.push(&Record::tombstone("key").at(1_699_999_999_999));
    builder.build().expect("three records make a batch").to_vec()
}
