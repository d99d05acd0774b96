//! Starts on any bytes as what a crash left in the journal: nothing panics, who only looks sees in a segment what the start
//! makes of it, a journal that is refused has changed nothing, and nothing is touched but that segment and its note.

#![no_main]

#[path = "memory.rs"]
mod memory;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anabranch_core::TopicPartition;
use anabranch_core::seam::{Disk, Open, RealDisk};
use anabranch_log::fuzz::{Kind, redo_journal};
use anabranch_log::{Change, FileKind, Rehearsal, dump};
use libfuzzer_sys::fuzz_target;

const SECTOR_BYTES: usize = 512;
/// The largest items are runs, each with what it says twice: as it stands in the file, and as it is to be written.
const COST_MAX: usize = 256;

fuzz_target!(|data: &[u8]| {
    // How much of the segment there is, and how the journal is cut into files.
    let [segment_bytes, cut, journal @ ..] = data else { return };
    let segment = vec![b's'; usize::from(*segment_bytes)];
    let (first, second) = journal.split_at(journal.len().min(usize::from(*cut) * SECTOR_BYTES));
    start(&segment, &[first, second]);
    // No fuzzer guesses a CRC-32C: a liar who gets it right comes much further.
    start(&segment, &[&forged(first), &forged(second)]);
});

/// The same bytes with the key 0, and with each checksum of a header or of an entry right.
fn forged(file: &[u8]) -> Vec<u8> {
    let mut forged = file.to_vec();
    if let Some(key) = forged.get_mut(16..24) {
        key.fill(0);
    }
    for at in (0..forged.len()).step_by(SECTOR_BYTES) {
        let kind = if at == 0 { Kind::JournalFile } else { Kind::JournalEntry };
        if let Some(right) = kind.forge(&forged[at..]) {
            forged[at..].copy_from_slice(&right);
        }
    }
    forged
}

fn start(segment: &[u8], files: &[&[u8]]) {
    // An empty directory: everything else is in memory.
    let root = std::env::temp_dir().join("anabranch-fuzz-journal");
    RealDisk.create_dir_all(&root).expect("a directory for nothing");
    let disk = Arc::new(Rehearsal::new(Arc::new(RealDisk), &root).expect("nothing can be listed"));
    let partition = TopicPartition::new("t", 0);
    let directory = root.join("topics/t/0");
    let segment_path = directory.join("00000000000000000000.log");
    write(disk.as_ref(), &segment_path, segment);
    for (number, file) in files.iter().enumerate() {
        let path = root.join(format!("journal/{number:08}.journal"));
        write(disk.as_ref(), &path, file);
        let dumped = dump::<std::io::Error>(disk.as_ref(), &path, |_| Ok(()));
        assert_eq!(dumped.expect("in memory"), Some(FileKind::Journal(number as u64)));
    }
    let before = changes(&disk);
    let len = segment.len() + files.iter().map(|file| file.len()).sum::<usize>();
    let (redone, peak_bytes) = memory::peak(|| redo_journal(disk.as_ref(), &root, &partition));
    assert!(peak_bytes <= COST_MAX * (len + SECTOR_BYTES), "{len} bytes took {peak_bytes}");
    match redone {
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(changes(&disk), before, "what is refused is left alone");
        }
        Ok(looked) => {
            let written = disk.read(&segment_path).expect("it is there");
            assert_eq!(written, looked.unwrap_or_else(|| segment.to_vec()), "who looks sees what is written");
            let paths: Vec<PathBuf> = changes(&disk).into_iter().map(path_of).collect();
            let ours = [&directory, &segment_path, &directory.join("durable")];
            let is_ours = |path: &PathBuf| ours.contains(&path) || directory.starts_with(path);
            assert!(paths.iter().all(is_ours), "{paths:?}");
        }
    }
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    disk.create_dir_all(path.parent().expect("a file is in a directory")).expect("in memory");
    let file = disk.open(path, Open::Create).expect("in memory");
    file.write_all_at(&[bytes], 0).expect("in memory");
}

fn changes(disk: &Rehearsal) -> Vec<Change> {
    disk.changes().expect("in memory")
}

fn path_of(change: Change) -> PathBuf {
    match change {
        Change::Created { path, .. }
        | Change::Removed { path }
        | Change::Cut { path, .. }
        | Change::Written { path, .. } => path,
    }
}
