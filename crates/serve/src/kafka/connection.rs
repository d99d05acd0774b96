//! One connection: reads requests, serves them, writes the answers in the order of the requests.
//!
//! Kafka reads the next request of a connection when the answer to the last one has left. So do we, with one exception
//! that the throughput of producers hangs on: while produce requests wait for the disk, the next ones are read and their
//! batches queued behind, so that one sync serves them all. That bounds what a connection can hold: produce requests up
//! to `requests_in_flight_max`, or one answer of any other kind. A client that does not read its answers therefore stalls
//! itself alone.
//!
//! Memory: a frame that does not fit in what is read ahead takes its bytes from the broker's budget before it is read on;
//! a small one that produces takes them when it is there. The bytes keep what they took as long as any part of them is
//! used: a batch that waits for the log's writer has it even when its connection is gone. While there are none to be had,
//! the connection is not read. See `memory`.
//!
//! A request that was held back says for how long, so that its client waits as well; a fetch that got nothing for want of
//! memory says how long the connection will not be read.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_broker::{ReadError, Stage};
use anabranch_core::budget::Permit;
use anabranch_wire::messages::{ApiKey, FetchResponse};
use anabranch_wire::{
    DecodeError, EncodeError, ErrorCode, FrameDecoder, FrameError, Head, NO_ERROR, Next, Request, Response,
    decode_request, encode_fetched, encode_response,
};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{timeout, timeout_at};

use super::memory::READ_AHEAD_BYTES;
use super::outgoing::{Frame, slowest};
use super::produce::{self, Producing};
use super::{Client, Door, fetch, oversized, tally};

/// A client that is told how long it was held back waits as long once more; longer than this helps nobody.
const THROTTLE_TOLD_MAX: Duration = Duration::from_secs(1);

/// A client that is sent on asks for the brokers within this time, by the same connection, before this is closed: Java's asks for its
/// coordinator first. And kafka-python throws away an answer that comes together with the end.
const LEAVE_AFTER: Duration = Duration::from_millis(300);

/// Why a connection was closed by us.
#[derive(Debug, thiserror::Error)]
pub(super) enum Closed {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] DecodeError),
    #[error("the peer hung up in the middle of a request")]
    HungUp,
    #[error(
        "a request of {bytes} bytes, and there is memory for {max_bytes}: raise memory.budget.bytes and \
         queued.max.request.bytes"
    )]
    NoMemory { bytes: usize, max_bytes: usize },
    /// Not an error: the reading ends.
    #[error("the door closes")]
    Stopping,
    #[error("the peer said nothing for {0:?}")]
    Idle(Duration),
    #[error("the peer stopped in the middle of a request for {0:?}")]
    Stalled(Duration),
    #[error("the peer did not read an answer for {0:?}")]
    NotRead(Duration),
    /// Kafka's way to tell a producer that wants no answers.
    #[error("a produce request without acknowledgement failed with code {0}")]
    UnacknowledgedFailed(i16),
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The partition has said why, and says it to whoever asks next.
    #[error("the rest of an answer could not be read: {0}")]
    Unreadable(ReadError),
    #[error("the network failed: {0}")]
    Network(#[from] std::io::Error),
}

/// An answer on its way out, in its place.
#[derive(Debug)]
struct Outgoing {
    head: Head,
    answer: Answer,
    began: Instant,
    /// The place in the queue: see [`Connection::place`].
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Answer {
    Ready(Response),
    Fetched(fetch::Answer),
    Producing(Producing),
}

/// Serves a connection until either side closes it.
pub(super) async fn serve(door: Arc<Door>, stream: TcpStream, peer: SocketAddr) {
    tracing::debug!(%peer, "connected");
    match run(&door, stream, peer).await {
        Ok(()) => tracing::debug!(%peer, "disconnected"),
        Err(closed @ (Closed::Network(_) | Closed::Idle(_))) => {
            tracing::debug!(%peer, reason = %closed, "closed");
        }
        Err(closed) => {
            match &closed {
                Closed::Encode(_) => door.metrics.bugs.add(1),
                Closed::NotRead(_) => door.metrics.answers_unread.add(1),
                Closed::Unreadable(_) => {
                    door.metrics.error(ApiKey::Fetch, ErrorCode::KafkaStorageError.code());
                }
                _ => door.metrics.requests_refused.add(1),
            }
            door.often_closed.warn(door.now(), |left_out| {
                tracing::warn!(%peer, reason = %closed, left_out, "closed a connection");
            });
        }
    }
}

async fn run(door: &Arc<Door>, stream: TcpStream, peer: SocketAddr) -> Result<(), Closed> {
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let places = door.limits.requests_in_flight_max.max(1);
    let (answers, queue) = mpsc::channel(places as usize);
    let connection = Connection {
        door,
        peer,
        reader,
        input: BytesMut::new(),
        ahead: None,
        frames: FrameDecoder::new(door.limits.request_bytes_max),
        places: Arc::new(Semaphore::new(places as usize)),
        places_max: places,
        answers,
    };
    tokio::try_join!(Box::pin(connection.read_requests()), write_answers(door, queue, writer))?;
    Ok(())
}

/// The reading side.
pub(super) struct Connection<'a> {
    pub(super) door: &'a Arc<Door>,
    peer: SocketAddr,
    reader: OwnedReadHalf,
    pub(super) input: BytesMut,
    /// The memory of `input`, unless it is that of a large frame.
    ahead: Option<Permit>,
    frames: FrameDecoder,
    places: Arc<Semaphore>,
    places_max: u32,
    /// Boxed, for a queue keeps room for 32 from the beginning: an idle connection should not.
    answers: mpsc::Sender<Box<Outgoing>>,
}

impl Connection<'_> {
    /// Ends when the peer has said all, or the door closes.
    async fn read_requests(mut self) -> Result<(), Closed> {
        loop {
            let incoming = match self.next_request().await {
                Ok(Some(incoming)) => incoming,
                Ok(None) | Err(Closed::Stopping) => break,
                Err(closed) => return Err(closed),
            };
            let (head, answer, place, began) = match incoming {
                Incoming::Frame { mut frame, held_back } => {
                    let (head, request) = decode_request(&mut frame)?;
                    drop(frame);
                    let began = Instant::now();
                    let place = self.place(head.key).await;
                    let answer = self.answer(&head, request, held_back).await?;
                    (head, answer, place, began)
                }
                Incoming::Refused(head, response) => {
                    let place = self.place(head.key).await;
                    (head, Answer::Ready(response), place, Instant::now())
                }
            };
            let rest = match &answer {
                Answer::Fetched(answer) => throttle_of(&answer.fetched.response),
                _ => Duration::ZERO,
            };
            let outgoing = Box::new(Outgoing { head, answer, began, _place: place });
            if self.answers.send(outgoing).await.is_err() {
                break; // The writing side has failed, and says why.
            }
            if !rest.is_zero() {
                tokio::select! {
                    () = self.door.stopped() => break,
                    () = tokio::time::sleep(rest) => {}
                }
            }
        }
        Ok(())
    }

    /// Waits for a place in the queue of answers. A produce request takes one; every other takes all, and so waits until
    /// each answer before it has left, and makes each request after it wait in turn.
    async fn place(&self, key: ApiKey) -> OwnedSemaphorePermit {
        let places = if key == ApiKey::Produce { 1 } else { self.places_max };
        let place = Arc::clone(&self.places).acquire_many_owned(places).await;
        place.expect("the places of a connection are never closed")
    }

    async fn answer(&self, head: &Head, request: Request, held_back: Duration) -> Result<Answer, Closed> {
        let client = Client { head, peer: self.peer };
        Ok(match request {
            Request::Produce(request) => {
                Answer::Producing(produce::submit(self.door, head.version, request, held_back).await)
            }
            Request::Fetch(request) => Answer::Fetched(fetch::answer(self.door, head, request).await),
            request => {
                // Boxed, for the largest of these futures would otherwise lie in every idle connection.
                let response = Box::pin(super::answer(self.door, client, request)).await;
                Answer::Ready(response.ok_or(EncodeError { key: head.key, version: head.version })?)
            }
        })
    }

    /// The next request; `None` when the peer has said all, or the door closes.
    async fn next_request(&mut self) -> Result<Option<Incoming>, Closed> {
        loop {
            match self.frames.next(&mut self.input)? {
                Next::Frame(frame) => return self.small(frame).await,
                Next::Length(bytes) if bytes > self.door.memory.bytes_max() => {
                    self.door.metrics.requests_without_memory.add(1);
                    let refused = oversized::refuse(self, bytes).await?;
                    self.frames.skip();
                    return Ok(refused.map(|(head, response)| Incoming::Refused(head, response)));
                }
                Next::Length(bytes) if bytes > READ_AHEAD_BYTES => return self.large(bytes).await,
                Next::Length(_) => {}
                Next::More => {
                    if !self.fill(self.frames.is_inside(&self.input)).await? {
                        let is_clean = !self.frames.is_inside(&self.input);
                        return if is_clean { Ok(None) } else { Err(Closed::HungUp) };
                    }
                }
            }
        }
    }

    /// A frame that came whole with what was read ahead. If it produces, it has its memory from the budget from here on:
    /// of other small requests a connection has one.
    async fn small(&mut self, mut frame: Bytes) -> Result<Option<Incoming>, Closed> {
        self.door.metrics.bytes_in.add(frame.len() as u64);
        let began = Instant::now();
        if frame.starts_with(&(ApiKey::Produce as i16).to_be_bytes()) {
            tokio::select! {
                () = self.door.stopped() => return Ok(None),
                permit = self.door.memory.finished(frame.len()) => frame = permit.attach(frame),
            }
        }
        self.shrink_ahead();
        Ok(Some(Incoming::Frame { frame, held_back: began.elapsed() }))
    }

    /// Gives back the memory of what was read ahead and is used.
    fn shrink_ahead(&mut self) {
        match &mut self.ahead {
            Some(ahead) if !self.input.is_empty() => ahead.shrink_to(self.input.len()),
            ahead => *ahead = None,
        }
    }

    /// A frame that is larger than what is read ahead: waits for its memory, then for its bytes.
    async fn large(&mut self, bytes: usize) -> Result<Option<Incoming>, Closed> {
        // A length alone takes nothing.
        while self.input.len() < READ_AHEAD_BYTES {
            if !self.fill(true).await? {
                return Err(Closed::HungUp);
            }
        }
        let began = Instant::now();
        let held = tokio::select! {
            () = self.door.stopped() => return Ok(None),
            held = self.door.memory.unfinished(bytes) => held,
        };
        let held_back = began.elapsed();
        let mut input = BytesMut::with_capacity(bytes.max(self.input.len()));
        input.put_slice(&std::mem::take(&mut self.input));
        self.input = input;
        let patience = self.door.limits.frame_stall_max + slowest(bytes);
        let deadline = tokio::time::Instant::now() + patience;
        while self.input.len() < bytes {
            let more = timeout_at(deadline, self.fill_frame(bytes)).await;
            if !more.map_err(|_| Closed::Stalled(patience))?? {
                return if *self.door.stopping.borrow() { Ok(None) } else { Err(Closed::HungUp) };
            }
        }
        let Next::Frame(frame) = self.frames.next(&mut self.input)? else {
            unreachable!("all its bytes are there")
        };
        // What was read beyond it, before its memory was taken, must not keep it.
        self.input = BytesMut::from(&self.input[..]);
        self.shrink_ahead();
        self.door.metrics.bytes_in.add(bytes as u64);
        Ok(Some(Incoming::Frame { frame: held.attach(frame), held_back }))
    }

    /// Reads what there is of a frame of `bytes`, into the memory that it has; whether there was anything before the end.
    async fn fill_frame(&mut self, bytes: usize) -> Result<bool, Closed> {
        let patience = self.door.limits.frame_stall_max;
        loop {
            let ready = tokio::select! {
                () = self.door.stopped() => return Ok(false),
                ready = timeout(patience, self.reader.readable()) => ready,
            };
            ready.map_err(|_| Closed::Stalled(patience))??;
            let left = bytes - self.input.len();
            let mut into = (&mut self.input).limit(left);
            match self.reader.try_read_buf(&mut into) {
                Ok(read) => return Ok(read > 0),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads ahead what there is; whether there was anything before the end. `false` also when the door closes.
    pub(super) async fn fill(&mut self, is_begun: bool) -> Result<bool, Closed> {
        self.shrink_ahead();
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = BytesMut::new();
        }
        let (patience, closed): (_, fn(Duration) -> Closed) = match is_begun {
            true => (self.door.limits.frame_stall_max, Closed::Stalled),
            false => (self.door.limits.idle_max, Closed::Idle),
        };
        loop {
            let ready = tokio::select! {
                () = self.door.stopped() => return Err(Closed::Stopping),
                ready = timeout(patience, self.reader.readable()) => ready,
            };
            ready.map_err(|_| closed(patience))??;
            let mut permit = tokio::select! {
                () = self.door.stopped() => return Err(Closed::Stopping),
                permit = self.door.memory.read_ahead() => permit,
            };
            match self.read_now() {
                Ok(0) => return Ok(false),
                Ok(read) => {
                    permit.shrink_to(read);
                    match &mut self.ahead {
                        Some(ahead) => ahead.merge(permit),
                        ahead => *ahead = Some(permit),
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads once, by way of the thread's buffer: many small requests then do not each hold a buffer for a large one.
    fn read_now(&mut self) -> std::io::Result<usize> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let read = self.reader.try_read(buffer)?;
            self.input.extend_from_slice(&buffer[..read]);
            Ok(read)
        })
    }
}

thread_local! {
    /// Filled with zeros once, and not for each read.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AHEAD_BYTES].into());
}

/// What a peer sent.
enum Incoming {
    /// A request, and how long it was held back for want of memory.
    Frame { frame: Bytes, held_back: Duration },
    /// One that is too large to be read, and what is said to that.
    Refused(Head, Response),
}

/// How long the client of a fetch was told to wait.
fn throttle_of(response: &FetchResponse) -> Duration {
    Duration::from_millis(u64::try_from(response.throttle_time_ms).unwrap_or(0))
}

/// What a client is told about the time for which its request was held back, ms.
pub(super) fn throttle_told_ms(held_back: Duration) -> i32 {
    i32::try_from(held_back.min(THROTTLE_TOLD_MAX).as_millis()).expect("a second fits")
}

/// The writing side: ends when the reading side has, and all answers have left.
async fn write_answers(
    door: &Door,
    mut queue: mpsc::Receiver<Box<Outgoing>>,
    mut writer: OwnedWriteHalf,
) -> Result<(), Closed> {
    let mut leaves_at = None;
    while let Some(outgoing) = next_answer(&mut queue, leaves_at).await {
        let Outgoing { head, answer, began, _place } = *outgoing;
        let response = match answer {
            Answer::Ready(response) => response,
            Answer::Fetched(answer) => {
                // Told before, as the others are; what fails while it is sent is told then.
                tell(door, &head, &tally::error_codes_of_fetch(&answer.fetched.response), began);
                let pieces = encode_fetched(&head, answer.fetched)?;
                let frame = Frame::of(pieces, answer.buffer_bytes, answer.held);
                // Boxed, as below: ten thousand connections only wait, and should not hold room for it.
                writer = Box::pin(frame.write(door, writer)).await?;
                if is_sent_on(door, &head) {
                    leaves_at.get_or_insert_with(|| tokio::time::Instant::now() + LEAVE_AFTER);
                }
                continue;
            }
            Answer::Producing(producing) => {
                let is_answered = producing.is_answered();
                let response = Response::from(producing.answer().await);
                if !is_answered {
                    let codes = tally::error_codes(&response);
                    tell(door, &head, &codes, began);
                    match codes.first() {
                        None => continue,
                        Some(code) => return Err(Closed::UnacknowledgedFailed(*code)),
                    }
                }
                response
            }
        };
        tell(door, &head, &tally::error_codes(&response), began);
        let is_leaving = !acknowledges(&response) && is_sent_on(door, &head);
        let pieces = encode_response(&head, response)?;
        writer = Box::pin(Frame::whole(pieces).write(door, writer)).await?;
        if is_leaving {
            leaves_at.get_or_insert_with(|| tokio::time::Instant::now() + LEAVE_AFTER);
        }
    }
    // What the peer sends after this is not answered: it goes when it has read what there is.
    Ok(writer.shutdown().await?)
}

/// The next answer; `None` when there will be none, or the client has had its time.
async fn next_answer(
    queue: &mut mpsc::Receiver<Box<Outgoing>>,
    leaves_at: Option<tokio::time::Instant>,
) -> Option<Box<Outgoing>> {
    match leaves_at {
        None => queue.recv().await,
        Some(until) => timeout_at(until, queue.recv()).await.ok().flatten(),
    }
}

/// Whether the client is to leave, behind the answer to this.
fn is_sent_on(door: &Door, head: &Head) -> bool {
    head.key != ApiKey::ApiVersions
        && door.redirect(head).is_some_and(|redirect| redirect.stage == Stage::Sending)
}

/// Whether it says of a batch that it is stored: what is closed may take that back before the peer has read it.
fn acknowledges(response: &Response) -> bool {
    let Response::Produce(response) = response else { return false };
    let mut partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    partitions.any(|partition| partition.error_code == NO_ERROR)
}

fn tell(door: &Door, head: &Head, error_codes: &[i16], began: Instant) {
    door.metrics.answered(head.key, began.elapsed());
    for code in error_codes {
        door.metrics.error(head.key, *code);
    }
}
