//! Verdicts as lines of JSON, and the report that is made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::judge::Verdict;
use crate::table::ALL;

/// One verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The behaviour's name.
    pub behaviour: String,
    /// The engine's name.
    pub engine: String,
    /// The version of the system behind it.
    pub version: String,
    /// On how many nodes.
    pub nodes: u32,
    /// What was found.
    pub verdict: Verdict,
    /// Why.
    pub detail: String,
}

/// Reads lines of JSON.
///
/// # Errors
/// A line is none of ours.
pub fn read_lines(text: &str) -> Result<Vec<Line>, serde_json::Error> {
    text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect()
}

/// As much of a detail as the report shows.
const NOTE_CHARS_MAX: usize = 300;

/// A table of behaviours by engines. Of several verdicts on the same, the last counts.
#[must_use]
pub fn markdown(lines: &[Line]) -> String {
    let engines: BTreeSet<_> = lines.iter().map(|line| (line.engine.as_str(), line.nodes)).collect();
    let found: BTreeMap<_, _> = lines
        .iter()
        .map(|line| ((line.behaviour.as_str(), line.engine.as_str(), line.nodes), line))
        .collect();
    let mut page = String::from(
        "# What the engines keep\n\nWritten by `cargo run -p anabranch-conformance --bin conformance-report`. *kept*: the promise \
         holds; *absent*: the engine says that it cannot, and it is so; *skipped*: it was not found out here, for the reason \
         below. A column is an engine and its number of nodes.\n",
    );
    let mut notes: BTreeMap<String, usize> = BTreeMap::new();
    let mut group = "";
    let mut put = |line: std::fmt::Arguments<'_>| page.write_fmt(line).expect("a string takes all");
    for behaviour in ALL {
        if behaviour.group != group {
            group = behaviour.group;
            put(format_args!("\n## {group}\n\n| behaviour | promise |"));
            engines.iter().for_each(|(engine, nodes)| put(format_args!(" {engine}, {nodes} |")));
            put(format_args!("\n|---|---|{}\n", "---|".repeat(engines.len())));
        }
        put(format_args!("| {} | {} |", behaviour.name, behaviour.promise));
        for (engine, nodes) in &engines {
            match found.get(&(behaviour.name, *engine, *nodes)) {
                Some(line) if line.detail.is_empty() => put(format_args!(" {} |", line.verdict)),
                Some(line) => {
                    let next = notes.len() + 1;
                    // What was seen is another every time; what is said is not.
                    let told = line.detail.split(" (as seen: ").next().unwrap_or_default();
                    let told: String = told.chars().take(NOTE_CHARS_MAX).collect();
                    let note = *notes.entry(format!("{engine}: {told}")).or_insert(next);
                    put(format_args!(" {} [{note}] |", line.verdict));
                }
                None => put(format_args!(" not run |")),
            }
        }
        put(format_args!("\n"));
    }
    let mut by_number: Vec<_> = notes.into_iter().map(|(note, number)| (number, note)).collect();
    by_number.sort_unstable();
    by_number.iter().for_each(|(number, note)| put(format_args!("\n{number}. {}", note.replace('\n', " "))));
    page.push('\n');
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_in_the_report() {
        let line = |engine: &str, at: usize, verdict, detail: &str| Line {
            behaviour: ALL[at].name.to_owned(),
            engine: engine.to_owned(),
            version: "1".to_owned(),
            nodes: 1,
            verdict,
            detail: detail.to_owned(),
        };
        let lines = [
            line("embedded", 0, Verdict::Broken, "first"),
            line("embedded", 0, Verdict::Kept, ""),
            line("nats", 0, Verdict::Absent, "no such thing (as seen: a, b)"),
            line("nats", 1, Verdict::Skipped, "no network"),
        ];
        let text: Vec<_> = lines.iter().map(|line| serde_json::to_string(line).unwrap()).collect();
        assert_eq!(read_lines(&text.join("\n")).unwrap(), lines);
        let page = markdown(&lines);
        let row =
            |at: usize| page.lines().find(|line| line.contains(&format!("| {} |", ALL[at].name))).unwrap();
        assert!(row(0).ends_with("| kept | absent [1] |"), "{}", row(0));
        assert!(row(1).ends_with("| not run | skipped [2] |"), "{}", row(1));
        assert!(page.contains("\n1. nats: no such thing\n2. nats: no network\n"), "{page}");
    }
}
