//! Records: produce, fetch, list offsets, delete records, where epochs end.

use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use anabranch_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use anabranch_wire::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::{
    ApiKey, DeleteRecordsRequest, FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    ProduceRequest,
};
use anabranch_wire::{Request, Response};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Call, EpochRef, Slot, Step, Topic, Transaction, Who, by_topic, epoch, mostly, places, step};
use crate::side::{NO_SESSION, NOBODY, State};

/// A place, and what is asked of it.
pub type At<T> = (Topic, i32, T);

/// A request about records.
#[derive(Debug, Clone)]
pub enum Data {
    /// Writes a batch in each place.
    Produce {
        /// What is waited for.
        acks: i16,
        /// The id that the request names.
        transaction: (Transaction, Slot),
        /// Each place's.
        batches: Vec<At<Batch>>,
    },
    /// Reads, without waiting.
    Fetch {
        /// Committed or not.
        isolation: i8,
        /// In all.
        bytes_max: i32,
        /// Offset, leader epoch, bytes.
        from: Vec<At<(i64, i32, i32)>>,
        /// As one of a session, where the version can.
        session: Session,
        /// What the session does not ask for any more.
        forgotten: Vec<(Topic, i32)>,
    },
    /// Asks for times.
    ListOffsets {
        /// Committed or not.
        isolation: i8,
        /// A time, relative to the case's if it is not negative; and the leader epoch.
        times: Vec<At<(i64, i32)>>,
    },
    /// Removes what is before offsets.
    DeleteRecords {
        /// The new starts.
        before: Vec<At<i64>>,
    },
    /// Asks where epochs end.
    OffsetForLeaderEpoch {
        /// The leader's present epoch, and the one asked about.
        epochs: Vec<At<(i32, i32)>>,
    },
}

/// What a fetch is to a session (KIP-227). There is one in a case, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// It is in none.
    None,
    /// It begins one, and ends the one before.
    First,
    /// It begins one beside.
    Another,
    /// The next of it.
    Next,
    /// The one before once more.
    Again,
    /// One too far.
    Ahead,
    /// The next of one that is not there.
    Unknown,
    /// It ends it.
    Last,
}

impl Session {
    /// Id and epoch.
    fn said(self, (id, epoch): (i32, i32)) -> (i32, i32) {
        match self {
            Self::None => (0, -1),
            Self::First => (id, 0),
            Self::Another => (0, 0),
            Self::Next => (id, epoch),
            Self::Again => (id, epoch - 1),
            Self::Ahead => (id, epoch + 1),
            Self::Unknown => (7, 1),
            Self::Last => (id, -1),
        }
    }
}

/// One batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// How many records.
    pub count: u8,
    /// Their codec.
    pub codec: Compression,
    /// Whether they have keys.
    pub keyed: bool,
    /// Of the first record, relative to the case's beginning.
    pub time: i64,
    /// Who writes it.
    pub producer: Option<Who>,
    /// The first one's.
    pub sequence: Sequence,
    /// In a transaction, or not.
    pub transactional: bool,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// A sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequence {
    /// The one that is due.
    Next,
    /// That of the batch before.
    Again,
    /// One too far.
    Gap,
    /// The first.
    Zero,
    /// None.
    None,
}

/// What may be wrong with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// No bytes.
    Empty,
    /// Its checksum.
    Checksum,
    /// Its end is missing.
    Cut,
    /// Format 1.
    OldFormat,
    /// Two of them.
    Two,
    /// It claims to be a marker.
    Control,
    /// It says that it has more records.
    Count,
}

/// More than a case writes.
pub const ROOMY_BYTES: i32 = 1 << 20;

const CHECKSUM_AT: usize = 17;
const CHECKED_FROM: usize = 21;

impl Batch {
    fn bytes(&self, state: &State, topic: Topic, partition: i32) -> Option<Bytes> {
        let mut builder = BatchBuilder::new(self.codec);
        if let Some(who) = self.producer {
            let producer = state.writer(who);
            let sequence = self.sequence(state, topic, partition);
            builder.producer(ProducerId(producer.id), ProducerEpoch(producer.epoch), sequence);
        }
        if self.transactional {
            builder.transactional();
        }
        for number in 0..self.count {
            let value = format!("v{number}");
            let record = if self.keyed { Record::new("k", value) } else { Record::keyless(value) };
            builder.push(&record.header("h", "1").at(state.now_ms + self.time + i64::from(number)));
        }
        let bytes = builder.build().expect("there are records");
        match self.flaw {
            Flaw::None => Some(bytes),
            Flaw::Empty => Some(Bytes::new()),
            Flaw::Checksum => Some(changed(&bytes, |bytes| bytes[CHECKSUM_AT] ^= 1).into()),
            Flaw::Cut => Some(bytes.slice(..bytes.len() - 3)),
            Flaw::OldFormat => Some(changed(&bytes, |bytes| bytes[16] = 1).into()),
            Flaw::Two => Some([&bytes[..], &bytes[..]].concat().into()),
            Flaw::Control => Some(checked(changed(&bytes, |bytes| bytes[22] |= 0x20))),
            Flaw::Count => Some(checked(changed(&bytes, |bytes| {
                // Last offset delta, and record count.
                bytes[26] += 1;
                bytes[60] += 1;
            }))),
        }
    }

    fn sequence(&self, state: &State, topic: Topic, partition: i32) -> i32 {
        let producer = self.producer.map_or(NOBODY, |who| state.writer(who));
        let (last, next) = state.sequence(producer, topic, partition);
        match self.sequence {
            Sequence::Next => next,
            Sequence::Again => last,
            Sequence::Gap => next + 1,
            Sequence::Zero => 0,
            Sequence::None => -1,
        }
    }
}

fn changed(bytes: &Bytes, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    bytes
}

fn checked(mut bytes: Vec<u8>) -> Bytes {
    let checksum = crc32c::crc32c(&bytes[CHECKED_FROM..]);
    bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_be_bytes());
    bytes.into()
}

impl Data {
    pub(super) fn key(&self) -> ApiKey {
        match self {
            Self::Produce { .. } => ApiKey::Produce,
            Self::Fetch { .. } => ApiKey::Fetch,
            Self::ListOffsets { .. } => ApiKey::ListOffsets,
            Self::DeleteRecords { .. } => ApiKey::DeleteRecords,
            Self::OffsetForLeaderEpoch { .. } => ApiKey::OffsetForLeaderEpoch,
        }
    }

    pub(super) fn request(&self, version: i16, state: &State) -> Request {
        match self {
            Self::Produce { acks, transaction, batches } => {
                let topics = by_topic(batches).into_iter().map(|(topic, partitions)| {
                    let data = partitions.into_iter().map(|(partition, batch)| {
                        PartitionProduceData::default()
                            .with_index(partition)
                            .with_records(batch.bytes(state, topic, partition))
                    });
                    let data = TopicProduceData::default().with_partition_data(data.collect());
                    match version {
                        ..13 => data.with_name(state.topic(topic)),
                        _ => data.with_topic_id(state.topic_id(topic)),
                    }
                });
                let id = state.transactional_id(transaction.0, transaction.1);
                ProduceRequest::default()
                    .with_transactional_id(id)
                    .with_acks(*acks)
                    .with_timeout_ms(5000)
                    .with_topic_data(topics.collect())
                    .into()
            }
            Self::Fetch { isolation, bytes_max, from, session, forgotten } => {
                let topics = by_topic(from).into_iter().map(|(topic, partitions)| {
                    let asked = partitions.into_iter().map(|(partition, (offset, epoch, bytes_max))| {
                        FetchPartition::default()
                            .with_partition(partition)
                            .with_fetch_offset(offset)
                            .with_current_leader_epoch(if version >= 9 { epoch } else { -1 })
                            .with_partition_max_bytes(bytes_max)
                    });
                    let asked = FetchTopic::default().with_partitions(asked.collect());
                    match version {
                        ..13 => asked.with_topic(state.topic(topic)),
                        _ => asked.with_topic_id(state.topic_id(topic)),
                    }
                });
                let session = if version >= 7 { *session } else { Session::None };
                let (id, epoch) = session.said(state.session);
                let all: Vec<_> =
                    forgotten.iter().map(|(topic, partition)| (*topic, *partition, ())).collect();
                let forgotten = by_topic(&all).into_iter().map(|(topic, partitions)| {
                    let partitions = partitions.into_iter().map(|(partition, ())| partition).collect();
                    let forgotten = ForgottenTopic::default().with_partitions(partitions);
                    match version {
                        ..13 => forgotten.with_topic(state.topic(topic)),
                        _ => forgotten.with_topic_id(state.topic_id(topic)),
                    }
                });
                let forgotten = if version >= 7 { forgotten.collect() } else { Vec::new() };
                FetchRequest::default()
                    .with_max_wait_ms(0)
                    .with_min_bytes(1)
                    .with_max_bytes(*bytes_max)
                    .with_isolation_level(*isolation)
                    .with_session_id(id)
                    .with_session_epoch(epoch)
                    .with_topics(topics.collect())
                    .with_forgotten_topics_data(forgotten)
                    .into()
            }
            Self::ListOffsets { isolation, times } => {
                let topics = by_topic(times).into_iter().map(|(topic, partitions)| {
                    let asked = partitions.into_iter().map(|(partition, (time, epoch))| {
                        ListOffsetsPartition::default()
                            .with_partition_index(partition)
                            .with_timestamp(if time < 0 { time } else { state.now_ms + time })
                            .with_current_leader_epoch(if version >= 4 { epoch } else { -1 })
                    });
                    let asked = asked.collect();
                    ListOffsetsTopic::default().with_name(state.topic(topic)).with_partitions(asked)
                });
                ListOffsetsRequest::default()
                    .with_replica_id((-1).into())
                    .with_isolation_level(if version >= 2 { *isolation } else { 0 })
                    .with_timeout_ms(if version >= 10 { 5000 } else { 0 })
                    .with_topics(topics.collect())
                    .into()
            }
            Self::DeleteRecords { before } => {
                let topics = by_topic(before).into_iter().map(|(topic, partitions)| {
                    let asked = partitions.into_iter().map(|(partition, offset)| {
                        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset)
                    });
                    let asked = asked.collect();
                    DeleteRecordsTopic::default().with_name(state.topic(topic)).with_partitions(asked)
                });
                DeleteRecordsRequest::default().with_timeout_ms(5000).with_topics(topics.collect()).into()
            }
            Self::OffsetForLeaderEpoch { epochs } => {
                let topics = by_topic(epochs).into_iter().map(|(topic, partitions)| {
                    let asked = partitions.into_iter().map(|(partition, (current, asked))| {
                        OffsetForLeaderPartition::default()
                            .with_partition(partition)
                            .with_current_leader_epoch(current)
                            .with_leader_epoch(asked)
                    });
                    let asked = asked.collect();
                    OffsetForLeaderTopic::default().with_topic(state.topic(topic)).with_partitions(asked)
                });
                let replica = if version >= 3 { -1 } else { -2 };
                OffsetForLeaderEpochRequest::default()
                    .with_replica_id(replica.into())
                    .with_topics(topics.collect())
                    .into()
            }
        }
    }

    pub(super) fn learn(&self, response: &Response, state: &mut State) {
        if let (Self::Fetch { session, .. }, Response::Fetch(response)) = (self, response)
            && response.error_code == 0
            && *session != Session::None
        {
            let next = if *session == Session::Next { state.session.1 + 1 } else { 1 };
            match response.session_id {
                0 => state.session = NO_SESSION,
                id => state.session = (id, next),
            }
        }
        let (Self::Produce { batches, .. }, Response::Produce(response)) = (self, response) else { return };
        let before = state.clone();
        for (topic, partition, batch) in batches {
            let Some(who) = batch.producer else { continue };
            let (name, id) = (before.topic(*topic), before.topic_id(*topic));
            let told = response.responses.iter().filter(|each| each.name == name || each.topic_id == id);
            let mut told = told.flat_map(|each| &each.partition_responses);
            if told.any(|each| each.index == *partition && each.error_code == 0) {
                let sequence = batch.sequence(&before, *topic, *partition);
                let count = i32::from(batch.count);
                state.took(before.writer(who), *topic, *partition, sequence, count);
            }
        }
    }
}

fn at<T: Clone + std::fmt::Debug + 'static>(
    what: impl Strategy<Value = T> + Clone + 'static,
) -> impl Strategy<Value = Vec<At<T>>> {
    (places(3), proptest::collection::vec(what, 3)).prop_map(|(places, what)| {
        places.into_iter().zip(what).map(|((topic, partition), what)| (topic, partition, what)).collect()
    })
}

fn flaw() -> impl Strategy<Value = Flaw> + Clone {
    use Flaw::{Checksum, Control, Count, Cut, Empty, OldFormat, Two};
    // Not null: Kafka never answers that.
    mostly(&[Flaw::None], &[Empty, Checksum, Cut, OldFormat, Two, Control, Count])
}

fn sequence() -> impl Strategy<Value = Sequence> + Clone {
    use Sequence::{Again, Gap, Next, Zero};
    mostly(&[Next, Next, Next, Again], &[Gap, Zero])
}

/// Batches of nobody.
fn plain_batch() -> impl Strategy<Value = Batch> + Clone {
    use Compression::{Gzip, Lz4, Snappy, Zstd};
    let codec = mostly(&[Compression::None, Compression::None, Gzip, Lz4], &[Snappy, Zstd]);
    let time = mostly(&[0, 0, 1, 5], &[20, 86_400_000]);
    (1..4_u8, codec, any::<bool>(), time, flaw()).prop_map(|(count, codec, keyed, time, flaw)| Batch {
        count,
        codec,
        keyed,
        time,
        producer: None,
        sequence: Sequence::None,
        transactional: false,
        flaw,
    })
}

fn produce_plainly() -> BoxedStrategy<Step> {
    let acks = mostly(&[-1, -1, 1, 0], &[2, -2]);
    let call = (acks, at(plain_batch())).prop_map(|(acks, batches)| {
        Call::Data(Data::Produce { acks, transaction: (Transaction::Null, Slot::Idempotent), batches })
    });
    step(ApiKey::Produce, call)
}

/// One producer in one request, as producers do; mostly in a transaction if it has an id for that.
pub(super) fn produce_in_sequence(slots: &'static [Slot]) -> BoxedStrategy<Step> {
    let batch = (plain_batch(), sequence(), mostly(&[true], &[false]));
    let acks = mostly(&[-1], &[1]);
    // Kafka does not look at the transactional id again once it has seen the partition in the transaction.
    let transaction = mostly(&[Transaction::Own], &[Transaction::Null]);
    let call = (select(slots), epoch(), acks, transaction, at(batch)).prop_map(
        |(slot, epoch, acks, transaction, batches)| {
            // A batch without an epoch is refused here.
            let epoch = if epoch == EpochRef::None { EpochRef::Older } else { epoch };
            let who = Who { slot, epoch };
            let batches = batches.into_iter().map(|(topic, partition, (batch, sequence, is_usual))| {
                let transactional = (slot != Slot::Idempotent) == is_usual;
                (topic, partition, Batch { producer: Some(who), sequence, transactional, ..batch })
            });
            Call::Data(Data::Produce { acks, transaction: (transaction, slot), batches: batches.collect() })
        },
    );
    step(ApiKey::Produce, call)
}

pub(super) fn fetch() -> BoxedStrategy<Step> {
    let offset = mostly(&[0, 0, 0, 1, 2, 4], &[-1, 1000]);
    let epoch = mostly(&[-1, 0], &[1, -2]);
    let bytes = prop_oneof![4 => Just(ROOMY_BYTES), 1 => select(&[0, 1, 100, 150, 250][..])];
    let call = (mostly(&[0, 1], &[2]), bytes.clone(), at((offset, epoch, bytes))).prop_map(
        |(isolation, bytes_max, from)| {
            let (session, forgotten) = (Session::None, Vec::new());
            Call::Data(Data::Fetch { isolation, bytes_max, from, session, forgotten })
        },
    );
    step(ApiKey::Fetch, call)
}

/// As consumers do it: all at first, and then what is new. Whatever there is fits, and what is asked for has a name, for one
/// that fails for Kafka's want of it leaves a session behind.
fn fetch_in_session() -> BoxedStrategy<Step> {
    use Session::{Again, Ahead, Another, First, Last, Next, Unknown};
    let session = mostly(&[Next, Next, Next, Next, Next, First], &[Again, Ahead, Another, Last, Unknown]);
    let offset = mostly(&[0, 1, 2, 4], &[-1, 1000]);
    let from = prop_oneof![2 => at((offset, mostly(&[-1, 0], &[1]))), 3 => Just(Vec::new())];
    let forgotten = prop_oneof![5 => Just(Vec::new()), 1 => places(2)];
    let call = (select(&[0, 1][..]), session, from, forgotten).prop_map(
        |(isolation, session, from, mut forgotten)| {
            let from = from.into_iter().filter(|(topic, ..)| *topic != Topic::Empty);
            let from = from
                .map(|(topic, partition, (offset, epoch))| (topic, partition, (offset, epoch, ROOMY_BYTES)));
            forgotten.retain(|(topic, _)| *topic != Topic::Empty);
            let from = from.collect();
            Call::Data(Data::Fetch { isolation, bytes_max: ROOMY_BYTES, from, session, forgotten })
        },
    );
    // Mostly by name, so that they meet.
    prop_oneof![
        3 => call.clone().prop_map(|call| Step { version: 12, call }),
        1 => step(ApiKey::Fetch, call),
    ]
    .boxed()
}

pub(super) fn list_offsets() -> BoxedStrategy<Step> {
    let time = mostly(&[-1, -2, -3, 0, 1, 3], &[-4, -5, -6, 50]);
    let epoch = mostly(&[-1, 0], &[1, -2]);
    let call = (mostly(&[0, 1], &[2]), at((time, epoch)))
        .prop_map(|(isolation, times)| Call::Data(Data::ListOffsets { isolation, times }));
    step(ApiKey::ListOffsets, call)
}

/// What is asked about records.
pub(super) fn steps() -> BoxedStrategy<Step> {
    let before = at(mostly(&[0, 1, -1], &[-2, 1000]));
    let delete = before.prop_map(|before| Call::Data(Data::DeleteRecords { before }));
    let epochs = at((mostly(&[-1, 0], &[1]), mostly(&[0], &[1, -1])));
    let ends = epochs.prop_map(|epochs| Call::Data(Data::OffsetForLeaderEpoch { epochs }));
    prop_oneof![
        5 => produce_plainly(),
        4 => produce_in_sequence(&[Slot::Idempotent]),
        1 => Just(super::transaction::init(Slot::Idempotent)),
        4 => fetch(),
        5 => fetch_in_session(),
        4 => list_offsets(),
        2 => step(ApiKey::DeleteRecords, delete),
        1 => step(ApiKey::OffsetForLeaderEpoch, ends),
    ]
    .boxed()
}

/// A record without anything wrong, for whom it matters only that there is one.
#[must_use]
pub fn one_record(topic: Topic, partition: i32) -> Data {
    let batch = Batch {
        count: 1,
        codec: Compression::None,
        keyed: false,
        time: 0,
        producer: None,
        sequence: Sequence::None,
        transactional: false,
        flaw: Flaw::None,
    };
    let transaction = (Transaction::Null, Slot::Idempotent);
    Data::Produce { acks: -1, transaction, batches: vec![(topic, partition, batch)] }
}
