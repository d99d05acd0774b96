//! Balance, completeness and stickiness of the assignors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::TopicId;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn topic(number: u128) -> TopicId {
    TopicId(Uuid::from_u128(number))
}

/// Members with an instance id, topics by number.
type Members = Vec<(String, Option<String>, BTreeSet<u128>)>;

fn run(
    assignor: Assignor,
    counts: &BTreeMap<u128, i32>,
    members: &Members,
    before: &BTreeMap<String, Partitions>,
) -> BTreeMap<String, Partitions> {
    let topics: BTreeMap<TopicId, i32> =
        counts.iter().map(|(number, count)| (topic(*number), *count)).collect();
    let mut view: Vec<Subscriber<'_>> = members
        .iter()
        .map(|(id, instance, subscribed)| Subscriber {
            id,
            instance_id: instance.as_deref(),
            topics: Arc::new(
                subscribed.iter().filter(|number| counts.contains_key(number)).map(|n| topic(*n)).collect(),
            ),
            before: before.get(id),
        })
        .collect();
    view.sort_by_key(|member| member.id);
    assignor.assign(&GroupView { members: view, topics: &topics })
}

fn shown(assigned: &BTreeMap<String, Partitions>) -> Vec<(String, String)> {
    let show = |all: &Partitions| {
        let all =
            all.iter().flat_map(|(topic, all)| all.iter().map(|p| format!("{}-{p}", topic.0.as_u128())));
        all.collect::<Vec<_>>().join(" ")
    };
    assigned.iter().map(|(id, all)| (id.clone(), show(all))).collect()
}

#[track_caller]
fn check(
    assignor: Assignor,
    counts: &[(u128, i32)],
    members: &[(&str, Option<&str>, &[u128])],
    before: &[(&str, &[(u128, i32)])],
    expected: &[(&str, &str)],
) -> BTreeMap<String, Partitions> {
    let members = members
        .iter()
        .map(|(id, instance, topics)| {
            ((*id).to_owned(), instance.map(str::to_owned), topics.iter().copied().collect())
        })
        .collect();
    let mut held: BTreeMap<String, Partitions> = BTreeMap::new();
    for (id, all) in before {
        let of = held.entry((*id).to_owned()).or_default();
        for (number, partition) in *all {
            of.entry(topic(*number)).or_default().insert(*partition);
        }
    }
    let assigned = run(assignor, &counts.iter().copied().collect(), &members, &held);
    let expected: Vec<(String, String)> =
        expected.iter().map(|(id, all)| ((*id).to_owned(), (*all).to_owned())).collect();
    assert_eq!(shown(&assigned), expected);
    assigned
}

#[test]
fn ranges() {
    let check =
        |counts: &[(u128, i32)], members: &[(&str, Option<&str>, &[u128])], expected: &[(&str, &str)]| {
            check(Assignor::Range, counts, members, &[], expected);
        };
    check(
        &[(1, 3), (2, 3)],
        &[("a", None, &[1, 2]), ("b", None, &[1, 2])],
        &[("a", "1-0 1-1 2-0 2-1"), ("b", "1-2 2-2")],
    );
    check(&[(1, 2)], &[("a", None, &[1]), ("b", Some("i"), &[1])], &[("a", "1-1"), ("b", "1-0")]);
    check(&[(1, 1)], &[("a", None, &[1]), ("b", None, &[1])], &[("a", "1-0"), ("b", "")]);
    check(
        &[(1, 1), (2, 3)],
        &[("a", None, &[1, 2]), ("b", None, &[2, 9])],
        &[("a", "1-0 2-0 2-1"), ("b", "2-2")],
    );
    check(&[(1, 1)], &[], &[]);
}

#[test]
fn uniform_keeps_what_it_can() {
    let both: [(&str, Option<&str>, &[u128]); 2] = [("a", None, &[1]), ("b", None, &[1])];
    check(Assignor::Uniform, &[(1, 3)], &both, &[], &[("a", "1-0"), ("b", "1-1 1-2")]);
    check(
        Assignor::Uniform,
        &[(1, 3)],
        &both,
        &[("a", &[(1, 0), (1, 1), (1, 2)])],
        &[("a", "1-0 1-1"), ("b", "1-2")],
    );
    check(Assignor::Uniform, &[(1, 3)], &both, &[("b", &[(1, 0)])], &[("a", "1-1"), ("b", "1-0 1-2")]);
    check(Assignor::Uniform, &[(1, 4)], &both, &[("b", &[(7, 0)])], &[("a", "1-0 1-1"), ("b", "1-2 1-3")]);
    check(
        Assignor::Uniform,
        &[(1, 2), (2, 2)],
        &[("a", None, &[1]), ("b", None, &[1, 2])],
        &[],
        &[("a", "1-0 1-1"), ("b", "2-0 2-1")],
    );
    check(
        Assignor::Uniform,
        &[(1, 4), (2, 1)],
        &[("a", None, &[1]), ("b", None, &[1, 2])],
        &[("a", &[(1, 0), (1, 1), (1, 2), (1, 3)])],
        &[("a", "1-0 1-1 1-2"), ("b", "1-3 2-0")],
    );
}

/// Topics, and members with a share of them.
fn groups() -> impl Strategy<Value = (BTreeMap<u128, i32>, Members)> {
    let counts = prop::collection::btree_map(1..6_u128, 1..12, 1..5);
    let subscription = prop::collection::btree_set(1..6_u128, 1..5);
    let same = prop::bool::ANY;
    (counts, prop::collection::vec((prop::bool::ANY, subscription), 1..9), same).prop_map(
        |(counts, members, same)| {
            let first = members[0].1.clone();
            let member = |(index, (is_static, topics)): (usize, (bool, BTreeSet<u128>))| {
                let topics = if same { first.clone() } else { topics };
                (format!("m{index}"), is_static.then(|| format!("i{}", 9 - index)), topics)
            };
            (counts, members.into_iter().enumerate().map(member).collect())
        },
    )
}

fn check_complete(counts: &BTreeMap<u128, i32>, members: &Members, assigned: &BTreeMap<String, Partitions>) {
    assert_eq!(assigned.len(), members.len());
    let mut seen = BTreeSet::new();
    for (id, _, topics) in members {
        for (of, all) in &assigned[id] {
            assert!(topics.contains(&of.0.as_u128()), "{id} does not subscribe to {of}");
            for partition in all {
                assert!(seen.insert((of.0.as_u128(), *partition)), "{of}-{partition} is assigned twice");
            }
        }
    }
    for (number, count) in counts {
        if members.iter().any(|(_, _, topics)| topics.contains(number)) {
            assert!((0..*count).all(|partition| seen.contains(&(*number, partition))));
        }
    }
}

fn load(assigned: &BTreeMap<String, Partitions>, id: &str) -> usize {
    assigned[id].values().map(BTreeSet::len).sum()
}

proptest! {
    #[test]
    fn every_partition_has_one_member((counts, members) in groups()) {
        for assignor in [Assignor::Range, Assignor::Uniform] {
            let assigned = run(assignor, &counts, &members, &BTreeMap::new());
            check_complete(&counts, &members, &assigned);
        }
    }

    /// Two subscribers of a topic differ by more than one partition only if the one that has more has none of that topic.
    #[test]
    fn uniform_is_balanced_and_stays((counts, members) in groups(), gone in 0..8_usize) {
        let assigned = run(Assignor::Uniform, &counts, &members, &BTreeMap::new());
        let is_balanced = |members: &Members, assigned: &BTreeMap<String, Partitions>| {
            for (one, _, topics) in members {
                for (other, _, other_topics) in members {
                    for number in topics.intersection(other_topics) {
                        let has_it = assigned[one].contains_key(&topic(*number));
                        assert!(!has_it || load(assigned, one) <= load(assigned, other) + 1, "{assigned:?}");
                    }
                }
            }
        };
        is_balanced(&members, &assigned);
        // Again: nothing moves.
        prop_assert_eq!(&run(Assignor::Uniform, &counts, &members, &assigned), &assigned);
        // One leaves: the others keep what they have, when all read the same.
        let mut left = members.clone();
        left.remove(gone % members.len());
        if left.is_empty() {
            return Ok(());
        }
        let after = run(Assignor::Uniform, &counts, &left, &assigned);
        check_complete(&counts, &left, &after);
        is_balanced(&left, &after);
        if left.iter().all(|(_, _, topics)| *topics == left[0].2) {
            let least = after.keys().map(|id| load(&after, id)).min().unwrap();
            for (id, all) in &after {
                let before = &assigned[id];
                let kept: usize = all
                    .iter()
                    .map(|(topic, all)| before.get(topic).map_or(0, |b| b.intersection(all).count()))
                    .sum();
                prop_assert!(kept >= load(&assigned, id).min(least));
            }
        }
    }
}

/// Groups with what Apache Kafka made of them: `compat/programs/assignors`. Ranges are equal; of `uniform`, whose choice among equals
/// hangs on the order of Java's hash maps, every load is, and how much stays.
#[test]
fn assignors_of_kafka_do_the_same() {
    let Ok(path) = std::env::var("ANABRANCH_ASSIGNORS") else {
        eprintln!("not compared: ANABRANCH_ASSIGNORS names no file");
        return;
    };
    fn places(text: &str) -> Partitions {
        let mut all = Partitions::new();
        for (number, partition) in text.split(',').filter_map(|place| place.split_once('-')) {
            all.entry(topic(number.parse().unwrap())).or_default().insert(partition.parse().unwrap());
        }
        all
    }
    let kept = |before: &BTreeMap<String, Partitions>, after: &BTreeMap<String, Partitions>| -> usize {
        let of = |id: &String, topic: &TopicId, at: &i32| {
            before.get(id).and_then(|all| all.get(topic)).is_some_and(|all| all.contains(at))
        };
        let all = after.iter().flat_map(|(id, all)| all.iter().map(move |(topic, all)| (id, topic, all)));
        all.map(|(id, topic, all)| all.iter().filter(|at| of(id, topic, at)).count()).sum()
    };
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.lines().count() >= 200);
    for line in text.lines() {
        let mut words = line.split(' ');
        let assignor = Assignor::of(words.next().unwrap()).unwrap();
        let counts = words.next().unwrap().split(',').map(|topic| {
            let (number, count) = topic.split_once(':').unwrap();
            (number.parse().unwrap(), count.parse().unwrap())
        });
        let counts: BTreeMap<u128, i32> = counts.collect();
        let (mut members, mut before, mut theirs) = (Members::new(), BTreeMap::new(), BTreeMap::new());
        for member in words {
            let parts: Vec<&str> = member.split('/').collect();
            let instance = Some(parts[1].to_owned()).filter(|instance| !instance.is_empty());
            let topics = parts[2].split(',').map(|number| number.parse().unwrap()).collect();
            members.push((parts[0].to_owned(), instance, topics));
            before.insert(parts[0].to_owned(), places(parts[3]));
            theirs.insert(parts[0].to_owned(), places(parts[4]));
        }
        let ours = run(assignor, &counts, &members, &before);
        check_complete(&counts, &members, &ours);
        if assignor == Assignor::Range {
            assert_eq!(shown(&ours), shown(&theirs), "{line}");
            continue;
        }
        let loads = |all: &BTreeMap<String, Partitions>| -> Vec<usize> {
            members.iter().map(|(id, ..)| load(all, id)).collect()
        };
        assert_eq!(loads(&ours), loads(&theirs), "{line}");
        assert_eq!(kept(&before, &ours), kept(&before, &theirs), "{line}");
    }
}
