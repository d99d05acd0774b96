//! Fetch sessions (KIP-227).
//!
//! As in `peer`, every expectation was compared with Apache Kafka's: `ANABRANCH_PEER=127.0.0.1:19092 cargo test -p anabranch-serve
//! --test it fetch_sessions` runs the same cases there.

use anabranch_core::seam::{Random, SeededRandom};
use anabranch_serve::Limits;
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use anabranch_wire::messages::*;
use uuid::Uuid;

use crate::client::{Client, Node, SOON, batch, fetch, ours_or_peer, own_name, topic};

const OFFSET_OUT_OF_RANGE: i16 = 1;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const UNKNOWN_TOPIC_ID: i16 = 100;
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

/// Ours or the peer, with a topic of three partitions.
async fn node() -> (Option<Node>, Client) {
    let (node, mut client) = ours_or_peer().await;
    client.create_topic(&own_name(), 3).await;
    let ready = async {
        let all = asking(&[(0, 0), (1, 0), (2, 0)]);
        while told(&client.call(12, &all).await).1.iter().any(|(_, code, _)| *code != 0) {}
    };
    tokio::time::timeout(SOON, ready).await.expect("the peer gets ready");
    (node, client)
}

fn asking(from: &[(i32, i64)]) -> FetchRequest {
    fetch(&own_name(), from)
}

/// A request of a session that changes nothing.
fn next(id: i32, epoch: i32) -> FetchRequest {
    asking(&[]).with_topics(vec![]).with_session_id(id).with_session_epoch(epoch)
}

fn forgetting(partitions: &[i32]) -> Vec<ForgottenTopic> {
    vec![ForgottenTopic::default().with_topic(topic(&own_name())).with_partitions(partitions.to_vec())]
}

/// Of each partition that is told: its number, its error, and whether it has records.
fn told(response: &FetchResponse) -> (i16, Vec<(i32, i16, bool)>) {
    let partitions = response.responses.iter().flat_map(|topic| {
        assert!(!topic.partitions.is_empty());
        topic.partitions.iter().map(|partition| {
            let records = partition.records.as_ref().is_some_and(|records| !records.is_empty());
            (partition.partition_index, partition.error_code, records)
        })
    });
    (response.error_code, partitions.collect())
}

async fn produce(client: &mut Client, partition: i32) {
    let request = crate::client::produce(&own_name(), partition, -1, batch(&["v"]));
    let response = client.call(9, &request).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

#[tokio::test]
async fn only_what_changes_is_said_and_told() {
    let (_node, mut client) = node().await;
    let begun = client.call(12, &asking(&[(0, 0), (1, 0), (9, 0)]).with_session_epoch(0)).await;
    let id = begun.session_id;
    assert!(id > 0);
    let unknown = (9, UNKNOWN_TOPIC_OR_PARTITION, false);
    assert_eq!(told(&begun), (0, vec![(0, 0, false), (1, 0, false), unknown]));
    // Errors are told again each time.
    assert_eq!(told(&client.call(12, &next(id, 1)).await), (0, vec![unknown]));
    let forgets = next(id, 2).with_forgotten_topics_data(forgetting(&[9, 9, 77, -1]));
    let forgot = client.call(12, &forgets).await;
    assert_eq!((told(&forgot), forgot.session_id), ((0, vec![]), id));

    // Records are told until the client says that it has them, and then the partition is only read on.
    produce(&mut client, 1).await;
    assert_eq!(told(&client.call(12, &next(id, 3)).await), (0, vec![(1, 0, true)]));
    assert_eq!(told(&client.call(12, &next(id, 4)).await), (0, vec![(1, 0, true)]));
    let moves = asking(&[(1, 1)]).with_session_id(id).with_session_epoch(5);
    assert_eq!(told(&client.call(12, &moves).await), (0, vec![]));

    // What is added is told at once; the order is that of the session, and who got records comes last.
    produce(&mut client, 0).await;
    produce(&mut client, 1).await;
    let adds = asking(&[(2, 0)]).with_session_id(id).with_session_epoch(6);
    let expected = vec![(0, 0, true), (1, 0, true), (2, 0, false)];
    assert_eq!(told(&client.call(12, &adds).await), (0, expected));
    let small = next(id, 7).with_max_bytes(1);
    assert_eq!(told(&client.call(12, &small).await), (0, vec![(0, 0, true)]));
    let small = next(id, 8).with_max_bytes(1);
    assert_eq!(told(&client.call(12, &small).await), (0, vec![(1, 0, true)]));

    // Out of range: told until it is not, and once more after that.
    let beyond = asking(&[(2, 5)]).with_session_id(id).with_session_epoch(9);
    let response = client.call(12, &beyond.with_forgotten_topics_data(forgetting(&[0, 1]))).await;
    assert_eq!(told(&response), (0, vec![(2, OFFSET_OUT_OF_RANGE, false)]));
    let back = asking(&[(2, 0)]).with_session_id(id).with_session_epoch(10);
    assert_eq!(told(&client.call(12, &back).await), (0, vec![(2, 0, false)]));
    assert_eq!(told(&client.call(12, &next(id, 11)).await), (0, vec![]));
}

#[tokio::test]
async fn a_start_that_moves_is_told() {
    let (_node, mut client) = node().await;
    produce(&mut client, 0).await;
    let begun = client.call(12, &asking(&[(0, 1), (1, 0)]).with_session_epoch(0)).await;
    use anabranch_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let until = DeleteRecordsPartition::default().with_offset(1);
    let until = DeleteRecordsTopic::default().with_name(topic(&own_name())).with_partitions(vec![until]);
    let request = DeleteRecordsRequest::default().with_topics(vec![until]).with_timeout_ms(10_000);
    assert_eq!(client.call(2, &request).await.topics[0].partitions[0].error_code, 0);
    let response = client.call(12, &next(begun.session_id, 1)).await;
    assert_eq!(told(&response), (0, vec![(0, 0, false)]));
    assert_eq!(response.responses[0].partitions[0].log_start_offset, 1);
}

#[tokio::test]
async fn epochs_and_ids_are_checked() {
    let (_node, mut client) = node().await;
    let begun = client.call(12, &asking(&[(0, 0)]).with_session_epoch(0)).await;
    let id = begun.session_id;
    for (request, code) in [
        (next(id, 2), INVALID_FETCH_SESSION_EPOCH),
        (next(id, -2), INVALID_FETCH_SESSION_EPOCH),
        (next(id, i32::MAX), INVALID_FETCH_SESSION_EPOCH),
        (next(0, 1), FETCH_SESSION_ID_NOT_FOUND),
        (next(id ^ 1, 1), FETCH_SESSION_ID_NOT_FOUND),
        (next(-1, 1), FETCH_SESSION_ID_NOT_FOUND),
    ] {
        let response = client.call(12, &request).await;
        assert_eq!((told(&response), response.session_id), ((code, vec![]), 0), "{request:?}");
    }
    let by_id = client.call(13, &next(id, 1)).await;
    assert_eq!((told(&by_id), by_id.session_id), ((FETCH_SESSION_TOPIC_ID_ERROR, vec![]), 0));
    // None of them has moved the session on, and another connection may.
    let mut other = match &_node {
        Some(node) => node.connect().await,
        None => ours_or_peer().await.1,
    };
    assert_eq!(told(&other.call(7, &next(id, 1)).await), (0, vec![]));
    assert_eq!(told(&client.call(12, &next(id, 1)).await), (INVALID_FETCH_SESSION_EPOCH, vec![]));

    // A full request ends the session that it names; so does epoch -1, which begins none.
    let anew = client.call(12, &asking(&[(0, 0)]).with_session_epoch(0).with_session_id(id)).await;
    assert!(anew.session_id > 0 && anew.session_id != id);
    assert_eq!(told(&client.call(12, &next(id, 2)).await).0, FETCH_SESSION_ID_NOT_FOUND);
    let ends = client.call(12, &next(anew.session_id, -1)).await;
    assert_eq!((told(&ends), ends.session_id), ((0, vec![]), 0));
    assert_eq!(told(&client.call(12, &next(anew.session_id, 1)).await).0, FETCH_SESSION_ID_NOT_FOUND);

    // So does a session with nothing left; but one may begin with nothing.
    let begun = client.call(12, &next(0, 0)).await;
    assert!(begun.session_id > 0 && begun.responses.is_empty());
    let one = asking(&[(1, 0)]).with_session_id(begun.session_id).with_session_epoch(1);
    assert_eq!(told(&client.call(12, &one).await), (0, vec![(1, 0, false)]));
    let none = asking(&[(2, 0)]).with_session_id(begun.session_id).with_session_epoch(2);
    let none = client.call(12, &none.with_forgotten_topics_data(forgetting(&[1, 2]))).await;
    assert_eq!((told(&none), none.session_id), ((0, vec![(2, 0, false)]), 0));
    assert_eq!(told(&client.call(12, &next(begun.session_id, 3)).await).0, FETCH_SESSION_ID_NOT_FOUND);
}

#[tokio::test]
async fn topics_by_id_and_a_long_poll() {
    let (_node, mut client) = node().await;
    let asked = anabranch_wire::messages::metadata_request::MetadataRequestTopic::default();
    let metadata =
        MetadataRequest::default().with_topics(Some(vec![asked.with_name(Some(topic(&own_name())))]));
    let topic_id = client.call(12, &metadata).await.topics[0].topic_id;
    let of = |id: Uuid| {
        FetchTopic::default().with_topic_id(id).with_partitions(asking(&[(0, 0)]).topics.remove(0).partitions)
    };
    let request = asking(&[]).with_topics(vec![of(topic_id), of(Uuid::from_u128(7))]).with_session_epoch(0);
    let begun = client.call(17, &request).await;
    let id = begun.session_id;
    assert_eq!(told(&begun), (0, vec![(0, 0, false), (0, UNKNOWN_TOPIC_ID, false)]));
    let forgotten =
        vec![ForgottenTopic::default().with_topic_id(Uuid::from_u128(7)).with_partitions(vec![0])];
    assert_eq!(told(&client.call(17, &next(id, 1).with_forgotten_topics_data(forgotten)).await), (0, vec![]));
    assert_eq!(told(&client.call(12, &next(id, 2)).await).0, FETCH_SESSION_TOPIC_ID_ERROR);
    // It waits for what it does not name.
    let mut writer = match &_node {
        Some(node) => node.connect().await,
        None => ours_or_peer().await.1,
    };
    let waits = client.send(17, &next(id, 2).with_max_wait_ms(20_000)).await;
    produce(&mut writer, 0).await;
    let response = client.receive::<FetchRequest>(17, waits).await;
    assert_eq!(told(&response), (0, vec![(0, 0, true)]));
    assert_eq!(response.responses[0].topic_id, topic_id);
}

/// Much is sent from the log's file, and has its place in the answer by what is told before it.
#[tokio::test]
async fn large_records_have_their_place_among_what_is_told() {
    let (_node, mut client) = node().await;
    let large = "x".repeat(300 << 10);
    let request = crate::client::produce(&own_name(), 2, -1, batch(&[&large]));
    assert_eq!(client.call(9, &request).await.responses[0].partition_responses[0].error_code, 0);
    let begun = client.call(12, &asking(&[(0, 0), (1, 0), (2, 0)]).with_session_epoch(0)).await;
    assert_eq!(told(&begun), (0, vec![(0, 0, false), (1, 0, false), (2, 0, true)]));
    produce(&mut client, 1).await;
    let response = client.call(12, &next(begun.session_id, 1)).await;
    assert_eq!(told(&response), (0, vec![(1, 0, true), (2, 0, true)]));
    let sizes = response.responses[0].partitions.iter().map(|each| each.records.as_ref().unwrap().len());
    assert_eq!(sizes.collect::<Vec<_>>(), [batch(&["v"]).len(), batch(&[&large]).len()]);
}

/// Who gets no session says everything each time.
#[tokio::test]
async fn sessions_are_as_many_as_their_setting_says() {
    let node = Node::with(Limits::default(), &[("max.incremental.fetch.session.cache.slots", "1")]).await;
    let mut client = node.connect().await;
    client.create_topic(&own_name(), 3).await;
    let full = asking(&[(0, 0)]).with_session_epoch(0);
    let first = client.call(12, &full).await;
    let second = client.call(12, &full).await;
    assert!(first.session_id > 0 && second.session_id == 0);
    assert_eq!(told(&first), told(&second));
    const USED: &str = "messaging_server_memory_share_used_bytes{share=\"fetch_sessions\"}";
    assert!(node.metric(USED).await > 0);
    client.call(12, &next(first.session_id, -1)).await;
    assert_eq!(node.metric(USED).await, 0);
    assert!(client.call(12, &full).await.session_id > 0);
}

/// Two topics, of which partitions 0 to 2 are there and 9 is not; and one that is not there.
struct Asker {
    random: SeededRandom,
    topics: [String; 3],
}

impl Asker {
    fn one<T: Copy>(&self, of: &[T]) -> T {
        of[(self.random.next_u64() % of.len() as u64) as usize]
    }

    fn some<T>(&self, most: u64, each: impl Fn() -> T) -> Vec<T> {
        (0..self.random.next_u64() % (most + 1)).map(|_| each()).collect()
    }

    fn topic(&self) -> TopicName {
        topic(&self.topics[self.one(&[0, 0, 0, 1, 1, 1, 2])])
    }

    fn request(&self) -> FetchRequest {
        let partition = || {
            FetchPartition::default()
                .with_partition(self.one(&[0, 1, 2, 9]))
                .with_fetch_offset(self.one(&[0, 0, 1, 2, 3, 1000, -1]))
                .with_partition_max_bytes(self.one(&[0, 1, 100, 1 << 20]))
                .with_current_leader_epoch(self.one(&[-1, -1, -1, 0, 1]))
        };
        let forgotten = || {
            let partitions = self.some(2, || self.one(&[0, 1, 2, 9]));
            ForgottenTopic::default().with_topic(self.topic()).with_partitions(partitions)
        };
        let asked =
            || FetchTopic::default().with_topic(self.topic()).with_partitions(self.some(3, partition));
        FetchRequest::default()
            .with_max_bytes(self.one(&[1, 200, 1 << 20]))
            .with_topics(self.some(2, asked))
            .with_forgotten_topics_data(self.some(2, forgotten))
    }
}

/// All that an answer says, but for two things that Kafka does otherwise and no client minds: it may cut off the last batch,
/// and tells of unknown topics last.
fn said(response: &FetchResponse) -> impl PartialEq + std::fmt::Debug + use<> {
    let partitions = response.responses.iter().flat_map(|topic| {
        topic.partitions.iter().map(|data| {
            let batches = data.records.as_ref().map_or(0, |records| records.len() / batch(&["v"]).len());
            let bounds = (data.high_watermark, data.last_stable_offset, data.log_start_offset);
            (topic.topic.to_string(), data.partition_index, data.error_code, bounds, batches)
        })
    });
    let mut partitions: Vec<_> = partitions.collect();
    partitions.sort_by_key(|(_, _, code, ..)| *code == UNKNOWN_TOPIC_OR_PARTITION);
    (response.error_code, response.session_id != 0, partitions)
}

/// Whatever is asked for, right or wrong: both are asked, and say the same. `ANABRANCH_PEER_SEEDS` sets how often, up to 200:
/// then the topics are so large that not all of them need come at once.
#[tokio::test]
async fn sessions_go_as_they_go_in_the_peer() {
    let Ok(peer) = std::env::var("ANABRANCH_PEER") else {
        return println!("skipped: there is no ANABRANCH_PEER to compare with");
    };
    let node = Node::start().await;
    let mut both = [node.connect().await, Client::connect(peer.parse().unwrap()).await];
    let topics = [0, 1].map(|number| format!("{}-{number}", own_name()));
    for client in &mut both {
        for name in &topics {
            client.create_topic(name, 3).await;
            let all = fetch(name, &[(0, 0), (1, 0), (2, 0)]);
            while told(&client.call(12, &all).await).1.iter().any(|(_, code, _)| *code != 0) {}
        }
    }
    let [one, other] = topics;
    let seeds = std::env::var("ANABRANCH_PEER_SEEDS").map_or(20, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let topics = [one.clone(), other.clone(), "no-such-topic".to_owned()];
        let asker = Asker { random: SeededRandom::new(seed), topics };
        // The ids of a session there and there, and its next epoch. The first two are none.
        let mut sessions = vec![([0, 0], 1), ([5, 5], 1)];
        for step in 0..40 {
            if asker.one(&[true, false, false, false]) {
                let (name, partition) = (&asker.topics[asker.one(&[0, 1])], asker.one(&[0, 1, 2]));
                for client in &mut both {
                    let request = crate::client::produce(name, partition, -1, batch(&["v"]));
                    let produced = client.call(9, &request).await;
                    assert_eq!(produced.responses[0].partition_responses[0].error_code, 0);
                }
                continue;
            }
            // Most often one of the newest, so that some grow old.
            let back = asker.one(&[0, 0, 0, 0, 1, 1, 2, 3]).min(sessions.len() - 1);
            let number = sessions.len() - 1 - back;
            let (ids, turn) = sessions[number];
            let epoch = asker.one(&[0, -1, -2, turn + 1, turn, turn, turn, turn, turn, turn, turn, turn]);
            let version = asker.one(&[9, 11, 12]);
            let request = asker.request().with_session_epoch(epoch);
            let ours = both[0].call(version, &request.clone().with_session_id(ids[0])).await;
            let theirs = both[1].call(version, &request.clone().with_session_id(ids[1])).await;
            assert_eq!(said(&ours), said(&theirs), "seed {seed}, step {step}: {request:?}");
            match epoch {
                0 if ours.session_id != 0 => sessions.push(([ours.session_id, theirs.session_id], 1)),
                1.. if ours.error_code == 0 => sessions[number].1 += 1,
                _ => {}
            }
        }
        for (client, place) in both.iter_mut().zip([0, 1]) {
            for (ids, _) in &sessions {
                client.call(12, &next(ids[place], -1)).await;
            }
        }
    }
}
