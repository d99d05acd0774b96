//! A move is killed at its calls, and begun again: at every one with `ANABRANCH_MOVE_STRIDE=1`, otherwise at every fifth.

use std::sync::Arc;

use anabranch_core::engine::{Capability, Description, Engine, Support};

use crate::deadly::{DeadlyEngine, Death, Fuse};
use crate::stage::{Side, a_move, judge, source};

/// As an engine that has no transactions, but conditional appends.
fn without_transactions(of: &Description) -> Arc<Description> {
    let support = |capability| match capability {
        Capability::Transactions => Support::absent("for this test"),
        other => of.support(other).clone(),
    };
    Arc::new(Description::new("embedded", "0", of.cluster.clone(), 1, of.limits, support))
}

async fn die_and_go_on(is_transactional: bool, death: Death, keeps_notes: bool) {
    let source = source().await;
    let here: Arc<dyn Engine> = Arc::new(source.broker.clone());
    let stride = std::env::var("ANABRANCH_MOVE_STRIDE").map_or(5, |stride| stride.parse().unwrap());
    // Other ones from day to day.
    let mut at = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() % stride;
    loop {
        let target = Side::new().await;
        let there: Arc<dyn Engine> = Arc::new(target.broker.clone());
        let description = (!is_transactional).then(|| without_transactions(target.broker.description()));
        let on = |engine: &Arc<dyn Engine>, fuse: &Arc<Fuse>| {
            let (engine, fuse) = (Arc::clone(engine), Arc::clone(fuse));
            Arc::new(DeadlyEngine { engine, fuse, description: description.clone(), late: None })
                as Arc<dyn Engine>
        };
        let fuse = Fuse::new(Some((at, death)));
        let began = |fuse: &Arc<Fuse>, keeps_notes: bool| {
            let moving = a_move(on(&here, fuse), on(&there, fuse));
            if keeps_notes { moving.notes(target.notes()) } else { moving }
        };
        let told = format!("{death:?} call {at}, transactions: {is_transactional}");
        let finished = tokio::select! {
            moved = began(&fuse, keeps_notes).run() => Some(moved.unwrap()),
            () = fuse.dead() => None,
        };
        if finished.is_some() {
            assert!(at > 50, "{at} calls make no move");
            judge(&*here, &*there, "at the end").await;
            target.broker.close().await;
            break;
        }
        let again = Fuse::new(None);
        let moving = tokio::spawn(began(&again, keeps_notes).run());
        while again.calls() < at % 97 && !moving.is_finished() {
            tokio::task::yield_now().await;
        }
        fuse.let_come();
        let moved = moving.await.unwrap();
        fuse.settled().await;
        if let Err(error) = moved {
            panic!("{told}: {error}");
        }
        judge(&*here, &*there, &told).await;
        target.broker.close().await;
        at += stride;
    }
    println!("died at every {stride}. of {at} calls, {death:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_any_call() {
    die_and_go_on(true, Death::Before, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_call_and_the_notes_are_lost() {
    die_and_go_on(true, Death::After, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_mover_had_under_way_does_not_come_behind_its_successor() {
    die_and_go_on(true, Death::Late, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_call_without_transactions() {
    die_and_go_on(false, Death::Before, false).await;
    die_and_go_on(false, Death::After, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_mover_had_under_way_without_transactions() {
    die_and_go_on(false, Death::Late, true).await;
}
