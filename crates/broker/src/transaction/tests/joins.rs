//! How partitions come into a transaction.

use super::*;
use TransactionError::{
    ConcurrentTransactions, InvalidProducerIdMapping, InvalidRequest, ProducerFenced, TransactionAbortable,
};

const STATES: [State; 3] = [State::Empty, State::CompleteCommit, State::CompleteAbort];

#[track_caller]
fn check(metadata: TransactionMetadata, join: Join, expected: Result<(), TransactionError>) {
    let story = format!("{metadata:?} {join:?}");
    let mut driver = Driver::of(metadata);
    let request = driver.send_join(join);
    match expected {
        Ok(()) => {
            assert!(driver.admitted.contains_key(&request), "{story}");
            assert!(!driver.writes.is_empty() || driver.joined(request).is_ok(), "{story}");
        }
        Err(error) => {
            assert_eq!(driver.joined(request), Err(error), "{story}");
            assert_eq!((driver.admitted.len(), driver.writes.len()), (0, 0), "{story}");
        }
    }
}

#[test]
fn who_may_join() {
    for version in [V0, V2] {
        let add = How::Add(version);
        for state in STATES.into_iter().chain([State::Ongoing]) {
            check(metadata(state, 3), join(5, 3, &[1], add), Ok(()));
            check(metadata(state, 3), join(5, 3, &[], add), Ok(()));
            check(metadata(state, 3), join(5, 2, &[1], add), Err(ProducerFenced));
            check(metadata(state, 3), join(5, 4, &[1], add), Err(ProducerFenced));
            check(metadata(state, 3), join(4, 3, &[1], add), Err(InvalidProducerIdMapping));
            check(metadata(state, 3), join(4, 4, &[1], add), Err(InvalidProducerIdMapping));
            let other = Join { id: "other".into(), ..join(5, 3, &[1], add) };
            check(metadata(state, 3), other, Err(InvalidProducerIdMapping));
            let nobody = Join { id: String::new(), ..join(5, 3, &[1], add) };
            check(metadata(state, 3), nobody, Err(InvalidRequest));
        }
        for state in [State::PrepareCommit, State::PrepareAbort] {
            check(metadata(state, 3), join(5, 3, &[0], add), Err(ConcurrentTransactions));
            check(metadata(state, 3), join(5, 2, &[0], add), Err(ProducerFenced));
            check(metadata(state, 3), join(4, 3, &[0], add), Err(InvalidProducerIdMapping));
        }
    }
}

#[test]
fn a_change_under_way_comes_before_everything_else() {
    for request in [join(5, 3, &[0], How::Add(V2)), join(4, 3, &[0], How::Add(V0))] {
        let mut driver = Driver::of(metadata(State::Ongoing, 3));
        driver.send_end(&end(5, 3, EndKind::Commit, V0));
        let request = driver.send_join(request);
        assert_eq!(driver.joined(request), Err(ConcurrentTransactions));
    }
    // Not before a question.
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    driver.send_end(&end(5, 3, EndKind::Commit, V0));
    let request = driver.send_join(join(5, 3, &[0], How::Verify));
    assert_eq!(driver.joined(request).unwrap().partitions, [Ok(())]);
}

#[test]
fn what_is_in_the_transaction() {
    #[track_caller]
    fn verify(state: State, join: Join, expected: Result<&[Result<(), TransactionError>], TransactionError>) {
        let mut driver = Driver::of(metadata(state, 3));
        let request = driver.send_join(join);
        let joined = driver.joined(request);
        assert_eq!(joined.as_ref().map(|joined| &joined.partitions[..]), expected.as_ref().copied());
        assert_eq!(driver.writes.len(), 0, "a question stores nothing");
    }
    let abortable = Err(TransactionAbortable);
    verify(State::Ongoing, join(5, 3, &[0, 1, 0], How::Verify), Ok(&[Ok(()), abortable, Ok(())]));
    for state in STATES {
        verify(state, join(5, 3, &[0], How::Verify), Ok(&[abortable]));
    }
    for state in [State::PrepareCommit, State::PrepareAbort] {
        verify(state, join(5, 3, &[0], How::Verify), Err(ConcurrentTransactions));
        verify(state, join(5, 2, &[0], How::Verify), Err(ProducerFenced));
    }
    for state in State::ALL {
        verify(state, join(5, 2, &[0], How::Verify), Err(ProducerFenced));
        verify(state, join(4, 3, &[0], How::Verify), Err(InvalidProducerIdMapping));
        let other = Join { id: "other".into(), ..join(5, 3, &[0], How::Verify) };
        verify(state, other, Err(InvalidProducerIdMapping));
        let nobody = Join { id: String::new(), ..join(5, 3, &[0], How::Verify) };
        verify(state, nobody, Err(InvalidRequest));
    }
}

#[test]
fn a_transaction_begins_with_its_first_partitions() {
    for version in [V0, V2] {
        let mut driver = Driver::of(metadata(State::CompleteCommit, 3));
        let request = driver.send_join(join(5, 3, &[2, 1], How::Add(version)));
        assert_eq!(driver.admitted[&request], 8, "an ordinal that no transaction had");
        assert!(driver.waits(request), "it is not durable yet");
        let expected = TransactionMetadata {
            previous: ProducerId(5),
            partitions: [part(1), part(2)].into(),
            started_ms: driver.now.unix_ms,
            updated_ms: driver.now.unix_ms,
            version,
            ..metadata(State::Ongoing, 3)
        };
        assert_eq!(driver.metadata(), &expected);
        driver.end_write(Ok(Vec::new()));
        let joined = driver.joined(request).unwrap();
        assert_eq!(joined, Joined { ordinal: 8, partitions: vec![Ok(()), Ok(())] });
        let stored = decoded(&driver.log[0]).value.unwrap();
        assert_eq!(TransactionMetadata { last_epoch: ProducerEpoch(2), ..stored }, expected);

        driver.advance(Duration::from_secs(1));
        let request = driver.send_join(join(5, 3, &[0], How::Add(version)));
        assert_eq!(driver.admitted[&request], 8);
        let now_ms = driver.now.unix_ms;
        assert_eq!((driver.metadata().started_ms, driver.metadata().updated_ms), (now_ms - 1000, now_ms));
        assert_eq!(driver.metadata().partitions.len(), 3);
    }
}

/// What is appended stands behind the record that says so.
#[test]
fn nobody_is_admitted_before_the_store_is_on_its_way() {
    let mut driver = Driver::of(metadata(State::Empty, 3));
    for partitions in [&[0][..], &[0, 1]] {
        let request = driver.next();
        let join = join(5, 3, partitions, How::Add(V2));
        let effects = driver.transactions.join(request, join, driver.now);
        assert!(matches!(effects[..], [Effect::Store { .. }, Effect::Admit { .. }]), "{effects:?}");
    }
}

#[test]
fn what_is_there_already_is_durable_with_the_store_that_is_under_way() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    let known = driver.send_join(join(5, 3, &[0], How::Add(V2)));
    assert!(driver.joined(known).is_ok());
    let first = driver.send_join(join(5, 3, &[1], How::Add(V2)));
    let again = driver.send_join(join(5, 3, &[1, 0], How::Add(V2)));
    assert_eq!((driver.writes.len(), driver.admitted.len()), (1, 3));
    assert!(driver.waits(first) && driver.waits(again));
    driver.end_write(Ok(Vec::new()));
    assert_eq!(driver.joined(first).unwrap().partitions.len(), 1);
    assert_eq!(driver.joined(again).unwrap().partitions.len(), 2);
}

#[test]
fn a_store_that_fails_leaves_the_partitions_in_and_is_made_up_for() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    let failing = driver.send_join(join(5, 3, &[1], How::Add(V2)));
    let with_it = driver.send_join(join(5, 3, &[1], How::Add(V2)));
    driver.end_write(Err(StoreError::Full));
    for request in [failing, with_it] {
        assert_eq!(driver.joined(request), Err(TransactionError::CoordinatorNotAvailable));
    }
    let again = driver.send_join(join(5, 3, &[0], How::Add(V2)));
    assert!(driver.waits(again), "the log does not know all partitions");
    driver.end_write(Ok(Vec::new()));
    assert!(driver.joined(again).is_ok());
    assert_eq!(decoded(&driver.log[0]).value.unwrap().partitions, [part(0), part(1)].into());
    let known = driver.send_join(join(5, 3, &[1], How::Add(V2)));
    assert!(driver.joined(known).is_ok());
    driver.send_end(&end(5, 3, EndKind::Commit, V2));
    let Write::End(_, end) = &driver.writes[0] else { panic!("{:?}", driver.writes) };
    assert_eq!(end.partitions, [part(0), part(1)]);
}

#[test]
fn a_transaction_takes_no_more_than_its_record() {
    let mut driver = Driver::of(metadata(State::Empty, 3));
    driver.transactions.config.record_bytes_max = 500;
    driver.is_prompt = true;
    let many: Vec<i32> = (0..200).collect();
    let request = driver.send_join(join(5, 3, &many, How::Add(V2)));
    assert_eq!(driver.joined(request), Err(TransactionError::UnknownServerError));
    assert_eq!(driver.metadata(), &metadata(State::Empty, 3));
    let request = driver.send_join(join(5, 3, &many[..100], How::Add(V2)));
    assert!(driver.joined(request).is_ok());
}

#[test]
fn joins_are_refused_while_the_disk_does_not_keep_up() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    driver.transactions.config.stores_in_flight_max = 1;
    driver.send_join(join(5, 3, &[1], How::Add(V2)));
    let full = driver.send_join(join(5, 3, &[2], How::Add(V2)));
    assert_eq!(driver.joined(full), Err(TransactionError::CoordinatorNotAvailable));
    assert!(!driver.metadata().partitions.contains(&part(2)));
    let full = driver.send_end(&end(5, 3, EndKind::Commit, V2));
    assert_eq!(driver.ended(full), Err(TransactionError::CoordinatorNotAvailable));
}
