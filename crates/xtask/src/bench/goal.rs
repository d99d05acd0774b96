//! Goals, and whether they are reached.

use serde::Serialize;

/// A line of the table of goals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Goal {
    pub(super) goal: &'static str,
    pub(super) limit: &'static str,
    /// With units, and what it was measured with where that is not plain.
    pub(super) measured: String,
    pub(super) reached: Reached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reached {
    Yes,
    No,
    /// The run did not measure what would tell.
    Unknown,
}

impl Goal {
    /// Of a goal that is reached when every one of `parts` is: what was measured, and whether that is enough. Without any,
    /// nobody knows.
    pub(super) fn of(
        goal: &'static str,
        limit: &'static str,
        parts: impl IntoIterator<Item = Option<(String, bool)>>,
    ) -> Self {
        let parts: Vec<_> = parts.into_iter().collect();
        let known: Vec<_> = parts.iter().flatten().collect();
        let reached = if known.iter().any(|(_, enough)| !enough) {
            Reached::No
        } else if known.is_empty() || known.len() < parts.len() {
            Reached::Unknown
        } else {
            Reached::Yes
        };
        let said: Vec<_> = known.iter().map(|(said, _)| said.as_str()).collect();
        Self { goal, limit, measured: said.join("; "), reached }
    }
}

/// In Markdown.
pub(super) fn table(goals: &[Goal]) -> String {
    let row = |goal: &Goal| {
        let reached = match goal.reached {
            Reached::Yes => "yes",
            Reached::No => "**no**",
            Reached::Unknown => "not measured",
        };
        vec![goal.goal.to_owned(), goal.limit.to_owned(), goal.measured.clone(), reached.to_owned()]
    };
    let rows: Vec<_> = goals.iter().map(row).collect();
    super::table::table(&["goal", "limit", "measured", "reached"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_reached_when_all_of_it_is() {
        let part = |enough| Some(("x".to_owned(), enough));
        let reached = |parts: Vec<Option<(String, bool)>>| Goal::of("g", "l", parts).reached;
        assert_eq!(reached(vec![part(true), part(true)]), Reached::Yes);
        assert_eq!(reached(vec![part(true), part(false), None]), Reached::No);
        assert_eq!(reached(vec![part(true), None]), Reached::Unknown);
        assert_eq!(reached(vec![]), Reached::Unknown);
        assert_eq!(Goal::of("g", "l", [part(true), part(true)]).measured, "x; x");
    }
}
