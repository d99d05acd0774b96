//! What a flow keeps between records: windows, sessions, and how far it has come.
//!
//! [`Store`] is the disk: each step of a commit is one atomic batch of window states, input positions, and the records
//! that are to be appended because of them. [`Table`] is the write
//! buffer before it, which holds what changed since the last commit and no more.

mod key;
mod progress;
mod store;
mod table;

pub(crate) use key::{KEY_BYTES_MAX, WindowKey};
pub(crate) use progress::Progress;
pub(crate) use store::{Changes, Found, Store};
pub(crate) use table::{Entry, Stage, Table};
