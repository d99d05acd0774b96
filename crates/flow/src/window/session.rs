//! Windows that last as long as something happens.

use std::time::Duration;

use super::{Window, WindowKind, length_ms};

/// A session of a key goes on while its events are at most a gap apart, and ends a gap after the last one.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    gap_ms: i64,
}

impl Session {
    /// Sessions that end when a key is silent for longer than `gap`.
    ///
    /// # Panics
    /// If `gap` is shorter than a millisecond.
    #[must_use]
    pub fn with_gap(gap: Duration) -> Self {
        Self { gap_ms: length_ms(gap) }
    }
}

impl WindowKind for Session {
    fn assign(&self, at_ms: i64, into: &mut Vec<Window>) {
        into.push(Window::starting_at(at_ms, self.gap_ms));
    }

    fn merges(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        format!("session with a gap of {} ms", self.gap_ms)
    }
}

/// What became of the sessions of a key when one more window came in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    /// The session that the new window is now part of.
    pub(crate) window: Window,
    /// The sessions that it was made of, by start.
    pub(crate) absorbed: Vec<Window>,
}

/// Merges `new` into the sessions of a key. Sessions that end at or before `closed_ms` are over: they stay as they are.
pub(crate) fn merge(sessions: &mut Vec<Window>, new: Window, closed_ms: i64) -> Merged {
    // Live sessions never touch each other, so one pass finds all that the new window joins.
    let (mut absorbed, kept): (Vec<_>, Vec<_>) =
        sessions.iter().partition(|session| session.end_ms > closed_ms && session.touches(new));
    absorbed.sort_unstable();
    let window = absorbed.iter().fold(new, |window, session| window.span(*session));
    *sessions = kept;
    sessions.push(window);
    Merged { window, absorbed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(start_ms: i64, end_ms: i64) -> Window {
        Window { start_ms, end_ms }
    }

    #[test]
    fn what_touches_becomes_one() {
        let mut sessions = vec![window(20, 30), window(0, 10)];
        let merged = merge(&mut sessions, window(10, 20), i64::MIN);
        assert_eq!(merged, Merged { window: window(0, 30), absorbed: vec![window(0, 10), window(20, 30)] });
        assert_eq!(sessions, [window(0, 30)]);
    }

    #[test]
    fn what_is_over_stays_as_it_is() {
        let mut sessions = vec![window(0, 10)];
        assert_eq!(merge(&mut sessions, window(9, 19), 10).absorbed, []);
        assert_eq!(sessions, [window(0, 10), window(9, 19)]);
    }

    /// Sorts the events, and starts a session wherever the gap to the one before is too long.
    fn naive(mut events: Vec<i64>, gap_ms: i64) -> Vec<Window> {
        events.sort_unstable();
        let mut sessions: Vec<Window> = Vec::new();
        for at_ms in events {
            match sessions.last_mut() {
                Some(last) if at_ms <= last.end_ms => last.end_ms = at_ms + gap_ms,
                _ => sessions.push(window(at_ms, at_ms + gap_ms)),
            }
        }
        sessions
    }

    proptest! {
        #[test]
        fn merging_in_any_order_finds_the_same_sessions(
            events in prop::collection::vec(-500i64..500, 0..60),
            gap_ms in 1i64..40,
        ) {
            let mut sessions = Vec::new();
            for &at_ms in &events {
                merge(&mut sessions, window(at_ms, at_ms + gap_ms), i64::MIN);
            }
            sessions.sort_unstable();
            prop_assert_eq!(sessions, naive(events, gap_ms));
        }
    }
}
