//! The words that every room of Anabranch shares.
//!
//! * [`batch`]: Kafka's RecordBatch v2, seen through a view over bytes. The same bytes are sent by a client, stored,
//!   served and forwarded; this module checks them once at the door and reads them where somebody needs the records.
//! * [`engine`]: the seam above which an application survives outgrowing one machine.
//! * [`seam`]: disk, clock, randomness and threads, so that everything above them can be replayed from a seed.
//! * [`budget`]: the bytes that a process allows itself.
//!
//! This crate depends on no other crate of the project, and does no I/O but behind [`seam`].
//!
//! ```
//! use anabranch_core::batch::{BatchBuilder, Compression, Record, check_batch};
//!
//! let bytes = BatchBuilder::new(Compression::None)
//!     .push(&Record::new("key", "value").at(1_700_000_000_000))
//!     .build()?;
//! let batch = check_batch(&bytes)?;
//! assert_eq!(batch.header().record_count, 1);
//! assert_eq!(&batch.records()?[0].record.value.as_ref().unwrap()[..], b"value");
//! # Ok::<(), anabranch_core::batch::BatchError>(())
//! ```

pub mod batch;
pub mod budget;
pub mod engine;
mod ids;
mod partitioner;
pub mod planted;
pub mod seam;

pub use ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition};
pub use partitioner::partition_of;
