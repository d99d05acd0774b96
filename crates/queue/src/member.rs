//! One consumer's task: which partitions are its own. Each has a worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{EngineError, GroupEvent, GroupMember, Position};
use futures::future::join_all;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::shared::{COMMANDS_MAX, Shared};
use crate::worker::{Stop, Worker};

/// How long what is out may still be settled when its partition goes to another consumer. The whole group waits meanwhile, and
/// takes a member for dead that takes longer than its session.
const GRACE: Duration = Duration::from_secs(1);
/// How often the group is told where it stands, for those who look at its lag.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);
/// How long after an error it asks again.
const BACKOFF: Duration = Duration::from_secs(1);

pub(crate) struct Membership {
    shared: Arc<Shared>,
    member: Box<dyn GroupMember>,
    workers: BTreeMap<TopicPartition, Working>,
}

struct Working {
    number: u64,
    stop: watch::Sender<Stop>,
    settled_to: watch::Receiver<Option<Position>>,
    task: JoinHandle<()>,
}

impl Membership {
    pub(crate) fn new(shared: Arc<Shared>, member: Box<dyn GroupMember>) -> Self {
        Self { shared, member, workers: BTreeMap::new() }
    }

    /// Works until the consumer leaves, or is dropped.
    pub(crate) async fn run(
        mut self,
        mut asked_to_leave: mpsc::Receiver<oneshot::Sender<Result<(), EngineError>>>,
    ) {
        let tell = loop {
            tokio::select! {
                event = self.member.next_event() => match event {
                    Ok(event) => self.obey(event).await,
                    Err(EngineError::Closed) => {
                        self.shared.report(EngineError::Closed);
                        break None;
                    }
                    Err(error) => {
                        self.shared.report(error);
                        sleep(BACKOFF).await;
                    }
                },
                tell = asked_to_leave.recv() => break tell,
                () = sleep(COMMIT_INTERVAL) => self.commit().await,
            }
        };
        let all: Vec<_> = self.workers.keys().cloned().collect();
        self.stop(&all, Stop::Within(Duration::ZERO)).await;
        let done = self.member.leave().await;
        if let Some(tell) = tell {
            let _ = tell.send(done); // it may not wait any more
        }
    }

    async fn obey(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(assigned) => {
                let gone: Vec<_> = self
                    .workers
                    .keys()
                    .filter(|at| !assigned.iter().any(|(has, _)| has == *at))
                    .cloned()
                    .collect();
                self.stop(&gone, Stop::Lost).await;
                for (at, start) in assigned {
                    if self.workers.get(&at).is_none_or(|worker| worker.task.is_finished()) {
                        self.start(at, start);
                    }
                }
            }
            GroupEvent::Revoked(gone) => {
                self.stop(&gone, Stop::Within(GRACE.min(self.shared.spec.settle_within))).await;
            }
            GroupEvent::Lost(gone) => self.stop(&gone, Stop::Lost).await,
        }
    }

    fn start(&mut self, at: TopicPartition, start: Option<Position>) {
        let number = self.shared.number();
        let (send, commands) = mpsc::channel(COMMANDS_MAX);
        self.shared.note_worker(number, send);
        let (stop, stopped) = watch::channel(Stop::No);
        let (settled, settled_to) = watch::channel(None);
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            at: at.clone(),
            start,
            number,
            commands,
            stop: stopped,
            settled_to: settled,
        };
        let task = tokio::spawn(worker.run());
        self.workers.insert(at, Working { number, stop, settled_to, task });
    }

    /// Ends the workers of these partitions, and tells the group where it stands if it still may.
    async fn stop(&mut self, partitions: &[TopicPartition], how: Stop) {
        let stopping = partitions.iter().filter_map(|at| Some((at.clone(), self.workers.remove(at)?)));
        let stopping: Vec<(TopicPartition, Working)> = stopping.collect();
        for (_, worker) in &stopping {
            worker.stop.send_replace(how);
        }
        let ended = stopping.into_iter().map(async |(at, worker)| {
            // What it has begun it ends: a transaction is not left open.
            let _ = worker.task.await;
            self.shared.forget_worker(worker.number);
            let place = *worker.settled_to.borrow();
            place.map(|place| (at, place))
        });
        let places: Vec<_> = join_all(ended).await.into_iter().flatten().collect();
        if how != Stop::Lost && !places.is_empty() {
            self.tell(&places).await;
        }
    }

    async fn commit(&mut self) {
        let changed =
            self.workers.iter_mut().filter(|(_, worker)| worker.settled_to.has_changed().unwrap_or(false));
        let places: Vec<_> = changed
            .filter_map(|(at, worker)| Some((at.clone(), (*worker.settled_to.borrow_and_update())?)))
            .collect();
        if !places.is_empty() {
            self.tell(&places).await;
        }
    }

    /// Where the group stands is for people to see: the settlements count.
    async fn tell(&mut self, places: &[(TopicPartition, Position)]) {
        if let Err(error) = self.member.commit(places).await {
            tracing::debug!(group = self.shared.spec.group, %error, "a queue's positions are not told");
        }
    }
}
