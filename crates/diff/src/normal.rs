//! What may differ between two right answers, taken out of them: times, ids, addresses, the words of messages, and orders that
//! mean nothing.

use anabranch_core::batch::split_batches;
use bytes::Bytes;
use uuid::Uuid;

use crate::side::{PREFIX, State, UNKNOWN_TOPIC_ID};
use crate::tree::Tree;

/// What every case finds there; its changes tell when earlier ones are known everywhere.
pub const BARRIER: &str = "diff-barrier";

/// Later than anything that a case's records say: the server's own time.
const LATER_MS: i64 = 5000;

/// Kafka's bit for a batch whose times are the server's.
const LOG_APPEND_TIME: i16 = 0x08;

/// Brings an answer into its normal form.
pub fn normalize(answer: &mut Tree, state: &State) {
    wordless(answer);
    answer.visit_mut(&mut |name, field| {
        if let (true, Tree::Bytes(bytes)) = (name == "records", &*field) {
            *field = records(bytes, state);
        }
        leaf(name, field, state);
        if let (true, Tree::List(numbers)) = (name == "partitions", &mut *field)
            && numbers.iter().all(|each| matches!(each, Tree::Leaf(_)))
        {
            numbers.sort();
        }
        if let Tree::List(elements) = field {
            elements.retain(|element| !is_foreign(element, state) && !is_internal_log(element));
            merge(elements);
            if !["batches", "records"].contains(&name) && elements.iter().all(is_sortable) {
                elements.sort();
            }
        }
    });
}

fn is_sortable(element: &Tree) -> bool {
    matches!(element, Tree::Struct(_) | Tree::Text(_))
}

/// What an error is called matters, and how it is explained does not.
fn wordless(tree: &mut Tree) {
    match tree {
        Tree::Struct(fields) => {
            fields.iter_mut().for_each(|(_, field)| wordless(field));
            let is_error = tree.get("error_code").and_then(Tree::as_text).is_some_and(|code| code != "0");
            if let (true, Some(message)) = (is_error, tree.get_mut("error_message")) {
                *message = Tree::leaf("<any>");
            }
            if let Some(message) = tree.get_mut("batch_index_error_message") {
                *message = Tree::leaf("<any>");
            }
        }
        Tree::List(elements) => elements.iter_mut().for_each(wordless),
        _ => {}
    }
}

fn leaf(name: &str, field: &mut Tree, state: &State) {
    let hide = |what: &str| Tree::Leaf(format!("<{what}>"));
    match (name, &*field) {
        (
            "throttle_time_ms" | "host" | "port" | "cluster_id" | "log_dir" | "total_bytes" | "usable_bytes",
            _,
        ) => {
            *field = hide(name);
        }
        ("session_id", Tree::Leaf(id)) if id != "0" => *field = hide("a session"),
        ("error_message" | "documentation", Tree::Text(text)) if !text.is_empty() => *field = hide("text"),
        (_, Tree::Leaf(number)) if is_time(name) => {
            if let Ok(time) = number.parse::<i64>() {
                *field = when(time, state);
            }
        }
        (_, Tree::Leaf(id)) if name.ends_with("producer_id") && !id.starts_with('-') => {
            *field = state.symbol(id).map_or_else(|| hide("a producer"), Tree::leaf);
        }
        (_, Tree::Leaf(id)) if id.len() == 36 && id.starts_with(|first: char| first.is_ascii_hexdigit()) => {
            if let Some(symbol) = state.symbol(id) {
                *field = Tree::leaf(symbol);
            } else if ![Uuid::nil(), UNKNOWN_TOPIC_ID].iter().any(|known| known.to_string() == *id) {
                // Of an internal topic, or one that a case has deleted.
                *field = hide("a topic");
            }
        }
        (_, Tree::Text(text)) => {
            if let Some(symbol) = state.symbol(text) {
                *field = Tree::leaf(symbol);
            } else if let Some(before) = without_uuid(text) {
                *field = Tree::Leaf(format!("<{before} and a UUID>"));
            }
        }
        _ => {}
    }
}

fn is_time(name: &str) -> bool {
    name.contains("timestamp") || name.ends_with("time_ms")
}

fn when(time: i64, state: &State) -> Tree {
    match time - state.now_ms {
        since @ 0..LATER_MS => Tree::Leaf(format!("<case + {since}>")),
        LATER_MS.. if time < state.now_ms + 3_600_000 => Tree::leaf("<now>"),
        _ => Tree::leaf(time),
    }
}

/// `before-7d0a...`: what a server makes of a client's name. What stands before the UUID.
fn without_uuid(text: &str) -> Option<&str> {
    let at = text.len().checked_sub(36)?;
    let (before, id) = (text.get(..at)?, text.get(at..)?);
    uuid::Uuid::parse_str(id).ok().map(|_| before)
}

/// A topic may come in pieces: what is said of its partitions matters, and not where.
fn merge(elements: &mut Vec<Tree>) {
    let key = |element: &Tree| {
        let name = element.get("topic").or_else(|| element.get("name"))?.clone();
        element.get("partitions")?;
        Some((name, element.get("topic_id").cloned()))
    };
    let mut at = 1;
    while at < elements.len() {
        let same = key(&elements[at])
            .and_then(|own| (0..at).find(|&before| key(&elements[before]) == Some(own.clone())));
        match same {
            Some(before) => {
                let Some(Tree::List(more)) = elements.remove(at).get("partitions").cloned() else { continue };
                if let Some(Tree::List(partitions)) = elements[before].get_mut("partitions") {
                    partitions.extend(more);
                    partitions.sort();
                }
            }
            None => at += 1,
        }
    }
}

/// What internal topics take on the disk is everybody's own affair.
fn is_internal_log(element: &Tree) -> bool {
    let is_log =
        |partitions: &Tree| partitions.elements().iter().any(|each| each.get("partition_size").is_some());
    element.get("name").and_then(Tree::as_text).is_some_and(|name| name.starts_with("__"))
        && element.get("partitions").is_some_and(is_log)
}

/// Of another case, or of none: a server's list of all groups has what bad input made there, too.
fn is_foreign(element: &Tree, state: &State) -> bool {
    const NAMES: [&str; 6] = ["name", "group_id", "transactional_id", "topic", "topic_name", "resource_name"];
    let names = NAMES.iter().filter_map(|name| element.get(name)?.as_text());
    let is_others = |name: &str| name.starts_with(PREFIX) && !name.starts_with(&state.prefix);
    let is_listed = element.get("group_type").is_some();
    let listed = element.get("group_id").and_then(Tree::as_text).filter(|_| is_listed);
    names.into_iter().any(is_others) || listed.is_some_and(|name| !name.starts_with(&state.prefix))
}

/// What is told of records where there are none.
#[must_use]
pub fn no_records() -> Tree {
    Tree::Struct(vec![("batches".to_owned(), Tree::List(Vec::new()))])
}

/// Batches, field by field. The last one may be cut.
fn records(bytes: &Bytes, state: &State) -> Tree {
    let batches = split_batches(bytes.clone()).map_while(Result::ok).map(|batch| {
        let header = *batch.header();
        let is_servers = header.attributes & LOG_APPEND_TIME != 0;
        let time = |time: i64| if is_servers { Tree::leaf("<append time>") } else { when(time, state) };
        let producer = header.producer_id.0.to_string();
        let producer = match header.producer_id.0 {
            -1 => "-1",
            _ => state.symbol(&producer).unwrap_or("<a producer>"),
        };
        let records = match batch.end_marker() {
            Ok(Some(marker)) => Tree::Leaf(format!("{:?}", marker.kind)),
            _ => Tree::List(
                batch
                    .records()
                    .unwrap_or_default()
                    .iter()
                    .map(|at| {
                        let record = &at.record;
                        let text = format!("{:?}={:?} {:?}", record.key, record.value, record.headers);
                        Tree::Struct(vec![
                            ("offset".to_owned(), Tree::leaf(at.offset.0)),
                            ("time".to_owned(), time(record.timestamp_ms)),
                            ("record".to_owned(), Tree::Leaf(text)),
                        ])
                    })
                    .collect(),
            ),
        };
        let is_control = header.is_control();
        Tree::Struct(vec![
            ("base_offset".to_owned(), Tree::leaf(header.base_offset.0)),
            ("last_offset".to_owned(), Tree::leaf(header.last_offset().0)),
            ("leader_epoch".to_owned(), Tree::leaf(header.leader_epoch.0)),
            ("attributes".to_owned(), Tree::leaf(header.attributes)),
            (
                "max_time".to_owned(),
                if is_control { Tree::leaf("<now>") } else { time(header.max_timestamp_ms) },
            ),
            ("producer".to_owned(), Tree::leaf(producer)),
            ("producer_epoch".to_owned(), Tree::leaf(header.producer_epoch.0)),
            ("base_sequence".to_owned(), Tree::leaf(header.base_sequence)),
            ("record_count".to_owned(), Tree::leaf(header.record_count)),
            ("records".to_owned(), records),
        ])
    });
    Tree::Struct(vec![("batches".to_owned(), Tree::List(batches.collect()))])
}
