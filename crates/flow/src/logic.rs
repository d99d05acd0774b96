//! What of a flow its author wrote and chose, as its parts use it.

use anabranch_core::TopicPartition;
use anabranch_core::batch::{Record, RecordAt};
use anabranch_core::engine::Position;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::header::{self, mark};
use crate::outbox::{Outbox, Outlet};
use crate::state::KEY_BYTES_MAX;
use crate::window::{Window, WindowKind};

/// Makes sense of a record, or leaves it out, or says why it makes none.
pub(crate) type Decode<T> = Box<dyn Fn(&RecordAt) -> Result<Option<T>, String> + Send + Sync>;
/// Something about a record.
pub(crate) type Of<T, V> = Box<dyn Fn(&T) -> V + Send + Sync>;
/// Makes a record of a result.
pub(crate) type Encode<K, R> = Box<dyn Fn(&K, Window, R) -> Record + Send + Sync>;

/// What the flow's author wrote. The flow's parts share it.
pub(crate) struct Logic<T, K, A: Aggregate<T>> {
    pub(crate) decode: Decode<T>,
    pub(crate) event_time: Of<T, i64>,
    pub(crate) key: Of<T, K>,
    pub(crate) windows: Box<dyn WindowKind>,
    pub(crate) aggregate: A,
    pub(crate) encode: Encode<K, A::Output>,
}

/// What becomes of records that cannot take part.
#[derive(Debug, Clone)]
pub(crate) enum Aside {
    Fail,
    Drop,
    Send(Outlet),
}

impl<T, K: Serialize + DeserializeOwned, A: Aggregate<T>> Logic<T, K, A> {
    pub(crate) fn result(&self, key: &[u8], window: Window, state: &A::State) -> Result<Record, FlowError> {
        let key =
            postcard::from_bytes(key).map_err(|source| FlowError::Unserialisable { what: "key", source })?;
        Ok((self.encode)(&key, window, self.aggregate.finish(state)))
    }

    /// Writes the key of `item` over what is in `into`.
    pub(crate) fn key_of(&self, item: &T, mut into: Vec<u8>) -> Result<Vec<u8>, FlowError> {
        into.clear();
        let bytes = postcard::to_extend(&(self.key)(item), into)
            .map_err(|source| FlowError::Unserialisable { what: "key", source })?;
        if bytes.len() > KEY_BYTES_MAX {
            return Err(FlowError::KeyTooLong { len_bytes: bytes.len(), max_bytes: KEY_BYTES_MAX });
        }
        Ok(bytes)
    }
}

impl Aside {
    /// What becomes of a record that the decoder makes no sense of, because of `reason`.
    pub(crate) fn undecodable(
        &self,
        outbox: &mut Outbox,
        from: &TopicPartition,
        position: u64,
        record: Record,
        reason: String,
    ) -> Result<(), FlowError> {
        match self {
            Self::Drop => Ok(()),
            Self::Send(to) => {
                let record = mark(record, from, position, (header::ERROR, reason));
                outbox.push_aside(to, from.partition, &record)
            }
            Self::Fail => {
                Err(FlowError::Undecodable { partition: from.clone(), position: Position(position), reason })
            }
        }
    }
}
