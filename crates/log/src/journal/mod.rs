//! The store's journal: one sync makes a whole group durable, however many partitions it touches.
//!
//! The writer writes each batch to its segment, without a sync, and all of the group's batches once more, one after another,
//! to a journal file that was filled with zeros before, so that a sync of it changes no file's length and waits for no
//! file system's log. When a file is full, what it holds is synced in the segments, behind the writer (`flusher`), and the
//! file is used again. Batches so large that writing them twice costs more than a sync are synced in their segments at once.
//! So is everything while no file is free: the journal saves time, and nothing waits for it.
//!
//! * `entry`: what stands in a file: one entry for each group.
//! * `ring`: the files as the writer uses them.
//! * `redo`: what a crash left in them, brought to the segments at the next start.
//!
//! After a clean stop there is no journal. What holds:
//! * An entry is written after the sync of the one before. So each entry but the last is whole, or damaged.
//! * Every entry names the oldest one that is still needed. From that one to the newest all must be there.
//! * A segment that has a successor was synced itself: entries that tell of it are not needed.
//! * An entry is overwritten only after a later one, in another file, has told durably that it is not needed.
//! * A topic's directory is removed only after the journal has forgotten the topic, durably.

use std::io;
use std::path::Path;

use anabranch_core::seam::Disk;

pub(crate) mod entry;
pub(crate) mod redo;
pub(crate) mod ring;

/// The directory of the files, below the data directory.
pub(crate) const JOURNAL: &str = "journal";
/// What is left of a journal that is not needed any more, until it is removed.
pub(crate) const JOURNAL_DONE: &str = "journal.done";
const EXTENSION: &str = "journal";

/// Removes the journal, in one step that a crash cannot tear. Everything in it must be in the segments, durably.
pub(crate) fn discard(disk: &dyn Disk, root: &Path) -> io::Result<()> {
    let (journal, done) = (root.join(JOURNAL), root.join(JOURNAL_DONE));
    if disk.exists(&done)? {
        disk.remove_dir_all(&done)?;
    }
    if disk.exists(&journal)? {
        disk.rename(&journal, &done)?;
        disk.sync_dir(root)?;
        disk.remove_dir_all(&done)?;
    }
    Ok(())
}

/// The name of a journal file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:08}.{EXTENSION}")
}

/// The number of a journal file of that name, if it is one.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(EXTENSION)?.strip_suffix('.')?.parse().ok()
}
