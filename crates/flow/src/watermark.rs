//! How far event time has come: a plain state machine, told of every event and of the time.

use std::time::Duration;

use crate::policy::Disorder;

/// Before any event.
pub(crate) const NO_WATERMARK: i64 = i64::MIN;

/// The watermarks of the partitions, and the flow's, which is their minimum.
///
/// The flow's watermark promises that no earlier event is expected; it never goes back. A partition without news for a
/// while is idle and holds nobody back; when all are idle, nothing moves.
#[derive(Debug)]
pub(crate) struct Watermarks {
    disorder: Disorder,
    partitions: Vec<Partition>,
    flow_ms: i64,
}

#[derive(Debug)]
struct Partition {
    latest_event_ms: Option<i64>,
    /// When it last had something to read.
    heard: Duration,
    idle: bool,
}

impl Watermarks {
    /// Starts at `now` from what was known before: the latest event per partition, and the flow's watermark. No partition
    /// is idle before it was silent for long enough.
    pub(crate) fn restore(
        disorder: Disorder,
        latest_events_ms: &[Option<i64>],
        flow_ms: i64,
        now: Duration,
    ) -> Self {
        let partition = |&latest_event_ms: &_| Partition { latest_event_ms, heard: now, idle: false };
        Self { disorder, partitions: latest_events_ms.iter().map(partition).collect(), flow_ms }
    }

    /// The same, where others tell which partitions are idle ([`Watermarks::told`]), and have told this before.
    pub(crate) fn restore_idle(&mut self, idle: &[bool]) {
        self.partitions.iter_mut().zip(idle).for_each(|(partition, idle)| partition.idle = *idle);
    }

    /// Which partitions are idle.
    pub(crate) fn idle(&self) -> Vec<bool> {
        self.partitions.iter().map(|partition| partition.idle).collect()
    }

    /// Somebody who reads `partition` says what its latest event is, and whether it is idle.
    pub(crate) fn told(&mut self, partition: usize, latest_event_ms: Option<i64>, idle: bool) {
        self.partitions[partition].idle = false;
        if let Some(latest_event_ms) = latest_event_ms {
            self.observe(partition, latest_event_ms);
        }
        if idle {
            self.end(partition);
        }
    }

    /// The flow's watermark; [`NO_WATERMARK`] while there is none.
    pub(crate) fn flow_ms(&self) -> i64 {
        self.flow_ms
    }

    /// The latest event of every partition.
    pub(crate) fn latest_events_ms(&self) -> Vec<Option<i64>> {
        self.partitions.iter().map(|partition| partition.latest_event_ms).collect()
    }

    /// An event of `partition` happened at `event_ms`.
    pub(crate) fn observe(&mut self, partition: usize, event_ms: i64) {
        let latest = &mut self.partitions[partition].latest_event_ms;
        if latest.is_some_and(|latest| event_ms <= latest) {
            return;
        }
        let before_ms = latest.replace(event_ms).map_or(NO_WATERMARK, |latest| self.disorder.behind(latest));
        // Only the partition that holds the others back can let them go.
        if before_ms <= self.flow_ms {
            self.advance();
        }
    }

    /// There was something to read in `partition` at `now`.
    pub(crate) fn heard(&mut self, partition: usize, now: Duration) {
        let partition = &mut self.partitions[partition];
        partition.heard = now;
        partition.idle = false;
    }

    /// Everything in `partition` was read at `now`, and nothing new came.
    pub(crate) fn quiet(&mut self, partition: usize, now: Duration) {
        let state = &mut self.partitions[partition];
        if !state.idle && now.saturating_sub(state.heard) >= self.disorder.idle_after {
            self.end(partition);
        }
    }

    /// `partition` has nothing more to read.
    pub(crate) fn end(&mut self, partition: usize) {
        self.partitions[partition].idle = true;
        self.advance();
    }

    /// Declares everything before `end_ms` complete.
    pub(crate) fn close(&mut self, end_ms: i64) {
        self.flow_ms = self.flow_ms.max(end_ms);
    }

    fn advance(&mut self) {
        let active = self.partitions.iter().filter(|partition| !partition.idle);
        let watermark = |partition: &Partition| {
            partition.latest_event_ms.map_or(NO_WATERMARK, |latest| self.disorder.behind(latest))
        };
        if let Some(least) = active.map(watermark).min() {
            self.flow_ms = self.flow_ms.max(least);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn watermarks(partitions: usize) -> Watermarks {
        let disorder = Disorder::bounded(Duration::from_millis(10)).idle_after(Duration::from_millis(100));
        Watermarks::restore(disorder, &vec![None; partitions], NO_WATERMARK, Duration::ZERO)
    }

    #[test]
    fn the_slowest_partition_holds_the_rest_back() {
        let mut marks = watermarks(2);
        marks.observe(0, 1000);
        assert_eq!(marks.flow_ms(), NO_WATERMARK);
        marks.observe(1, 50);
        assert_eq!(marks.flow_ms(), 40);
        marks.observe(1, 30);
        assert_eq!(marks.flow_ms(), 40);
        marks.observe(1, 2000);
        assert_eq!(marks.flow_ms(), 990);
    }

    #[test]
    fn an_idle_partition_does_not_until_it_comes_back() {
        let mut marks = watermarks(2);
        marks.observe(0, 1000);
        marks.quiet(1, Duration::from_millis(99));
        assert_eq!(marks.flow_ms(), NO_WATERMARK);
        marks.quiet(1, Duration::from_millis(100));
        assert_eq!(marks.flow_ms(), 990);
        marks.heard(1, Duration::from_millis(120));
        marks.observe(1, 500);
        marks.observe(0, 2000);
        assert_eq!(marks.flow_ms(), 990, "time never goes back, and waits for whoever is behind");
        marks.observe(1, 1500);
        assert_eq!(marks.flow_ms(), 1490);
    }

    #[test]
    fn when_all_are_idle_nothing_moves() {
        let mut marks = watermarks(2);
        marks.observe(0, 1000);
        marks.quiet(0, Duration::from_millis(100));
        marks.quiet(1, Duration::from_millis(100));
        assert_eq!(marks.flow_ms(), NO_WATERMARK);
    }

    proptest! {
        #[test]
        fn the_shortcut_finds_the_same_minimum(
            events in prop::collection::vec((0usize..3, 0i64..1000), 0..100),
        ) {
            let mut marks = watermarks(3);
            let mut latest = [NO_WATERMARK; 3];
            for (partition, event_ms) in events {
                marks.observe(partition, event_ms);
                latest[partition] = latest[partition].max(event_ms - 10);
                prop_assert_eq!(marks.flow_ms(), *latest.iter().min().unwrap());
            }
        }
    }
}
