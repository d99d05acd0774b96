//! What differs for a reason: each rule has its line in `COMPATIBILITY.md`, and is as narrow as that.

use anabranch_wire::messages::ApiKey;

use crate::normal::no_records;
use crate::step::admin::{Admin, lowers};
use crate::step::data::{Data, ROOMY_BYTES};
use crate::step::{Call, Step, Topic};
use crate::tree::Tree;

/// The id of no topic.
const NIL_ID: &str = "00000000-0000-0000-0000-000000000000";

/// A difference that is meant.
#[derive(Clone, Copy)]
pub struct Rule {
    /// What `COMPATIBILITY.md` says.
    pub line: &'static str,
    /// Makes the two alike if this is it; whether it was.
    pub apply: fn(&Step, &mut Tree, &mut Tree) -> bool,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.line)
    }
}

/// All of them.
pub const RULES: &[Rule] = &[
    Rule {
        line: "Where several things are wrong with a new topic or a change of settings, another one of them may be told.",
        apply: |step, ours, kafka| {
            let codes: &[&str] = match step.key() {
                ApiKey::CreateTopics => &["37", "38", "39", "40", "42"],
                ApiKey::AlterConfigs | ApiKey::IncrementalAlterConfigs => &["3", "17", "40", "42"],
                _ => return false,
            };
            each_pair(ours, kafka, |ours, kafka| {
                let is_one = |tree: &Tree| codes.iter().any(|code| is(tree, "error_code", code));
                is_one(ours) && is_one(kafka) && alike(ours, kafka, "error_code")
            })
        },
    },
    Rule {
        line: "A topic that is only validated has no id (Kafka: one that no topic has).",
        apply: |step, ours, kafka| {
            let Call::Admin(Admin::CreateTopics { validate_only: true, .. }) = &step.call else {
                return false;
            };
            each_pair(ours, kafka, |ours, kafka| {
                is(ours, "topic_id", NIL_ID) && alike(ours, kafka, "topic_id")
            })
        },
    },
    Rule {
        line: "Broker settings are read from the configuration and cannot be altered by clients.",
        apply: |step, ours, kafka| {
            let describes = step.key() == ApiKey::DescribeConfigs;
            each_pair(ours, kafka, |ours, kafka| {
                let is_broker =
                    describes && is(ours, "resource_type", "4") && is(kafka, "resource_type", "4");
                let (Some(Tree::List(mine)), Some(Tree::List(theirs))) =
                    (ours.get_mut("configs").filter(|_| is_broker), kafka.get_mut("configs"))
                else {
                    return false;
                };
                // Those that both have, by name and type.
                let has =
                    |all: &[Tree], one: &Tree| all.iter().any(|each| each.get("name") == one.get("name"));
                theirs.retain(|their| has(mine, their));
                mine.retain(|own| has(theirs, own));
                for config in mine.iter_mut().chain(theirs) {
                    for name in ["value", "read_only", "config_source", "synonyms", "documentation"] {
                        if let Some(field) = config.get_mut(name) {
                            *field = Tree::leaf("<own>");
                        }
                    }
                }
                true
            })
        },
    },
    Rule {
        line: "Of the settings of groups there are the three of the consumer protocol",
        apply: |step, ours, kafka| {
            let describes = step.key() == ApiKey::DescribeConfigs;
            each_pair(ours, kafka, |ours, kafka| {
                let is_group =
                    describes && is(ours, "resource_type", "32") && is(kafka, "resource_type", "32");
                let (Some(Tree::List(mine)), Some(Tree::List(theirs))) =
                    (ours.get("configs").filter(|_| is_group), kafka.get_mut("configs"))
                else {
                    return false;
                };
                theirs.retain(|their| mine.iter().any(|own| own.get("name") == their.get("name")));
                true
            })
        },
    },
    Rule {
        line: "DescribeProducers tells when a producer's last batch was appended (Kafka: the batch's own time).",
        apply: |step, ours, kafka| {
            let describes = step.key() == ApiKey::DescribeProducers;
            each_pair(ours, kafka, |ours, kafka| {
                let theirs = kafka.get("last_timestamp").and_then(Tree::as_text);
                let is_records = theirs.is_some_and(|theirs| theirs.starts_with("<case"));
                describes
                    && is(ours, "last_timestamp", "<now>")
                    && is_records
                    && alike(ours, kafka, "last_timestamp")
            })
        },
    },
    Rule {
        line: "The answer to a batch that came before tells no append time (Kafka: the batch's own time).",
        apply: |step, ours, kafka| {
            let produces = step.key() == ApiKey::Produce;
            each_pair(ours, kafka, |ours, kafka| {
                let theirs = kafka.get("log_append_time_ms").and_then(Tree::as_text);
                let is_records = theirs.is_some_and(|theirs| theirs.starts_with("<case"));
                let is_none = is(ours, "log_append_time_ms", "-1") && is(ours, "error_code", "0");
                produces && is_none && is_records && alike(ours, kafka, "log_append_time_ms")
            })
        },
    },
    Rule {
        line: "ListOffsets for the largest time finds no record before the log's start (Kafka may).",
        apply: |step, ours, kafka| {
            let Call::Data(Data::ListOffsets { times, .. }) = &step.call else { return false };
            if !times.iter().any(|(_, _, (time, _))| *time == -3) {
                return false;
            }
            each_pair(ours, kafka, |ours, kafka| {
                let offset = |tree: &Tree| tree.get("offset")?.as_text()?.parse::<i64>().ok();
                let (Some(mine), Some(theirs)) = (offset(ours), offset(kafka)) else { return false };
                if !(is(ours, "error_code", "0") && theirs >= 0 && (mine < 0 || mine > theirs)) {
                    return false;
                }
                alike(ours, kafka, "timestamp");
                alike(ours, kafka, "leader_epoch");
                alike(ours, kafka, "offset")
            })
        },
    },
    Rule {
        line: "In a group of the consumer protocol a JoinGroup that is refused tells the member's id (Kafka: none)",
        apply: |step, ours, kafka| {
            // Kafka then leaves the member's id out.
            let joins = step.key() == ApiKey::JoinGroup && is(kafka, "member_id", "");
            let same = |code| is(ours, "error_code", code) && is(kafka, "error_code", code);
            joins && (same("23") || same("25")) && alike(ours, kafka, "member_id")
        },
    },
    Rule {
        line: "a classic request of a static member is UNKNOWN_MEMBER_ID (Kafka: FENCED_INSTANCE_ID).",
        apply: |step, ours, kafka| {
            let classic = [ApiKey::SyncGroup, ApiKey::Heartbeat].contains(&step.key());
            let fenced = is(ours, "error_code", "25") && is(kafka, "error_code", "82");
            classic && fenced && alike(ours, kafka, "error_code")
        },
    },
    Rule {
        line: "A member that joined without a `group.instance.id` and comes with one is INVALID_REQUEST (Kafka: UNKNOWN_SERVER_ERROR).",
        apply: |step, ours, kafka| {
            let joins = step.key() == ApiKey::JoinGroup;
            joins && is(ours, "error_code", "42") && is(kafka, "error_code", "-1") && {
                alike(ours, kafka, "member_id");
                alike(ours, kafka, "error_code")
            }
        },
    },
    Rule {
        line: "Exactly these are advertised",
        apply: |step, ours, kafka| {
            // What Kafka has beside ours, and its newest versions where ours stop one short.
            if step.key() != ApiKey::ApiVersions {
                return false;
            }
            let served = ours.get("api_keys").map(|keys| keys.elements().to_vec()).unwrap_or_default();
            let short = ["2", "8", "9", "27", "35"];
            for tree in [ours, kafka] {
                let Some(Tree::List(keys)) = tree.get_mut("api_keys") else { return false };
                keys.retain(|key| served.iter().any(|served| served.get("api_key") == key.get("api_key")));
                for key in keys.iter_mut().filter(|key| short.iter().any(|short| is(key, "api_key", short))) {
                    if let Some(max) = key.get_mut("max_version") {
                        *max = Tree::leaf("<one short>");
                    }
                }
            }
            true
        },
    },
    Rule {
        line: "The feature `group.version` is 1, `transaction.version` 2, and no other is told.",
        apply: |step, ours, kafka| {
            if step.key() != ApiKey::ApiVersions {
                return false;
            }
            for tree in [ours, kafka] {
                for name in ["supported_features", "finalized_features"] {
                    let Some(Tree::List(features)) = tree.get_mut(name) else { return false };
                    features.retain(|each| {
                        is(each, "name", "group.version") || is(each, "name", "transaction.version")
                    });
                }
                if let Some(epoch) = tree.get_mut("finalized_features_epoch") {
                    *epoch = Tree::leaf("<epoch>");
                }
            }
            true
        },
    },
    Rule {
        line: "No feature can be switched off: UpdateFeatures to a lower level is INVALID_UPDATE_VERSION.",
        apply: |step, ours, kafka| {
            let Call::Admin(Admin::UpdateFeatures { updates }) = &step.call else { return false };
            let lowers = updates.iter().any(|(feature, level, _)| lowers(feature, *level));
            let refused = is(ours, "error_code", "95") && is(kafka, "error_code", "0");
            // Nor does it tell what became of each, then.
            lowers && refused && {
                alike(ours, kafka, "error_message");
                alike(ours, kafka, "results");
                alike(ours, kafka, "error_code")
            }
        },
    },
    Rule {
        line: "With neither name nor id it is UNKNOWN_TOPIC_ID (Kafka: UNKNOWN_SERVER_ERROR)",
        apply: |step, ours, kafka| {
            let Call::Admin(Admin::Metadata { topics: Some(topics), by_id: true, .. }) = &step.call else {
                return false;
            };
            let is_nameless = step.version >= 12 && topics.contains(&Topic::Empty);
            let was = is_nameless
                && each_pair(ours, kafka, |ours, kafka| {
                    let is_nil = is(ours, "topic_id", NIL_ID) && is(kafka, "topic_id", NIL_ID);
                    is_nil && is(ours, "error_code", "100") && is(kafka, "error_code", "-1") && {
                        alike(ours, kafka, "name");
                        alike(ours, kafka, "error_code")
                    }
                });
            // From version 13 on Kafka says it of the whole request, too.
            was && (is(kafka, "error_code", "0") || alike(ours, kafka, "error_code"))
        },
    },
    Rule {
        line: "so it is in Fetch, of that topic (Kafka: of the whole request, if others are in error, too).",
        apply: |step, ours, kafka| {
            let Call::Data(Data::Fetch { from, .. }) = &step.call else { return false };
            let is_nameless = step.version >= 13 && from.iter().any(|(topic, ..)| *topic == Topic::Empty);
            let topics = ours.get("responses").map(Tree::elements).unwrap_or_default();
            let mut nil = topics.iter().filter(|topic| is(topic, "topic_id", NIL_ID)).peekable();
            let is_told = nil.peek().is_some()
                && nil.all(|topic| {
                    let partitions = topic.get("partitions").map(Tree::elements).unwrap_or_default();
                    partitions.iter().all(|partition| is(partition, "error_code", "100"))
                });
            let failed = is(ours, "error_code", "0") && is(kafka, "error_code", "-1");
            is_nameless && is_told && failed && {
                alike(ours, kafka, "responses");
                alike(ours, kafka, "error_code")
            }
        },
    },
    Rule {
        line: "A fetch brings whole batches (Kafka: the piece of the last one that fits, too, which counts)",
        apply: |step, ours, kafka| {
            let Call::Data(Data::Fetch { bytes_max, from, .. }) = &step.call else { return false };
            let is_tight = |bytes: i32| bytes < ROOMY_BYTES;
            if !is_tight(*bytes_max) && !from.iter().any(|(_, _, (_, _, bytes_max))| is_tight(*bytes_max)) {
                return false;
            }
            each_pair(ours, kafka, |ours, kafka| {
                // There is less room for those that come later.
                let has_none = kafka.get("records").is_some_and(|records| *records == no_records());
                let is_well = is(ours, "error_code", "0") && is(kafka, "error_code", "0");
                has_none && is_well && {
                    alike(ours, kafka, "aborted_transactions");
                    alike(ours, kafka, "records")
                }
            })
        },
    },
    Rule {
        line: "DescribeConfigs and alterations of BROKER_LOGGER and CLIENT_METRICS resources are INVALID_REQUEST, and ListConfigResources lists none.",
        apply: |step, _, kafka| {
            let is_list = step.key() == ApiKey::ListConfigResources;
            let Some(Tree::List(listed)) = kafka.get_mut("config_resources").filter(|_| is_list) else {
                return false;
            };
            listed.retain(|each| !is(each, "resource_type", "8"));
            true
        },
    },
    Rule {
        line: "`flush.messages` is 1 by default (Kafka: never)",
        apply: |_, ours, kafka| {
            setting(ours, kafka, "flush.messages", |ours, kafka| {
                is(ours, "value", "1") && is(kafka, "value", "9223372036854775807") && {
                    alike(ours, kafka, "synonyms");
                    alike(ours, kafka, "value")
                }
            })
        },
    },
    Rule {
        line: "`min.insync.replicas` is shown as a default; Kafka sets it for the whole cluster, and shows it so",
        apply: |_, ours, kafka| {
            setting(ours, kafka, "min.insync.replicas", |ours, kafka| {
                is(ours, "config_source", "5") && is(kafka, "config_source", "3") && {
                    alike(ours, kafka, "synonyms");
                    alike(ours, kafka, "config_source")
                }
            })
        },
    },
];

/// The same of bad input: what is wrong, ours, and Kafka's, each a prefix.
pub const BAD_INPUT: &[(&str, [&str; 3])] = &[
    ("A length below -1 closes the connection (Kafka: null).", ["negative", "closed", "ok"]),
    ("Text that is not UTF-8 closes the connection (Kafka: U+FFFD).", ["no text", "closed", "ok"]),
    (
        "A topic without a name is INVALID_REQUEST in Metadata, as OffsetFetch 1 without topics is an empty answer (Kafka: the connection is closed).",
        ["null", "ok", "closed"],
    ),
    (
        "With neither name nor id it is UNKNOWN_TOPIC_ID (Kafka: UNKNOWN_SERVER_ERROR)",
        ["null", "ok 0 100", "ok -1"],
    ),
    (
        "A resource that is altered twice in one AlterConfigs is altered twice (Kafka: no answer).",
        ["twice", "ok 0", "silent"],
    ),
];

/// Whether a difference in how bad input is taken is meant: its name, ours, and Kafka's outcome.
#[must_use]
pub fn is_meant(name: &str, ours: &str, kafka: &str) -> bool {
    let what = name.splitn(3, ' ').nth(2).unwrap_or_default();
    let api = name.split(' ').next().unwrap_or_default();
    BAD_INPUT.iter().any(|(_, [wrong, told, other])| {
        let is_there = *wrong != "null" || ["Metadata", "OffsetFetch"].contains(&api);
        is_there && what.starts_with(wrong) && ours.starts_with(told) && kafka.starts_with(other)
    })
}

/// Whether the field has that value.
fn is(tree: &Tree, name: &str, value: &str) -> bool {
    tree.get(name).and_then(Tree::as_text) == Some(value)
}

/// Makes ours what Kafka's is.
fn alike(ours: &mut Tree, kafka: &Tree, name: &str) -> bool {
    match (ours.get_mut(name), kafka.get(name)) {
        (Some(ours), Some(kafka)) => {
            *ours = kafka.clone();
            true
        }
        _ => false,
    }
}

/// Applies that to every pair of structures that stand in the same place; whether it was needed anywhere.
fn each_pair(ours: &mut Tree, kafka: &mut Tree, mut apply: impl FnMut(&mut Tree, &mut Tree) -> bool) -> bool {
    let mut was = false;
    both(ours, kafka, &mut |ours, kafka| was |= ours != kafka && apply(ours, kafka));
    was
}

/// Looks at a setting of that name in each place where both show it.
fn setting(
    ours: &mut Tree,
    kafka: &mut Tree,
    name: &str,
    mut apply: impl FnMut(&mut Tree, &mut Tree) -> bool,
) -> bool {
    let mut was = false;
    both(ours, kafka, &mut |ours, kafka| {
        if is(ours, "name", name)
            && is(kafka, "name", name)
            && ours.get("config_source").is_some()
            && ours != kafka
        {
            was |= apply(ours, kafka);
        }
    });
    was
}

/// Calls `each` on every pair of structures that stand in the same place.
fn both(ours: &mut Tree, kafka: &mut Tree, each: &mut impl FnMut(&mut Tree, &mut Tree)) {
    match (&mut *ours, &mut *kafka) {
        (Tree::Struct(mine), Tree::Struct(theirs)) => {
            for ((_, mine), (_, theirs)) in mine.iter_mut().zip(theirs) {
                both(mine, theirs, each);
            }
            each(ours, kafka);
        }
        (Tree::List(mine), Tree::List(theirs)) => {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                both(mine, theirs, each);
            }
        }
        _ => {}
    }
}

/// Applies them to normal forms, ours and Kafka's; which were there.
pub fn forgive(step: &Step, ours: &mut Tree, kafka: &mut Tree) -> Vec<&'static str> {
    let fired = RULES.iter().filter(|rule| ours != kafka && (rule.apply)(step, ours, kafka));
    fired.map(|rule| rule.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_line() {
        let page = include_str!("../../../COMPATIBILITY.md");
        let said = page.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = RULES.iter().map(|rule| rule.line).chain(BAD_INPUT.iter().map(|(line, _)| *line));
        let missing: Vec<_> = lines.filter(|line| !said.contains(line)).collect();
        assert!(missing.is_empty(), "COMPATIBILITY.md does not say: {missing:#?}");
    }
}
