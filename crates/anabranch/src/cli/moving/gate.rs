//! A data directory as the source of a move: opened by this program, or by a server that runs.

use std::path::PathBuf;
use std::time::Duration;

use anabranch_broker::{Broker, Elsewhere, MoveBegun, MoveHold, MovingError, NewMove};
use anabranch_core::TopicPartition;
use anabranch_move::{Begun, Errand, Gate, MoveError, Pause};
use anabranch_serve::{Answer, Ask, Control};
use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long it is tried to hold the topics still, while transactions are open.
const HOLD_PATIENCE: Duration = Duration::from_secs(60);
/// How long the topics go on in between.
const HOLD_AGAIN: Duration = Duration::from_millis(300);
/// A lease counts as over so much earlier here than there.
const MARGIN: Duration = Duration::from_millis(250);

/// Whoever has the directory open.
#[derive(Debug)]
pub(super) enum Keeper {
    /// This program.
    Own(Broker),
    /// A server, behind its control door.
    Server {
        directory: PathBuf,
        /// One question at a time; `None` until the first, and after the connection broke.
        control: Mutex<Option<Control>>,
    },
}

/// Holds the topics of a directory still.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) keeper: Keeper,
    /// For people, without secrets.
    pub(super) target: String,
    pub(super) lease: Duration,
    /// Where old clients are sent; `None` is that they are refused.
    pub(super) redirect: Option<Elsewhere>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    errand: Option<Errand>,
    hold: Option<MoveHold>,
}

/// What a keeper says to a step.
enum Said {
    Done,
    NotYet(String),
}

impl Directory {
    pub(super) fn new(keeper: Keeper, target: String, lease: Duration, redirect: Option<Elsewhere>) -> Self {
        Self { keeper, target, lease, redirect, state: Mutex::default() }
    }

    async fn ask(&self, ask: &Ask) -> Result<Answer, MoveError> {
        let Keeper::Server { directory, control } = &self.keeper else {
            unreachable!("only a server is asked");
        };
        let mut control = control.lock().await;
        let asked = async {
            let connected = match control.take() {
                Some(connected) => connected,
                None => Control::connect(directory).await?,
            };
            let connected = control.insert(connected);
            connected.ask(ask).await
        };
        let answer = asked.await;
        if answer.is_err() {
            *control = None;
        }
        answer.map_err(|error| MoveError::Gate(Box::new(error)))
    }

    async fn step(&self, ask: &Ask) -> Result<Said, MoveError> {
        match self.ask(ask).await? {
            Answer::NotYet { reason } => Ok(Said::NotYet(reason)),
            Answer::Refused { reason } => Err(MoveError::Gate(reason.into())),
            Answer::Done | Answer::Begun { .. } | Answer::Who { .. } => Ok(Said::Done),
        }
    }

    async fn hold(&self, errand: &Errand) -> Result<Said, MoveError> {
        match &self.keeper {
            Keeper::Own(broker) => {
                match said(broker.hold_move(&errand.id, &errand.partitions, self.lease).await)? {
                    Ok(hold) => self.state.lock().await.hold = Some(hold),
                    Err(reason) => return Ok(Said::NotYet(reason)),
                }
                Ok(Said::Done)
            }
            Keeper::Server { .. } => {
                let partitions = errand.partitions.iter().map(|at| (at.topic.clone(), at.partition));
                self.step(&Ask::Hold {
                    id: errand.id.clone(),
                    partitions: partitions.collect(),
                    lease_ms: self.lease.as_millis() as u64,
                })
                .await
            }
        }
    }

    async fn errand(&self) -> Errand {
        self.state.lock().await.errand.clone().expect("it has begun")
    }
}

/// What may be otherwise another time is no error.
fn said<T>(done: Result<T, MovingError>) -> Result<Result<T, String>, MoveError> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(error @ (MovingError::OpenTransactions(_) | MovingError::NotHeld)) => Ok(Err(error.to_string())),
        Err(error) => Err(MoveError::Gate(Box::new(error))),
    }
}

#[async_trait]
impl Gate for Directory {
    async fn begin(&self, errand: &Errand) -> Result<Begun, MoveError> {
        let MoveBegun { moved_to, is_redirected } = match &self.keeper {
            Keeper::Own(broker) => {
                let new = NewMove {
                    id: errand.id.clone(),
                    topics: errand.topics.clone(),
                    target: self.target.clone(),
                    redirect: self.redirect.clone(),
                };
                let begun = broker.begin_move(new).await;
                begun.map_err(|error| MoveError::Gate(Box::new(error)))?
            }
            Keeper::Server { .. } => {
                let ask = Ask::Begin {
                    id: errand.id.clone(),
                    topics: errand.topics.clone(),
                    target: self.target.clone(),
                    redirect: self.redirect.clone(),
                };
                match self.ask(&ask).await? {
                    Answer::Begun { moved_to, is_redirected } => MoveBegun { moved_to, is_redirected },
                    Answer::Refused { reason } | Answer::NotYet { reason } => {
                        return Err(MoveError::Gate(reason.into()));
                    }
                    other => return Err(MoveError::Gate(format!("it answers {other:?}").into())),
                }
            }
        };
        // A server of an older version does not know the choice, either.
        if is_redirected != self.redirect.is_some() {
            let is = |redirected| if redirected { "are sent on (redirect)" } else { "are refused (refuse)" };
            let reason = match moved_to.is_some() {
                true => format!("it was decided that old clients {}: --old-clients cannot change that any more", is(is_redirected)),
                false => "the server of the directory is of a version that cannot send clients on: start it again with this one".to_owned(),
            };
            return Err(MoveError::Gate(reason.into()));
        }
        self.state.lock().await.errand = Some(errand.clone());
        Ok(if moved_to.is_some() { Begun::Moved } else { Begun::Copying })
    }

    async fn pause(&self) -> Result<Pause, MoveError> {
        let errand = self.errand().await;
        let began = Instant::now();
        loop {
            let until = Instant::now() + self.lease.saturating_sub(MARGIN);
            match self.hold(&errand).await? {
                Said::Done => return Ok(Pause { until: Some(until) }),
                Said::NotYet(reason) if began.elapsed() > HOLD_PATIENCE => {
                    return Err(MoveError::NotStill { attempts: 1, reason });
                }
                Said::NotYet(reason) => tracing::info!(reason, "it is tried again"),
            }
            tokio::time::sleep(HOLD_AGAIN).await;
        }
    }

    async fn go_on(&self) {
        match &self.keeper {
            Keeper::Own(broker) => {
                let mut state = self.state.lock().await;
                if let (Some(errand), Some(hold)) = (&state.errand, state.hold) {
                    broker.release_move(&errand.id, hold);
                }
                state.hold = None;
            }
            // If that fails, the lease ends by itself.
            Keeper::Server { .. } => drop(self.ask(&Ask::Release).await),
        }
    }

    async fn switch(&self, shifted: &[TopicPartition]) -> Result<(), MoveError> {
        let positions_differ = !shifted.is_empty();
        let decided = match &self.keeper {
            Keeper::Own(broker) => {
                let mut state = self.state.lock().await;
                match (state.errand.clone(), state.hold.take()) {
                    (Some(errand), Some(hold)) => {
                        said(broker.decide_move(&errand.id, hold, positions_differ).await)?
                    }
                    _ => Err("it is not held".to_owned()),
                }
            }
            Keeper::Server { .. } => match self.step(&Ask::Decide { positions_differ }).await? {
                Said::Done => Ok(()),
                Said::NotYet(reason) => Err(reason),
            },
        };
        decided.map_err(|reason| MoveError::NotStill { attempts: 1, reason })
    }
}
