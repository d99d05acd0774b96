//! Windows of one length, side by side, counted from the Unix epoch.

use std::time::Duration;

use super::{Window, WindowKind, floor, length_ms};

/// Every event belongs to exactly one window of a fixed length.
#[derive(Debug, Clone, Copy)]
pub struct Tumbling {
    size_ms: i64,
}

impl Tumbling {
    /// Windows of `size`.
    ///
    /// # Panics
    /// If `size` is shorter than a millisecond.
    #[must_use]
    pub fn of(size: Duration) -> Self {
        Self { size_ms: length_ms(size) }
    }
}

impl WindowKind for Tumbling {
    fn assign(&self, at_ms: i64, into: &mut Vec<Window>) {
        into.push(Window::starting_at(floor(at_ms, self.size_ms), self.size_ms));
    }

    fn describe(&self) -> String {
        format!("tumbling of {} ms", self.size_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_belongs_to_the_window_around_it() {
        let check = |at_ms, start_ms, end_ms| {
            let mut windows = Vec::new();
            Tumbling::of(Duration::from_millis(10)).assign(at_ms, &mut windows);
            assert_eq!(windows, [Window { start_ms, end_ms }], "at {at_ms}");
        };
        check(0, 0, 10);
        check(9, 0, 10);
        check(10, 10, 20);
        check(-1, -10, 0);
        check(-10, -10, 0);
    }
}
