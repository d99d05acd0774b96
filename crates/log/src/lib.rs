//! The durable partition log: segments of Kafka record batches, kept verbatim.
//!
//! A [`Store`] is a data directory that one process owns: its lock, its format, its writer. A [`PartitionLog`] is one
//! partition in it. All appends of a store go through one writer thread, which gathers whatever is waiting into a group,
//! writes it, makes it durable by one sync, and only then lets readers see it and acknowledges it (group commit without a
//! timer: while one group syncs, the next one gathers).
//!
//! ```text
//! DIR/format                     version of this layout; an unknown one is refused
//! DIR/spare/0.spare               space that is set aside (see `spare`)
//! DIR/journal/00000000.journal    what is durable and may not be in its segment yet (see `journal`)
//! DIR/topics/NAME/P/
//!     00000000000000000000.log       record batches, one after another
//!     00000000000000000000.index     sparse places and times in it (see `index`): derived, rebuilt when missing or wrong
//!     00000000000000000000.aborted   which transactions in it were aborted (see `aborted`): derived likewise
//!     durable                        how far the last segment was synced (see `durable`)
//!     00000000000000004711.snapshot  producer state up to offset 4711 (see `producers`)
//!     start, cleaned, swap           where the log starts, how far it is compacted, and what is being replaced (see `marks`)
//! ```
//!
//! What the log promises:
//! * An append acknowledged as [`Ack::Durable`] survives power loss; as [`Ack::Written`], the death of the process.
//! * Readers never see a byte that is not as durable as the topic's settings ask ([`LogConfig::flush_messages`]).
//! * A torn tail past the durable point is cut at the start, and told. Damage below it stops the partition with a
//!   [`Fault`] that names file, position and cause, and the bytes stay as they are.
//! * After a failed sync nothing more is written to the partition: what is on the disk is not known.

mod aborted;
mod active;
mod compaction;
mod dump;
mod durable;
mod end;
mod entries;
mod error;
mod files;
mod flusher;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod index;
mod isolation;
mod journal;
mod layout;
mod marks;
mod offline;
mod partition;
mod producers;
mod range;
mod recovery;
mod rehearsal;
mod removal;
mod segment;
mod spare;
mod store;
mod verify;
mod waiters;
mod writer;

pub use aborted::Aborted;
pub use compaction::{Compacted, Compaction};
pub use dump::{DumpCause, DumpItem, FileKind, JournalItem, ProducerState, dump};
pub use end::{End, Ended, PendingEnd};
pub use error::{AppendError, Fault, FaultCause, OpenError, ReadError, UpkeepError};
pub use files::FileCounts;
pub use isolation::Isolation;
pub use offline::Offline;
pub use partition::{
    Absent, Ack, Appended, Batches, FetchLimits, FetchSlice, Gate, LogConfig, LogStatus, Offsets,
    OpenTransaction, PartitionLog, Pending, ReadSlice, Timestamped,
};
pub use producers::Part;
pub use range::BatchRange;
pub use rehearsal::{Change, Rehearsal};
pub use removal::{Removed, Roll, SegmentInfo, Settled};
pub use store::{Store, StoreConfig};
pub use verify::PartitionReport;
pub use waiters::Waiter;
