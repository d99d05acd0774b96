//! Offsets that count when a transaction commits.

use anabranch_core::batch::EndKind;
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_log::Part;
use proptest::prelude::*;

use super::*;
use crate::group::InTransaction;

fn by(producer: i64) -> InTransaction {
    let part = Part { ordinal: 1, version: 2 };
    InTransaction { producer: ProducerId(producer), epoch: ProducerEpoch(0), part }
}

/// What is in the log, in order.
#[derive(Debug, Clone)]
enum Logged {
    Record(Option<ProducerId>, EncodedRecord),
    End(ProducerId, EndKind),
}

/// Stores and ends go to the log in the order in which they were asked for; what has become of a store is told when the
/// test says so, also behind the end.
struct Place {
    driver: Driver,
    /// By whom they are.
    asked: VecDeque<(StoreToken, Option<ProducerId>, Vec<EncodedRecord>)>,
    written: VecDeque<(StoreToken, Result<(), StoreError>)>,
    log: Vec<Logged>,
}

impl Place {
    fn new() -> Self {
        let mut driver = Driver::new();
        driver.is_prompt = false;
        Self { driver, asked: VecDeque::new(), written: VecDeque::new(), log: Vec::new() }
    }

    fn send(&mut self, commit: Commit, transaction: Option<InTransaction>) -> RequestId {
        let request = self.driver.next();
        let (groups, now) = (&mut self.driver.groups, self.driver.now);
        let effects = match transaction {
            None => groups.commit(request, commit, now),
            Some(transaction) => groups.commit_in(request, commit, transaction, now),
        };
        self.perform(effects);
        request
    }

    fn delete(&mut self) {
        let request = self.driver.next();
        let partitions = [("t".to_owned(), 0)];
        let effects = self.driver.groups.delete_offsets(request, GROUP, &partitions, self.driver.now);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Store { token, records, transaction } => {
                    let producer = transaction.map(|transaction| transaction.producer);
                    self.asked.push_back((token, producer, records));
                }
                answer @ Effect::Answer { .. } => self.driver.perform(vec![answer]),
            }
        }
    }

    /// Everything that was asked for is in the log, or will never be.
    fn write(&mut self, outcome: Result<(), StoreError>) {
        for (token, producer, records) in std::mem::take(&mut self.asked) {
            if outcome.is_ok() {
                self.log.extend(records.into_iter().map(|record| Logged::Record(producer, record)));
            }
            self.written.push_back((token, outcome));
        }
    }

    fn end(&mut self, producer: i64, kind: EndKind) {
        self.write(Ok(()));
        self.log.push(Logged::End(ProducerId(producer), kind));
        self.driver.groups.transaction_ended(ProducerId(producer), kind);
    }

    fn report(&mut self) {
        while let Some((token, outcome)) = self.written.pop_front() {
            let effects = self.driver.groups.stored(token, outcome, self.driver.now);
            self.perform(effects);
        }
    }

    fn settle(&mut self) {
        self.write(Ok(()));
        self.report();
    }

    fn restart(&mut self) {
        let mut restore = Restore::default();
        for logged in &self.log {
            match logged {
                Logged::Record(None, record) => restore.apply(&record.key, record.value.as_deref()).unwrap(),
                Logged::Record(Some(producer), record) => {
                    restore.apply_in(*producer, &record.key, record.value.as_deref()).unwrap();
                }
                Logged::End(producer, kind) => restore.ended(*producer, *kind),
            }
        }
        let random = Arc::new(SeededRandom::new(1));
        let (groups, effects) =
            restore.finish(self.driver.config.clone(), random, &BTreeMap::new(), self.driver.now);
        self.driver.groups = groups;
        (self.asked, self.written) = (VecDeque::new(), VecDeque::new());
        self.perform(effects);
    }

    fn committed(&self) -> Option<i64> {
        self.driver.groups.committed(GROUP, "t", 0, false).unwrap().map(|committed| committed.offset)
    }

    fn is_stable(&self) -> bool {
        self.driver.groups.committed(GROUP, "t", 0, true).is_ok()
    }
}

#[test]
fn who_may_commit_in_a_transaction() {
    let mut place = Place::new();
    let refused = |place: &mut Place, commit: Commit| {
        let request = place.send(commit, Some(by(7)));
        place.settle();
        place.driver.committed(request).err()
    };
    let stranger = Commit { generation: 3, member_id: "x".into(), ..commit(1) };
    assert_eq!(refused(&mut place, stranger.clone()), Some(GroupError::IllegalGeneration));
    let nameless = Commit { group: String::new(), ..commit(1) };
    assert_eq!(refused(&mut place, nameless), Some(GroupError::InvalidGroupId));
    // Nobody in particular, in any state of the group.
    assert_eq!(refused(&mut place, commit(1)), None);
    assert_eq!(refused(&mut place, stranger), Some(GroupError::UnknownMemberId));
    place.driver.is_prompt = true;
    let request = place.driver.send_join(join("a"));
    let member = place.driver.joined(request).unwrap();
    // Where OffsetCommit is REBALANCE_IN_PROGRESS.
    assert_eq!(refused(&mut place, commit_by(&member, 2)), None);
    assert_eq!(refused(&mut place, commit(2)), None);
    let old = Commit { generation: 0, ..commit_by(&member, 3) };
    assert_eq!(refused(&mut place, old), Some(GroupError::IllegalGeneration));
}

#[test]
fn a_store_that_the_log_refuses_says_why_and_leaves_nothing() {
    let mut place = Place::new();
    for (refused, told) in [
        (StoreError::NotInTransaction, GroupError::InvalidTxnState),
        (StoreError::InvalidProducerEpoch, GroupError::InvalidProducerEpoch),
        (StoreError::Unavailable, GroupError::CoordinatorNotAvailable),
    ] {
        let request = place.send(commit(5), Some(by(7)));
        place.write(Err(refused));
        place.report();
        assert_eq!(place.driver.committed(request), Err(told));
        assert!(place.is_stable());
    }
    place.end(7, EndKind::Commit);
    assert_eq!(place.committed(), None);
}

#[test]
fn what_waits_for_a_transaction_is_not_too_old_and_can_be_deleted() {
    let mut place = Place::new();
    place.send(commit(5), None);
    place.send(commit(6), Some(by(7)));
    place.settle();
    place.driver.now.unix_ms += 30 * 24 * 3_600_000;
    place.driver.now.monotonic += Duration::from_secs(3600);
    let effects = place.driver.groups.tick(place.driver.now);
    assert_eq!(effects, []);
    place.delete();
    place.settle();
    assert!(place.is_stable());
    place.end(7, EndKind::Commit);
    assert_eq!(place.committed(), None);
    place.restart();
    assert_eq!(place.committed(), None);
}

#[derive(Debug, Clone)]
enum Op {
    Commit(Option<i64>),
    End(i64, EndKind),
    Delete,
    /// What was asked for last does not come to the log.
    Fail,
    Report,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(EndKind::Commit), Just(EndKind::Abort)];
    prop_oneof![
        4 => prop::option::of(1..4i64).prop_map(Op::Commit),
        3 => (1..4i64, kind).prop_map(|(producer, kind)| Op::End(producer, kind)),
        1 => Just(Op::Delete),
        1 => Just(Op::Fail),
        3 => Just(Op::Report),
        1 => Just(Op::Restart),
    ]
}

/// What the log says: Kafka's rule, by the places of records.
fn model(log: &[Logged]) -> (Option<i64>, bool) {
    let (mut committed, mut pending) = ((0, None), BTreeMap::new());
    for (at, logged) in log.iter().enumerate() {
        match logged {
            Logged::Record(producer, EncodedRecord { key, value }) => {
                // Of groups there are records, too.
                if key[1] > 1 {
                    continue;
                }
                let offset = value.as_ref().map(|value| i64::from_be_bytes(value[2..10].try_into().unwrap()));
                match producer {
                    Some(producer) => drop(pending.insert(*producer, (at, offset))),
                    None => committed = (at, offset),
                }
                if offset.is_none() {
                    pending.clear();
                }
            }
            Logged::End(producer, kind) => match pending.remove(producer) {
                Some(newer) if *kind == EndKind::Commit && newer.0 >= committed.0 => committed = newer,
                _ => {}
            },
        }
    }
    (committed.1, pending.is_empty())
}

proptest! {
    /// Whatever comes in whatever order, and is told in whatever order: what is shown is what the log says, and so it is
    /// after a restart.
    #[test]
    fn what_is_shown_is_what_the_log_says(ops in prop::collection::vec(op(), 1..60)) {
        let mut place = Place::new();
        for (at, op) in ops.into_iter().enumerate() {
            match op {
                Op::Commit(producer) => drop(place.send(commit(at as i64), producer.map(by))),
                Op::End(producer, kind) => place.end(producer, kind),
                Op::Delete => place.delete(),
                Op::Fail => place.write(Err(StoreError::Unavailable)),
                Op::Report => place.settle(),
                Op::Restart => {
                    place.write(Ok(()));
                    place.restart();
                }
            }
            if place.asked.is_empty() && place.written.is_empty() {
                let (committed, is_stable) = model(&place.log);
                prop_assert_eq!((place.committed(), place.is_stable()), (committed, is_stable));
            }
        }
        place.settle();
        let shown = (place.committed(), place.is_stable());
        prop_assert_eq!(shown, model(&place.log));
        place.restart();
        prop_assert_eq!((place.committed(), place.is_stable()), shown);
    }
}
