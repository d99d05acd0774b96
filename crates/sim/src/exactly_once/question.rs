//! An answer counts from when it is given, and not from when its client comes to hear it: the disk asks for it at each of its
//! moments.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use anabranch_broker::transaction::TransactionError;
use anabranch_core::{ProducerEpoch, ProducerId};
use parking_lot::Mutex;

use crate::disk::SimDisk;

/// Who the producer is from now on.
pub(super) type Ended = Result<(ProducerId, ProducerEpoch), TransactionError>;

/// The end of a transaction, while it is asked for.
pub(super) struct Question {
    disk: SimDisk,
    state: Mutex<State>,
}

struct State {
    future: Pin<Box<dyn Future<Output = Ended> + Send>>,
    /// Told of the answer, as soon as it is given.
    heard: Box<dyn Fn(&Ended) + Send>,
    answer: Option<Ended>,
    waker: Option<Waker>,
}

impl Question {
    /// Whether it has the answer, by now. A dead process gives none.
    fn poll(&self, waker: Option<&Waker>) -> Option<Ended> {
        // Whoever is asking just now will hear it.
        let mut state = self.state.try_lock()?;
        if state.answer.is_none() && !self.disk.is_dead() {
            let mut context = Context::from_waker(waker.unwrap_or(Waker::noop()));
            if let Poll::Ready(answer) = state.future.as_mut().poll(&mut context) {
                (state.heard)(&answer);
                state.answer = Some(answer);
            }
        }
        match waker {
            Some(waker) => state.waker = Some(waker.clone()),
            // The future knows of nobody else to wake now.
            None => state.waker.iter().for_each(Waker::wake_by_ref),
        }
        state.answer
    }

    /// The answer, if it was given before the process died.
    pub(super) fn answer(&self) -> Option<Ended> {
        self.state.lock().answer
    }

    pub(super) async fn answered(&self) -> Ended {
        std::future::poll_fn(|context| match self.poll(Some(context.waker())) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        })
        .await
    }
}

/// All questions that are open.
#[derive(Clone, Default)]
pub(super) struct Questions(Arc<Mutex<Vec<Weak<Question>>>>);

impl Questions {
    pub(super) fn ask(
        &self,
        disk: &SimDisk,
        future: impl Future<Output = Ended> + Send + 'static,
        heard: impl Fn(&Ended) + Send + 'static,
    ) -> Arc<Question> {
        let (future, heard) = (Box::pin(tokio::task::coop::unconstrained(future)), Box::new(heard));
        let state = Mutex::new(State { future, heard, answer: None, waker: None });
        let question = Arc::new(Question { disk: disk.clone(), state });
        let mut all = self.0.lock();
        all.retain(|question| question.strong_count() > 0);
        all.push(Arc::downgrade(&question));
        question
    }

    /// Takes the answers that have come.
    pub(super) fn glean(&self) {
        let all: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|question| _ = question.poll(None));
    }
}
