//! What a flow keeps between records: windows, sessions, and how far it has come.
//!
//! The changelog is the truth: a topic with what each step of a commit has changed ([`record`] is its layout). [`Store`]
//! is its copy on the local disk, written after it, so that it may be behind and is never ahead. [`Table`] is the write
//! buffer before both, which holds what changed since the last commit and no more.

mod key;
mod progress;
mod record;
mod store;
mod table;

pub(crate) use key::{KEY_BYTES_MAX, WindowKey};
pub(crate) use progress::{Change, Moved, Progress, Taken};
pub(crate) use record::{NoOrigin, Origin, about_progress, claim, is_origin, is_progress};
pub(crate) use store::{Changes, Mark, Role, Store};
pub(crate) use table::{Entry, Stage, Table};

/// The layout of keys and values, in the store and in the changelog. A change of it needs a new number.
pub(crate) const FORMAT: u32 = 2;
