//! What follows when a client said this of Kafka, and that of Anabranch.

use serde::{Deserialize, Serialize};

use super::clients::{Check, Said};

/// What a check says of Anabranch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Passes on both.
    Same,
    /// Passes on Kafka only, and `differences.txt` says why.
    Differs,
    /// The client cannot do it.
    Cannot,
    /// Passes on Kafka only, and nobody has said why.
    Fails,
    /// Passes on both, though it is listed as a difference.
    Stale,
    /// Fails on Kafka, so that it says nothing.
    Unproven,
}

impl Outcome {
    fn is_passed(self) -> bool {
        matches!(self, Self::Same | Self::Differs | Self::Cannot)
    }

    fn of(kafka: Option<&Check>, ours: Option<&Check>) -> Self {
        let is_listed = ours.is_some_and(|check| check.differs.is_some());
        // `None` twice over: not asked at all, and asked of a client that cannot.
        let passed = |check: Option<&Check>| check.map(|check| check.passed);
        match (passed(kafka), passed(ours)) {
            (Some(None), Some(None)) => Self::Cannot,
            (Some(Some(true)), Some(Some(true))) if is_listed => Self::Stale,
            (Some(Some(true)), Some(Some(true))) => Self::Same,
            (Some(Some(true)), Some(Some(false))) if is_listed => Self::Differs,
            (Some(Some(true)), _) => Self::Fails,
            _ => Self::Unproven,
        }
    }
}

/// One check of one client.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) check: String,
    pub(super) outcome: Outcome,
    /// What the client met where it did not pass: on Kafka if the check is unproven, else on Anabranch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) met: Option<String>,
    /// Why it differs, or why the client cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
}

/// All of one client's.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    pub(super) client: String,
    pub(super) version: String,
    /// The checks that failed at first and had the client run once more, on either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) again: Vec<String>,
    pub(super) checks: Vec<Row>,
}

impl Verdict {
    pub(super) fn is_passed(&self) -> bool {
        self.checks.iter().all(|row| row.outcome.is_passed())
    }

    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.checks.iter().filter(|row| row.outcome == outcome).count()
    }
}

/// Puts side by side what each client said of both. A client that was silent about one of them fails.
pub(super) fn compare(kafka: &[Said], ours: &[Said]) -> Vec<Verdict> {
    let known = |said: &&Said| !ours.iter().any(|ours| ours.client == said.client);
    let all = ours.iter().chain(kafka.iter().filter(known));
    all.map(|said| verdict(of(kafka, &said.client), of(ours, &said.client))).collect()
}

fn of<'a>(all: &'a [Said], client: &str) -> Option<&'a Said> {
    all.iter().find(|said| said.client == client)
}

fn verdict(kafka: Option<&Said>, ours: Option<&Said>) -> Verdict {
    let either = ours.or(kafka).expect("a client that one of them has heard");
    let checks = |said: Option<&Said>| said.map_or_else(Vec::new, |said| said.checks.clone());
    let (on_kafka, on_ours) = (checks(kafka), checks(ours));
    let find = |all: &[Check], name: &str| all.iter().find(|check| check.check == name).cloned();
    let mut names: Vec<&String> = Vec::new();
    for check in on_ours.iter().chain(&on_kafka) {
        if !names.contains(&&check.check) {
            names.push(&check.check);
        }
    }
    let rows = names.iter().map(|name| row(name, find(&on_kafka, name), find(&on_ours, name))).collect();
    let mut again: Vec<String> =
        [kafka, ours].into_iter().flatten().flat_map(|said| said.again.clone()).collect();
    again.sort();
    again.dedup();
    Verdict { client: either.client.clone(), version: either.version.clone(), again, checks: rows }
}

fn row(name: &str, kafka: Option<Check>, ours: Option<Check>) -> Row {
    let outcome = Outcome::of(kafka.as_ref(), ours.as_ref());
    let silent = || "the client gave no report".to_owned();
    let error = |check: Option<Check>| check.map_or_else(|| Some(silent()), |check| check.error);
    let why = ours.as_ref().and_then(|check| check.differs.clone().or_else(|| check.note.clone()));
    let met = match outcome {
        Outcome::Same | Outcome::Stale | Outcome::Cannot => None,
        Outcome::Differs | Outcome::Fails => error(ours),
        Outcome::Unproven => error(kafka),
    };
    Row { check: name.to_owned(), outcome, met, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(passed: Option<bool>, differs: Option<&str>) -> Check {
        let error = (passed == Some(false)).then(|| "timed out".to_owned());
        Check { check: "metadata".to_owned(), passed, error, note: None, differs: differs.map(str::to_owned) }
    }

    fn said(client: &str, check: Check) -> Said {
        Said { client: client.to_owned(), version: "1".to_owned(), again: Vec::new(), checks: vec![check] }
    }

    #[test]
    fn every_pair_of_answers_has_one_outcome() {
        let (yes, no, cannot) = (Some(true), Some(false), None);
        for (kafka, ours, listed, expect) in [
            (yes, yes, None, Outcome::Same),
            (yes, yes, Some("why"), Outcome::Stale),
            (yes, no, None, Outcome::Fails),
            (yes, no, Some("why"), Outcome::Differs),
            (yes, cannot, None, Outcome::Fails),
            (no, yes, None, Outcome::Unproven),
            (no, no, None, Outcome::Unproven),
            (no, no, Some("why"), Outcome::Unproven),
            (cannot, cannot, None, Outcome::Cannot),
            (cannot, yes, None, Outcome::Unproven),
        ] {
            let verdicts = compare(&[said("kcat", check(kafka, None))], &[said("kcat", check(ours, listed))]);
            assert_eq!(verdicts[0].checks[0].outcome, expect, "{kafka:?} {ours:?} {listed:?}");
            let is_fine = matches!(expect, Outcome::Same | Outcome::Differs | Outcome::Cannot);
            assert_eq!(verdicts[0].is_passed(), is_fine);
        }
    }

    #[test]
    fn a_client_that_is_silent_about_one_of_them_fails() {
        let kcat = || said("kcat", check(Some(true), None));
        for (kafka, ours, expect) in
            [(vec![kcat()], vec![], Outcome::Fails), (vec![], vec![kcat()], Outcome::Unproven)]
        {
            let verdicts = compare(&kafka, &ours);
            assert_eq!((verdicts.len(), verdicts[0].checks[0].outcome), (1, expect));
            assert_eq!(verdicts[0].checks[0].met.as_deref(), Some("the client gave no report"));
            assert!(!verdicts[0].is_passed());
        }
    }

    #[test]
    fn what_was_met_is_kept_with_the_reason() {
        let ours = said("kcat", check(Some(false), Some("KIP-932")));
        let row = &compare(&[said("kcat", check(Some(true), None))], &[ours])[0].checks[0];
        assert_eq!((row.met.as_deref(), row.why.as_deref()), (Some("timed out"), Some("KIP-932")));
    }
}
