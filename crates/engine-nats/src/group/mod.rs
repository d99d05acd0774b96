//! Groups of consumers, which JetStream does not have as Kafka does: partitions shared out among members, and positions that
//! only their owner can move.
//!
//! Everything is in one bucket, and every change is a compare-and-set of one key (a token stands for each name):
//!
//! ```text
//! GROUP.member.ID          a member's subscription, written again and again as its heartbeat
//! GROUP.plan               who is to have which partitions; the member with the least id writes it whenever members or partitions change
//! GROUP.at.TOPIC.PARTITION where the group stands there, and whose it is: the fence
//! ```
//!
//! A member takes a partition that the plan gives it when its last owner has let go of it, or is not in the plan any more; by
//! that write it becomes the owner, and what the last one still wants to commit finds another revision.
//! [`machine`] decides, [`member`] does it.

pub(crate) mod machine;
pub(crate) mod member;

use std::collections::BTreeMap;

use anabranch_core::TopicPartition;
use serde::{Deserialize, Serialize};

use crate::names;

/// A member's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(crate) topics: Vec<String>,
}

/// Who is to have which partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// By the ids of the members, and by topic.
    pub(crate) members: BTreeMap<String, BTreeMap<String, Vec<i32>>>,
}

impl Plan {
    /// What it gives to `member`.
    pub(crate) fn part(&self, member: &str) -> impl Iterator<Item = TopicPartition> {
        self.members.get(member).into_iter().flatten().flat_map(|(topic, partitions)| {
            partitions.iter().map(|&partition| TopicPartition::new(topic.clone(), partition))
        })
    }
}

/// Where a group stands in a partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) owner: Option<String>,
    /// The position of what is read next.
    pub(crate) next: Option<u64>,
}

/// What a key of a group's is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Member(String),
    Plan,
    At(TopicPartition),
}

impl Key {
    pub(crate) fn of(&self, group: &str) -> String {
        let group = names::text_token(group);
        match self {
            Self::Member(id) => format!("{group}.member.{id}"),
            Self::Plan => format!("{group}.plan"),
            Self::At(at) => format!("{group}.at.{}.{}", names::token(&at.topic), at.partition),
        }
    }

    pub(crate) fn parse(key: &str) -> Option<Self> {
        let tokens: Vec<_> = key.split('.').collect();
        match tokens[..] {
            [_, "member", id] => Some(Self::Member(id.to_owned())),
            [_, "plan"] => Some(Self::Plan),
            [_, "at", topic, partition] => {
                Some(Self::At(TopicPartition::new(names::topic(topic), partition.parse().ok()?)))
            }
            _ => None,
        }
    }

    /// All keys of a group.
    pub(crate) fn all_of(group: &str) -> String {
        format!("{}.>", names::text_token(group))
    }
}

/// Shares out each topic's partitions in runs among those who subscribe to it, in the order of their ids: Kafka's range
/// assignor.
pub(crate) fn assign_ranges(members: &[(&str, &[String])], counts: &BTreeMap<String, i32>) -> Plan {
    let mut plan = Plan::default();
    plan.members.extend(members.iter().map(|(id, _)| ((*id).to_owned(), BTreeMap::new())));
    let wants =
        |id: &str, topic| members.iter().any(|(other, topics)| *other == id && topics.contains(topic));
    for (topic, &count) in counts {
        let subscribers = plan.members.iter_mut().filter(|(id, _)| wants(id, topic));
        let subscribers: Vec<_> = subscribers.map(|(_, part)| part).collect();
        let Ok(several) = i32::try_from(subscribers.len()) else { continue };
        let mut next = 0;
        for (at, part) in (0..).zip(subscribers) {
            let end = next + count / several + i32::from(at < count % several);
            if next < end {
                part.insert(topic.clone(), (next..end).collect());
            }
            next = end;
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shared_out_in_runs() {
        let topics = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let members = [("a", topics(&["t", "u"])), ("b", topics(&["t"])), ("c", topics(&["t", "none"]))];
        let counts = [("t", 5), ("u", 1), ("none", 0)].map(|(name, count)| (name.to_owned(), count));
        let members: Vec<_> = members.iter().map(|(id, topics)| (*id, topics.as_slice())).collect();
        let plan = assign_ranges(&members, &counts.into());
        let part = |id| plan.part(id).map(|at| at.to_string()).collect::<Vec<_>>();
        assert_eq!(part("a"), ["t-0", "t-1", "u-0"]);
        assert_eq!(part("b"), ["t-2", "t-3"]);
        assert_eq!(part("c"), ["t-4"]);
        assert_eq!(part("d").len(), 0);
    }

    #[test]
    fn keys_are_read_back() {
        let keys = [Key::Member("m".into()), Key::Plan, Key::At(TopicPartition::new("a.b-c", 7))];
        for key in keys {
            let text = key.of("g.*>\n");
            assert!(text.starts_with(Key::all_of("g.*>\n").trim_end_matches('>')));
            assert_eq!(Key::parse(&text), Some(key));
        }
        for other in ["", "g", "g.x", "g.at.t", "g.at.t.x"] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
