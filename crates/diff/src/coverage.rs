//! What was reached: a generator that only ever meets errors proves little.

use std::collections::BTreeMap;
use std::fmt;

use anabranch_wire::{ErrorCode, NO_ERROR};

use crate::step::Step;
use crate::tree::Tree;

/// Counts of steps, and of what Kafka answered.
#[derive(Debug, Clone, Default)]
pub struct Coverage {
    steps: BTreeMap<i16, Steps>,
    /// How often each rule of `known` was needed.
    pub known: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone, Default)]
struct Steps {
    name: String,
    count: u64,
    versions: BTreeMap<i16, u64>,
    codes: BTreeMap<i16, u64>,
    other: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// A step was answered with that.
    pub fn answered(&mut self, step: &Step, answer: &Tree) {
        let steps = self.of(step);
        answer.visit(&mut |name, field| {
            if let (true, Tree::Leaf(code)) = (name.ends_with("error_code"), field) {
                *steps.codes.entry(code.parse().expect("a code is a number")).or_default() += 1;
            }
        });
    }

    /// A step met the end of its connection, or no answer.
    pub fn unanswered(&mut self, step: &Step, what: &'static str) {
        *self.of(step).other.entry(what).or_default() += 1;
    }

    fn of(&mut self, step: &Step) -> &mut Steps {
        let steps = self.steps.entry(step.key() as i16).or_default();
        steps.name = format!("{:?}", step.key());
        steps.count += 1;
        *steps.versions.entry(step.version).or_default() += 1;
        steps
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = 0;
        for steps in self.steps.values() {
            total += steps.count;
            let versions = steps.versions.len();
            write!(out, "{:28} {:5} steps, {versions:2} versions:", steps.name, steps.count)?;
            for (code, count) in &steps.codes {
                let name = match ErrorCode::try_from_code(*code) {
                    Some(error) => format!("{error:?}"),
                    None if *code == NO_ERROR => "ok".to_owned(),
                    None => code.to_string(),
                };
                write!(out, " {name} {count}")?;
            }
            for (what, count) in &steps.other {
                write!(out, " ({what} {count})")?;
            }
            writeln!(out)?;
        }
        writeln!(out, "{total} steps")?;
        for (line, count) in &self.known {
            writeln!(out, "{count:5} times: {line}")?;
        }
        Ok(())
    }
}
