//! Producers' ids, and transactions.

use anabranch_wire::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use anabranch_wire::messages::describe_producers_request::TopicRequest;
use anabranch_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use anabranch_wire::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use anabranch_wire::messages::*;
use anabranch_wire::{Request, Response};
use proptest::prelude::*;

use super::group::{Generation, MemberRef, Metadata, generation_id, member_id};
use super::{
    Call, EpochRef, Group, Slot, Step, Topic, Transaction, Who, by_topic, group, mostly, places, step,
    transaction, who,
};
use crate::client::text;
use crate::side::{NOBODY, Producer, State};

/// A request about producers or transactions.
#[derive(Debug, Clone)]
pub enum TransactionCall {
    /// Asks for an id.
    Init {
        /// Where it is kept.
        slot: Slot,
        /// Under which transactional id.
        transaction: Transaction,
        /// How long a transaction may take.
        timeout_ms: i32,
        /// Whom it was.
        expected: Option<Who>,
    },
    /// Puts partitions into the transaction.
    AddPartitions {
        /// Whose.
        who: Who,
        /// Which.
        transaction: Transaction,
        /// What.
        places: Vec<(Topic, i32)>,
        /// Or only asks whether they are in it, where the version can.
        verify_only: bool,
    },
    /// Puts a group's offsets into it.
    AddOffsets {
        /// Whose.
        who: Who,
        /// Which.
        transaction: Transaction,
        /// What.
        group: Group,
    },
    /// Commits offsets in it.
    Commit {
        /// Whose.
        who: Who,
        /// Which.
        transaction: Transaction,
        /// Of which group.
        group: Group,
        /// As which member of it.
        member: Option<(u8, MemberRef, Generation)>,
        /// Offset and metadata.
        offsets: Vec<(Topic, i32, (i64, Metadata))>,
    },
    /// Ends it.
    End {
        /// Whose.
        who: Who,
        /// Which.
        transaction: Transaction,
        /// Or aborts it.
        commits: bool,
    },
    /// Who writes.
    DescribeProducers {
        /// Where.
        places: Vec<(Topic, i32)>,
    },
    /// Shows.
    Describe {
        /// Which.
        transactions: Vec<(Transaction, Slot)>,
    },
    /// Shows all.
    List {
        /// Of those states.
        states: Vec<&'static str>,
        /// Of that producer.
        of: Option<Who>,
        /// That took longer than this, in version 1.
        longer_than_ms: i64,
        /// That are called so, in version 2.
        pattern: Option<&'static str>,
    },
    /// Ends it in its partitions, as an operator.
    WriteMarkers {
        /// Whose.
        who: Who,
        /// Or aborts it.
        commits: bool,
        /// Where.
        places: Vec<(Topic, i32)>,
    },
}

fn partitions_of(places: &[(Topic, i32)]) -> Vec<(Topic, Vec<i32>)> {
    let places: Vec<_> = places.iter().map(|(topic, partition)| (*topic, *partition, ())).collect();
    let grouped = by_topic(&places).into_iter();
    grouped.map(|(topic, all)| (topic, all.into_iter().map(|(partition, ())| partition).collect())).collect()
}

fn must_name(state: &State, transaction: Transaction, who: Who) -> TransactionalId {
    state.transactional_id(transaction, who.slot).unwrap_or_default()
}

impl TransactionCall {
    pub(super) fn key(&self) -> ApiKey {
        match self {
            Self::Init { .. } => ApiKey::InitProducerId,
            Self::AddPartitions { .. } => ApiKey::AddPartitionsToTxn,
            Self::AddOffsets { .. } => ApiKey::AddOffsetsToTxn,
            Self::Commit { .. } => ApiKey::TxnOffsetCommit,
            Self::End { .. } => ApiKey::EndTxn,
            Self::DescribeProducers { .. } => ApiKey::DescribeProducers,
            Self::Describe { .. } => ApiKey::DescribeTransactions,
            Self::List { .. } => ApiKey::ListTransactions,
            Self::WriteMarkers { .. } => ApiKey::WriteTxnMarkers,
        }
    }

    pub(super) fn request(&self, version: i16, state: &State) -> Request {
        match self {
            Self::Init { slot, transaction, timeout_ms, expected } => {
                let expected = expected.filter(|_| version >= 3).map_or(NOBODY, |who| state.producer(who));
                InitProducerIdRequest::default()
                    .with_transactional_id(state.transactional_id(*transaction, *slot))
                    .with_transaction_timeout_ms(*timeout_ms)
                    .with_producer_id(ProducerId(expected.id))
                    .with_producer_epoch(expected.epoch)
                    .into()
            }
            Self::AddPartitions { who, transaction, places, verify_only } => {
                let producer = state.producer(*who);
                let topics = partitions_of(places).into_iter().map(|(topic, partitions)| {
                    AddPartitionsToTxnTopic::default()
                        .with_name(state.topic(topic))
                        .with_partitions(partitions)
                });
                let id = must_name(state, *transaction, *who);
                match version {
                    ..4 => AddPartitionsToTxnRequest::default()
                        .with_v3_and_below_transactional_id(id)
                        .with_v3_and_below_producer_id(ProducerId(producer.id))
                        .with_v3_and_below_producer_epoch(producer.epoch)
                        .with_v3_and_below_topics(topics.collect()),
                    _ => {
                        let one = AddPartitionsToTxnTransaction::default()
                            .with_transactional_id(id)
                            .with_producer_id(ProducerId(producer.id))
                            .with_producer_epoch(producer.epoch)
                            .with_verify_only(*verify_only)
                            .with_topics(topics.collect());
                        AddPartitionsToTxnRequest::default().with_transactions(vec![one])
                    }
                }
                .into()
            }
            Self::AddOffsets { who, transaction, group } => {
                let producer = state.producer(*who);
                AddOffsetsToTxnRequest::default()
                    .with_transactional_id(must_name(state, *transaction, *who))
                    .with_producer_id(ProducerId(producer.id))
                    .with_producer_epoch(producer.epoch)
                    .with_group_id(state.group(*group))
                    .into()
            }
            Self::Commit { who, transaction, group, member, offsets } => {
                let producer = state.producer(*who);
                let topics = by_topic(offsets).into_iter().map(|(topic, partitions)| {
                    let each = partitions.into_iter().map(|(partition, (offset, metadata))| {
                        TxnOffsetCommitRequestPartition::default()
                            .with_partition_index(partition)
                            .with_committed_offset(offset)
                            .with_committed_metadata(metadata.text())
                    });
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(state.topic(topic))
                        .with_partitions(each.collect())
                });
                let request = TxnOffsetCommitRequest::default()
                    .with_transactional_id(must_name(state, *transaction, *who))
                    .with_group_id(state.group(*group))
                    .with_producer_id(ProducerId(producer.id))
                    .with_producer_epoch(producer.epoch)
                    .with_topics(topics.collect());
                match member {
                    Some((slot, member, generation)) if version >= 3 => request
                        .with_member_id(member_id(state, *group, *slot, *member))
                        .with_generation_id(generation_id(state, *group, *slot, *generation)),
                    _ => request,
                }
                .into()
            }
            Self::End { who, transaction, commits } => {
                let producer = state.producer(*who);
                EndTxnRequest::default()
                    .with_transactional_id(must_name(state, *transaction, *who))
                    .with_producer_id(ProducerId(producer.id))
                    .with_producer_epoch(producer.epoch)
                    .with_committed(*commits)
                    .into()
            }
            Self::DescribeProducers { places } => {
                let topics = partitions_of(places).into_iter().map(|(topic, partitions)| {
                    TopicRequest::default().with_name(state.topic(topic)).with_partition_indexes(partitions)
                });
                DescribeProducersRequest::default().with_topics(topics.collect()).into()
            }
            Self::Describe { transactions } => {
                let ids = transactions.iter().map(|(transaction, slot)| {
                    state.transactional_id(*transaction, *slot).unwrap_or_default()
                });
                DescribeTransactionsRequest::default().with_transactional_ids(ids.collect()).into()
            }
            Self::List { states, of, longer_than_ms, pattern } => {
                let of = of.map(|who| ProducerId(state.producer(who).id));
                let request = ListTransactionsRequest::default()
                    .with_state_filters(states.iter().copied().map(text).collect())
                    .with_producer_id_filters(of.into_iter().collect());
                match version {
                    0 => request,
                    1 => request.with_duration_filter(*longer_than_ms),
                    _ => request
                        .with_duration_filter(*longer_than_ms)
                        .with_transactional_id_pattern(pattern.map(text)),
                }
                .into()
            }
            Self::WriteMarkers { who, commits, places } => {
                let producer = state.writer(*who);
                let topics = partitions_of(places).into_iter().map(|(topic, partitions)| {
                    WritableTxnMarkerTopic::default()
                        .with_name(state.topic(topic))
                        .with_partition_indexes(partitions)
                });
                let marker = WritableTxnMarker::default()
                    .with_producer_id(ProducerId(producer.id))
                    .with_producer_epoch(producer.epoch)
                    .with_transaction_result(*commits)
                    .with_topics(topics.collect());
                WriteTxnMarkersRequest::default().with_markers(vec![marker]).into()
            }
        }
    }

    pub(super) fn learn(&self, response: &Response, state: &mut State) {
        match (self, response) {
            (Self::Init { slot, transaction: Transaction::Own, .. }, Response::InitProducerId(response))
                if response.error_code == 0 =>
            {
                let producer = Producer { id: response.producer_id.0, epoch: response.producer_epoch };
                state.set_producer(*slot, producer);
            }
            (Self::End { who, transaction: Transaction::Own, .. }, Response::EndTxn(response))
                if response.error_code == 0 =>
            {
                // Before version 5 it says nothing of them.
                let producer = Producer { id: response.producer_id.0, epoch: response.producer_epoch };
                state.set_producer(who.slot, producer);
            }
            _ => {}
        }
    }
}

/// A producer gets its id.
#[must_use]
pub fn init(slot: Slot) -> Step {
    let call =
        TransactionCall::Init { slot, transaction: Transaction::Own, timeout_ms: 60_000, expected: None };
    Step { version: 4, call: Call::Transaction(call) }
}

/// What is asked about transactions.
pub(super) fn steps() -> BoxedStrategy<Step> {
    let slot = || mostly(&[Slot::A, Slot::A, Slot::B], &[Slot::Idempotent]);
    let expected = prop_oneof![5 => Just(None), 2 => who().prop_map(Some)];
    let init = (slot(), transaction(), mostly(&[60_000], &[0, -1, 10_000_000]), expected).prop_map(
        |(slot, transaction, timeout_ms, expected)| {
            // Whoever is expected is the one whose id it is, mostly.
            let expected =
                expected.map(|who| if who.slot == Slot::Unknown { who } else { Who { slot, ..who } });
            Call::Transaction(TransactionCall::Init { slot, transaction, timeout_ms, expected })
        },
    );
    let add = (who(), transaction(), places(3), mostly(&[false], &[true])).prop_map(
        |(who, transaction, places, verify_only)| {
            Call::Transaction(TransactionCall::AddPartitions { who, transaction, places, verify_only })
        },
    );
    let add_offsets = (who(), transaction(), group()).prop_map(|(who, transaction, group)| {
        Call::Transaction(TransactionCall::AddOffsets { who, transaction, group })
    });
    let metadata = mostly(&[Metadata::Short, Metadata::Null], &[Metadata::Empty]);
    let offset = (mostly(&[0, 1, 7], &[-1]), metadata);
    let offsets = (places(2), proptest::collection::vec(offset, 2)).prop_map(|(places, offsets)| {
        places
            .into_iter()
            .zip(offsets)
            .map(|((topic, partition), offset)| (topic, partition, offset))
            .collect()
    });
    let member = mostly(
        &[None],
        &[
            Some((0, MemberRef::Own, Generation::Current)),
            Some((0, MemberRef::Unknown, Generation::None)),
            Some((0, MemberRef::Empty, Generation::Newer)),
        ],
    );
    // As with Produce.
    let commit = (who(), Just(Transaction::Own), group(), member, offsets).prop_map(
        |(who, transaction, group, member, offsets)| {
            Call::Transaction(TransactionCall::Commit { who, transaction, group, member, offsets })
        },
    );
    let end = (who(), transaction(), any::<bool>()).prop_map(|(who, transaction, commits)| {
        Call::Transaction(TransactionCall::End { who, transaction, commits })
    });
    let producers =
        places(2).prop_map(|places| Call::Transaction(TransactionCall::DescribeProducers { places }));
    let describe = proptest::collection::vec((transaction(), slot()), 1..2)
        .prop_map(|transactions| Call::Transaction(TransactionCall::Describe { transactions }));
    let states =
        proptest::collection::vec(mostly(&["Ongoing", "Empty", "CompleteCommit"], &["Nothing"]), 0..2);
    let of = prop_oneof![3 => Just(None), 1 => who().prop_map(Some)];
    let pattern = mostly(&[None, Some(".*txn-a")], &[Some(""), Some("("), Some("nothing")]);
    let list = (states, of, mostly(&[-1], &[3_600_000]), pattern).prop_map(
        |(states, of, longer_than_ms, pattern)| {
            Call::Transaction(TransactionCall::List { states, of, longer_than_ms, pattern })
        },
    );
    let markers = (who(), any::<bool>(), places(2)).prop_map(|(who, commits, places)| {
        // A marker of a later epoch than the producer's leaves Kafka with a transaction that never ends.
        let epoch = if who.epoch == EpochRef::Newer { EpochRef::Current } else { who.epoch };
        let who = Who { epoch, ..who };
        Call::Transaction(TransactionCall::WriteMarkers { who, commits, places })
    });
    prop_oneof![
        5 => step(ApiKey::InitProducerId, init),
        4 => step(ApiKey::AddPartitionsToTxn, add),
        8 => super::data::produce_in_sequence(&[Slot::A, Slot::A, Slot::B]),
        2 => step(ApiKey::AddOffsetsToTxn, add_offsets),
        3 => step(ApiKey::TxnOffsetCommit, commit),
        6 => step(ApiKey::EndTxn, end),
        3 => super::data::fetch(),
        2 => super::data::list_offsets(),
        2 => super::group::fetch(),
        1 => super::group::commit(),
        1 => step(ApiKey::DescribeProducers, producers),
        2 => step(ApiKey::DescribeTransactions, describe),
        1 => step(ApiKey::ListTransactions, list),
        1 => step(ApiKey::WriteTxnMarkers, markers),
    ]
    .boxed()
}

/// Whether a transaction of the case may be on its way to an end.
#[must_use]
pub fn may_end(call: &TransactionCall) -> bool {
    matches!(call, TransactionCall::Init { .. } | TransactionCall::End { .. })
}

/// The transactional ids that a case may begin.
#[must_use]
pub fn ids(state: &State) -> Vec<TransactionalId> {
    let slots = [Slot::A, Slot::B].into_iter();
    let never = state.transactional_id(Transaction::Never, Slot::A);
    slots.filter_map(|slot| state.transactional_id(Transaction::Own, slot)).chain(never).collect()
}
