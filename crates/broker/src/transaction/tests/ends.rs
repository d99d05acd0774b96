//! How transactions end.

use super::*;
use EndKind::{Abort, Commit};
use TransactionError::{
    ConcurrentTransactions, InvalidProducerIdMapping, InvalidRequest, InvalidTxnState, ProducerFenced,
};

/// What EndTxn comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// An end with so many markers.
    Ends(usize),
    /// It has ended before; the answer says who the client is.
    HasEnded,
    Refused(TransactionError),
}
use Outcome::{Ends, HasEnded, Refused};

#[track_caller]
fn check(metadata: &TransactionMetadata, request: &End, expected: Outcome) {
    let mut driver = Driver::of(metadata.clone());
    let answer = driver.send_end(request);
    let outcome = match driver.writes.pop_front() {
        Some(Write::End(_, end)) => {
            assert_eq!((end.kind, end.version), (request.kind, request.version));
            assert!(driver.waits(answer));
            Ends(end.partitions.len())
        }
        Some(other) => panic!("{other:?}"),
        None => match driver.ended(answer) {
            Ok(identity) => {
                assert_eq!(identity, (metadata.producer.0, metadata.epoch.0));
                HasEnded
            }
            Err(error) => Refused(error),
        },
    };
    assert_eq!(outcome, expected, "{metadata:?} {request:?}");
}

fn other(kind: EndKind) -> EndKind {
    if kind == Commit { Abort } else { Commit }
}

fn complete(kind: EndKind) -> State {
    if kind == Commit { State::CompleteCommit } else { State::CompleteAbort }
}

#[test]
fn by_the_first_rules() {
    for kind in [Commit, Abort] {
        check(&metadata(State::Empty, 3), &end(5, 3, kind, V0), Refused(InvalidTxnState));
        check(&metadata(State::Ongoing, 3), &end(5, 3, kind, V0), Ends(1));
        for (ended, outcome) in [(kind, ConcurrentTransactions), (other(kind), InvalidTxnState)] {
            check(&metadata(State::prepare(ended), 3), &end(5, 3, kind, V0), Refused(outcome));
        }
        check(&metadata(complete(kind), 3), &end(5, 3, kind, V0), HasEnded);
        check(&metadata(complete(other(kind)), 3), &end(5, 3, kind, V0), Refused(InvalidTxnState));
        for state in State::ALL {
            for epoch in [2, 4, -1] {
                check(&metadata(state, 3), &end(5, epoch, kind, V0), Refused(ProducerFenced));
                check(&metadata(state, 3), &end(4, epoch, kind, V0), Refused(InvalidProducerIdMapping));
            }
        }
    }
}

#[test]
fn by_the_rules_of_kip_890() {
    for kind in [Commit, Abort] {
        let current = |epoch| end(5, epoch, kind, V2);
        // Epoch 3 is ours. Who is one behind repeats what was done.
        check(&metadata(State::Ongoing, 3), &current(3), Ends(1));
        check(&metadata(State::Ongoing, 3), &current(2), Refused(ProducerFenced));
        let without = if kind == Abort { Ends(0) } else { Refused(InvalidTxnState) };
        check(&metadata(State::Empty, 3), &current(3), without);
        check(&metadata(State::Empty, 3), &current(2), Refused(ProducerFenced));
        check(&metadata(complete(kind), 3), &current(3), without);
        check(&metadata(complete(other(kind)), 3), &current(3), without);
        check(&metadata(complete(kind), 3), &current(2), HasEnded);
        check(&metadata(complete(other(kind)), 3), &current(2), Refused(InvalidTxnState));
        check(&metadata(State::prepare(kind), 3), &current(2), Refused(ConcurrentTransactions));
        check(&metadata(State::prepare(other(kind)), 3), &current(2), Refused(InvalidTxnState));
        check(&metadata(State::prepare(kind), 3), &current(3), Refused(ProducerFenced));
        for state in State::ALL {
            for epoch in [1, 4, -1] {
                check(&metadata(state, 3), &current(epoch), Refused(ProducerFenced));
            }
            // Not the last epoch of the producer before, whatever that was.
            for epoch in [2, 3, 32766] {
                let stranger = end(4, epoch, kind, V2);
                check(&metadata(state, 3), &stranger, Refused(InvalidProducerIdMapping));
            }
        }
        // The epochs of producer 4 were exhausted by the end that is repeated.
        let overflown = end(4, 32766, kind, V2);
        check(&metadata(complete(kind), 0), &overflown, HasEnded);
        check(&metadata(complete(other(kind)), 0), &overflown, Refused(InvalidTxnState));
        check(&metadata(State::Ongoing, 0), &overflown, Refused(ProducerFenced));
        check(&metadata(State::Empty, 0), &overflown, Refused(ProducerFenced));
        check(&metadata(complete(kind), 0), &end(4, 32765, kind, V2), Refused(InvalidProducerIdMapping));
        check(&metadata(complete(kind), 0), &end(3, 32766, kind, V2), Refused(InvalidProducerIdMapping));
    }
}

#[test]
fn ids_that_nobody_has() {
    for version in [V0, V2] {
        for (id, error) in [("", InvalidRequest), ("other", InvalidProducerIdMapping)] {
            let request = End { id: id.into(), ..end(5, 3, Commit, version) };
            check(&metadata(State::Ongoing, 3), &request, Refused(error));
        }
    }
    let mut driver = Driver::new();
    driver.is_prompt = false;
    driver.init(None);
    let request = driver.send_end(&end(-1, -1, Abort, V2));
    assert_eq!(driver.ended(request), Err(InvalidProducerIdMapping), "it has no producer yet");
    driver.give(true);
    driver.end_write(Err(StoreError::Full));
    let request = driver.send_end(&end(101, -1, Abort, V2));
    assert_eq!(driver.ended(request), Err(ProducerFenced), "it has no epoch yet");
}

/// The two orders of Kafka 4.3.1 differ.
#[test]
fn a_change_under_way() {
    for (request, expected) in [
        (end(4, 3, Commit, V0), InvalidProducerIdMapping),
        (end(5, 2, Commit, V0), ProducerFenced),
        (end(5, 3, Commit, V0), ConcurrentTransactions),
        (end(4, 3, Commit, V2), ConcurrentTransactions),
        (end(5, 2, Commit, V2), ConcurrentTransactions),
        (end(5, 3, Commit, V2), ConcurrentTransactions),
    ] {
        for state in [State::Ongoing, State::Empty] {
            let mut driver = Driver::of(metadata(state, 3));
            driver.init(None);
            let request = driver.send_end(&request);
            assert_eq!(driver.ended(request), Err(expected));
        }
    }
}

/// What the log gets, and who the client is afterwards.
#[test]
fn the_decision() {
    #[track_caller]
    fn check(
        before: TransactionMetadata,
        request: &End,
        [prepared, ended]: [TransactionMetadata; 2],
        marker: (i64, i16),
    ) {
        let mut driver = Driver::of(before);
        let answer = driver.send_end(request);
        if !driver.takes.is_empty() {
            driver.give(true);
        }
        let Write::End(_, end) = driver.writes[0].clone() else { panic!("{:?}", driver.writes) };
        let stored = |record: &EncodedRecord| TransactionMetadata {
            last_epoch: prepared.last_epoch,
            ..decoded(record).value.unwrap()
        };
        assert_eq!(stored(&end.prepared.unwrap()), prepared);
        assert_eq!(stored(&end.completed), ended);
        assert_eq!((end.producer.0, end.epoch.0, end.ordinal), (marker.0, marker.1, 7));
        assert!(driver.waits(answer), "nothing is decided yet");
        driver.end_write(Ok(Vec::new()));
        assert_eq!(driver.ended(answer), Ok((ended.producer.0, ended.epoch.0)));
        assert_eq!(driver.metadata(), &ended);
    }
    let now_ms = Driver::new().now.unix_ms;
    for kind in [Commit, Abort] {
        let before = metadata(State::Ongoing, 3);
        let prepared = TransactionMetadata {
            previous: ProducerId(5),
            state: State::prepare(kind),
            updated_ms: now_ms,
            version: V0,
            ..before.clone()
        };
        let ended = TransactionMetadata { state: complete(kind), partitions: [].into(), ..prepared.clone() };
        check(before.clone(), &end(5, 3, kind, V0), [prepared.clone(), ended.clone()], (5, 3));

        let second = |metadata: &TransactionMetadata| TransactionMetadata {
            epoch: ProducerEpoch(4),
            last_epoch: ProducerEpoch(3),
            version: V2,
            ..metadata.clone()
        };
        check(before.clone(), &end(5, 3, kind, V2), [second(&prepared), second(&ended)], (5, 4));

        // The last epoch but one goes on with the same producer, the last with another.
        for epoch in [32765, 32766] {
            let before = TransactionMetadata { epoch: ProducerEpoch(epoch), ..before.clone() };
            let next = if epoch == 32766 { 101 } else { -1 };
            let last_epoch = ProducerEpoch(epoch);
            let epoch = ProducerEpoch(epoch + 1);
            let next = ProducerId(next);
            let prepared = TransactionMetadata { next, epoch, last_epoch, ..second(&prepared) };
            let ended = TransactionMetadata {
                producer: if next.is_some() { next } else { ProducerId(5) },
                epoch: if next.is_some() { ProducerEpoch(0) } else { epoch },
                last_epoch,
                ..second(&ended)
            };
            let request = end(5, last_epoch.0, kind, V2);
            check(before, &request, [prepared, ended], (5, epoch.0));
        }
    }
    for state in [State::Empty, State::CompleteCommit, State::CompleteAbort] {
        let prepared = TransactionMetadata {
            previous: ProducerId(5),
            epoch: ProducerEpoch(4),
            last_epoch: ProducerEpoch(3),
            state: State::PrepareAbort,
            started_ms: now_ms,
            updated_ms: now_ms,
            ..metadata(state, 3)
        };
        let ended = TransactionMetadata { state: State::CompleteAbort, ..prepared.clone() };
        check(metadata(state, 3), &end(5, 3, Abort, V2), [prepared, ended], (5, 4));
    }
}

#[test]
fn an_end_that_cannot_be_stored_has_not_happened() {
    for (version, epoch) in [(V0, 3), (V2, 3), (V2, 32766)] {
        for kind in [Commit, Abort] {
            let before = metadata(State::Ongoing, epoch);
            let mut driver = Driver::of(before.clone());
            let request = driver.send_end(&end(5, epoch, kind, version));
            if !driver.takes.is_empty() {
                driver.give(true);
            }
            driver.end_write(Err(StoreError::Full));
            assert_eq!(driver.ended(request), Err(TransactionError::CoordinatorNotAvailable));
            assert_eq!(driver.metadata(), &before);
            driver.is_prompt = true;
            // It may end in the other way now.
            let request = driver.send_end(&end(5, epoch, other(kind), version));
            assert!(driver.ended(request).is_ok());
        }
    }
    let before = metadata(State::Ongoing, 32766);
    let mut driver = Driver::of(before.clone());
    let request = driver.send_end(&end(5, 32766, Commit, V2));
    driver.give(false);
    assert_eq!(driver.ended(request), Err(TransactionError::CoordinatorNotAvailable));
    assert_eq!(driver.metadata(), &before);
}

/// A partition could not take its marker: the decision stands, and the marker follows.
#[test]
fn markers_that_are_missing_are_written_later() {
    for kind in [Commit, Abort] {
        let mut driver = Driver::of(metadata(State::Ongoing, 3));
        driver.send_join(join(5, 3, &[1, 2], How::Add(V2)));
        driver.end_write(Ok(Vec::new()));
        let request = driver.send_end(&end(5, 3, kind, V2));
        driver.end_write(Ok(vec![part(1), part(2)]));
        assert_eq!(driver.ended(request), Ok((5, 4)), "it is decided");
        assert_eq!(driver.state(), State::prepare(kind));
        let again = driver.send_end(&end(5, 3, kind, V2));
        assert_eq!(driver.ended(again), Err(ConcurrentTransactions));
        let next = driver.send_join(join(5, 4, &[1], How::Add(V2)));
        assert_eq!(driver.joined(next), Err(ConcurrentTransactions));

        // After 100 ms, twice that, and so on, up to 10 s; a disk that is full is only another reason.
        let mut waited = Vec::new();
        for missing in [Ok(vec![part(1), part(2)]), Err(StoreError::Full), Ok(vec![part(2)])]
            .into_iter()
            .chain(std::iter::repeat_n(Ok(vec![part(2)]), 6))
        {
            let due = driver.transactions.next_deadline().unwrap();
            waited.push((due - driver.now.monotonic).as_millis());
            driver.advance(due - driver.now.monotonic);
            let Write::End(_, end) = &driver.writes[0] else { panic!("{:?}", driver.writes) };
            assert_eq!((end.producer.0, end.epoch.0, end.kind), (5, 4, kind));
            assert_eq!((end.version, end.ordinal, &end.prepared), (V2, 7, &None));
            assert!(!end.only_open, "a late batch must find that it is late");
            driver.end_write(missing);
        }
        assert_eq!(waited, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        driver.advance(Duration::from_secs(10));
        let Write::End(_, end) = &driver.writes[0] else { panic!("{:?}", driver.writes) };
        assert_eq!(end.partitions, [part(2)]);
        driver.end_write(Ok(Vec::new()));
        assert_eq!((driver.state(), driver.metadata().epoch), (complete(kind), ProducerEpoch(4)));
        let again = driver.send_end(&end_again(kind));
        assert_eq!(driver.ended(again), Ok((5, 4)));
        let next = driver.send_join(join(5, 4, &[1], How::Add(V2)));
        assert_eq!(driver.admitted[&next], 8);
    }
}

fn end_again(kind: EndKind) -> End {
    end(5, 3, kind, V2)
}

#[test]
#[should_panic(expected = "reported once")]
fn writes_reported_out_of_order_are_the_drivers_fault() {
    let mut driver = Driver::of(metadata(State::Ongoing, 3));
    driver.send_join(join(5, 3, &[1], How::Add(V2)));
    driver.send_end(&end(5, 3, Commit, V2));
    let Write::End(token, _) = driver.writes[1] else { panic!("{:?}", driver.writes) };
    let _ = driver.transactions.ended(token, Ok(Vec::new()), driver.now);
}
