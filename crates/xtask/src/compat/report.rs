//! The card in Markdown: first what a reader wants to know, then everything.

use std::collections::BTreeMap;

use super::Card;
use super::judge::{Outcome, Row, Verdict};
use super::streams::{Answer, Streams};
use crate::bench::table::table;

/// The programs that run Kafka's tools; their checks bear the tool's name before a dot.
const TOOLS: [&str; 2] = ["console-tools", "further-tools"];

/// An error may be a page; its beginning says what it is.
const MET_CHARS_MAX: usize = 300;

/// The whole of `compat/REPORT.md`.
pub(super) fn markdown(card: &Card) -> String {
    let commit =
        card.commit.as_ref().map_or_else(|| "a given binary".to_owned(), |commit| format!("commit {commit}"));
    let mut parts = vec![
        "# Report card".to_owned(),
        format!(
            "Anabranch ({commit}) beside Apache Kafka {}, {}. Made by `cargo xtask compat`, which makes it anew; the same for \
             programs is `report.json`. How to read it stands in `README.md`, what each check asks for in \
             `tests/clients/README.md`.",
            card.kafka, card.date
        ),
        "## Summary".to_owned(),
        summary(card),
    ];
    let mut section = |title: &str, body: String| {
        if !body.is_empty() {
            parts.extend([format!("## {title}"), body]);
        }
    };
    section("What went wrong", troubles(card));
    section("What differs", remarks(card, &[Outcome::Differs]));
    section("Clients", matrix(card));
    section("Asked of one client alone", alone(card));
    section("Kafka's tools", tools(card));
    section("Kafka Streams", card.streams.as_ref().map_or_else(String::new, streams));
    section("Second tries", second_tries(card));
    parts.join("\n\n") + "\n"
}

/// The table of clients, and the verdict.
pub(super) fn summary(card: &Card) -> String {
    let mut rows: Vec<Vec<String>> = card.clients.iter().map(counts).collect();
    if let Some(streams) = &card.streams {
        let (same, failed) = if streams.is_same() { ("1", "") } else { ("", "1") };
        let row = ["Kafka Streams, exactly once", &card.kafka, "1", same, "", failed, ""];
        rows.push(row.map(str::to_owned).to_vec());
    }
    let header = ["client", "version", "checks", "same", "differ", "fail", "client cannot"];
    let verdict = if card.is_passed() {
        "Whatever passes on Kafka passes on Anabranch, but for what is listed below with its reason."
    } else {
        "**Something fails.**"
    };
    format!("{}\n\n{verdict}", table(&header, &rows))
}

fn counts(verdict: &Verdict) -> Vec<String> {
    let number = |count: usize| if count == 0 { String::new() } else { count.to_string() };
    let fail = [Outcome::Fails, Outcome::Stale, Outcome::Unproven].map(|outcome| verdict.count(outcome));
    let cannot = verdict.count(Outcome::Cannot);
    vec![
        verdict.client.clone(),
        verdict.version.clone(),
        number(verdict.checks.len() - cannot),
        number(verdict.count(Outcome::Same)),
        number(verdict.count(Outcome::Differs)),
        number(fail.iter().sum()),
        number(cannot),
    ]
}

fn troubles(card: &Card) -> String {
    let told = remarks(card, &[Outcome::Fails, Outcome::Stale, Outcome::Unproven]);
    let lines: Vec<String> = card.troubles.iter().map(|trouble| format!("- {trouble}")).collect();
    [told, lines.join("\n")].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The checks of these outcomes, with what was met and why.
fn remarks(card: &Card, outcomes: &[Outcome]) -> String {
    let mut rows = Vec::new();
    for verdict in &card.clients {
        for row in verdict.checks.iter().filter(|row| outcomes.contains(&row.outcome)) {
            rows.push(vec![row.check.clone(), verdict.client.clone(), remark(row)]);
        }
    }
    if rows.is_empty() { String::new() } else { table(&["check", "client", "how, and why"], &rows) }
}

fn remark(row: &Row) -> String {
    let met = row.met.as_deref().map(short).unwrap_or_default();
    let why = row.why.as_deref().unwrap_or_default();
    match row.outcome {
        Outcome::Differs => format!("{why}: {met}"),
        Outcome::Stale => "passes, and is listed as a difference".to_owned(),
        Outcome::Unproven => format!("fails on Kafka: {met}"),
        Outcome::Fails => met,
        Outcome::Same | Outcome::Cannot => why.to_owned(),
    }
}

/// One line that a cell can hold.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "\\<");
    if line.chars().count() <= MET_CHARS_MAX {
        return line;
    }
    line.chars().take(MET_CHARS_MAX).chain(['…']).collect()
}

fn cell(row: Option<&Row>) -> &'static str {
    match row.map(|row| row.outcome) {
        None => "",
        Some(Outcome::Same) => "✓",
        Some(Outcome::Differs) => "differs",
        Some(Outcome::Cannot) => "–",
        Some(Outcome::Fails) => "**FAILS**",
        Some(Outcome::Stale) => "**listed**",
        Some(Outcome::Unproven) => "**Kafka fails**",
    }
}

/// How many clients are asked this.
fn asked(card: &Card) -> BTreeMap<&str, usize> {
    let mut asked = BTreeMap::new();
    for row in card.clients.iter().flat_map(|verdict| &verdict.checks) {
        *asked.entry(row.check.as_str()).or_insert(0) += 1;
    }
    asked
}

/// What several clients are asked, side by side.
fn matrix(card: &Card) -> String {
    let asked = asked(card);
    let is_common = |row: &&Row| asked[row.check.as_str()] > 1;
    let clients: Vec<&Verdict> =
        card.clients.iter().filter(|verdict| verdict.checks.iter().any(|row| is_common(&row))).collect();
    let mut names: Vec<&str> = Vec::new();
    for row in clients.iter().flat_map(|verdict| &verdict.checks).filter(is_common) {
        if !names.contains(&row.check.as_str()) {
            names.push(&row.check);
        }
    }
    if names.is_empty() {
        return String::new();
    }
    let header: Vec<&str> =
        ["check"].into_iter().chain(clients.iter().map(|verdict| verdict.client.as_str())).collect();
    let row = |name: &&str| {
        let find = |verdict: &&Verdict| cell(verdict.checks.iter().find(|row| row.check == *name)).to_owned();
        [(*name).to_owned()].into_iter().chain(clients.iter().map(find)).collect()
    };
    let rows: Vec<Vec<String>> = names.iter().map(row).collect();
    format!(
        "✓: passes on both. –: the client cannot do it. Empty: it is not asked.\n\n{}",
        table(&header, &rows)
    )
}

fn alone(card: &Card) -> String {
    let asked = asked(card);
    let mut rows = Vec::new();
    for verdict in card.clients.iter().filter(|verdict| !TOOLS.contains(&verdict.client.as_str())) {
        for row in verdict.checks.iter().filter(|row| asked[row.check.as_str()] == 1) {
            rows.push(vec![verdict.client.clone(), row.check.clone(), cell(Some(row)).to_owned()]);
        }
    }
    if rows.is_empty() { String::new() } else { table(&["client", "check", ""], &rows) }
}

/// One row for each tool: its outcome, and what was checked.
fn tools(card: &Card) -> String {
    let mut tools: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    let asked = card.clients.iter().filter(|verdict| TOOLS.contains(&verdict.client.as_str()));
    // What is no tool's, such as that none is forgotten, has no row.
    for row in asked.flat_map(|verdict| &verdict.checks).filter(|row| is_a_tools(row)) {
        tools.entry(row.check.split('.').next().unwrap_or_default()).or_default().push(row);
    }
    if tools.is_empty() {
        return String::new();
    }
    let rows = tools.iter().map(|(tool, rows)| {
        let has = |outcome: Outcome| rows.iter().any(|row| row.outcome == outcome);
        let outcome = if rows.iter().all(|row| row.outcome == Outcome::Same) {
            "ok"
        } else if rows.iter().all(|row| row.outcome == Outcome::Cannot) {
            "not asked"
        } else if has(Outcome::Fails) || has(Outcome::Stale) || has(Outcome::Unproven) {
            "**FAILS**"
        } else {
            "differs"
        };
        let checked = rows.iter().map(|row| {
            let name = row.check.split_once('.').map_or("", |(_, name)| name);
            let said = match row.outcome {
                Outcome::Same => String::new(),
                _ => format!(
                    "{}: {}",
                    cell(Some(row)),
                    row.why.as_deref().or(row.met.as_deref()).map(short).unwrap_or_default()
                ),
            };
            match (name, said.as_str()) {
                ("", said) => said.trim_start_matches("–: ").to_owned(),
                (name, "") => name.to_owned(),
                (name, said) => format!("{name} ({said})"),
            }
        });
        vec![(*tool).to_owned(), outcome.to_owned(), checked.collect::<Vec<_>>().join(", ")]
    });
    table(&["tool", "outcome", "checks"], &rows.collect::<Vec<_>>())
}

/// Whether the check is named `TOOL.WHAT`, or a tool that is not asked.
fn is_a_tools(row: &Row) -> bool {
    row.check.contains('.') || row.outcome == Outcome::Cannot
}

fn streams(streams: &Streams) -> String {
    let row = |name: &str, answer: &Answer| {
        let said = match (&answer.trouble, answer.wrong.as_slice()) {
            (Some(trouble), _) => short(trouble),
            (None, []) => "right".to_owned(),
            (None, wrong) => format!("wrong: {}", short(&wrong.join("; "))),
        };
        vec![name.to_owned(), answer.rows.to_string(), said, answer.seconds.to_string()]
    };
    let rows = [row("Apache Kafka", &streams.kafka), row("Anabranch", &streams.ours)];
    format!(
        "`compat/programs/streams` counts {} records by key and by window with `exactly_once_v2` while they come. Its process is \
         killed (SIGKILL) and started again twice, and the broker once in between. The right answer, of a single pass over the \
         input, has {} rows.\n\n{}",
        streams.records,
        streams.rows,
        table(&["on", "rows", "answer", "seconds"], &rows)
    )
}

fn second_tries(card: &Card) -> String {
    let tries = card.clients.iter().filter(|verdict| !verdict.again.is_empty());
    let lines: Vec<String> =
        tries.map(|verdict| format!("- {}: {}", verdict.client, verdict.again.join(", "))).collect();
    if lines.is_empty() {
        return String::new();
    }
    format!(
        "These failed on one of the two brokers when several clients ran at once on a busy machine, and the client was run once \
         more, alone; what is told above is of that run.\n\n{}",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(rows: Vec<(&str, Outcome)>) -> Card {
        let row = |(check, outcome): (&str, Outcome)| Row {
            check: check.to_owned(),
            outcome,
            met: matches!(outcome, Outcome::Fails | Outcome::Differs)
                .then(|| "timed | out\nafter 30 s".to_owned()),
            why: (outcome == Outcome::Differs).then(|| "one node".to_owned()),
        };
        let verdict = Verdict {
            client: TOOLS[1].to_owned(),
            version: "4.3.1".to_owned(),
            again: Vec::new(),
            checks: rows.into_iter().map(row).collect(),
        };
        let (commit, streams, troubles) = (Some("abc".to_owned()), None, Vec::new());
        Card {
            date: "2026-01-01".to_owned(),
            commit,
            kafka: "4.3.1".to_owned(),
            clients: vec![verdict],
            streams,
            troubles,
        }
    }

    #[test]
    fn a_failure_is_told_first_and_a_difference_with_its_reason() {
        let fine = card(vec![("kafka-topics.create", Outcome::Same), ("kafka-acls.list", Outcome::Differs)]);
        assert!(fine.is_passed());
        let told = markdown(&fine);
        assert!(told.contains("Whatever passes on Kafka passes on Anabranch"), "{told}");
        assert!(told.contains("one node: timed \\| out after 30 s"), "{told}");
        assert!(!told.contains("What went wrong"), "{told}");

        let failed = card(vec![("kafka-topics.create", Outcome::Fails)]);
        assert!(!failed.is_passed());
        let told = markdown(&failed);
        assert!(told.contains("**Something fails.**") && told.contains("## What went wrong"), "{told}");
    }

    #[test]
    fn a_trouble_that_no_check_tells_fails_too() {
        let mut card = card(vec![("kafka-topics.create", Outcome::Same)]);
        card.troubles.push("the broker did not stop".to_owned());
        assert!(!card.is_passed());
        assert!(markdown(&card).contains("- the broker did not stop"));
    }

    #[test]
    fn a_tool_is_ok_only_if_all_of_its_checks_are() {
        for (other, expect) in [
            (Outcome::Same, "| ok "),
            (Outcome::Differs, "| differs "),
            (Outcome::Fails, "| **FAILS** "),
            (Outcome::Unproven, "| **FAILS** "),
        ] {
            let told =
                tools(&card(vec![("kafka-topics.create", Outcome::Same), ("kafka-topics.delete", other)]));
            assert!(told.contains(expect), "{other:?}: {told}");
        }
        assert!(tools(&card(vec![("kafka-jmx", Outcome::Cannot)])).contains("| not asked "));
    }
}
