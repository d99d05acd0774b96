//! Who gets a transactional id, and who is fenced by that.

use super::*;
use TransactionError::{ConcurrentTransactions, ProducerFenced};

/// What InitProducerId comes to, without a disk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Refused(TransactionError),
    /// Producer, epoch, last epoch.
    Stored(i64, i16, i16),
    /// A producer id is taken.
    Taken,
    /// The transaction that is ongoing is aborted, in this epoch.
    Fenced(i16),
}
use Outcome::{Fenced, Refused, Stored, Taken};

fn outcome(driver: &mut Driver, request: RequestId) -> Outcome {
    if !driver.waits(request) {
        return Refused(driver.initialized(request).unwrap_err());
    }
    if !driver.takes.is_empty() {
        return Taken;
    }
    match &driver.writes[0] {
        Write::Store(_, record) => {
            let stored = decoded(record).value.unwrap();
            driver.end_write(Ok(Vec::new()));
            let metadata = driver.metadata().clone();
            let identity = driver.initialized(request).unwrap();
            assert_eq!(identity, (stored.producer.0, stored.epoch.0));
            assert_eq!((stored.state, stored.started_ms, stored.partitions.len()), (State::Empty, -1, 0));
            assert_eq!(stored.updated_ms, driver.now.unix_ms);
            assert_eq!(metadata, TransactionMetadata { last_epoch: metadata.last_epoch, ..stored });
            Stored(identity.0, identity.1, metadata.last_epoch.0)
        }
        Write::End(_, end) => {
            assert_eq!((end.kind, end.version, end.partitions.len()), (EndKind::Abort, V2, 1));
            let epoch = end.epoch.0;
            driver.end_write(Ok(Vec::new()));
            assert_eq!(driver.initialized(request), Err(ConcurrentTransactions));
            assert_eq!(driver.state(), State::CompleteAbort);
            Fenced(epoch)
        }
    }
}

#[track_caller]
fn check(metadata: TransactionMetadata, expected: Option<(i64, i16)>, is: Outcome) {
    let story = format!("{metadata:?} {expected:?}");
    let mut driver = Driver::of(metadata);
    let request = driver.init(expected);
    assert_eq!(outcome(&mut driver, request), is, "{story}");
}

#[test]
fn the_next_incarnation() {
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(metadata(state, 3), None, Stored(5, 4, -1));
        check(metadata(state, 3), Some((5, 3)), Stored(5, 4, 3));
        check(metadata(state, 3), Some((5, 2)), Stored(5, 3, 2));
        check(metadata(state, 3), Some((5, 1)), Refused(ProducerFenced));
        check(metadata(state, 3), Some((5, 4)), Refused(ProducerFenced));
        check(metadata(state, 3), Some((6, 3)), Refused(ProducerFenced));
        check(metadata(state, 3), Some((4, 3)), Refused(ProducerFenced));
        // The producer id before, if its epochs were exhausted, asks again.
        check(metadata(state, 0), Some((4, 32765)), Refused(ProducerFenced));
        check(metadata(state, 0), Some((4, 32766)), Refused(ProducerFenced));
        let rotated = TransactionMetadata { last_epoch: ProducerEpoch(32766), ..metadata(state, 0) };
        check(rotated, Some((4, 32766)), Stored(5, 0, 32766));
    }
}

#[test]
fn the_epochs_of_a_producer_id_are_exhausted() {
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        check(metadata(state, 32765), None, Stored(5, 32766, -1));
        for epoch in [32766, 32767] {
            check(metadata(state, epoch), None, Taken);
            check(metadata(state, epoch), Some((5, epoch)), Taken);
        }
        check(metadata(state, 32766), Some((5, 32765)), Stored(5, 32766, 32765));
        check(metadata(state, 32766), Some((5, 32764)), Refused(ProducerFenced));
    }
    for (expected, last_epoch) in [(None, -1), (Some((5, 32766)), 32766)] {
        let mut driver = Driver::of(metadata(State::CompleteCommit, 32766));
        let request = driver.init(expected);
        driver.give(true);
        assert_eq!(outcome(&mut driver, request), Stored(101, 0, last_epoch));
        assert_eq!(driver.metadata().previous, ProducerId(5));
        // Whoever did not hear of it asks again.
        let again = driver.init(Some((5, 32766)));
        let is = if expected.is_some() { Stored(101, 0, 32766) } else { Refused(ProducerFenced) };
        assert_eq!(outcome(&mut driver, again), is);
    }
    let mut driver = Driver::of(metadata(State::Empty, 32766));
    let request = driver.init(None);
    driver.give(false);
    assert_eq!(driver.initialized(request), Err(TransactionError::CoordinatorNotAvailable));
    assert_eq!(driver.metadata(), &metadata(State::Empty, 32766));
    driver.init(None);
    assert_eq!(driver.takes.len(), 1, "and it may ask again");
}

#[test]
fn a_transaction_that_ends_must_end_first() {
    for state in [State::PrepareCommit, State::PrepareAbort] {
        check(metadata(state, 3), None, Refused(ConcurrentTransactions));
        check(metadata(state, 3), Some((5, 3)), Refused(ConcurrentTransactions));
        check(metadata(state, 3), Some((6, 3)), Refused(ProducerFenced));
    }
    check(metadata(State::Ongoing, 3), None, Fenced(4));
    // The epoch is not looked at here, as in Kafka: it will be when the client asks again.
    check(metadata(State::Ongoing, 3), Some((5, 1)), Fenced(4));
    check(metadata(State::Ongoing, 3), Some((6, 3)), Refused(ProducerFenced));
    check(metadata(State::Ongoing, 32766), None, Taken);
    let mut driver = Driver::of(metadata(State::Ongoing, 32766));
    let request = driver.init(None);
    driver.give(true);
    assert_eq!(outcome(&mut driver, request), Fenced(32767));
    let identity = (driver.metadata().producer, driver.metadata().epoch, driver.metadata().last_epoch);
    assert_eq!(identity, (ProducerId(101), ProducerEpoch(0), ProducerEpoch(32766)));
}

#[test]
fn one_change_at_a_time() {
    let mut driver = Driver::of(metadata(State::Empty, 3));
    driver.init(None);
    for expected in [None, Some((5, 3)), Some((9, 9))] {
        let second = driver.init(expected);
        assert_eq!(driver.initialized(second), Err(ConcurrentTransactions));
    }
    driver.end_write(Ok(Vec::new()));
    assert_eq!(driver.metadata().epoch, ProducerEpoch(4));
}

#[test]
fn an_id_that_nobody_had() {
    let mut driver = Driver::new();
    driver.is_prompt = false;
    let first = driver.init(Some((77, 7)));
    let second = driver.init(None);
    assert_eq!(driver.initialized(second), Err(ConcurrentTransactions));
    assert_eq!(driver.transactions.describe(ID), None);
    driver.give(false);
    assert_eq!(driver.initialized(first), Err(TransactionError::CoordinatorNotAvailable));
    assert!(driver.transactions.by_id.is_empty());

    let first = driver.init(Some((77, 7)));
    driver.give(true);
    driver.end_write(Err(StoreError::Stopped));
    assert_eq!(driver.initialized(first), Err(TransactionError::NotCoordinator));
    // As in Kafka, the producer id stays; nobody knows it.
    assert_eq!(driver.transactions.describe(ID).unwrap().epoch, ProducerEpoch::NONE);
    let stranger = driver.send_join(join(102, -1, &[0], How::Add(V2)));
    assert_eq!(driver.joined(stranger), Err(ProducerFenced));
    let first = driver.init(Some((77, 7)));
    driver.end_write(Ok(Vec::new()));
    assert_eq!(driver.initialized(first), Ok((102, 0)));
    assert_eq!(driver.metadata().previous, ProducerId(102), "as Kafka stores it");
}

#[test]
fn what_is_refused_at_once() {
    #[track_caller]
    fn check(id: &str, timeout_ms: i32, expected: TransactionError) {
        let mut driver = Driver::new();
        let request = driver.send_init(InitProducer { id: id.into(), timeout_ms, expected: None });
        assert_eq!(driver.initialized(request), Err(expected));
        assert!(driver.transactions.by_id.is_empty());
    }
    check("", MINUTE_MS, TransactionError::InvalidRequest);
    check("", 0, TransactionError::InvalidRequest);
    check(&"i".repeat(30_001), MINUTE_MS, TransactionError::InvalidRequest);
    for timeout_ms in [0, -1, i32::MIN, 900_001] {
        check(ID, timeout_ms, TransactionError::InvalidTransactionTimeout);
    }
    let mut driver = Driver::with(TransactionConfig { ids_max: 1, ..TransactionConfig::default() });
    for (id, timeout_ms, expected) in [
        ("a", 900_000, Ok((101, 0))),
        ("b", 1, Err(TransactionError::PolicyViolation)),
        ("a", 1, Ok((101, 1))),
    ] {
        let request = driver.send_init(InitProducer { id: id.into(), timeout_ms, expected: None });
        assert_eq!(driver.initialized(request), expected);
    }
    let config = TransactionConfig { stores_in_flight_max: 1, ..TransactionConfig::default() };
    let mut driver = Driver::with(config);
    driver.is_prompt = false;
    driver.init(None);
    let init = InitProducer { id: "b".into(), timeout_ms: 1, expected: None };
    let request = driver.send_init(init);
    assert_eq!(driver.initialized(request), Err(TransactionError::CoordinatorNotAvailable));
}

#[test]
fn an_incarnation_that_cannot_be_stored_fences_nobody() {
    for (error, told) in [
        (StoreError::Full, TransactionError::CoordinatorNotAvailable),
        (StoreError::Stopped, TransactionError::NotCoordinator),
        (StoreError::TooLarge, TransactionError::UnknownServerError),
    ] {
        for state in [State::CompleteCommit, State::Ongoing] {
            let mut driver = Driver::of(metadata(state, 3));
            let request = driver.init(None);
            driver.end_write(Err(error));
            assert_eq!(driver.initialized(request), Err(told));
            assert_eq!(driver.metadata(), &metadata(state, 3));
            let request = driver.send_join(join(5, 3, &[0], How::Add(V2)));
            driver.is_prompt = true;
            driver.perform(Vec::new());
            assert!(driver.joined(request).is_ok());
        }
    }
}
