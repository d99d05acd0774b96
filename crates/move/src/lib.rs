//! Moves topics and groups from one engine to another, while they are in use.
//!
//! The law: **the target's own content is the record of how far the move is.** The mover is the only one that writes to the
//! target's topics until the switch, and it writes so that what a killed mover had under way cannot come behind what its
//! successor writes: by the one producer of a transactional id, or by appends that say where their partition ends. So the target
//! holds a prefix of what the source shows, and whoever begins again reads how far it goes. Nothing else is believed: not
//! acknowledgements, and the notes on the disk only save reading.
//!
//! Everything that the target holds is read there and compared with the source, record by record. The same reading tells which
//! position is which, so that groups are translated exactly: an application goes on at the record after its last commit.
//!
//! Topics in whose records positions of others stand (a flow's state, what a queue has settled) are copied like all others. Whoever
//! keeps them says by [`Carried`](anabranch_core::engine::Carried) what is to be written behind them, with the target's positions.
//!
//! When the target has nearly all, the source is held still for a moment ([`Gate`]): the rest is copied and compared, last
//! words and groups are written and read back, and one durable decision makes the target the truth.
//!
//! ```no_run
//! # async fn example(
//! #     source: std::sync::Arc<dyn anabranch_core::engine::Engine>,
//! #     target: std::sync::Arc<dyn anabranch_core::engine::Engine>,
//! # ) -> Result<(), anabranch_move::MoveError> {
//! use std::time::Duration;
//! use anabranch_move::{Move, Watching};
//!
//! let gate = Watching::new(source.clone(), Duration::from_secs(2));
//! let report = Move::new(source, target, Box::new(gate)).topics(["orders"]).notes("./move".as_ref()).run().await?;
//! println!("{} topics, {:?}", report.topics.len(), report.pause);
//! # Ok(()) }
//! ```

mod anchors;
mod checksum;
mod copy;
mod error;
mod gate;
mod groups;
mod lane;
mod lookout;
mod mover;
mod notes;
mod report;
mod settings;
mod stream;
mod word;
mod write;

pub use anchors::Anchors;
pub use checksum::Checksum;
pub use error::MoveError;
pub use gate::{Begun, Errand, Gate, Pause, Watching};
pub use lane::{Matched, Thinned};
pub use lookout::Lookout;
pub use mover::Move;
pub use report::{MovedGroup, MovedPartition, MovedTopic, Phase, Progress, Report};
