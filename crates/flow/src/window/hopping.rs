//! Windows of one length that begin more often than they end.

use std::time::Duration;

use super::{Window, WindowKind, floor, length_ms};

/// A window of a fixed length begins at every hop, so that an event belongs to several.
#[derive(Debug, Clone, Copy)]
pub struct Hopping {
    size_ms: i64,
    hop_ms: i64,
}

impl Hopping {
    /// How many windows an event may belong to: each of them is state and work.
    pub const WINDOWS_PER_EVENT_MAX: i64 = 1000;

    /// Windows of `size`, one every `hop`.
    ///
    /// # Panics
    /// If `hop` is shorter than a millisecond, longer than `size` (events between windows would be lost), or shorter
    /// than `size` / [`Self::WINDOWS_PER_EVENT_MAX`].
    #[must_use]
    pub fn of(size: Duration, hop: Duration) -> Self {
        let (size_ms, hop_ms) = (length_ms(size), length_ms(hop));
        assert!(hop_ms <= size_ms, "a hop longer than the window would lose the events between");
        assert!(size_ms / hop_ms <= Self::WINDOWS_PER_EVENT_MAX, "an event would belong to too many windows");
        Self { size_ms, hop_ms }
    }
}

impl WindowKind for Hopping {
    fn assign(&self, at_ms: i64, into: &mut Vec<Window>) {
        let mut start_ms = floor(at_ms, self.hop_ms);
        while start_ms > at_ms - self.size_ms {
            into.push(Window::starting_at(start_ms, self.size_ms));
            start_ms -= self.hop_ms;
        }
    }

    fn describe(&self) -> String {
        format!("hopping of {} ms every {} ms", self.size_ms, self.hop_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_belongs_to_every_window_around_it() {
        let check = |size, hop, at_ms, starts: &[i64]| {
            let mut windows = Vec::new();
            Hopping::of(Duration::from_millis(size), Duration::from_millis(hop)).assign(at_ms, &mut windows);
            let found: Vec<_> = windows.iter().map(|window| window.start_ms).collect();
            assert_eq!(found, starts, "at {at_ms}");
            assert!(windows.iter().all(|window| window.start_ms <= at_ms && at_ms < window.end_ms));
        };
        check(10, 5, 12, &[10, 5]);
        check(10, 5, 10, &[10, 5]);
        check(10, 5, 9, &[5, 0]);
        check(10, 10, 9, &[0]);
        check(10, 4, 9, &[8, 4, 0]);
        check(10, 4, 10, &[8, 4]);
        check(10, 5, -1, &[-5, -10]);
    }

    #[test]
    #[should_panic(expected = "would lose the events between")]
    fn gaps_between_windows_are_refused() {
        let _ = Hopping::of(Duration::from_millis(5), Duration::from_millis(6));
    }
}
