//! What requests about a group's offsets have in common: the group is asked about partitions that are there, and each
//! partition of the request has its answer.

use std::sync::Arc;

use anabranch_broker::Catalogue;
use anabranch_wire::ErrorCode;

use super::Door;

/// What a request asks of its partitions, in its order.
pub(super) struct Asked<T> {
    catalogue: Arc<Catalogue>,
    /// Of those that are there.
    pub(super) known: Vec<T>,
    pub(super) places: Places,
}

/// For each partition of a request, whether it is there.
pub(super) struct Places(Vec<bool>);

impl<T> Asked<T> {
    pub(super) fn new(door: &Door) -> Self {
        Self { catalogue: door.broker.topics(), known: Vec::new(), places: Places(Vec::new()) }
    }

    pub(super) fn add(&mut self, topic: &str, partition: i32, what: impl FnOnce() -> T) {
        let is_there = self.catalogue.get(topic).is_some_and(|topic| topic.partition(partition).is_some());
        self.places.0.push(is_there);
        self.known.extend(is_there.then(what));
    }
}

impl Places {
    /// A code for each partition of the request, from those of the partitions that are there, or the one of them all.
    pub(super) fn codes(self, known: Result<Vec<i16>, ErrorCode>) -> impl Iterator<Item = i16> {
        let (each, all) = match known {
            Ok(each) => (each, ErrorCode::UnknownServerError),
            Err(all) => (Vec::new(), all),
        };
        let mut each = each.into_iter();
        self.0.into_iter().map(move |is_there| match is_there {
            true => each.next().unwrap_or(all.code()),
            false => ErrorCode::UnknownTopicOrPartition.code(),
        })
    }
}
