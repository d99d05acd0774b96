//! What is to be done with a partition: rules only, as Kafka has them (`UnifiedLog.deleteOldSegments`,
//! `LogCleanerManager.cleanableOffsets`).

use anabranch_core::Offset;
use anabranch_log::SegmentInfo;

/// How long records are kept, and how many bytes of them; `None` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) ms: Option<i64>,
    pub(crate) bytes: Option<u64>,
}

/// When a log is compacted, and what goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CompactionRules {
    pub(crate) delete_retention_ms: i64,
    pub(crate) min_lag_ms: i64,
    pub(crate) max_lag_ms: i64,
    pub(crate) min_dirty_ratio: f64,
}

/// Segments that have outlived their retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expired {
    /// Where the log is to start.
    pub(crate) start: Offset,
    /// The one that is written to has expired as well: a new one must be begun first.
    pub(crate) active_too: bool,
}

/// Which segments go: from the oldest on, first as many as are more than enough bytes, then those whose newest record is
/// too old.
pub(crate) fn expired(
    segments: &[SegmentInfo],
    high_watermark: Offset,
    retention: Retention,
    now_ms: i64,
) -> Option<Expired> {
    let total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut surplus = retention.bytes.map_or(0, |bytes| total.saturating_sub(bytes));
    let may_go =
        |segment: &SegmentInfo| segment.end <= high_watermark && !(segment.is_active && segment.bytes == 0);
    let too_many = |segment: &SegmentInfo| {
        let is_surplus = surplus >= segment.bytes;
        surplus = surplus.saturating_sub(segment.bytes);
        is_surplus
    };
    let by_size =
        segments.iter().take_while(|segment| may_go(segment)).map(too_many).take_while(|goes| *goes).count();
    let too_old =
        |segment: &SegmentInfo| retention.ms.is_some_and(|ms| now_ms.saturating_sub(segment.newest_ms) > ms);
    let by_time =
        segments[by_size..].iter().take_while(|segment| may_go(segment) && too_old(segment)).count();
    let last = segments[..by_size + by_time].last()?;
    Some(Expired { start: last.end, active_too: last.is_active })
}

/// What a pass of compaction would find.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dirty {
    /// Where it must stop.
    pub(crate) before: Offset,
    /// How much of what may be compacted is dirty.
    pub(crate) ratio: f64,
    /// Whether it is due.
    pub(crate) is_due: bool,
}

/// What of a log may be compacted, how dirty that is, and whether it is time: more than `min.cleanable.dirty.ratio` is
/// dirty, or a dirty segment began longer than `max.compaction.lag.ms` ago.
pub(crate) fn dirty(
    segments: &[SegmentInfo],
    last_stable: Offset,
    first_dirty: Offset,
    rules: &CompactionRules,
    now_ms: i64,
) -> Dirty {
    let is_young = |segment: &SegmentInfo| {
        rules.min_lag_ms > 0 && segment.newest_ms > now_ms.saturating_sub(rules.min_lag_ms)
    };
    let stops = |segment: &&SegmentInfo| {
        segment.is_active || segment.end > last_stable || segment.end > first_dirty && is_young(segment)
    };
    let before = segments.iter().find(stops).map_or(first_dirty, |segment| segment.base);
    let (mut clean_bytes, mut dirty_bytes, mut oldest_ms) = (0, 0, i64::MAX);
    for segment in segments.iter().filter(|segment| segment.end <= before) {
        if segment.end <= first_dirty {
            clean_bytes += segment.bytes;
        } else {
            dirty_bytes += segment.bytes;
            if segment.first_timestamp_ms > 0 {
                oldest_ms = oldest_ms.min(segment.first_timestamp_ms);
            }
        }
    }
    let total = clean_bytes + dirty_bytes;
    let ratio = if total == 0 { 0.0 } else { dirty_bytes as f64 / total as f64 };
    let is_overdue = oldest_ms < now_ms.saturating_sub(rules.max_lag_ms);
    Dirty { before, ratio, is_due: dirty_bytes > 0 && (is_overdue || ratio > rules.min_dirty_ratio) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of ten records, of these sizes and largest timestamps; the last one is written to.
    fn segments(of: &[(u64, i64)]) -> Vec<SegmentInfo> {
        let info = |(at, (bytes, newest_ms)): (usize, &(u64, i64))| SegmentInfo {
            base: Offset(at as i64 * 10),
            end: Offset(at as i64 * 10 + if *bytes == 0 { 0 } else { 10 }),
            bytes: *bytes,
            first_timestamp_ms: newest_ms - 5,
            newest_ms: *newest_ms,
            is_active: at + 1 == of.len(),
        };
        of.iter().enumerate().map(info).collect()
    }

    #[test]
    fn old_segments_go_from_the_front_and_only_as_long_as_each_is_old() {
        let now_ms = 10_000;
        let check = |of: &[(u64, i64)], ms: i64, expected: Option<(i64, bool)>| {
            let retention = Retention { ms: Some(ms), bytes: None };
            let found = expired(&segments(of), Offset(i64::MAX), retention, now_ms);
            assert_eq!(found.map(|expired| (expired.start.0, expired.active_too)), expected, "{of:?}");
        };
        check(&[(5, 8999), (5, 9000), (5, 9999)], 1000, Some((10, false)));
        check(&[(5, 9001), (5, 10), (5, 9999)], 1000, None);
        check(&[(5, 1), (5, 2), (5, 3)], 1000, Some((30, true)));
        // A last segment with nothing in it stays.
        check(&[(5, 1), (5, 2), (0, -1)], 1000, Some((20, false)));
        check(&[(0, -1)], 0, None);
        // A record from the future holds its segment, and those behind it.
        check(&[(5, 1), (5, 20_000), (5, 2)], 1000, Some((10, false)));
    }

    #[test]
    fn segments_go_while_enough_bytes_are_left() {
        let check = |sizes: &[u64], bytes: u64, expected: Option<(i64, bool)>| {
            let of: Vec<(u64, i64)> = sizes.iter().map(|bytes| (*bytes, 1)).collect();
            let retention = Retention { ms: None, bytes: Some(bytes) };
            let found = expired(&segments(&of), Offset(i64::MAX), retention, 10_000);
            assert_eq!(
                found.map(|expired| (expired.start.0, expired.active_too)),
                expected,
                "{sizes:?} {bytes}"
            );
        };
        check(&[10, 10, 10], 30, None);
        check(&[10, 10, 10], 21, None);
        check(&[10, 10, 10], 20, Some((10, false)));
        check(&[10, 10, 10], 11, Some((10, false)));
        check(&[10, 10, 10], 0, Some((30, true)));
        check(&[10, 10, 0], 0, Some((20, false)));
        check(&[50, 1, 1], 10, None);
    }

    #[test]
    fn size_goes_first_and_nothing_goes_above_the_high_watermark() {
        let retention = Retention { ms: Some(1000), bytes: Some(25) };
        let three = segments(&[(10, 9_900), (10, 1), (10, 9_900)]);
        assert_eq!(expired(&three, Offset(99), retention, 10_000), None);
        let four = segments(&[(10, 9_900), (10, 1), (10, 9_900), (10, 9_900)]);
        let both = expired(&four, Offset(99), retention, 10_000).unwrap();
        assert_eq!((both.start, both.active_too), (Offset(20), false));
        let held = expired(&four, Offset(19), retention, 10_000).unwrap();
        assert_eq!(held.start, Offset(10));
        let never = Retention { ms: None, bytes: None };
        assert_eq!(expired(&four, Offset(99), never, 10_000), None);
    }

    #[test]
    fn a_log_is_compacted_when_enough_is_dirty_or_for_long_enough() {
        let rules = |ratio, min_lag_ms, max_lag_ms| CompactionRules {
            delete_retention_ms: 0,
            min_lag_ms,
            max_lag_ms,
            min_dirty_ratio: ratio,
        };
        let of = segments(&[(10, 100), (10, 200), (20, 300), (99, 400)]);
        let judge = |first_dirty, rules| dirty(&of, Offset(99), Offset(first_dirty), &rules, 1000);
        let lazy = rules(0.5, 0, i64::MAX);
        assert_eq!(judge(0, lazy), Dirty { before: Offset(30), ratio: 1.0, is_due: true });
        assert_eq!(judge(20, lazy), Dirty { before: Offset(30), ratio: 0.5, is_due: false });
        assert_eq!(judge(15, lazy), Dirty { before: Offset(30), ratio: 0.75, is_due: true });
        assert_eq!(judge(30, lazy), Dirty { before: Offset(30), ratio: 0.0, is_due: false });
        assert!(judge(20, rules(0.5, 0, 700)).is_due && !judge(20, rules(0.5, 0, 705)).is_due);
        assert_eq!(judge(0, rules(0.5, 750, i64::MAX)).before, Offset(20));
        assert_eq!(
            judge(0, rules(0.5, 950, i64::MAX)),
            Dirty { before: Offset(0), ratio: 0.0, is_due: false }
        );
        // What is clean already may be young.
        assert_eq!(judge(30, rules(0.5, 950, i64::MAX)).before, Offset(30));
        assert_eq!(dirty(&of, Offset(25), Offset(0), &lazy, 1000).before, Offset(20));
    }
}
