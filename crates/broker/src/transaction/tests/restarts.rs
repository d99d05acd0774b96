//! The coordinator, from its records.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn stored(metadata: &TransactionMetadata) -> Driver {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    driver.log.push(super::super::record::encode(ID, Some(metadata)));
    driver.restart();
    driver
}

#[test]
fn everything_that_is_stored_comes_back() {
    for state in [State::Empty, State::Ongoing, State::CompleteCommit, State::CompleteAbort] {
        let driver = stored(&metadata(state, 3));
        assert_eq!(driver.writes.len(), 0);
        // Kafka does not store the last epoch, either.
        let expected = TransactionMetadata { last_epoch: ProducerEpoch::NONE, ..metadata(state, 3) };
        assert_eq!(driver.metadata(), &expected);
    }
    let mut driver = stored(&metadata(State::CompleteCommit, 3));
    let again = driver.init(Some((5, 2)));
    assert_eq!(driver.initialized(again), Err(TransactionError::ProducerFenced));
    let again = driver.send_end(&end(5, 2, EndKind::Commit, V2));
    assert_eq!(driver.ended(again), Ok((5, 3)), "who repeats an end is known by the epoch");
}

#[test]
fn what_was_decided_is_completed() {
    for (state, kind) in [(State::PrepareCommit, EndKind::Commit), (State::PrepareAbort, EndKind::Abort)] {
        for (version, next) in [(V0, -1), (V2, -1), (V2, 9)] {
            let next = ProducerId(next);
            let mut driver = stored(&TransactionMetadata { version, next, ..metadata(state, 3) });
            let Write::End(_, end) = &driver.writes[0] else { panic!("{:?}", driver.writes) };
            assert_eq!((end.producer.0, end.epoch.0, end.kind, end.version), (5, 3, kind, version));
            assert_eq!((&end.partitions[..], &end.prepared), (&[part(0)][..], &None));
            assert!(end.only_open);
            driver.end_write(Ok(Vec::new()));
            assert_eq!(driver.state().completed(), Some(kind));
            let expected = if next.is_some() { (9, 0) } else { (5, 3) };
            assert_eq!((driver.metadata().producer.0, driver.metadata().epoch.0), expected);
        }
    }
}

/// Started ten seconds before the restart, with a timeout of a minute.
#[test]
fn a_restart_prolongs_nothing() {
    #[track_caller]
    fn check(clock_ms: i64, ends_within: Duration) {
        let mut driver = Driver::new();
        driver.is_prompt = false;
        driver.now.unix_ms += clock_ms;
        driver.log.push(super::super::record::encode(ID, Some(&metadata(State::Ongoing, 3))));
        driver.restart();
        let due = driver.transactions.next_deadline().unwrap() - driver.now.monotonic;
        assert_eq!(due, ends_within, "{clock_ms}");
    }
    // Rounded up to the next look.
    check(0, 60 * SECOND);
    check(1000, 50 * SECOND);
    check(49_999, 10 * SECOND);
    check(1_000_000_000, 10 * SECOND);
    check(-1_000_000_000, 70 * SECOND);
}

#[test]
fn ordinals_go_on() {
    let mut driver = Driver::new();
    for (id, state) in [("a", State::Ongoing), ("b", State::CompleteCommit)] {
        driver.log.push(super::super::record::encode(id, Some(&metadata(state, 3))));
    }
    driver.is_prompt = false;
    driver.restart();
    let mut ordinals = Vec::new();
    for id in ["a", "b"] {
        let request = driver.send_join(Join { id: id.into(), ..join(5, 3, &[3], How::Add(V2)) });
        ordinals.push(driver.admitted[&request]);
    }
    assert_eq!(ordinals, [1, 3], "one goes on, the other begins");
}

#[test]
fn the_newest_record_counts_and_other_kinds_are_left_alone() {
    let mut restore = Restore::default();
    let record = |metadata| super::super::record::encode(ID, metadata);
    for record in [
        record(Some(&metadata(State::Ongoing, 3))),
        EncodedRecord { key: vec![0, 9, 0].into(), value: None },
        record(None),
        record(Some(&metadata(State::Empty, 4))),
    ] {
        restore.apply(&record.key, record.value.as_deref()).unwrap();
    }
    assert!(restore.apply(&[0, 0, 0, 2, b'i', b'd'], Some(&[0])).is_err());
    assert_eq!(restore.skipped(), 1);
    let now = Driver::new().now;
    let (transactions, effects) = restore.finish(TransactionConfig::default(), now);
    assert_eq!((effects.len(), transactions.describe(ID).unwrap().epoch), (0, ProducerEpoch(4)));
}

/// After a power loss a partition may have what the coordinator does not know.
#[test]
fn partitions_and_coordinator_are_brought_together() {
    #[track_caller]
    fn check(state: State, open: (i32, i64, i16), expected: &str) {
        let mut driver = stored(&metadata(state, 3));
        if state.preparing().is_some() {
            driver.end_write(Ok(vec![part(0)]));
        }
        let (partition, producer, epoch) = open;
        let open =
            Open { partition: part(partition), producer: ProducerId(producer), epoch: ProducerEpoch(epoch) };
        let (effects, orphans) = driver.transactions.reconcile([open.clone()], driver.now);
        driver.perform(effects);
        let is = if !orphans.is_empty() {
            assert_eq!((driver.writes.len(), &orphans[..]), (0, &[open.clone()][..]));
            "orphan"
        } else if driver.writes.is_empty() {
            "known"
        } else {
            let request = driver.send_join(join(5, 3, &[partition], How::Add(V2)));
            assert!(driver.waits(request), "it is not stored yet");
            driver.end_write(Ok(Vec::new()));
            assert!(driver.joined(request).is_ok());
            let stored = decoded(&driver.log[1]).value.unwrap();
            assert_eq!((stored.state, stored.epoch.0), (State::Ongoing, 3));
            assert!(stored.partitions.contains(&open.partition));
            let began = if state == State::Ongoing { 1_699_999_990_000 } else { driver.now.unix_ms };
            assert_eq!(stored.started_ms, began);
            driver.advance(70 * SECOND);
            assert_eq!(driver.writes.len(), 1, "it has a timeout");
            "joins"
        };
        assert_eq!(is, expected, "{state:?} {open:?}");
    }
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(state, (0, 5, 3), "joins");
        check(state, (0, 5, 2), "orphan");
        check(state, (0, 4, 3), "orphan");
    }
    check(State::Ongoing, (0, 5, 3), "known");
    check(State::Ongoing, (1, 5, 3), "joins");
    check(State::Ongoing, (1, 5, 2), "orphan");
    check(State::Ongoing, (1, 6, 3), "orphan");
    for state in [State::PrepareCommit, State::PrepareAbort] {
        check(state, (0, 5, 3), "known");
        check(state, (1, 5, 3), "orphan");
    }
}
