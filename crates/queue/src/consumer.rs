//! What the application holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::{
    Delivery, Engine, EngineError, GroupMember, QueueConsumer, QueueSpec, Settlement, TakeLimits, Ticket,
    TooLate,
};
use anabranch_core::seam::Clock;
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::member::Membership;
use crate::shared::{Answer, Command, Shared};

/// How long a call waits at most; an instant has to be told.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// What is for one worker: where its answer goes, a ticket's number, and what is said of it.
type Part<T> = Vec<(usize, (u64, T))>;

pub(crate) struct Consumer {
    shared: Arc<Shared>,
    /// Asks the membership's task to leave. That it is dropped says the same.
    leave: mpsc::Sender<oneshot::Sender<Result<(), EngineError>>>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("spec", &self.shared.spec).finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) fn start(
        engine: Arc<dyn Engine>,
        spec: Arc<QueueSpec>,
        clock: Arc<dyn Clock>,
        member: Box<dyn GroupMember>,
    ) -> Self {
        let shared = Arc::new(Shared::new(engine, spec, clock));
        let (leave, asked_to_leave) = mpsc::channel(1);
        tokio::spawn(Membership::new(Arc::clone(&shared), member).run(asked_to_leave));
        Self { shared, leave }
    }

    /// Sends each worker its part, before anything is waited for; then gathers the answers, in order.
    async fn tell<T>(
        &self,
        what: Vec<(Ticket, T)>,
        command: impl Fn(Vec<(u64, T)>, oneshot::Sender<Answer>) -> Command,
    ) -> Answer {
        self.shared.check_open()?;
        // Unless a worker says otherwise.
        let mut results = vec![Err(TooLate); what.len()];
        let mut parts: BTreeMap<u64, Part<T>> = BTreeMap::new();
        for (place, (ticket, of_it)) in what.into_iter().enumerate() {
            parts.entry(ticket.by).or_default().push((place, (ticket.number, of_it)));
        }
        let mut answers = Vec::new();
        for (by, part) in parts {
            let (places, numbers): (Vec<_>, Vec<_>) = part.into_iter().unzip();
            let Some(worker) = self.shared.worker(by) else { continue };
            let (tell, told) = oneshot::channel();
            if worker.send(command(numbers, tell)).await.is_ok() {
                answers.push((places, told));
            }
        }
        let mut failed = None;
        for (places, told) in answers {
            match told.await {
                Ok(Ok(answers)) => {
                    for (place, answer) in places.into_iter().zip(answers) {
                        results[place] = answer;
                    }
                }
                Ok(Err(error)) => failed = Some(error),
                // It has lost the partition.
                Err(_) => {}
            }
        }
        match failed {
            Some(error) => Err(error),
            None => self.shared.check_open().map(|()| results),
        }
    }
}

#[async_trait]
impl QueueConsumer for Consumer {
    async fn next(&mut self, limits: TakeLimits) -> Result<Vec<Delivery>, EngineError> {
        let deadline = Instant::now() + limits.wait_max.min(WAIT_MAX);
        let mut is_over = false;
        loop {
            // Registered before looking, so that nothing that comes in between is missed.
            let came = self.shared.came().notified();
            let taken = self.shared.take(limits)?;
            if !taken.is_empty() || is_over {
                self.shared.stop_asking();
                return Ok(taken);
            }
            self.shared.ask(limits);
            is_over = timeout_at(deadline, came).await.is_err();
        }
    }

    async fn settle(&mut self, what: Vec<(Ticket, Settlement)>) -> Answer {
        self.tell(what, |what, tell| Command::Settle { what, tell }).await
    }

    async fn extend(&mut self, tickets: &[Ticket]) -> Answer {
        let what = tickets.iter().map(|ticket| (*ticket, ())).collect();
        let tickets = |what: Vec<(u64, ())>| what.into_iter().map(|(number, ())| number).collect();
        self.tell(what, |what, tell| Command::Extend { tickets: tickets(what), tell }).await
    }

    async fn leave(self: Box<Self>) -> Result<(), EngineError> {
        let (tell, told) = oneshot::channel();
        // Otherwise it has ended by itself.
        if self.leave.send(tell).await.is_ok()
            && let Ok(done) = told.await
        {
            return done;
        }
        Ok(())
    }
}
