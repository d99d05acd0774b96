//! Reads a partition's directory, every byte of it, and changes nothing.

use std::path::Path;

use anabranch_core::Offset;
use anabranch_core::seam::Disk;

use crate::Fault;

/// What [`verify_partition`] found.
#[derive(Debug, Clone)]
pub struct PartitionReport {
    /// Segments there are.
    pub segments: usize,
    /// Batches that are whole and right.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The first offset.
    pub start: Offset,
    /// After the last offset.
    pub end: Offset,
    /// Damage: every place from which a segment cannot be read on.
    pub faults: Vec<Fault>,
    /// What recovery would cut off the end, in bytes: a torn tail past the durable point.
    pub torn_tail_bytes: u64,
    /// Derived files that recovery would make anew.
    pub derived_wrong: Vec<String>,
}

/// Verifies the partition `partition` of `topic` in the data directory `root`.
///
/// # Errors
/// The operating system's, when the directory cannot be read.
pub fn verify_partition(
    _disk: &dyn Disk,
    _root: &Path,
    _topic: &str,
    _partition: i32,
) -> std::io::Result<PartitionReport> {
    unimplemented!()
}
