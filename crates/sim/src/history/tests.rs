//! The checker, checked: with histories that are wrong, each in one way, and with some that only look so.

use super::*;

/// A history in short: a client and what it does, one event a line. `?` at the end: unknown; `!`: failed.
///
/// `send PARTITION VALUE [@OFFSET] [<GROUP:PARTITION:OFFSET]`, `offsets GROUP PARTITION OFFSET`, `poll PARTITION FROM..NEXT
/// VALUE@OFFSET...` of committed records and `peek` of all, `told GROUP PARTITION OFFSET`, `seek PARTITION`.
fn events(text: &str) -> Vec<Event> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.enumerate().map(|(at, line)| event(at, line)).collect()
}

fn event(at: usize, line: &str) -> Event {
    let (line, outcome) = match (line.strip_suffix(" ?"), line.strip_suffix(" !")) {
        (Some(line), _) => (line, Outcome::Unknown),
        (_, Some(line)) => (line, Outcome::Failed),
        _ => (line, Outcome::Ok),
    };
    let mut words = line.split_whitespace();
    let mut word = || words.next().unwrap_or_else(|| panic!("{line:?} is too short")).to_owned();
    let number = |text: &str| text.parse::<i64>().unwrap();
    let (client, name) = (word(), word());
    let op = match name.as_str() {
        "begin" => Op::Begin,
        "commit" => Op::Commit,
        "abort" => Op::Abort,
        "seek" => Op::Seek { partition: word() },
        "offsets" => Op::Offsets { group: word(), partition: word(), offset: number(&word()) },
        "told" => Op::Committed { group: word(), partition: word(), offset: number(&word()) },
        "send" => {
            let (partition, value) = (word(), word());
            let rest: Vec<&str> = words.collect();
            let offset = rest.iter().find_map(|word| word.strip_prefix('@')).map(number);
            let source = rest.iter().find_map(|word| word.strip_prefix('<')).map(|source| {
                let parts: Vec<&str> = source.split(':').collect();
                Source {
                    group: parts[0].to_owned(),
                    partition: parts[1].to_owned(),
                    offset: number(parts[2]),
                }
            });
            Op::Send { partition, value, offset, source }
        }
        "poll" | "peek" => {
            let (partition, range) = (word(), word());
            let (from, next) = range.split_once("..").unwrap();
            let value = |word: &str| {
                let (value, offset) = word.split_once('@').unwrap();
                (number(offset), value.to_owned())
            };
            let isolation =
                if name == "poll" { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
            let (offset, next) = (number(from), number(next));
            Op::Poll { partition, offset, next, values: words.map(value).collect(), isolation }
        }
        _ => panic!("{line:?}"),
    };
    Event { client, op, outcome, at_us: at as i64 }
}

#[track_caller]
fn check(history: &str, expect: &[Check]) -> Verdict {
    let verdict = judge(&events(history)).unwrap();
    let found: Vec<Check> = verdict.anomalies.iter().map(|anomaly| anomaly.check).collect();
    assert_eq!(found, expect, "{verdict}");
    verdict
}

#[test]
fn what_is_right_passes() {
    let verdict = check(
        "p begin
         p send a x @0
         p send b y @0
         p commit
         q begin
         q send a z @1
         q abort
         n send a plain @4
         r poll a 0..5 x@0 plain@4
         r poll b 0..2 y@0
         u peek a 0..5 x@0 z@1 plain@4",
        &[],
    );
    let Verdict { committed, aborted, sent, read, clients, events, .. } = verdict;
    assert_eq!((committed, aborted, sent, read, clients, events), (1, 1, 4, 6, 5, 11));
}

#[test]
fn a_committed_record_that_a_reader_comes_by_is_lost() {
    check("p begin\n p send a x @0\n p commit\n r poll a 0..2", &[Check::LostWrite]);
}

#[test]
fn a_committed_record_that_nobody_reads_is_lost() {
    check("p begin\n p send a x @5\n p commit\n r poll a 0..5", &[Check::LostWrite]);
    check("p begin\n p send a x\n p commit\n r poll a 0..5", &[Check::LostWrite]);
    check("p send a x @5\n r poll a 0..5", &[Check::LostWrite]);
}

#[test]
fn a_committed_record_that_one_reader_sees_and_another_does_not_is_lost() {
    check("p begin\n p send a x @0\n p commit\n r poll a 0..2 x@0\n s poll a 0..2", &[Check::LostWrite]);
}

#[test]
fn who_reads_everything_must_see_what_was_aborted_too() {
    check("p begin\n p send a x @0\n p abort\n u peek a 0..2", &[Check::LostWrite]);
}

#[test]
fn an_aborted_record_is_seen() {
    check("p begin\n p send a x @0\n p abort\n r poll a 0..2 x@0", &[Check::AbortedRead]);
}

#[test]
fn a_record_is_seen_that_nobody_asked_to_commit() {
    check("p begin\n p send a x @0\n r poll a 0..2 x@0", &[Check::AbortedRead]);
    // As when a zombie's commit ends the transaction of its successor.
    check(
        "zombie begin
         zombie send a x @0
         new begin
         new send a y @2
         zombie commit
         new abort
         r poll a 0..4 x@0 y@2",
        &[Check::AbortedRead],
    );
}

#[test]
fn a_record_is_seen_that_was_not_sent_after_all() {
    check("p begin\n p send a x !\n p commit\n r poll a 0..2 x@0", &[Check::AbortedRead]);
}

#[test]
fn a_record_of_unknown_outcome_is_seen_and_then_not() {
    check("p begin\n p send a x @0\n p commit ?\n r poll a 0..2 x@0\n s poll a 0..2", &[Check::AbortedRead]);
}

#[test]
fn transactions_that_see_each_other_are_a_circle() {
    check(
        "p begin
         q begin
         p send a x @0
         q send b y @0
         p poll b 0..1 y@0
         q poll a 0..1 x@0
         p commit
         q commit",
        &[Check::CircularFlow],
    );
    // Over a third one, and what was read before it began.
    check(
        "p begin
         p send a x @0
         q poll a 0..1 x@0
         q begin
         q send b y @0
         q commit
         s begin
         s poll b 0..1 y@0
         s send c z @0
         s commit ?
         p poll c 0..1 z@0
         p commit",
        &[Check::CircularFlow],
    );
}

#[test]
fn a_transaction_that_sees_its_own_record_is_a_circle() {
    check("p begin\n p send a x @0\n p poll a 0..1 x@0\n p commit", &[Check::CircularFlow]);
}

#[test]
fn a_transaction_that_reads_behind_its_own_open_record_is_a_circle() {
    check(
        "p begin
         p send a x @0
         n send a y @1
         p poll a 1..2 y@1
         p commit
         r poll a 0..1 x@0",
        &[Check::CircularFlow],
    );
}

#[test]
fn a_record_is_there_twice() {
    check("p begin\n p send a x @0\n p commit\n r poll a 0..3 x@0 x@1", &[Check::Duplicate]);
    check("p begin\n p send a x @0\n p commit\n r poll a 0..3 x@0\n r poll b 0..3 x@0", &[Check::Duplicate]);
}

#[test]
fn two_things_are_made_of_one() {
    check(
        "n send in i @0
         p begin
         p send out x @0 <g:in:0
         p offsets g in 1
         p commit
         zombie begin
         zombie send out y @2 <g:in:0
         zombie offsets g in 1
         zombie commit
         r poll in 0..1 i@0
         r poll out 0..4 x@0 y@2",
        &[Check::Duplicate],
    );
}

#[test]
fn a_reader_goes_back_or_leaves_something_out() {
    let sent = "n send a x @0\n n send a y @1\n";
    check(&format!("{sent} r poll a 0..2 x@0 y@1\n r poll a 1..2 y@1"), &[Check::NonMonotonicPoll]);
    check(&format!("{sent} r poll a 0..2 x@0 y@1\n r poll a 3..4"), &[Check::NonMonotonicPoll]);
    check(&format!("{sent} r poll a 0..2 y@1 x@0"), &[Check::NonMonotonicPoll]);
    check(&format!("{sent} r poll a 0..1 x@0 y@1"), &[Check::NonMonotonicPoll]);
}

#[test]
fn a_client_sends_in_one_order_and_another_stands() {
    check(
        "p begin\n p send a x @1\n p send a y @0\n p commit\n r poll a 0..3 y@0 x@1",
        &[Check::NonMonotonicSend],
    );
}

#[test]
fn a_part_of_a_transaction_is_seen() {
    let begun = "p begin\n p send a x @0\n p send b y @0\n";
    let read = "r poll a 0..2 x@0\n r poll b 0..2";
    check(&format!("{begun} p commit\n {read}"), &[Check::Torn]);
    check(&format!("{begun} p commit ?\n {read}"), &[Check::Torn]);
    // Nobody has come by.
    check(&format!("{begun} p commit ?\n r poll a 0..2 x@0"), &[Check::Torn]);
}

#[test]
fn the_records_of_a_transaction_are_gone_and_its_offsets_are_not() {
    check(
        "n send in i @0
         p begin
         p send out x @0 <g:in:0
         p offsets g in 1
         p commit ?
         r poll in 0..1 i@0
         r poll out 0..2
         q told g in 1",
        &[Check::Torn],
    );
}

#[test]
fn the_records_of_a_transaction_are_there_and_its_offsets_are_not() {
    // So it was made once more.
    check(
        "n send in i @0
         p begin
         p send out x @0 <g:in:0
         p offsets g in 1
         p commit ?
         q begin
         q send out y @2 <g:in:0
         q offsets g in 1
         q commit
         r poll in 0..1 i@0
         r poll out 0..4 x@0 y@2",
        &[Check::Duplicate],
    );
}

#[test]
fn a_loop_has_passed_a_record_and_made_nothing_of_it() {
    check(
        "n send in i @0
         n send in j @1
         p begin
         p send out x @0 <g:in:1
         p offsets g in 2
         p commit
         r poll in 0..2 i@0 j@1
         r poll out 0..2 x@0",
        &[Check::Torn],
    );
}

#[test]
fn a_group_stands_where_an_aborted_transaction_wanted_it() {
    check("p begin\n p offsets g in 7\n p abort\n q told g in 7", &[Check::AbortedOffsets]);
    // One that asks for it only later is no excuse.
    check(
        "p begin
         p offsets g in 7
         p abort
         q told g in 7
         q begin
         q offsets g in 7
         q commit",
        &[Check::AbortedOffsets],
    );
    check("p begin\n p offsets g in 7\n q told g in 7", &[Check::AbortedOffsets]);
}

#[test]
fn a_group_stands_where_nobody_wanted_it() {
    check("p begin\n p offsets g in 7\n p commit\n q told g in 8", &[Check::Phantom]);
}

#[test]
fn an_offset_has_two_records() {
    check(
        "n send a x @0\n m send a y @0\n r poll a 0..1 x@0\n s poll a 0..1 y@0",
        &[Check::LostWrite, Check::OffsetTaken],
    );
}

#[test]
fn a_record_is_read_that_nobody_wrote() {
    check("r poll a 0..1 x@0", &[Check::Phantom]);
}

#[test]
fn an_unknown_outcome_is_either() {
    let begun = "p begin\n p send a x @0\n p send b y @0\n p commit ?\n";
    let verdict = check(&format!("{begun} r poll a 0..2 x@0\n r poll b 0..2 y@0"), &[]);
    assert_eq!((verdict.unknown_committed, verdict.unknown_aborted), (1, 0));
    let verdict = check(&format!("{begun} r poll a 0..2\n r poll b 0..2"), &[]);
    assert_eq!((verdict.unknown_committed, verdict.unknown_aborted), (0, 1));
    // Not even its records may be there.
    check("p begin\n p send a x ?\n p commit ?\n r poll a 0..9", &[]);
    check("n send a x ?\n r poll a 0..9\n u peek a 0..9", &[]);
    check("p begin\n p offsets g in 7\n p commit ?\n q told g in 7", &[]);
}

#[test]
fn an_outcome_that_is_known_later_counts() {
    check(
        "p begin
         p send a x ?
         p send a x @0
         p commit ?
         p commit ?
         p commit
         r poll a 0..2 x@0",
        &[],
    );
    check("p begin\n p send a x @0\n p commit ?\n p abort\n r poll a 0..2 x@0", &[Check::AbortedRead]);
    check("p begin\n p send a x @0\n p abort ?\n p abort\n r poll a 0..2", &[]);
}

#[test]
fn gaps_where_aborted_records_and_markers_are_look_wrong_only() {
    check(
        "p begin
         p send a x @0
         p send a y @1
         p abort
         p begin
         p send a z @3
         p commit
         r poll a 0..3
         r poll a 3..5 z@3
         u peek a 0..2 x@0 y@1
         u peek a 2..5 z@3",
        &[],
    );
}

#[test]
fn transactions_that_write_in_turns_look_like_a_circle_only() {
    check(
        "p begin
         q begin
         p send a x @0
         q send a y @1
         p send a z @2
         q commit
         p commit
         r poll a 0..5 x@0 y@1 z@2",
        &[],
    );
}

#[test]
fn what_an_aborted_transaction_has_read_may_follow_from_it() {
    check(
        "p begin
         p send a x @0
         q poll a 0..1 x@0
         q begin
         q send b y @0
         q abort
         p poll b 0..1
         p commit
         r poll a 1..2",
        &[],
    );
}

#[test]
fn a_loop_that_begins_anew_looks_as_if_it_went_back_only() {
    check(
        "n send in i @0
         p poll in 0..1 i@0
         p begin
         p send out x @0 <g:in:0
         p offsets g in 1
         p abort
         p seek in
         p poll in 0..1 i@0
         p begin
         p send out y @2 <g:in:0
         p offsets g in 1
         p commit
         q told g in 1
         q poll in 1..1
         r poll out 0..4 y@2",
        &[],
    );
}

#[test]
fn the_records_of_a_zombie_that_was_fenced_are_nowhere() {
    check(
        "zombie begin
         zombie send a x ?
         new begin
         new send a y @0
         new commit
         zombie commit ?
         r poll a 0..2 y@0",
        &[],
    );
}

#[test]
fn what_cannot_be_is_told_apart_from_what_may_not_be() {
    for (senseless, expect) in [
        ("p commit", "event 1 of p cannot be: there is no transaction"),
        ("p offsets g in 1", "event 1 of p cannot be: there is no transaction"),
        ("p begin\n p commit\n p abort", "event 3 of p cannot be: there is no transaction"),
        ("p send a x\n p send a x", "event 2 of p cannot be: it sends a value another time"),
        ("p send a x ?\n q send a x", "event 2 of q cannot be: it sends a value another time"),
        ("p send a x ?\n p send b x", "event 2 of p cannot be: it sends a value to two partitions"),
    ] {
        assert_eq!(judge(&events(senseless)).unwrap_err().to_string(), expect);
    }
}

#[test]
fn a_history_is_lines_of_json() {
    let history = events(
        "p begin
         p send a-0 x @3 <g:in-0:7
         p send a-0 y ?
         p offsets g in-0 8
         p commit ?
         p abort !
         r seek a-0
         r poll a-0 0..4 x@3
         r peek a-0 0..4
         q told g in-0 8",
    );
    let mut text = String::new();
    for event in &history {
        text += &(serde_json::to_string(event).unwrap() + "\n");
    }
    let first = r#"{"client":"p","op":"begin","outcome":"ok","at_us":0}"#;
    assert_eq!(text.lines().next(), Some(first));
    assert_eq!(parse(text.as_bytes()).unwrap(), history);
    // The last line was being written when its client was killed.
    assert_eq!(parse(text.trim_end().as_bytes()).unwrap(), history[..9]);
    let broken = format!("{text}{{\"client\":\"p\"}}\n");
    assert!(parse(broken.as_bytes()).unwrap_err().to_string().starts_with("line 11 is no event: "));
}

#[test]
fn a_verdict_can_be_read() {
    let verdict = check("p begin\n p send a x @0\n p abort\n r poll a 0..2 x@0", &[Check::AbortedRead]);
    assert_eq!(
        verdict.to_string(),
        "4 events of 2 clients
transactions: 0 committed, 1 aborted, 0 of unknown outcome (0 committed, 0 aborted)
records: 1 sent, 1 read
aborted read (G1a): 1
    r sees \"x\" at offset 0 of a, transaction 1 of p, which was not committed
verdict: WRONG, 1 anomalies"
    );
}
