//! Directories: names as programs see them, and as the platter has them.

use std::collections::BTreeMap;

use crate::random::Chance;

/// A file or directory, whatever its name.
pub(super) type Inode = usize;

/// The names in one directory.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) now: BTreeMap<String, Inode>,
    pub(super) platter: BTreeMap<String, Inode>,
}

/// A change of names that the platter does not have yet. Each happens whole or not at all.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Set { directory: Inode, name: String, inode: Inode },
    Unset { directory: Inode, name: String },
    Rename { from: (Inode, String), to: (Inode, String), inode: Inode },
}

impl Change {
    pub(super) fn touches(&self, inode: Inode) -> bool {
        match self {
            Self::Set { directory, .. } | Self::Unset { directory, .. } => *directory == inode,
            Self::Rename { from, to, .. } => from.0 == inode || to.0 == inode,
        }
    }

    /// Calls `set` for each name that changes.
    pub(super) fn apply(&self, mut set: impl FnMut(Inode, &str, Option<Inode>)) {
        match self {
            Self::Set { directory, name, inode } => set(*directory, name, Some(*inode)),
            Self::Unset { directory, name } => set(*directory, name, None),
            Self::Rename { from, to, inode } => {
                set(from.0, &from.1, None);
                set(to.0, &to.1, Some(*inode));
            }
        }
    }
}

/// Those of the changes that the platter got before the power went: none, all, a first part as a file system with a
/// journal has it, or any, as one without may.
pub(super) fn survivors(changes: Vec<Change>, chance: &mut Chance) -> Vec<Change> {
    let cut = chance.below(changes.len() as u64 + 1) as usize;
    match chance.below(5) {
        0 => Vec::new(),
        1 => changes,
        2 => changes.into_iter().take(cut).collect(),
        _ => changes.into_iter().filter(|_| chance.one_in(2)).collect(),
    }
}
