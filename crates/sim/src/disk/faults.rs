//! What goes wrong on a disk, and when.

/// Faults that lie ahead, each counted in calls of its kind from now on; `None`: never.
#[derive(Debug, Clone, Default)]
pub struct Ahead {
    /// The disk answers no more: the process dies, or the power goes, at this change of anything.
    pub death: Option<u64>,
    /// A write fails after a part of it was done.
    pub write_fails: Option<u64>,
    /// A sync of a file fails, and takes what it did not write for written.
    pub sync_fails: Option<u64>,
    /// A sync of all files fails, for one of them.
    pub file_system_sync_fails: Option<u64>,
    /// A sync of a directory fails.
    pub directory_sync_fails: Option<u64>,
    /// A read fails with EIO.
    pub read_fails: Option<u64>,
    /// A change of names fails.
    pub change_fails: Option<u64>,
    /// A call takes long.
    pub slow: Option<u64>,
}

/// A fault that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Which.
    pub fault: Fault,
    /// On which file or directory.
    pub path: String,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// See [`Ahead::write_fails`].
    WriteFailed,
    /// See [`Ahead::sync_fails`].
    SyncFailed,
    /// See [`Ahead::directory_sync_fails`].
    DirectorySyncFailed,
    /// See [`Ahead::read_fails`].
    ReadFailed,
    /// See [`Ahead::change_fails`].
    ChangeFailed,
    /// There was no space.
    Full,
    /// A bit changed by itself.
    Flipped,
}

/// Whether a fault that lies ahead is due at this call.
pub(super) fn is_due(ahead: &mut Option<u64>) -> bool {
    match ahead {
        None => false,
        Some(0) => {
            *ahead = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
    }
}
