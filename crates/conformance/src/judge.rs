//! What a run means, beside what the engine says of itself.

use std::fmt;

use anabranch_core::engine::{Capability, Description, EngineError, Support};
use serde::{Deserialize, Serialize};

use crate::stage::{Outcome, Stop};
use crate::table::Behaviour;

/// What is said of a behaviour on an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The promise is kept.
    Kept,
    /// The engine says that it cannot, and it is so.
    Absent,
    /// The ground lacks what is needed to find out.
    Skipped,
    /// The promise is broken.
    Broken,
    /// The engine can, and says that it cannot.
    Undeclared,
}

impl Verdict {
    /// Whether the suite fails.
    #[must_use]
    pub fn fails(self) -> bool {
        matches!(self, Self::Broken | Self::Undeclared)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::Absent => "absent",
            Self::Skipped => "skipped",
            Self::Broken => "BROKEN",
            Self::Undeclared => "UNDECLARED",
        })
    }
}

/// The capabilities that the behaviour needs and the engine says it lacks.
fn missing(behaviour: &Behaviour, description: &Description) -> Vec<Capability> {
    behaviour.needs.iter().copied().filter(|&needed| !description.has(needed)).collect()
}

/// Whether it is to be run: all that it needs is declared, or it is the witness of the one thing that is not.
#[must_use]
pub(crate) fn is_to_run(behaviour: &Behaviour, description: &Description) -> bool {
    let missing = missing(behaviour, description);
    missing.is_empty() || behaviour.witness.is_some_and(|witness| missing == [witness])
}

/// The verdict on what a run came to (`None`: it was not to be run), and why.
#[must_use]
pub fn judge(
    behaviour: &Behaviour,
    description: &Description,
    outcome: Option<Outcome>,
) -> (Verdict, String) {
    let missing = missing(behaviour, description);
    let Some(&lacked) = missing.first() else {
        return match outcome {
            Some(Ok(())) => (Verdict::Kept, String::new()),
            Some(Err(Stop::Lacks(what))) => (Verdict::Skipped, what),
            Some(Err(Stop::Broken(what))) => (Verdict::Broken, what),
            Some(Err(Stop::Engine(error))) => (Verdict::Broken, format!("unexpected: {error}")),
            None => (Verdict::Skipped, "it was not run".to_owned()),
        };
    };
    let Support::Absent { why } = description.support(lacked) else {
        unreachable!("what is missing is absent")
    };
    let why = format!("{lacked}: {why}");
    match outcome {
        None | Some(Err(Stop::Lacks(_))) => (Verdict::Absent, why),
        Some(Ok(())) => (Verdict::Undeclared, format!("it has what it says it lacks: {why}")),
        Some(Err(stop)) if !is_asked_for(lacked) || is_refusal(&stop, lacked) => {
            (Verdict::Absent, format!("{why} (as seen: {stop})"))
        }
        Some(Err(stop)) => (Verdict::Broken, format!("it refuses by no type ({lacked}): {stop}")),
    }
}

/// Whether a call asks for the capability, so that it must be refused where there is none.
fn is_asked_for(capability: Capability) -> bool {
    matches!(
        capability,
        Capability::AppendIds
            | Capability::ConditionalAppend
            | Capability::Transactions
            | Capability::Groups
            | Capability::Queue
            | Capability::Trim
            | Capability::Compaction
            | Capability::Retention
    )
}

/// Whether that is how the seam says that there is none.
fn is_refusal(stop: &Stop, of: Capability) -> bool {
    match stop {
        Stop::Engine(EngineError::Unsuitable(told)) => {
            told.missing.iter().any(|missing| missing.capability == of)
        }
        // These are asked for by a topic's settings.
        Stop::Engine(EngineError::Refused { .. }) => {
            matches!(of, Capability::Compaction | Capability::Retention)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::engine::{Limits, Unsuitable};

    use super::*;

    fn behaviour(needs: &'static [Capability], witness: Option<Capability>) -> Behaviour {
        Behaviour {
            group: "test",
            name: "test",
            promise: "",
            needs,
            witness,
            run: |_| Box::pin(async { Ok(()) }),
        }
    }

    fn without(absent: &[Capability]) -> Description {
        let limits = Limits { record_bytes_max: 1, append_bytes_max: 1, append_records_max: 1 };
        Description::new("nats", "1", "c", 1, limits, |capability| match absent.contains(&capability) {
            true => Support::absent("no"),
            false => Support::Native,
        })
    }

    fn broken() -> Outcome {
        Err(Stop::Broken("wrong".to_owned()))
    }

    fn unsuitable(capability: Capability) -> Outcome {
        let refused: Unsuitable = without(&[capability]).require(&[capability]).unwrap_err();
        Err(Stop::Engine(refused.into()))
    }

    #[test]
    fn what_is_declared_must_be_kept() {
        let [all, order] = [without(&[]), without(&[Capability::PartitionOrder])];
        let plain = behaviour(&[], None);
        let ordered = behaviour(&[Capability::PartitionOrder], Some(Capability::PartitionOrder));
        let lacks = || Err(Stop::Lacks("no network".to_owned()));
        for (behaviour, description, outcome, expected) in [
            (&plain, &all, Ok(()), Verdict::Kept),
            (&plain, &all, broken(), Verdict::Broken),
            (&plain, &all, lacks(), Verdict::Skipped),
            (&plain, &all, unsuitable(Capability::Trim), Verdict::Broken),
            (&ordered, &all, Ok(()), Verdict::Kept),
            (&ordered, &all, broken(), Verdict::Broken),
            (&ordered, &order, Ok(()), Verdict::Undeclared),
            (&ordered, &order, broken(), Verdict::Absent),
            (&ordered, &order, lacks(), Verdict::Absent),
        ] {
            let told = format!("{outcome:?}");
            assert!(is_to_run(behaviour, description));
            assert_eq!(judge(behaviour, description, Some(outcome)).0, expected, "{told}");
        }
    }

    #[test]
    fn what_is_asked_for_and_absent_is_refused_by_type() {
        let trims = behaviour(&[Capability::Trim], Some(Capability::Trim));
        let none = without(&[Capability::Trim]);
        let refused = |topic: &str| {
            Err(Stop::Engine(EngineError::Refused { topic: topic.to_owned(), reason: String::new() }))
        };
        assert_eq!(judge(&trims, &none, Some(unsuitable(Capability::Trim))).0, Verdict::Absent);
        assert_eq!(judge(&trims, &none, Some(unsuitable(Capability::Replay))).0, Verdict::Broken);
        assert_eq!(judge(&trims, &none, Some(broken())).0, Verdict::Broken);
        assert_eq!(judge(&trims, &none, Some(refused("t"))).0, Verdict::Broken);
        assert_eq!(judge(&trims, &none, Some(Ok(()))).0, Verdict::Undeclared);
        let compacts = behaviour(&[Capability::Compaction], Some(Capability::Compaction));
        assert_eq!(
            judge(&compacts, &without(&[Capability::Compaction]), Some(refused("t"))).0,
            Verdict::Absent
        );
    }

    #[test]
    fn who_is_no_witness_does_not_run_without() {
        let (both, two) = (
            behaviour(&[Capability::Groups, Capability::GroupFencing], Some(Capability::GroupFencing)),
            behaviour(&[Capability::Transactions], None),
        );
        assert!(is_to_run(&both, &without(&[Capability::GroupFencing])));
        assert!(!is_to_run(&both, &without(&[Capability::Groups])));
        assert!(!is_to_run(&both, &without(&[Capability::Groups, Capability::GroupFencing])));
        let none = without(&[Capability::Transactions]);
        assert!(!is_to_run(&two, &none));
        assert_eq!(judge(&two, &none, None), (Verdict::Absent, "transactions: no".to_owned()));
    }
}
