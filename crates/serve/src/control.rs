//! The control door: a socket in the data directory, for programs on this machine that work with whoever has the directory
//! open. It says where the Kafka door is, and holds topics still while they are moved elsewhere (`anabranch move`).
//!
//! One JSON object a line, a question and its answer in turn. Only whoever may read the directory's files is heard: the socket
//! belongs to the server's user, and callers are asked who they are. What a connection holds still is let go when it ends.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anabranch_broker::{Broker, Elsewhere, MoveBegun, MoveHold, MovingError, NewMove};
use anabranch_core::TopicPartition;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The name of the socket in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// A question, or its answer, is no longer than this: the names of 10,000 partitions fit.
const LINE_BYTES_MAX: u64 = 8 << 20;
/// Connections at a time; one more is closed as soon as it is accepted.
const CONNECTIONS_MAX: usize = 16;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// Who is there.
    Who,
    /// [`Broker::begin_move`].
    Begin {
        /// Names the move.
        id: String,
        /// The topics.
        topics: Vec<String>,
        /// Where to, for people.
        target: String,
        /// Where old clients are sent afterwards; without it they are refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        redirect: Option<Elsewhere>,
    },
    /// [`Broker::hold_move`]
    Hold {
        /// Names the move.
        id: String,
        /// All partitions that the mover knows.
        partitions: Vec<(String, i32)>,
        /// For how long.
        lease_ms: u64,
    },
    /// [`Broker::release_move`]
    Release,
    /// [`Broker::decide_move`]
    Decide {
        /// Records have other positions there.
        #[serde(default)]
        positions_differ: bool,
    },
    /// [`Broker::forget_move`], of all moves there.
    Forget {
        /// Where to.
        target: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Ask::Who`].
    Who {
        /// Where Kafka clients connect.
        kafka: String,
        /// The cluster's id.
        cluster: String,
        /// A client with this id is never sent on: it sees the directory.
        #[serde(default)]
        pass: String,
    },
    /// To [`Ask::Begin`].
    Begun {
        /// It was decided before, and this is where to.
        moved_to: Option<String>,
        /// It was decided, or will be, that old clients are sent on.
        #[serde(default)]
        is_redirected: bool,
    },
    /// It is done.
    Done,
    /// It is not, and may be another time.
    NotYet {
        /// Why.
        reason: String,
    },
    /// It is not.
    Refused {
        /// Why.
        reason: String,
    },
}

/// The Kafka door, for whoever comes by this one.
#[derive(Debug, Clone)]
pub(crate) struct Kafka {
    /// Where clients connect.
    pub(crate) address: String,
    /// The client id of those that are never sent on.
    pub(crate) pass: String,
}

/// Opens the door at `path`. What another server has left there is removed: the directory is this one's.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts until the server stops.
pub(crate) async fn serve(
    listener: UnixListener,
    path: PathBuf,
    broker: Broker,
    kafka: Kafka,
    mut stopping: watch::Receiver<bool>,
) {
    let owner = std::fs::metadata(&path).map(|found| found.uid());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS_MAX && is_known(&stream, &owner) => {
                    connections.spawn(converse(stream, broker.clone(), kafka.clone()));
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(crate::server::ACCEPT_PAUSE).await,
            },
        }
    }
    // A socket that is left behind does no harm, but to whoever waits for somebody there.
    let _ = std::fs::remove_file(&path);
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // Whoever could say it is gone: that is as good.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Whether the caller is the owner of the socket, or root.
fn is_known(stream: &UnixStream, owner: &io::Result<u32>) -> bool {
    let caller = stream.peer_cred().map(|caller| caller.uid());
    matches!((caller, owner), (Ok(caller), Ok(owner)) if caller == *owner || caller == 0)
}

/// What a connection holds still.
struct Held {
    broker: Broker,
    hold: Option<(String, MoveHold)>,
}

impl Held {
    fn let_go(&mut self) {
        if let Some((id, hold)) = self.hold.take() {
            self.broker.release_move(&id, hold);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
    }
}

async fn converse(stream: UnixStream, broker: Broker, kafka: Kafka) {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let mut held = Held { broker: broker.clone(), hold: None };
    while let Ok(Some(line)) = read_line(&mut from).await {
        let answer = match serde_json::from_str(&line) {
            Ok(ask) => answer(&broker, &kafka, &mut held, ask).await,
            Err(error) => Answer::Refused { reason: error.to_string() },
        };
        if write_line(&mut to, &answer).await.is_err() {
            return;
        }
    }
}

async fn answer(broker: &Broker, kafka: &Kafka, held: &mut Held, ask: Ask) -> Answer {
    let done = match ask {
        Ask::Who => {
            let Kafka { address: kafka, pass } = kafka.clone();
            return Answer::Who { kafka, cluster: broker.cluster_id().to_owned(), pass };
        }
        Ask::Begin { id, topics, target, redirect } => {
            match broker.begin_move(NewMove { id, topics, target, redirect }).await {
                Ok(MoveBegun { moved_to, is_redirected }) => {
                    return Answer::Begun { moved_to, is_redirected };
                }
                Err(error) => Err(error),
            }
        }
        Ask::Hold { id, partitions, lease_ms } => {
            held.let_go();
            let partitions = partitions.iter().map(|(topic, number)| TopicPartition::new(topic, *number));
            let partitions: Vec<_> = partitions.collect();
            let hold = broker.hold_move(&id, &partitions, Duration::from_millis(lease_ms)).await;
            hold.map(|hold| held.hold = Some((id, hold)))
        }
        Ask::Release => {
            held.let_go();
            Ok(())
        }
        Ask::Decide { positions_differ } => match held.hold.take() {
            Some((id, hold)) => broker.decide_move(&id, hold, positions_differ).await,
            None => Err(MovingError::NotHeld),
        },
        Ask::Forget { target } => forget(broker, &target).await,
    };
    match done {
        Ok(()) => Answer::Done,
        Err(error @ (MovingError::OpenTransactions(_) | MovingError::NotHeld)) => {
            Answer::NotYet { reason: error.to_string() }
        }
        Err(error) => Answer::Refused { reason: error.to_string() },
    }
}

/// Gives up every move to `target`.
///
/// # Errors
/// [`MovingError::Unknown`] if there is none.
pub async fn forget(broker: &Broker, target: &str) -> Result<(), MovingError> {
    let moves = broker.moves().into_iter().filter(|(_, to)| to == target);
    let ids: Vec<_> = moves.map(|(id, _)| id).collect();
    if ids.is_empty() {
        return Err(MovingError::Unknown(target.to_owned()));
    }
    for id in ids {
        broker.forget_move(&id).await?;
    }
    Ok(())
}

async fn read_line(from: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    let mut line = String::new();
    match from.take(LINE_BYTES_MAX).read_line(&mut line).await? {
        0 => Ok(None),
        _ => Ok(Some(line)),
    }
}

async fn write_line(to: &mut OwnedWriteHalf, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// A program that asks.
#[derive(Debug)]
pub struct Control {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

impl Control {
    /// Connects to the server that has `directory` open.
    ///
    /// # Errors
    /// Those of the socket: nobody may be there.
    pub async fn connect(directory: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(directory.join(CONTROL_SOCKET)).await?;
        let (from, to) = stream.into_split();
        Ok(Self { from: BufReader::new(from), to })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// Those of the socket; [`io::ErrorKind::UnexpectedEof`] when the server is gone.
    pub async fn ask(&mut self, ask: &Ask) -> io::Result<Answer> {
        write_line(&mut self.to, ask).await?;
        let line = read_line(&mut self.from).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        serde_json::from_str(&line).map_err(io::Error::other)
    }
}
