//! Which position of the target is which of the source.

use anabranch_core::engine::Position;
use serde::{Deserialize, Serialize};

/// From this record on, and up to the next anchor, the two sides differ by the same distance. A new one stands where a side
/// has something that is not shown: a marker of a transaction, or a hole where a record was compacted away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    source: u64,
    target: u64,
}

/// The positions of one partition's records on both sides, as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", try_from = "Vec<(u64, u64)>")]
pub struct Anchors(Vec<Anchor>);

impl Anchors {
    /// The record at `source` is at `target`. Records come in order.
    pub fn note(&mut self, source: Position, target: Position) {
        let anchor = Anchor { source: source.0, target: target.0 };
        match self.0.last() {
            Some(last) if last.distance() == anchor.distance() => {}
            _ => self.0.push(anchor),
        }
    }

    /// Where in the target the record stands that is read next in the source from `position` on, if it was read before
    /// `end`. `end` is after the last record that was read, in the source and in the target: there stands what comes after.
    #[must_use]
    pub fn translate(&self, position: Position, end: (Position, Position)) -> Position {
        if position >= end.0 {
            return end.1;
        }
        let next = self.0.partition_point(|anchor| anchor.source <= position.0);
        // Nothing that is shown stands between the end of a stretch and the anchor that follows.
        let most = self.0.get(next).map_or(end.1.0, |anchor| anchor.target);
        match next.checked_sub(1).map(|at| self.0[at]) {
            Some(anchor) => Position((anchor.target + (position.0 - anchor.source)).min(most)),
            None => Position(most), // before the first record
        }
    }

    /// Whether any record stands elsewhere in the target.
    #[must_use]
    pub fn are_shifted(&self) -> bool {
        self.0.iter().any(|anchor| anchor.distance() != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no record was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Anchor {
    fn distance(self) -> u64 {
        self.target.wrapping_sub(self.source)
    }
}

impl From<Anchors> for Vec<(u64, u64)> {
    fn from(anchors: Anchors) -> Self {
        anchors.0.into_iter().map(|anchor| (anchor.source, anchor.target)).collect()
    }
}

impl TryFrom<Vec<(u64, u64)>> for Anchors {
    type Error = &'static str;

    fn try_from(pairs: Vec<(u64, u64)>) -> Result<Self, Self::Error> {
        if pairs.windows(2).any(|two| two[0].0 >= two[1].0 || two[0].1 >= two[1].1) {
            return Err("anchors are not in order");
        }
        Ok(Self(pairs.into_iter().map(|(source, target)| Anchor { source, target }).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every position of the source, in holes too, is translated so that the same record is read next, whatever holes there
    /// are on either side.
    #[test]
    fn the_same_record_is_read_next() {
        // Bits say which steps of the walk leave a hole, on which side.
        for holes in 0_u32..1 << 12 {
            let (mut source, mut target) = (5_u64, 2_u64);
            let (mut pairs, mut anchors) = (Vec::new(), Anchors::default());
            for step in 0..6 {
                source += u64::from(holes >> (2 * step) & 1) * (1 + step % 2);
                target += u64::from(holes >> (2 * step + 1) & 1);
                anchors.note(Position(source), Position(target));
                pairs.push((source, target));
                source += 1;
                target += 1;
            }
            let noted: Vec<(u64, u64)> = anchors.clone().into();
            assert_eq!(Anchors::try_from(noted).unwrap(), anchors);
            for position in 0..source + 3 {
                let found = anchors.translate(Position(position), (Position(source), Position(target)));
                let expected = pairs.iter().find(|(at, _)| *at >= position).map(|(_, at)| *at);
                let read = pairs.iter().map(|(_, at)| *at).find(|at| *at >= found.0);
                assert_eq!(read, expected, "holes {holes:b}, position {position}, found {found}");
                if expected.is_none() {
                    assert_eq!(found.0, target);
                }
            }
        }
    }

    #[test]
    fn what_is_not_in_order_is_refused() {
        assert!(Anchors::try_from(vec![(1, 1), (1, 2)]).is_err());
        assert!(Anchors::try_from(vec![(1, 2), (2, 2)]).is_err());
    }
}
