//! Transactions, through the door.
//!
//! As in `peer`, every expectation was compared with Apache Kafka's: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it transactions` runs the same cases there.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anabranch_core::batch::{BatchBuilder, Compression, Record, split_batches};
use anabranch_core::{ProducerEpoch, ProducerId as Id};
use anabranch_serve::Limits;
use anabranch_wire::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use anabranch_wire::messages::describe_producers_request::TopicRequest;
use anabranch_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use anabranch_wire::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use anabranch_wire::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use anabranch_wire::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use anabranch_wire::messages::*;
use bytes::Bytes;

use crate::client::{Client, Node, SOON, fetch, own_name, produce, text, topic};

const CORRUPT_MESSAGE: i16 = 2;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
const COORDINATOR_NOT_AVAILABLE: i16 = 15;
const NOT_COORDINATOR: i16 = 16;
const ILLEGAL_GENERATION: i16 = 22;
const INVALID_GROUP_ID: i16 = 24;
const UNKNOWN_MEMBER_ID: i16 = 25;
const INVALID_REQUEST: i16 = 42;
const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
const INVALID_PRODUCER_EPOCH: i16 = 47;
const INVALID_TXN_STATE: i16 = 48;
const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
const CONCURRENT_TRANSACTIONS: i16 = 51;
const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
const OPERATION_NOT_ATTEMPTED: i16 = 55;
const UNSTABLE_OFFSET_COMMIT: i16 = 88;
const PRODUCER_FENCED: i16 = 90;
const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
const TRANSACTION_ABORTABLE: i16 = 120;
const INVALID_REGULAR_EXPRESSION: i16 = 128;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

fn group() -> GroupId {
    GroupId(text(&own_name()))
}

fn id() -> TransactionalId {
    TransactionalId(text(&own_name()))
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Producer {
    id: i64,
    epoch: i16,
}

const NOBODY: Producer = Producer { id: -1, epoch: -1 };

impl Producer {
    fn batch(self, sequence: i32, value: &str) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.transactional();
        self.built(builder, sequence, value)
    }

    /// One that is in no transaction.
    fn plain(self, sequence: i32, value: &str) -> Bytes {
        self.built(BatchBuilder::new(Compression::None), sequence, value)
    }

    fn built(self, mut builder: BatchBuilder, sequence: i32, value: &str) -> Bytes {
        builder.producer(Id(self.id), ProducerEpoch(self.epoch), sequence);
        // As the markers' is: a record of long ago would have a segment of its own, at whose end a fetch ends.
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        builder.push(&Record::keyless(value.to_owned()).at(now_ms as i64));
        builder.build().unwrap()
    }
}

struct Place {
    client: Client,
    _node: Option<Node>,
}

/// Our broker or the peer, with a topic of two partitions.
async fn place() -> Place {
    let (node, mut client) = match std::env::var("ANABRANCH_PEER") {
        Ok(peer) => (None, Client::connect(peer.parse::<SocketAddr>().unwrap()).await),
        Err(_) => {
            let interval = "transaction.abort.timed.out.transaction.cleanup.interval.ms";
            let node = Node::with(Limits::default(), &[(interval, "10")]).await;
            let client = node.connect().await;
            (Some(node), client)
        }
    };
    client.create_topic(&own_name(), 2).await;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![text(&own_name())]);
    let ready = async {
        for key_type in [GROUP, TRANSACTION] {
            let find = find.clone().with_key_type(key_type);
            while client.call(4, &find).await.coordinators[0].error_code != 0 {}
        }
        while client.fetch(&own_name(), 0).await.error_code != 0 {}
    };
    tokio::time::timeout(SOON, ready).await.expect("the peer gets ready");
    Place { client, _node: node }
}

impl Place {
    /// The answer, when the one before has come to its end: Kafka writes markers behind what it answers.
    async fn settled<R>(
        &mut self,
        version: i16,
        request: &R,
        code: impl Fn(&R::Response) -> i16,
    ) -> R::Response
    where
        R: anabranch_wire::protocol::Request,
    {
        let passing = [
            CONCURRENT_TRANSACTIONS,
            COORDINATOR_LOAD_IN_PROGRESS,
            COORDINATOR_NOT_AVAILABLE,
            NOT_COORDINATOR,
        ];
        let settled = async {
            loop {
                let response = self.client.call(version, request).await;
                if !passing.contains(&code(&response)) {
                    return response;
                }
            }
        };
        tokio::time::timeout(SOON, settled).await.expect("it settles")
    }

    async fn init(&mut self, version: i16, expected: Producer, timeout_ms: i32) -> (i16, Producer) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(id()))
            .with_transaction_timeout_ms(timeout_ms)
            .with_producer_id(ProducerId(expected.id))
            .with_producer_epoch(expected.epoch);
        let response = self.settled(version, &request, |response| response.error_code).await;
        (response.error_code, Producer { id: response.producer_id.0, epoch: response.producer_epoch })
    }

    async fn begin(&mut self) -> Producer {
        let (code, producer) = self.init(4, NOBODY, 60_000).await;
        assert_eq!(code, 0);
        producer
    }

    /// The code of each partition.
    async fn add(&mut self, version: i16, producer: Producer, partitions: &[i32]) -> Vec<i16> {
        let topic = AddPartitionsToTxnTopic::default()
            .with_name(topic(&own_name()))
            .with_partitions(partitions.to_vec());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(id())
            .with_v3_and_below_producer_id(ProducerId(producer.id))
            .with_v3_and_below_producer_epoch(producer.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let first = |response: &AddPartitionsToTxnResponse| {
            response.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
        };
        let mut response = self.settled(version, &request, first).await;
        let mut each = response.results_by_topic_v3_and_below.remove(0).results_by_partition;
        each.sort_by_key(|each| each.partition_index);
        each.into_iter().map(|each| each.partition_error_code).collect()
    }

    /// Code and offset.
    async fn produce(&mut self, version: i16, partition: i32, batch: Bytes) -> (i16, i64) {
        let request = produce(&own_name(), partition, -1, batch).with_transactional_id(Some(id()));
        let code = |response: &ProduceResponse| response.responses[0].partition_responses[0].error_code;
        let response = self.settled(version, &request, code).await;
        (code(&response), response.responses[0].partition_responses[0].base_offset)
    }

    async fn end(&mut self, version: i16, producer: Producer, commits: bool) -> (i16, Producer) {
        let request = EndTxnRequest::default()
            .with_transactional_id(id())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_committed(commits);
        let response = self.settled(version, &request, |response| response.error_code).await;
        (response.error_code, Producer { id: response.producer_id.0, epoch: response.producer_epoch })
    }

    /// Values, the last stable offset, and what was aborted: producers and first offsets.
    async fn read(&mut self, partition: i32, isolation: i8) -> (Vec<String>, i64, Vec<(i64, i64)>) {
        let request = fetch(&own_name(), &[(partition, 0)]).with_isolation_level(isolation);
        let mut response = self.client.call(12, &request).await;
        let found = response.responses.remove(0).partitions.remove(0);
        assert_eq!(found.error_code, 0);
        let batches = split_batches(found.records.unwrap_or_default()).map(Result::unwrap);
        let data = batches.filter(|batch| !batch.header().is_control());
        let values = data
            .flat_map(|batch| batch.records().unwrap())
            .map(|at| String::from_utf8(at.record.value.unwrap().to_vec()).unwrap());
        let aborted = found.aborted_transactions.unwrap_or_default();
        let aborted = aborted.iter().map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect();
        (values.collect(), found.last_stable_offset, aborted)
    }

    async fn add_offsets(&mut self, version: i16, producer: Producer) -> i16 {
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(id())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_group_id(group());
        self.settled(version, &request, |response| response.error_code).await.error_code
    }

    /// Commits for partition 0, as a member of nothing unless the request is changed.
    async fn commit(
        &mut self,
        version: i16,
        producer: Producer,
        offset: i64,
        change: impl FnOnce(&mut TxnOffsetCommitRequest),
    ) -> i16 {
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("m")));
        let topic = TxnOffsetCommitRequestTopic::default()
            .with_name(topic(&own_name()))
            .with_partitions(vec![partition]);
        let mut request = TxnOffsetCommitRequest::default()
            .with_transactional_id(id())
            .with_group_id(group())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_topics(vec![topic]);
        change(&mut request);
        let code = |response: &TxnOffsetCommitResponse| response.topics[0].partitions[0].error_code;
        code(&self.settled(version, &request, code).await)
    }

    /// Without a transaction.
    async fn commit_plainly(&mut self, offset: i64) {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default().with_name(topic(&own_name()));
        let topic = topic.with_partitions(vec![partition.with_committed_metadata(Some(text("")))]);
        let request = OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(vec![topic]);
        assert_eq!(self.client.call(8, &request).await.topics[0].partitions[0].error_code, 0);
    }

    /// Code and offset.
    async fn committed(&mut self, require_stable: bool) -> (i16, i64) {
        let topic = OffsetFetchRequestTopics::default().with_name(topic(&own_name()));
        let asked = OffsetFetchRequestGroup::default()
            .with_group_id(group())
            .with_topics(Some(vec![topic.with_partition_indexes(vec![0])]));
        let request =
            OffsetFetchRequest::default().with_groups(vec![asked]).with_require_stable(require_stable);
        let mut response = self.client.call(8, &request).await;
        let found = response.groups.remove(0).topics.remove(0).partitions.remove(0);
        (found.error_code, found.committed_offset)
    }

    /// Waits until the group's offsets wait for nothing: what is committed.
    async fn stable_offset(&mut self) -> i64 {
        let stable = async {
            loop {
                match self.committed(true).await {
                    (UNSTABLE_OFFSET_COMMIT, _) => {}
                    (code, offset) => {
                        assert_eq!(code, 0);
                        return offset;
                    }
                }
            }
        };
        tokio::time::timeout(SOON, stable).await.expect("the transaction ends")
    }

    /// Waits until everything has ended: up to where.
    async fn stable_is(&mut self, partition: i32, expected: i64) {
        let ended = async { while self.read(partition, 1).await.1 != expected {} };
        tokio::time::timeout(SOON, ended).await.expect("the last stable offset moves");
    }
}

#[tokio::test]
async fn by_the_first_rules_the_epoch_stays() {
    let mut place = place().await;
    let producer = place.begin().await;
    assert_eq!(producer.epoch, 0);
    assert_eq!(place.add(3, producer, &[0, 1]).await, [0, 0]);
    assert_eq!(place.produce(11, 0, producer.batch(0, "a")).await, (0, 0));
    assert_eq!(place.produce(11, 1, producer.batch(0, "b")).await, (0, 0));
    assert_eq!(place.read(0, 1).await, (vec![], 0, vec![]));
    assert_eq!(place.read(0, 0).await, (vec!["a".to_owned()], 0, vec![]));
    assert_eq!(place.end(4, producer, true).await, (0, NOBODY));
    for (partition, value) in [(0, "a"), (1, "b")] {
        place.stable_is(partition, 2).await;
        assert_eq!(place.read(partition, 1).await, (vec![value.to_owned()], 2, vec![]));
    }
    // To say it again changes nothing; to say the contrary does not help.
    assert_eq!(place.end(4, producer, true).await.0, 0);
    assert_eq!(place.end(4, producer, false).await.0, INVALID_TXN_STATE);

    // What is not in the transaction is not taken.
    assert_eq!(place.produce(11, 0, producer.batch(1, "c")).await.0, TRANSACTION_ABORTABLE);
    assert_eq!(place.produce(10, 0, producer.batch(1, "c")).await.0, INVALID_TXN_STATE);
    assert_eq!(place.add(3, producer, &[0]).await, [0]);
    assert_eq!(place.produce(11, 0, producer.batch(1, "c")).await, (0, 2));
    assert_eq!(place.end(4, producer, false).await.0, 0);
    place.stable_is(0, 4).await;
    let read = place.read(0, 1).await;
    assert_eq!(read, (vec!["a".to_owned(), "c".to_owned()], 4, vec![(producer.id, 2)]));
}

#[tokio::test]
async fn by_the_second_rules_each_end_gives_a_new_epoch() {
    let mut place = place().await;
    let first = place.begin().await;
    assert_eq!(place.produce(12, 0, first.batch(0, "a")).await, (0, 0));
    assert_eq!(place.produce(12, 0, first.batch(1, "b")).await, (0, 1));
    assert_eq!(place.produce(12, 0, first.batch(3, "lost")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    let second = Producer { epoch: first.epoch + 1, ..first };
    assert_eq!(place.end(5, first, true).await, (0, second));
    assert_eq!(place.end(5, first, true).await, (0, second), "said again");
    assert_eq!(place.end(5, first, false).await.0, INVALID_TXN_STATE);
    place.stable_is(0, 3).await;
    assert_eq!(place.produce(12, 0, first.batch(2, "late")).await.0, INVALID_PRODUCER_EPOCH);

    assert_eq!(place.produce(12, 0, second.batch(0, "c")).await, (0, 3));
    assert_eq!(place.read(0, 1).await.0, ["a", "b"]);
    let third = Producer { epoch: second.epoch + 1, ..first };
    assert_eq!(place.end(5, second, false).await, (0, third));
    place.stable_is(0, 5).await;
    assert_eq!(place.read(0, 1).await.2, [(first.id, 3)]);
    // Nothing is in it: an abort is granted, a commit is not.
    assert_eq!(place.end(5, third, true).await, (INVALID_TXN_STATE, NOBODY));
    let fourth = Producer { epoch: third.epoch + 1, ..first };
    assert_eq!(place.end(5, third, false).await, (0, fourth));
}

#[tokio::test]
async fn a_new_incarnation_aborts_and_fences_the_one_before() {
    let mut place = place().await;
    let old = place.begin().await;
    assert_eq!(place.produce(12, 0, old.batch(0, "a")).await, (0, 0));
    // Once for the abort, which fences, and once for the incarnation.
    let new = place.begin().await;
    assert_eq!(new, Producer { epoch: old.epoch + 2, ..old });
    place.stable_is(0, 2).await;
    assert_eq!(place.read(0, 1).await.2, [(old.id, 0)]);
    assert_eq!(place.produce(12, 0, old.batch(1, "b")).await.0, INVALID_PRODUCER_EPOCH);
    assert_eq!(place.end(5, old, true).await, (PRODUCER_FENCED, NOBODY));
    assert_eq!(place.end(1, old, true).await.0, INVALID_PRODUCER_EPOCH);
    assert_eq!(place.add(3, old, &[0]).await, [PRODUCER_FENCED]);
    assert_eq!(place.add(1, old, &[0]).await, [INVALID_PRODUCER_EPOCH]);
    // Who says who it was goes on from there; who was fenced does not.
    assert_eq!(place.init(4, old, 60_000).await, (PRODUCER_FENCED, NOBODY));
    assert_eq!(place.init(3, old, 60_000).await, (INVALID_PRODUCER_EPOCH, NOBODY));
    let next = Producer { epoch: new.epoch + 1, ..new };
    assert_eq!(place.init(4, new, 60_000).await, (0, next));
    assert_eq!(place.init(4, new, 60_000).await, (0, next), "said again");
    assert_eq!(place.produce(12, 0, next.batch(0, "c")).await, (0, 2));
}

#[tokio::test]
async fn what_lasts_too_long_is_aborted() {
    let mut place = place().await;
    let (_, producer) = place.init(4, NOBODY, 500).await;
    assert_eq!(place.produce(12, 0, producer.batch(0, "a")).await, (0, 0));
    place.stable_is(0, 2).await;
    assert_eq!(place.read(0, 1).await.2, [(producer.id, 0)]);
    // It looks like an end of its own that it has not heard of: an abort may be said again.
    assert_eq!(place.end(5, producer, true).await, (INVALID_TXN_STATE, NOBODY));
    let next = Producer { epoch: producer.epoch + 1, ..producer };
    assert_eq!(place.end(5, producer, false).await, (0, next));
    assert_eq!(place.end(4, producer, true).await.0, PRODUCER_FENCED);
    assert_eq!(place.produce(12, 0, producer.batch(1, "b")).await.0, INVALID_PRODUCER_EPOCH);
    assert_eq!(place.produce(12, 0, next.batch(0, "c")).await, (0, 2));
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let mut place = place().await;
    for timeout_ms in [0, -1, 900_001] {
        assert_eq!(place.init(4, NOBODY, timeout_ms).await, (INVALID_TRANSACTION_TIMEOUT, NOBODY));
    }
    for half in [Producer { id: 1, epoch: -1 }, Producer { id: -1, epoch: 1 }] {
        assert_eq!(place.init(4, half, 60_000).await, (INVALID_REQUEST, NOBODY));
    }
    let empty = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(""))))
        .with_transaction_timeout_ms(60_000);
    assert_eq!(place.client.call(4, &empty).await.error_code, INVALID_REQUEST);
    let nobody = Producer { id: 7, epoch: 0 };
    assert_eq!(place.end(4, nobody, true).await.0, INVALID_PRODUCER_ID_MAPPING);
    assert_eq!(place.end(5, nobody, true).await, (INVALID_PRODUCER_ID_MAPPING, NOBODY));
    assert_eq!(place.add(3, nobody, &[0, 1]).await, [INVALID_PRODUCER_ID_MAPPING; 2]);
    assert_eq!(place.produce(12, 0, nobody.batch(0, "a")).await.0, INVALID_PRODUCER_ID_MAPPING);
    assert_eq!(place.produce(11, 0, nobody.batch(0, "a")).await.0, INVALID_PRODUCER_ID_MAPPING);

    let producer = place.begin().await;
    let expected = [OPERATION_NOT_ATTEMPTED, UNKNOWN_TOPIC_OR_PARTITION];
    assert_eq!(place.add(3, producer, &[0, 2]).await, expected);
    assert_eq!(place.end(4, producer, true).await.0, INVALID_TXN_STATE, "nothing is in it");
    let other = Producer { id: producer.id + 1, ..producer };
    assert_eq!(place.add(3, other, &[0]).await, [INVALID_PRODUCER_ID_MAPPING]);
    let newer = Producer { epoch: producer.epoch + 1, ..producer };
    assert_eq!(place.add(3, newer, &[0]).await, [PRODUCER_FENCED]);
    assert_eq!(place.produce(12, 0, newer.batch(0, "a")).await.0, INVALID_PRODUCER_EPOCH);

    for version in [11, 12] {
        let request = produce(&own_name(), 0, -1, producer.batch(0, "a"));
        let refused = place.client.call(version, &request).await;
        let code = refused.responses[0].partition_responses[0].error_code;
        assert_eq!(code, TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "{version}");
        let mut two = produce(&own_name(), 0, -1, producer.batch(0, "a")).with_transactional_id(Some(id()));
        let second = produce(&own_name(), 1, -1, other.batch(0, "b")).topic_data.remove(0).partition_data;
        two.topic_data[0].partition_data.extend(second);
        let refused = place.client.call(version, &two).await;
        let codes: Vec<i16> =
            refused.responses[0].partition_responses.iter().map(|each| each.error_code).collect();
        assert_eq!(codes, [INVALID_PRODUCER_ID_MAPPING; 2], "{version}");
    }
}

/// As brokers ask: several transactions, and whether partitions are in them.
#[tokio::test]
async fn partitions_are_added_and_verified_for_others() {
    let mut place = place().await;
    let producer = place.begin().await;
    let asked = |verify_only: bool, partitions: Vec<i32>| {
        let topic =
            AddPartitionsToTxnTopic::default().with_name(topic(&own_name())).with_partitions(partitions);
        let transaction = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(id())
            .with_producer_id(ProducerId(producer.id))
            .with_producer_epoch(producer.epoch)
            .with_verify_only(verify_only)
            .with_topics(vec![topic]);
        AddPartitionsToTxnRequest::default().with_transactions(vec![transaction])
    };
    for version in 4..=5 {
        for (verify_only, partitions, expected) in [
            (true, vec![1], vec![TRANSACTION_ABORTABLE]),
            (false, vec![0], vec![0]),
            (true, vec![0, 1], vec![0, TRANSACTION_ABORTABLE]),
        ] {
            let mut response = place.client.call(version, &asked(verify_only, partitions)).await;
            let mut result = response.results_by_transaction.remove(0);
            assert_eq!((response.error_code, result.transactional_id), (0, id()));
            let mut each = result.topic_results.remove(0).results_by_partition;
            each.sort_by_key(|each| each.partition_index);
            let codes: Vec<i16> = each.iter().map(|each| each.partition_error_code).collect();
            assert_eq!(codes, expected, "{version} {verify_only}");
        }
    }
}

#[tokio::test]
async fn offsets_count_when_their_transaction_commits() {
    let mut place = place().await;
    let first = place.begin().await;
    assert_eq!(place.add_offsets(3, first).await, 0);
    assert_eq!(place.commit(3, first, 5, |_| {}).await, 0);
    assert_eq!(place.committed(true).await.0, UNSTABLE_OFFSET_COMMIT);
    assert_eq!(place.committed(false).await, (0, -1));
    assert_eq!(place.end(4, first, true).await.0, 0);
    assert_eq!(place.stable_offset().await, 5);

    // By the second rules the offsets join by themselves. What is aborted was never there.
    assert_eq!(place.commit(5, first, 3, |_| {}).await, 0);
    assert_eq!(place.committed(true).await.0, UNSTABLE_OFFSET_COMMIT);
    assert_eq!(place.committed(false).await, (0, 5));
    let (code, second) = place.end(5, first, false).await;
    assert_eq!(code, 0);
    assert_eq!(place.stable_offset().await, 5);

    // The last word counts, in the order in which they were said.
    assert_eq!(place.commit(5, second, 6, |_| {}).await, 0);
    assert_eq!(place.commit(5, second, 7, |_| {}).await, 0);
    let (code, third) = place.end(5, second, true).await;
    assert_eq!((code, place.stable_offset().await), (0, 7));
    assert_eq!(place.commit(5, third, 8, |_| {}).await, 0);
    place.commit_plainly(9).await;
    assert_eq!(place.committed(false).await, (0, 9));
    assert_eq!(place.end(5, third, true).await.0, 0);
    assert_eq!(place.stable_offset().await, 9);
}

#[tokio::test]
async fn each_refusal_of_offsets_has_its_code() {
    let mut place = place().await;
    let producer = place.begin().await;
    assert_eq!(place.commit(4, producer, 5, |_| {}).await, TRANSACTION_ABORTABLE);
    assert_eq!(place.commit(3, producer, 5, |_| {}).await, INVALID_TXN_STATE);
    let newer = Producer { epoch: producer.epoch + 1, ..producer };
    assert_eq!(place.add_offsets(3, newer).await, PRODUCER_FENCED);
    assert_eq!(place.add_offsets(1, newer).await, INVALID_PRODUCER_EPOCH);
    assert_eq!(place.commit(5, newer, 5, |_| {}).await, INVALID_PRODUCER_EPOCH);
    let other = Producer { id: producer.id + 1, ..producer };
    assert_eq!(place.add_offsets(3, other).await, INVALID_PRODUCER_ID_MAPPING);
    assert_eq!(place.commit(5, other, 5, |_| {}).await, INVALID_PRODUCER_ID_MAPPING);
    let nameless = |request: &mut TxnOffsetCommitRequest| request.group_id = GroupId::default();
    assert_eq!(place.commit(5, producer, 5, nameless).await, INVALID_GROUP_ID);
    let elsewhere =
        |request: &mut TxnOffsetCommitRequest| request.topics[0].partitions[0].partition_index = 2;
    assert_eq!(place.commit(5, producer, 5, elsewhere).await, UNKNOWN_TOPIC_OR_PARTITION);
    let generation = |request: &mut TxnOffsetCommitRequest| {
        request.generation_id = 1;
        request.member_id = text("m");
    };
    assert_eq!(place.commit(5, producer, 5, generation).await, ILLEGAL_GENERATION, "there is no group");
    place.commit_plainly(1).await;
    assert_eq!(place.commit(5, producer, 5, generation).await, UNKNOWN_MEMBER_ID);
    assert_eq!(place.committed(true).await, (0, 1));
}

#[tokio::test]
async fn an_administrator_sees_them_and_ends_what_is_open() {
    let mut place = place().await;
    let old = place.begin().await;
    let producer = place.begin().await;
    assert_eq!(place.produce(12, 0, producer.batch(0, "a")).await, (0, 0));

    let ids = vec![id(), TransactionalId(text("no such id")), TransactionalId(text(""))];
    let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
    let described = place.client.call(0, &request).await.transaction_states;
    let codes: Vec<i16> = described.iter().map(|described| described.error_code).collect();
    assert_eq!(codes, [0, TRANSACTIONAL_ID_NOT_FOUND, INVALID_REQUEST]);
    let ours = &described[0];
    assert_eq!((ours.transaction_state.as_str(), ours.transaction_timeout_ms), ("Ongoing", 60_000));
    assert_eq!((ours.producer_id.0, ours.producer_epoch), (producer.id, producer.epoch));
    assert!(ours.transaction_start_time_ms > 0);
    assert_eq!((&ours.topics[0].topic, &ours.topics[0].partitions[..]), (&topic(&own_name()), &[0][..]));

    let pattern = |pattern: &str| Some(text(pattern));
    let own = format!("{}.*", &own_name()[..own_name().len() - 1]);
    for (states, producers, running_ms, pattern, expected) in [
        (vec![], vec![], -1, None, (0, true, 0)),
        (vec!["Ongoing"], vec![producer.id], 0, pattern(&own), (0, true, 0)),
        (vec!["Empty", "Dead"], vec![], -1, None, (0, false, 0)),
        (vec!["Ongoing", "ongoing"], vec![], -1, None, (0, true, 1)),
        (vec!["nonsense"], vec![], -1, None, (0, false, 1)),
        (vec![], vec![producer.id + 1_000_000], -1, None, (0, false, 0)),
        (vec![], vec![], 3_600_000, None, (0, false, 0)),
        (vec![], vec![], -1, pattern(&own_name()[1..]), (0, false, 0)),
        (vec![], vec![], -1, pattern("["), (INVALID_REGULAR_EXPRESSION, false, 0)),
    ] {
        let told = format!("{states:?} {producers:?} {running_ms} {pattern:?}");
        let request = ListTransactionsRequest::default()
            .with_state_filters(states.into_iter().map(text).collect())
            .with_producer_id_filters(producers.into_iter().map(ProducerId).collect())
            .with_duration_filter(running_ms)
            .with_transactional_id_pattern(pattern);
        let listed = place.client.call(2, &request).await;
        let is_there = listed.transaction_states.iter().any(|listed| {
            let found = (listed.transaction_state.as_str(), listed.producer_id.0);
            listed.transactional_id == id() && found == ("Ongoing", producer.id)
        });
        assert_eq!((listed.error_code, is_there, listed.unknown_state_filters.len()), expected, "{told}");
    }

    let asked = TopicRequest::default().with_name(topic(&own_name())).with_partition_indexes(vec![0, 2]);
    let request = DescribeProducersRequest::default().with_topics(vec![asked]);
    let partitions = place.client.call(0, &request).await.topics.remove(0).partitions;
    assert_eq!(partitions[1].error_code, UNKNOWN_TOPIC_OR_PARTITION);
    let active = &partitions[0].active_producers[0];
    assert_eq!((active.producer_id.0, active.producer_epoch), (producer.id, producer.epoch.into()));
    assert_eq!((active.last_sequence, active.coordinator_epoch, active.current_txn_start_offset), (0, -1, 0));

    for (by, expected) in [(old, INVALID_PRODUCER_EPOCH), (producer, 0)] {
        let marked = WritableTxnMarkerTopic::default()
            .with_name(topic(&own_name()))
            .with_partition_indexes(vec![0, 2]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(by.id))
            .with_producer_epoch(by.epoch)
            .with_topics(vec![marked]);
        let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let mut marked = place.client.call(1, &request).await.markers.remove(0).topics.remove(0).partitions;
        marked.sort_by_key(|marked| marked.partition_index);
        let codes: Vec<i16> = marked.iter().map(|marked| marked.error_code).collect();
        assert_eq!(codes, [expected, UNKNOWN_TOPIC_OR_PARTITION]);
    }
    assert_eq!(place.read(0, 1).await.2, [(producer.id, 0)]);
}

#[tokio::test]
async fn the_feature_is_told() {
    let mut place = place().await;
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"));
    let answer = place.client.call(4, &request).await;
    let is_ours = |name: &str| name == "transaction.version";
    let finalized = answer.finalized_features.iter().find(|feature| is_ours(&feature.name)).unwrap();
    assert_eq!((finalized.min_version_level, finalized.max_version_level), (2, 2));
    let supported = answer.supported_features.iter().find(|feature| is_ours(&feature.name)).unwrap();
    assert_eq!((supported.min_version, supported.max_version), (0, 2));
}

/// A batch that was to begin a transaction was refused, and the next one was taken in its place: what the client sent again
/// was out of order then, for ever (KAFKA-14920). Found by the differential tests.
#[tokio::test]
async fn nothing_is_taken_above_a_first_batch_that_was_refused() {
    let mut place = place().await;
    let producer = place.begin().await;
    // By the rules before version 2: the partition is not in the transaction yet.
    assert_eq!(place.produce(11, 0, producer.batch(4, "a")).await.0, TRANSACTION_ABORTABLE);
    assert_eq!(place.add(3, producer, &[0]).await, [0]);
    assert_eq!(place.produce(11, 0, producer.batch(5, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(place.produce(11, 0, producer.batch(4, "a")).await, (0, 0));
    assert_eq!(place.produce(11, 0, producer.batch(5, "b")).await, (0, 1));

    // By those of version 2: its checksum is wrong.
    let damaged = |batch: Bytes| {
        let mut batch = batch.to_vec();
        batch[17] ^= 1;
        Bytes::from(batch)
    };
    assert_eq!(place.produce(12, 1, damaged(producer.batch(0, "a"))).await.0, CORRUPT_MESSAGE);
    assert_eq!(place.produce(12, 1, producer.batch(1, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    // A plain batch is out of order, too, and one that is not does not stand in for what was refused: that counts until the
    // transaction ends.
    assert_eq!(place.produce(12, 1, producer.plain(1, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(place.produce(12, 1, producer.plain(0, "a")).await, (0, 0));
    assert_eq!(place.produce(12, 1, producer.batch(1, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(place.produce(12, 1, producer.plain(1, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    let (code, next) = place.end(5, producer, true).await;
    assert_eq!(code, 0);
    assert_eq!(place.produce(12, 1, next.batch(0, "c")).await.0, 0);
}

/// So it is with one that was there already: what it repeats is of a transaction that has ended.
#[tokio::test]
async fn nothing_is_taken_above_a_first_batch_that_was_there() {
    let mut place = place().await;
    let producer = place.begin().await;
    assert_eq!(place.add(3, producer, &[0]).await, [0]);
    assert_eq!(place.produce(11, 0, producer.batch(0, "a")).await, (0, 0));
    assert_eq!(place.end(3, producer, true).await.0, 0);
    assert_eq!(place.add(3, producer, &[0]).await, [0]);
    assert_eq!(place.produce(11, 0, producer.batch(0, "a")).await, (0, 0));
    assert_eq!(place.produce(11, 0, producer.batch(1, "b")).await.0, OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(place.end(3, producer, true).await.0, 0);
    assert_eq!(place.add(3, producer, &[0]).await, [0]);
    assert_eq!(place.produce(11, 0, producer.batch(1, "b")).await.0, 0);
}
