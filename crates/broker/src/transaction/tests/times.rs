//! What happens by itself.

use super::super::event::Filter;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_transaction_that_lasts_too_long_is_aborted_and_its_producer_fenced() {
    for version in [V0, V2] {
        let mut driver = Driver::of(metadata(State::Empty, 3));
        driver.is_prompt = true;
        driver.advance(3 * SECOND);
        driver.send_join(join(5, 3, &[0], How::Add(version)));
        driver.advance(30 * SECOND);
        // More partitions do not prolong it.
        driver.send_join(join(5, 3, &[1], How::Add(version)));
        // It is looked at each ten seconds, so at 70 s since the start.
        driver.advance(36 * SECOND);
        assert_eq!((driver.state(), driver.ends.len()), (State::Ongoing, 0));
        driver.advance(SECOND);
        assert_eq!((driver.state(), driver.ends.len()), (State::CompleteAbort, 1));
        let end = &driver.ends[0];
        assert_eq!(
            (end.kind, end.version, end.epoch, end.partitions.len()),
            (EndKind::Abort, V2, ProducerEpoch(4), 2)
        );
        for request in [
            driver.send_end(&super::end(5, 3, EndKind::Commit, V0)),
            driver.send_end(&super::end(5, 2, EndKind::Commit, V2)),
        ] {
            assert_eq!(driver.ended(request), Err(TransactionError::ProducerFenced));
        }
        // By the second rules it looks like the repetition of an abort.
        let request = driver.send_end(&super::end(5, 3, EndKind::Commit, V2));
        assert_eq!(driver.ended(request), Err(TransactionError::InvalidTxnState));
        let request = driver.send_join(join(5, 3, &[0], How::Add(version)));
        assert_eq!(driver.joined(request), Err(TransactionError::ProducerFenced));
    }
}

#[test]
fn an_abort_that_cannot_be_stored_is_tried_again() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    driver.advance(70 * SECOND);
    assert_eq!(driver.writes.len(), 1);
    driver.advance(20 * SECOND);
    assert_eq!(driver.writes.len(), 1, "not while it is under way");
    for _ in 0..3 {
        driver.end_write(Err(StoreError::Full));
        assert_eq!((driver.state(), driver.metadata().epoch), (State::Ongoing, ProducerEpoch(3)));
        driver.advance(9 * SECOND);
        assert_eq!(driver.writes.len(), 0);
        driver.advance(SECOND);
        assert_eq!(driver.writes.len(), 1);
    }
    driver.end_write(Ok(Vec::new()));
    assert_eq!((driver.state(), driver.metadata().epoch), (State::CompleteAbort, ProducerEpoch(4)));
}

#[test]
fn a_timeout_with_the_last_epoch_needs_another_producer() {
    let mut driver = Driver::of(metadata(State::Ongoing, 32766));
    driver.advance(70 * SECOND);
    driver.give(false);
    driver.advance(10 * SECOND);
    driver.give(true);
    driver.end_write(Ok(Vec::new()));
    let TransactionMetadata { producer, previous, epoch, .. } = driver.metadata();
    assert_eq!((producer.0, previous.0, epoch.0), (102, 5, 0));
    let again = driver.send_end(&end(5, 32766, EndKind::Abort, V2));
    assert_eq!(driver.ended(again), Ok((102, 0)));
}

#[test]
fn a_transaction_that_is_being_ended_has_no_timeout() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    let request = driver.send_end(&end(5, 3, EndKind::Commit, V2));
    driver.advance(1000 * SECOND);
    assert_eq!(driver.writes.len(), 1);
    driver.end_write(Ok(Vec::new()));
    assert_eq!(driver.ended(request), Ok((5, 4)));
    driver.advance(1000 * SECOND);
    assert_eq!(driver.writes.len(), 0);
}

#[test]
fn ids_that_nobody_uses_are_forgotten_after_a_week() {
    let mut driver = Driver::of(metadata(State::CompleteCommit, 3));
    driver.is_prompt = true;
    driver.now.unix_ms = driver.metadata().updated_ms;
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    driver.advance(week - SECOND);
    assert!(driver.transactions.describe(ID).is_some());
    driver.is_prompt = false;
    driver.advance(Duration::from_secs(3600));
    let request = driver.init(None);
    assert_eq!(driver.initialized(request), Err(TransactionError::ConcurrentTransactions));
    driver.end_write(Err(StoreError::Full));
    assert!(driver.transactions.describe(ID).is_some());
    driver.advance(Duration::from_secs(3600));
    driver.end_write(Ok(Vec::new()));
    assert_eq!((driver.transactions.describe(ID), driver.transactions.next_deadline()), (None, None));
    driver.restart();
    assert_eq!(driver.transactions.describe(ID), None);
    let request = driver.send_join(join(5, 3, &[0], How::Add(V2)));
    assert_eq!(driver.joined(request), Err(TransactionError::InvalidProducerIdMapping));

    for state in State::ALL {
        let mut driver = Driver::of(metadata(state, 3));
        driver.now.monotonic += Duration::from_secs(3600);
        driver.now.unix_ms += i64::try_from(week.as_millis()).unwrap();
        let effects = driver.transactions.sweep(driver.now);
        let is_idle = matches!(state, State::Empty | State::CompleteCommit | State::CompleteAbort);
        assert_eq!(effects.len(), usize::from(is_idle), "{state:?}");
    }
}

#[test]
fn what_is_listed_and_described() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    driver.is_prompt = true;
    driver.send_init(InitProducer { id: "new".into(), timeout_ms: 5, expected: None });
    let described = driver.transactions.describe(ID).unwrap();
    assert_eq!((described.id, described.state.name()), (ID, "Ongoing"));
    assert_eq!((described.producer.0, described.epoch.0, described.timeout_ms), (5, 3, MINUTE_MS));
    assert_eq!((described.started_ms, described.partitions.len()), (1_699_999_990_000, 1));

    let list = |filter: Filter| -> Vec<&str> {
        driver.transactions.list(&filter, driver.now).map(|described| described.id).collect()
    };
    let all = Filter::default();
    assert_eq!(list(all.clone()), [ID, "new"]);
    assert_eq!(list(Filter { states: vec![State::Empty], ..all.clone() }), ["new"]);
    assert_eq!(list(Filter { states: vec![State::CompleteAbort], ..all.clone() }), [""; 0]);
    assert_eq!(list(Filter { producers: vec![ProducerId(5), ProducerId(6)], ..all.clone() }), [ID]);
    assert_eq!(list(Filter { running_ms: Some(10_000), ..all.clone() }), [ID, "new"]);
    assert_eq!(list(Filter { running_ms: Some(10_001), ..all.clone() }), ["new"], "it never began");
    assert_eq!(list(Filter { running_ms: Some(-1), ..all }), [ID, "new"]);
}
