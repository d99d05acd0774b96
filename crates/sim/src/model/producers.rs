//! Idempotent producers, as clients have them.

use std::collections::BTreeMap;

use anabranch_core::{ProducerEpoch, ProducerId};

use super::batch::{BatchNumber, Key};

/// Batches of one producer that may be under way to one partition.
pub(crate) const IN_FLIGHT_MAX: usize = 5;

/// One producer.
#[derive(Debug)]
pub(crate) struct ProducerModel {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
    pub(crate) streams: BTreeMap<Key, Stream>,
    /// It met an error, and another one goes on in its place.
    pub(crate) retired: bool,
}

/// What it sends to one partition.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) next_sequence: i32,
    /// All its batches, in order.
    pub(crate) batches: Vec<BatchNumber>,
    /// The first ones of `batches` have all been answered well.
    pub(crate) answered: usize,
    /// A batch is not there, or no longer: nothing that follows it needs to be taken.
    pub(crate) broken: bool,
    /// Its answers were lost with the broker: from `answered` on, the batches must be sent again, in order.
    pub(crate) resend: Option<usize>,
}
