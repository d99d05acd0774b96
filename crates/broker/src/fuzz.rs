//! A door for the fuzz targets and for nobody else, as the log's: what is private here, from its bytes to its bytes. Each
//! function panics if what it writes says something else than what it read.

use anabranch_core::batch::{NO_TIMESTAMP, Record};
use bytes::Bytes;

use crate::catalogue::{ClusterRecord, GroupConfigsRecord, Key, ProducerIdsRecord, Version};
use crate::config::broker::BrokerConfig;
use crate::kafka_record::{EncodedRecord, RecordError};
use crate::open::Restored;
use crate::transaction::record;

/// Reads a record of `__transaction_state` and writes what was read; `None` if it is of a kind that is left alone.
///
/// # Errors
/// [`RecordError`].
pub fn rewrite_transaction(key: &[u8], value: Option<&[u8]>) -> Result<Option<EncodedRecord>, RecordError> {
    Ok(match record::TransactionRecord::decode(key, value)? {
        record::Decoded::Unknown { .. } => None,
        record::Decoded::Record(read) => {
            let written = record::encode(&read.id, read.value.as_ref());
            let again = record::TransactionRecord::decode(&written.key, written.value.as_deref());
            assert_eq!(again, Ok(record::Decoded::Record(read)), "it says the same");
            Some(written)
        }
    })
}

/// Reads a record of the catalogue and writes what the broker makes of it.
///
/// # Errors
/// What is wrong with it.
pub fn rewrite_catalogue(key: Bytes, value: Option<Bytes>) -> Result<Record, String> {
    let record = Record { key: Some(key), value, headers: Vec::new(), timestamp_ms: NO_TIMESTAMP };
    let read = |record: &Record| {
        let mut restored = Restored::default();
        restored.take(record, &BrokerConfig::default()).map(|()| restored)
    };
    let restored = read(&record)?;
    if record.value.is_none() {
        return Ok(record);
    }
    let key = record.key.and_then(|key| Key::parse(&key)).expect("it was read");
    let written = match &key {
        Key::Cluster => {
            let id = restored.cluster_id.clone().expect("it was read");
            key.record(&ClusterRecord { version: Version, id })
        }
        Key::ProducerIds => {
            key.record(&ProducerIdsRecord { version: Version, next: restored.next_producer_id })
        }
        Key::Topic(name) => key.record(&restored.topics[name]),
        Key::Group(name) => {
            let configs = restored.group_configs[name].clone();
            key.record(&GroupConfigsRecord { version: Version, configs })
        }
        Key::Move(id) => key.record(&restored.moves[id]),
    };
    // As text, for nothing else compares these.
    let again = read(&written).expect("what was written can be read");
    assert_eq!(format!("{again:?}"), format!("{restored:?}"), "it says the same");
    Ok(written.at(NO_TIMESTAMP))
}
