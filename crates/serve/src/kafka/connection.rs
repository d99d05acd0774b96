//! One connection: reads requests, serves them, writes the answers in the order of the requests.
//!
//! Kafka reads the next request of a connection when the answer to the last one has left. So do we, with one exception
//! that the throughput of producers hangs on: while produce requests wait for the disk, the next ones are read and their
//! batches queued behind, so that one sync serves them all. That bounds what a connection can hold: produce requests up
//! to `requests_in_flight_max`, or one answer of any other kind. A client that does not read its answers therefore stalls
//! itself alone.
//!
//! Memory: a frame that does not fit in what is read ahead takes its bytes from the broker's budget before it is read on;
//! a small one that produces takes them when it is there. They are given back when the answer has been written. While
//! there are none to be had, the connection is not read. See `memory`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anabranch_core::budget::Permit;
use anabranch_wire::messages::ApiKey;
use anabranch_wire::{
    DecodeError, EncodeError, FrameDecoder, FrameError, Head, Next, Request, Response, decode_request,
    encode_response,
};
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::memory::{Held, READ_AHEAD_BYTES};
use super::produce::{self, Producing};
use super::{Client, Door, fetch, tally};

/// Why a connection was closed by us.
#[derive(Debug, thiserror::Error)]
enum Closed {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Request(#[from] DecodeError),
    #[error("the peer hung up in the middle of a request")]
    HungUp,
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
    #[error("the network failed: {0}")]
    Network(#[from] std::io::Error),
}

/// An answer on its way out, in its place.
#[derive(Debug)]
struct Outgoing {
    head: Head,
    answer: Answer,
    began: Instant,
    /// The frame's bytes.
    _request: Option<Permit>,
    /// The place in the queue: see [`Connection::place`].
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Answer {
    Ready(Response),
    /// And the memory for its records.
    Fetched(Response, Option<Held>),
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
            match closed {
                Closed::Encode(_) => door.metrics.bugs.add(1),
                Closed::NotRead(_) => door.metrics.answers_unread.add(1),
                _ => door.metrics.requests_refused.add(1),
            }
            tracing::warn!(%peer, reason = %closed, "closed a connection");
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
        frames: FrameDecoder::new(door.limits.request_bytes_max.min(door.memory.frame_bytes_max())),
        places: Arc::new(Semaphore::new(places as usize)),
        places_max: places,
        answers,
    };
    tokio::try_join!(Box::pin(connection.read_requests()), write_answers(door, queue, writer))?;
    Ok(())
}

/// The reading side.
struct Connection<'a> {
    door: &'a Arc<Door>,
    peer: SocketAddr,
    reader: OwnedReadHalf,
    input: BytesMut,
    frames: FrameDecoder,
    places: Arc<Semaphore>,
    places_max: u32,
    answers: mpsc::Sender<Outgoing>,
}

impl Connection<'_> {
    /// Ends when the peer has said all, or the door closes.
    async fn read_requests(mut self) -> Result<(), Closed> {
        while let Some((mut frame, mut permit)) = self.next_frame().await? {
            let bytes = frame.len();
            let (head, request) = decode_request(&mut frame)?;
            drop(frame);
            // Of small requests, a connection can have many only if they produce.
            if permit.is_none() && (bytes > READ_AHEAD_BYTES || head.key == ApiKey::Produce) {
                tokio::select! {
                    () = self.door.stopped() => break,
                    got = self.door.memory.finished(bytes) => permit = Some(got),
                }
            }
            let began = Instant::now();
            let place = self.place(head.key).await;
            let answer = self.answer(&head, request).await?;
            let outgoing = Outgoing { head, answer, began, _request: permit, _place: place };
            if self.answers.send(outgoing).await.is_err() {
                break; // The writing side has failed, and says why.
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

    async fn answer(&self, head: &Head, request: Request) -> Result<Answer, Closed> {
        let client = Client { head, peer: self.peer };
        Ok(match request {
            Request::Produce(request) => {
                Answer::Producing(produce::submit(self.door, head.version, request).await)
            }
            Request::Fetch(request) => {
                let (response, held) = fetch::answer(self.door, head.version, request).await;
                Answer::Fetched(response.into(), held)
            }
            request => {
                // Boxed, for the largest of these futures would otherwise lie in every idle connection.
                let response = Box::pin(super::answer(self.door, client, request)).await;
                Answer::Ready(response.ok_or(EncodeError { key: head.key, version: head.version })?)
            }
        })
    }

    /// The next frame, and the permit for its bytes if it had to have one before it was whole; `None` when the peer has
    /// said all, or the door closes.
    async fn next_frame(&mut self) -> Result<Option<(Bytes, Option<Permit>)>, Closed> {
        let mut announced = None;
        let mut held: Option<Held> = None;
        loop {
            match self.frames.next(&mut self.input)? {
                Next::Frame(frame) => {
                    self.door.metrics.bytes_in.add(frame.len() as u64);
                    return Ok(Some((frame, held.map(Held::finish))));
                }
                Next::Length(bytes) => announced = Some(bytes),
                Next::More => {
                    if let Some(bytes) = announced
                        && held.is_none()
                        && self.input.len() >= READ_AHEAD_BYTES
                    {
                        tokio::select! {
                            () = self.door.stopped() => return Ok(None),
                            got = self.door.memory.unfinished(bytes) => held = Some(got),
                        }
                        self.input.reserve(bytes - self.input.len());
                    }
                    let more = tokio::select! {
                        () = self.door.stopped() => return Ok(None),
                        more = fill(&mut self.reader, &mut self.input, announced.is_some(), self.door) => more?,
                    };
                    if !more {
                        let is_clean = !self.frames.is_inside(&self.input);
                        return if is_clean { Ok(None) } else { Err(Closed::HungUp) };
                    }
                }
            }
        }
    }
}

/// Reads what there is; whether there was anything before the end.
async fn fill(
    reader: &mut OwnedReadHalf,
    input: &mut BytesMut,
    is_begun: bool,
    door: &Door,
) -> Result<bool, Closed> {
    let is_begun = is_begun || !input.is_empty();
    if !is_begun {
        // An idle connection holds no buffer.
        *input = BytesMut::new();
    }
    let (patience, closed): (_, fn(Duration) -> Closed) = match is_begun {
        true => (door.limits.frame_stall_max, Closed::Stalled),
        false => (door.limits.idle_max, Closed::Idle),
    };
    loop {
        timeout(patience, reader.readable()).await.map_err(|_| closed(patience))??;
        if input.capacity() == input.len() {
            input.reserve(READ_AHEAD_BYTES);
        }
        match reader.try_read_buf(input) {
            Ok(bytes) => return Ok(bytes > 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The writing side: ends when the reading side has, and all answers have left.
async fn write_answers(
    door: &Door,
    mut queue: mpsc::Receiver<Outgoing>,
    mut writer: OwnedWriteHalf,
) -> Result<(), Closed> {
    while let Some(outgoing) = queue.recv().await {
        let (response, held) = match outgoing.answer {
            Answer::Ready(response) => (response, None),
            Answer::Fetched(response, held) => (response, held),
            Answer::Producing(producing) => {
                let is_answered = producing.is_answered();
                let response = Response::from(producing.answer().await);
                if !is_answered {
                    tell(door, &outgoing.head, &response, outgoing.began);
                    match tally::error_codes(&response).first() {
                        None => continue,
                        Some(code) => return Err(Closed::UnacknowledgedFailed(*code)),
                    }
                }
                (response, None)
            }
        };
        tell(door, &outgoing.head, &response, outgoing.began);
        // For a moment the records of a fetch are held twice, here and in the frame.
        let frame = encode_response(&outgoing.head, &response)?;
        drop(response);
        write(door, &mut writer, &frame).await?;
        drop(held);
    }
    Ok(writer.shutdown().await?)
}

/// Writes a whole frame, as long as the peer goes on reading it.
async fn write(door: &Door, writer: &mut OwnedWriteHalf, mut frame: &[u8]) -> Result<(), Closed> {
    let patience = door.limits.answer_stall_max;
    while !frame.is_empty() {
        let written =
            timeout(patience, writer.write(frame)).await.map_err(|_| Closed::NotRead(patience))??;
        if written == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into());
        }
        frame = &frame[written..];
        door.metrics.bytes_out.add(written as u64);
    }
    Ok(())
}

fn tell(door: &Door, head: &Head, response: &Response, began: Instant) {
    door.metrics.answered(head.key, began.elapsed());
    for code in tally::error_codes(response) {
        door.metrics.error(head.key, code);
    }
}
