//! Which topics a regular expression finds, here and in Apache Kafka, which resolves it behind its answer: so it is not one of the
//! random cases, and what a member comes to be assigned in the end is compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anabranch_diff::client::{Client, text};
use anabranch_wire::messages::consumer_group_heartbeat_request::TopicPartitions;
use anabranch_wire::messages::delete_topics_request::DeleteTopicState;
use anabranch_wire::messages::*;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::told;

/// What stands behind the prefix in the topics' names.
const TOPICS: [&str; 5] = ["orders", "orders.eu", "Orders-7", "x_1", "o"];

/// What stands behind it in the expressions, and finds which of them.
const PATTERNS: &[(&str, &[usize])] = &[
    ("orders", &[0]),
    ("orders.eu", &[1]),
    ("orders.*", &[0, 1]),
    ("(?i)orders.*", &[0, 1, 2]),
    ("(?i:O)rders(.eu)?", &[0, 1]),
    (r"\w+", &[0, 3, 4]),
    ("[[:alpha:]]+", &[0, 4]),
    (r"[^\d]+", &[0, 1, 4]),
    (r"\p{Lu}.*", &[2]),
    (r"\pL+\PL\d", &[2, 3]),
    (r"x\x5f1", &[3]),
    (r"(?P<name>x).\d$", &[3]),
    ("orders|x_1", &[0]),
    ("(orders|x_1)", &[0, 3]),
    ("o(?:rders)??", &[0, 4]),
    ("o{1,2}", &[4]),
    (r".*\Bu", &[1]),
    (r"[o-r]+\z", &[4]),
    ("(?U)o.+", &[0, 1]),
    ("nothing.*", &[]),
    ("", &[]),
];

/// No more than it takes to resolve an expression, on a machine that is busy.
const FOUND_WITHIN: Duration = Duration::from_secs(20);
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// Joins a group of its own, and beats until the topics are assigned that are expected, or long enough.
async fn found(
    client: &mut Client,
    group: &str,
    pattern: &str,
    names: &BTreeMap<Uuid, usize>,
    expected: &BTreeSet<usize>,
) -> BTreeSet<usize> {
    let join = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_member_id(text("member"))
        .with_rebalance_timeout_ms(60_000)
        .with_subscribed_topic_regex(Some(text(pattern)))
        .with_topic_partitions(Some(Vec::new()));
    let mut assigned = Vec::new();
    let mut request = join.clone();
    let deadline = Instant::now() + FOUND_WITHIN;
    loop {
        let told = client.call(1, &request).await;
        assert_eq!(told.error_code, 0, "{pattern}: {told:?}");
        if let Some(assignment) = told.assignment {
            let each = assignment.topic_partitions.into_iter();
            assigned = each.map(|each| (each.topic_id, each.partitions)).collect();
        }
        let found: BTreeSet<usize> = assigned.iter().map(|(id, _)| names[id]).collect();
        if found == *expected || Instant::now() > deadline {
            return found;
        }
        let owned = assigned.iter().map(|(id, partitions)| {
            TopicPartitions::default().with_topic_id(*id).with_partitions(partitions.clone())
        });
        request = join
            .clone()
            .with_member_epoch(told.member_epoch)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_regex(None)
            .with_topic_partitions(Some(owned.collect()));
        sleep(ASK_INTERVAL).await;
    }
}

async fn all_found(addr: SocketAddr, prefix: &str) {
    let mut client = Client::connect(addr).await;
    for name in TOPICS {
        client.create_topic(&format!("{prefix}{name}"), 1).await;
    }
    let of_name = |at: usize| TopicName(text(&format!("{prefix}{}", TOPICS[at])));
    let asked = (0..TOPICS.len())
        .map(|at| metadata_request::MetadataRequestTopic::default().with_name(Some(of_name(at))));
    let request = MetadataRequest::default().with_topics(Some(asked.collect()));
    let deadline = Instant::now() + FOUND_WITHIN;
    let names: BTreeMap<Uuid, usize> = loop {
        let told = client.call(12, &request).await.topics;
        if told.iter().all(|topic| topic.error_code == 0) {
            let at = |name: &TopicName| (0..TOPICS.len()).find(|at| of_name(*at) == *name).unwrap();
            break told.iter().map(|topic| (topic.topic_id, at(topic.name.as_ref().unwrap()))).collect();
        }
        assert!(Instant::now() < deadline, "the topics do not get ready at {addr}");
    };
    for (at, (pattern, expected)) in PATTERNS.iter().enumerate() {
        let expected = expected.iter().copied().collect();
        let pattern = format!("{prefix}{pattern}");
        let found = found(&mut client, &format!("{prefix}group-{at}"), &pattern, &names, &expected).await;
        assert_eq!(found, expected, "{pattern} at {addr}");
    }
    let topics = (0..TOPICS.len()).map(|at| DeleteTopicState::default().with_name(Some(of_name(at))));
    let delete = DeleteTopicsRequest::default().with_topics(topics.collect()).with_timeout_ms(10_000);
    client.call(6, &delete).await;
}

#[test]
fn both_find_the_same_topics() {
    let (Some(ours), Some(kafka)) = (told("ANABRANCH_DIFF_OURS"), told("ANABRANCH_DIFF_KAFKA")) else {
        return println!("skipped: `cargo xtask diff` starts the two that are compared");
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    // No random case looks at names that begin so.
    let prefix = format!("diff-{:x}-", now.as_nanos() as u64);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        all_found(ours, &prefix).await;
        all_found(kafka, &prefix).await;
    });
}
