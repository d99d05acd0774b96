//! The records of `__transaction_state`, byte for byte as Kafka 4.3 writes them.
//!
//! Source: Kafka's `TransactionLogKey.json` and `TransactionLogValue.json`, and its `TransactionLog`.
//!
//! ```text
//! key    0  transactional id: string
//! value  1  producer: i64, epoch: i16, timeout: i32, state: i8,
//!           partitions: [ topic: string, [ partition: i32 ] ]?, updated, started: i64,
//!           tagged: 0 previous producer: i64 (-1), 1 next producer: i64 (-1), 2 version of the client: i16 (0)
//!        0  the same in the classic encoding, without tagged fields
//! ```
//!
//! The partitions of an empty transactional id are null, those of an ended transaction an empty list. A tagged field that
//! has its default (in brackets) is not written. The last epoch is not stored: after a restart a client's repeated request
//! for a new epoch is fenced, as in Kafka.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_core::{ProducerEpoch, ProducerId, TopicPartition};
use bytes::Bytes;

use super::state::{State, TransactionMetadata, TransactionVersion};
pub use crate::kafka_record::{EncodedRecord, RecordError};
use crate::kafka_record::{Reader, Writer};

const KEY: i16 = 0;
const VALUE: i16 = 1;
/// The only version without tagged fields.
const VALUE_CLASSIC: i16 = 0;

const PREVIOUS_PRODUCER: u32 = 0;
const NEXT_PRODUCER: u32 = 1;
const CLIENT_VERSION: u32 = 2;

/// What is known of a transactional id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRecord {
    /// The transactional id.
    pub id: String,
    /// `None`: it has expired.
    pub value: Option<TransactionMetadata>,
}

/// What [`TransactionRecord::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// A record of a transactional id.
    Record(TransactionRecord),
    /// A key of another kind, left alone.
    Unknown {
        /// Its version, which in this topic names its kind.
        key_version: i16,
    },
}

impl TransactionRecord {
    /// Reads what the coordinator or Kafka wrote.
    ///
    /// # Errors
    /// [`RecordError`] when the bytes are damaged, or the value newer than this code.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Decoded, RecordError> {
        let mut reader = Reader::new(key);
        let key_version = reader.i16()?;
        if key_version != KEY {
            return Ok(Decoded::Unknown { key_version });
        }
        let id = reader.string()?;
        reader.end()?;
        let value = value.map(decode_value).transpose()?;
        Ok(Decoded::Record(Self { id, value }))
    }
}

/// The bytes for the log; without `value`, those that delete what is known of `id`.
#[must_use]
pub(crate) fn encode(id: &str, value: Option<&TransactionMetadata>) -> EncodedRecord {
    EncodedRecord { key: Writer::default().i16(KEY).string(id).finish(), value: value.map(encode_value) }
}

fn encode_value(metadata: &TransactionMetadata) -> Bytes {
    let mut writer = Writer::default();
    writer
        .i16(VALUE)
        .i64(metadata.producer.0)
        .i16(metadata.epoch.0)
        .i32(metadata.timeout_ms)
        .i8(metadata.state.id());
    if metadata.state == State::Empty {
        writer.compact_null();
    } else {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for TopicPartition { topic, partition } in &metadata.partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        writer.compact_list(topics.iter(), |writer, (topic, partitions)| {
            writer
                .compact_string(topic)
                .compact_list(partitions.iter(), |writer, partition| {
                    writer.i32(*partition);
                })
                .tagged(&[]);
        });
    }
    let mut tagged = Vec::new();
    for (tag, producer) in [(PREVIOUS_PRODUCER, metadata.previous), (NEXT_PRODUCER, metadata.next)] {
        if producer != ProducerId::NONE {
            tagged.push((tag, Writer::default().i64(producer.0).finish()));
        }
    }
    if metadata.version != TransactionVersion::V0 {
        tagged.push((CLIENT_VERSION, Writer::default().i16(metadata.version.level()).finish()));
    }
    writer.i64(metadata.updated_ms).i64(metadata.started_ms).tagged(&tagged).finish()
}

fn decode_value(bytes: &[u8]) -> Result<TransactionMetadata, RecordError> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if !(VALUE_CLASSIC..=VALUE).contains(&version) {
        return Err(RecordError::ValueVersion(version));
    }
    let producer = ProducerId(reader.i64()?);
    let epoch = ProducerEpoch(reader.i16()?);
    let timeout_ms = reader.i32()?;
    let state = State::of(reader.i8()?).ok_or(RecordError::Invalid("there is no such state"))?;
    let topics = if version == VALUE_CLASSIC {
        let topic = |reader: &mut Reader<'_>| Ok((reader.string()?, reader.nullable_list(Reader::i32)?));
        reader.nullable_list(topic)?
    } else {
        reader.compact_nullable_list(|reader| {
            let topic = (reader.compact_string()?, reader.compact_nullable_list(Reader::i32)?);
            reader.tagged(|_, _| Ok(()))?;
            Ok(topic)
        })?
    };
    let updated_ms = reader.i64()?;
    let started_ms = reader.i64()?;
    let (mut previous, mut next, mut level) = (ProducerId::NONE, ProducerId::NONE, 0);
    if version != VALUE_CLASSIC {
        reader.tagged(|tag, reader| {
            match tag {
                PREVIOUS_PRODUCER => previous = ProducerId(reader.i64()?),
                NEXT_PRODUCER => next = ProducerId(reader.i64()?),
                CLIENT_VERSION => level = reader.i16()?,
                _ => {}
            }
            Ok(())
        })?;
    }
    reader.end()?;
    if !producer.is_some() || epoch.0 < 0 {
        return Err(RecordError::Invalid("there is no producer"));
    }
    // Those of an empty id, if there are any, mean nothing.
    let topics = topics.filter(|_| state != State::Empty).unwrap_or_default();
    let mut partitions = BTreeSet::new();
    for (topic, numbers) in topics {
        let numbers = numbers.ok_or(RecordError::Invalid("a topic has no list of partitions"))?;
        partitions.extend(numbers.into_iter().map(|number| TopicPartition::new(topic.clone(), number)));
    }
    Ok(TransactionMetadata {
        producer,
        previous,
        next,
        epoch,
        last_epoch: ProducerEpoch::NONE,
        timeout_ms,
        state,
        partitions,
        started_ms,
        updated_ms,
        version: TransactionVersion::of(level)
            .ok_or(RecordError::Invalid("there is no such version of transactions"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::event::EndKind;
    use super::*;
    use crate::kafka_record::CodecError;

    /// Read from `__transaction_state-0/00000000000000000000.log` of Kafka 4.3.1 (`tests/peers/kafka/kafka start`, with
    /// `transaction.state.log.num.partitions=1`), keys and values of all records in their order.
    ///
    /// By rules 2, `kafka-producer-perf-test --topic t --num-records 1 --record-size 10 --throughput -1
    /// --transactional-id two`: empty, ongoing, prepared to commit, committed.
    const SECOND: [&str; 4] = [
        "0001000000000000000000000000ea600000000001a21737ca62ffffffffffffffff0100080000000000000000",
        "0001000000000000000000000000ea6001020274020000000100000001a21737ccff000001a21737ccff02000800000000000000\
         0002020002",
        "0001000000000000000000010000ea6002020274020000000100000001a21737cdd1000001a21737ccff02000800000000000000\
         0002020002",
        "0001000000000000000000010000ea600401000001a21737cdd6000001a21737ccff020008000000000000000002020002",
    ];

    /// By the first rules, librdkafka 2.16 with `transactional.id=old`, `transaction.timeout.ms=30000`, one record to
    /// partition 2 and a commit, then another and an abort.
    const FIRST: [&str; 7] = [
        "000100000000000000020000000075300000000001a217386951ffffffffffffffff0100080000000000000002",
        "0001000000000000000200000000753001020274020000000200000001a217386958000001a21738695801000800000000000000\
         02",
        "0001000000000000000200000000753002020274020000000200000001a21738695c000001a21738695801000800000000000000\
         02",
        "000100000000000000020000000075300401000001a21738695e000001a2173869580100080000000000000002",
        "0001000000000000000200000000753001020274020000000200000001a217386978000001a21738697801000800000000000000\
         02",
        "0001000000000000000200000000753003020274020000000200000001a217386982000001a21738697801000800000000000000\
         02",
        "000100000000000000020000000075300501000001a217386983000001a2173869780100080000000000000002",
    ];

    /// From Kafka 4.3.1's `TransactionLog.valueToBytes`, called with `new TxnTransitMetadata(7, 7, 8, 32767, 32766, 60000,
    /// PREPARE_ABORT, Set.of(new TopicPartition("t", 0)), 1000, 2000, TV_2)`, since 32,767 epochs take long.
    const EXHAUSTED: &str = "000100000000000000077fff0000ea600302027402000000000000000000000007d00000\
                             0000000003e803000800000000000000070108000000000000000802020002";

    /// From the same for version 0: `(7, -1, -1, 3, -1, 60000, ONGOING, ..., TV_0)`.
    const CLASSIC: &str = "0000000000000000000700030000ea6001000000010001740000000100000000000000000000\
                           07d000000000000003e8";

    fn unhex(hex: &str) -> Vec<u8> {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
        hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
    }

    fn decoded(hex: &str) -> TransactionMetadata {
        decode_value(&unhex(hex)).unwrap()
    }

    #[test]
    fn records_are_those_of_kafka() {
        for hex in SECOND.into_iter().chain(FIRST).chain([EXHAUSTED]) {
            let metadata = decoded(hex);
            let encoded = encode("two", Some(&metadata));
            assert_eq!(encoded.value.unwrap(), unhex(hex), "{metadata:?}");
            assert_eq!(encoded.key, unhex("0000000374776f"));
        }
        let ongoing = decoded(SECOND[1]);
        let expected = TransactionMetadata {
            producer: ProducerId(0),
            previous: ProducerId(0),
            next: ProducerId::NONE,
            epoch: ProducerEpoch(0),
            last_epoch: ProducerEpoch::NONE,
            timeout_ms: 60_000,
            state: State::Ongoing,
            partitions: [TopicPartition::new("t", 1)].into(),
            started_ms: 1_795_685_862_655,
            updated_ms: 1_795_685_862_655,
            version: TransactionVersion::V2,
        };
        assert_eq!(ongoing, expected);
        let exhausted = decoded(EXHAUSTED);
        assert_eq!((exhausted.previous, exhausted.next), (ProducerId(7), ProducerId(8)));
        assert_eq!((exhausted.epoch.0, exhausted.started_ms, exhausted.updated_ms), (32767, 1000, 2000));
    }

    /// The steps of the state machine write what Kafka's wrote.
    #[test]
    fn steps_are_those_of_kafka() {
        #[track_caller]
        fn check(hex: &str, stepped: &TransactionMetadata) {
            assert_eq!(encode_value(stepped), unhex(hex), "{stepped:?}, not {:?}", decoded(hex));
        }
        let at = |hex: &str| decoded(hex).updated_ms;
        let run = |hex: &[&str], producer, partition, timeout_ms, version| {
            let new = TransactionMetadata::new(ProducerId(producer), timeout_ms, 0);
            let mut last = new.incremented(None, timeout_ms, at(hex[0])).unwrap();
            check(hex[0], &last);
            for (transaction, kind) in hex[1..].chunks(3).zip([EndKind::Commit, EndKind::Abort]) {
                let partitions = [TopicPartition::new("t", partition)];
                let joined = last.joined(partitions, version, at(transaction[0]));
                check(transaction[0], &joined);
                let prepared = joined.prepared(kind, version, ProducerId::NONE, at(transaction[1]));
                check(transaction[1], &prepared);
                last = prepared.ended(at(transaction[2]));
                check(transaction[2], &last);
            }
        };
        run(&SECOND, 0, 1, 60_000, TransactionVersion::V2);
        run(&FIRST, 2, 2, 30_000, TransactionVersion::V0);
    }

    #[test]
    fn the_classic_encoding_is_read() {
        let metadata = decoded(CLASSIC);
        assert_eq!((metadata.producer, metadata.epoch), (ProducerId(7), ProducerEpoch(3)));
        assert_eq!((metadata.previous, metadata.next), (ProducerId::NONE, ProducerId::NONE));
        assert_eq!((metadata.state, metadata.version), (State::Ongoing, TransactionVersion::V0));
        assert_eq!(metadata.partitions, [TopicPartition::new("t", 0)].into());
        assert_eq!((metadata.started_ms, metadata.updated_ms), (1000, 2000));
    }

    /// Kafka 4.3.1 wrote both partitions of a transaction in the order `[1, 0]`, that of a hash set.
    #[test]
    fn partitions_come_in_any_order_and_tags_of_later_versions_are_passed_over() {
        let hex = "000100000000000000010000000075300102027403000000010000000000000001a217380cb0000001a217380cb0\
                   0100080000000000000001";
        let both = decoded(hex);
        assert_eq!(both.partitions, [TopicPartition::new("t", 0), TopicPartition::new("t", 1)].into());
        // Tag 3 is the next producer's epoch, of which 4.3.1 knows the name only.
        let tagged = format!("{}020008000000000000000103020005", &hex[..hex.len() - 22]);
        assert_eq!(decoded(&tagged), both);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = unhex(EXHAUSTED);
        for len in 0..whole.len() {
            assert!(decode_value(&whole[..len]).is_err(), "{len} bytes of {}", whole.len());
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(decode_value(&longer), Err(RecordError::Codec(CodecError::TrailingBytes(1))));
        let with = |at: usize, byte: u8| {
            let mut changed = whole.clone();
            changed[at] = byte;
            decode_value(&changed).unwrap_err()
        };
        assert_eq!(with(1, 2), RecordError::ValueVersion(2));
        assert_eq!(with(2, 0xff), RecordError::Invalid("there is no producer"));
        assert_eq!(with(16, 6), RecordError::Invalid("there is no such state"));
        assert_eq!(
            with(whole.len() - 1, 3),
            RecordError::Invalid("there is no such version of transactions")
        );
        // A list that claims four thousand million topics takes no memory.
        assert_eq!(decode_value(&unhex("0001000000000000000000000000ea6001ffffffff0f")), {
            Err(RecordError::Codec(CodecError::Truncated))
        });
        let key = unhex("0000000374776f");
        assert!(TransactionRecord::decode(&key[..4], None).is_err());
        let unknown = TransactionRecord::decode(&unhex("000100"), None);
        assert_eq!(unknown, Ok(Decoded::Unknown { key_version: 1 }));
        let gone = TransactionRecord { id: "two".into(), value: None };
        assert_eq!(TransactionRecord::decode(&key, None), Ok(Decoded::Record(gone)));
        assert_eq!(encode("two", None), EncodedRecord { key: key.into(), value: None });
    }
}
