//! The connection, and questions to JetStream.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::engine::Position;
use async_nats::client::{Request, RequestErrorKind};
use async_nats::header::{NATS_BATCH_COMMIT, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, PurgeRequest};
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, HeaderName, Message, ServerError, Subscriber,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::settings::{NatsAuth, NatsSettings};
use crate::trouble::Trouble;

/// Refusals that are remembered: a question that the server refuses is not answered, and the refusal comes aside.
const VIOLATIONS_MAX: usize = 32;

const PAUSE: Duration = Duration::from_millis(100);
/// How long to wait for a commit that is under way.
const COMMIT_PAUSE: Duration = Duration::from_millis(2);

/// Error codes of JetStream (`server/errors.json` of nats-server).
pub(crate) mod code {
    pub(crate) const NO_MESSAGE: u64 = 10037;
    pub(crate) const CONSUMER_NOT_FOUND: u64 = 10014;
    pub(crate) const STREAM_NAME_EXIST: u64 = 10058;
    pub(crate) const STREAM_NOT_FOUND: u64 = 10059;
    pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;
    pub(crate) const BATCH_DUPLICATE: u64 = 10201;
    /// What passes by itself: there is no leader just now, or too much is under way.
    pub(crate) const PASSING: [u64; 15] = [
        10003, // cluster peer not a member
        10006, // cluster not active
        10007, // cluster not assigned
        10008, // JetStream not available
        10009, // not the leader
        10023, // insufficient resources
        10047, // storage resources exceeded
        10077, // the stream's store failed
        10118, // stream offline
        10158, // the same id is under way
        10163, // expected sequence not ready
        10164, // another write of the same key is under way
        10167, // too many requests
        10176, // a batch is incomplete: its leader has changed, or it took too long
        10210, // too many batches in flight
    ];
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// JetStream says no.
    Api { code: u64, text: String },
    /// Nobody listens there: no such stream, or it has no leader just now. Nothing was done.
    NoResponders,
    /// It was not sent.
    NotSent(String),
    /// It was sent, and not answered.
    NoAnswer(String),
    /// The server does not let us.
    Unauthorised(String),
}

impl CallError {
    /// Whether to ask again in a while.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Api { code, .. } => code::PASSING.contains(code),
            Self::NoResponders | Self::NotSent(_) | Self::NoAnswer(_) => true,
            Self::Unauthorised(_) => false,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api { code, text } => write!(f, "{text} ({code})"),
            Self::NoResponders => f.write_str("nobody answers for the stream"),
            Self::NotSent(text) | Self::NoAnswer(text) | Self::Unauthorised(text) => f.write_str(text),
        }
    }
}

/// Of a question that changes nothing.
impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Api { code: code::STREAM_NOT_FOUND, .. } => Self::NotFound,
            // They come and go; whoever made it makes it anew.
            CallError::Api { code: code::CONSUMER_NOT_FOUND, text } => Self::Away(text),
            CallError::Unauthorised(text) => Self::Unauthorised(text),
            CallError::Api { .. } if !error.is_passing() => Self::Refused(error.to_string()),
            passing => Self::Away(passing.to_string()),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Link {
    client: Client,
    request_timeout: Duration,
    connected: watch::Receiver<bool>,
    violations: Arc<Violations>,
}

/// Subjects that the server does not let us use. The lock protects the queue, and is held for a look.
#[derive(Debug, Default)]
struct Violations(Mutex<VecDeque<String>>);

impl Violations {
    fn note(&self, text: &str) {
        let mut all = self.0.lock();
        if all.len() == VIOLATIONS_MAX {
            all.pop_front();
        }
        all.push_back(text.to_owned());
    }

    fn of(&self, subject: &str) -> Option<String> {
        self.0.lock().iter().find(|text| text.contains(&format!("\"{subject}\""))).cloned()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("connected", &*self.connected.borrow()).finish_non_exhaustive()
    }
}

/// What the server says of what it has stored.
#[derive(Debug, Deserialize)]
pub(crate) struct Ack {
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

/// What a key of a bucket stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `None` when there is none, or it was deleted.
    pub(crate) value: Option<Bytes>,
    pub(crate) revision: u64,
    /// By the server's clock.
    pub(crate) written: OffsetDateTime,
}

/// Keys of a bucket.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Also those that were deleted.
    pub(crate) keys: Vec<String>,
    /// By the server's clock.
    pub(crate) now: OffsetDateTime,
}

/// A stream's answer about its subjects; there may be more than it tells at once.
#[derive(Deserialize)]
struct Subjects {
    state: SubjectsState,
    #[serde(default)]
    total: usize,
    #[serde(with = "time::serde::rfc3339")]
    ts: OffsetDateTime,
}

#[derive(Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: BTreeMap<String, u64>,
}

/// The answer to `STREAM.MSG.GET`.
#[derive(Deserialize)]
struct Got {
    message: Stored,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
}

impl Stored {
    fn headers(&self) -> String {
        let bytes = STANDARD.decode(&self.hdrs).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A stream's answer about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The sequence of the oldest message; one behind `last` when there is none.
    pub(crate) first: u64,
    /// The sequence of the newest message that there ever was; 0 when there was none.
    pub(crate) last: u64,
}

impl Bounds {
    /// The oldest place, and the latest. A position is a sequence less one, so that it begins at 0.
    pub(crate) fn positions(self) -> (Position, Position) {
        (Position(self.first - 1), Position(self.last))
    }
}

impl Link {
    pub(crate) async fn open(settings: &NatsSettings) -> Result<Self, Trouble> {
        let (say, connected) = watch::channel(true);
        let violations = Arc::new(Violations::default());
        let noted = Arc::clone(&violations);
        let mut options = ConnectOptions::new()
            .name("anabranch")
            .connection_timeout(settings.request_timeout)
            .request_timeout(Some(settings.request_timeout))
            .require_tls(settings.tls.required)
            .event_callback(move |event| {
                match &event {
                    Event::Connected => drop(say.send_replace(true)),
                    Event::Disconnected | Event::Closed => drop(say.send_replace(false)),
                    Event::ServerError(ServerError::Other(text)) => noted.note(text),
                    _ => {}
                }
                std::future::ready(())
            });
        if let Some(path) = &settings.tls.ca_file {
            options = options.add_root_certificates(path.clone());
        }
        if let Some((cert, key)) = &settings.tls.identity_files {
            options = options.add_client_certificate(cert.clone(), key.clone());
        }
        options = match &settings.auth {
            NatsAuth::None => options,
            NatsAuth::Password { user, password } => {
                options.user_and_password(user.clone(), password.0.clone())
            }
            NatsAuth::Token(token) => options.token(token.0.clone()),
            NatsAuth::Nkey(seed) => options.nkey(seed.0.clone()),
            NatsAuth::Credentials(text) => options
                .credentials(&text.0)
                .map_err(|error| Trouble::Unauthorised(format!("the credentials: {error}")))?,
        };
        let scheme = if settings.tls.required { "tls" } else { "nats" };
        let servers: Vec<_> = settings.servers.iter().map(|server| format!("{scheme}://{server}")).collect();
        let client = options.connect(servers).await.map_err(|error| {
            let told = format!("{}: {error}", settings.servers.join(", "));
            match error.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    Trouble::Unauthorised(told)
                }
                // A certificate is refused, ours or theirs: it will be the same next time.
                _ if is_of_tls(&error) => Trouble::Unauthorised(told),
                ConnectErrorKind::ServerParse => Trouble::Refused(told),
                _ => Trouble::Away(told),
            }
        })?;
        Ok(Self { client, request_timeout: settings.request_timeout, connected, violations })
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Waits until there is a connection, and no longer than `deadline`.
    pub(crate) async fn connected(&self, deadline: Instant) -> Result<(), CallError> {
        let mut connected = self.connected.clone();
        match timeout_at(deadline, connected.wait_for(|is| *is)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(CallError::NotSent("the connection is lost".to_owned())),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask(
        &self,
        subject: String,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, CallError> {
        self.connected(Instant::now() + self.request_timeout).await?;
        let mut request = Request::new().payload(payload).timeout(Some(self.request_timeout));
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        let answer = self.client.send_request(subject.clone(), request).await;
        answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => CallError::NoResponders,
            RequestErrorKind::TimedOut | RequestErrorKind::Other => match self.violations.of(&subject) {
                Some(violation) => CallError::Unauthorised(violation),
                None => CallError::NoAnswer(format!("{subject}: {error}")),
            },
            RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                CallError::NotSent(error.to_string())
            }
        })
    }

    /// Asks JetStream's API, for what may be asked twice: a question that failed for a moment is asked again.
    pub(crate) async fn api<A: DeserializeOwned>(
        &self,
        subject: &str,
        question: &impl Serialize,
    ) -> Result<A, CallError> {
        let subject = format!("$JS.API.{subject}");
        let question = Bytes::from(serde_json::to_vec(question).expect("questions are plain values"));
        let deadline = Instant::now() + self.request_timeout;
        let mut asked = 0;
        loop {
            asked += 1;
            let said = self.ask(subject.clone(), None, question.clone()).await;
            match said.and_then(|said| answer(&said.payload)) {
                Err(CallError::NotSent(why)) => return Err(CallError::NotSent(why)),
                Err(error) if error.is_passing() && (asked < 2 || Instant::now() < deadline) => {
                    sleep(PAUSE).await;
                }
                said => return said,
            }
        }
    }

    /// A key's entry, as the bucket's leader has it: others may be late.
    pub(crate) async fn entry(&self, bucket: &str, key: &str) -> Result<Entry, CallError> {
        let question = json!({ "last_by_subj": format!("$KV.{bucket}.{key}") });
        let got = self.api::<Got>(&format!("STREAM.MSG.GET.KV_{bucket}"), &question).await;
        match got {
            Ok(Got { message }) => {
                let is_there = !message.headers().contains("KV-Operation");
                let value = is_there.then(|| STANDARD.decode(&message.data).unwrap_or_default().into());
                Ok(Entry { value, revision: message.seq, written: message.time })
            }
            Err(CallError::Api { code: code::NO_MESSAGE, .. }) => {
                Ok(Entry { value: None, revision: 0, written: OffsetDateTime::UNIX_EPOCH })
            }
            Err(error) => Err(error),
        }
    }

    /// The keys of a bucket that fit `filter`.
    pub(crate) async fn keys(&self, bucket: &str, filter: &str) -> Result<Keys, CallError> {
        let prefix = format!("$KV.{bucket}.");
        let mut found = Keys { keys: Vec::new(), now: OffsetDateTime::UNIX_EPOCH };
        loop {
            let question =
                json!({ "subjects_filter": format!("{prefix}{filter}"), "offset": found.keys.len() });
            let told: Subjects = self.api(&format!("STREAM.INFO.KV_{bucket}"), &question).await?;
            let keys = told.state.subjects.into_keys();
            let before = found.keys.len();
            found.keys.extend(keys.filter_map(|subject| Some(subject.strip_prefix(&prefix)?.to_owned())));
            found.now = told.ts;
            if found.keys.len() >= told.total || found.keys.len() == before {
                return Ok(found);
            }
        }
    }

    /// Deletes the keys of a bucket that fit `filter`, and their history.
    pub(crate) async fn forget(&self, bucket: &str, filter: &str) -> Result<(), CallError> {
        let filter = Some(format!("$KV.{bucket}.{filter}"));
        let purge = PurgeRequest { sequence: None, filter, keep: None };
        self.api::<serde_json::Value>(&format!("STREAM.PURGE.KV_{bucket}"), &purge).await.map(drop)
    }

    /// Writes a key's entry over that of a revision, 0 if there is none; `None` if somebody was faster.
    pub(crate) async fn put_over(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        over: u64,
    ) -> Result<Option<u64>, CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, over.to_string().as_str());
        let said = self.ask(format!("$KV.{bucket}.{key}"), Some(headers), value).await?;
        match answer::<Ack>(&said.payload) {
            Ok(ack) => Ok(Some(ack.seq)),
            Err(CallError::Api { code: code::WRONG_LAST_SEQUENCE, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The sequence of the first message from `sequence` on, as the stream's leader has it: consumers live on any of its servers,
    /// which may be late.
    pub(crate) async fn first_from(&self, stream: &str, sequence: u64) -> Result<Option<u64>, CallError> {
        let question = json!({ "seq": sequence, "next_by_subj": ">" });
        match self.api::<Got>(&format!("STREAM.MSG.GET.{stream}"), &question).await {
            Ok(Got { message }) => Ok(Some(message.seq)),
            Err(CallError::Api { code: code::NO_MESSAGE, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the stream begins and ends, and not within a batch that is being committed.
    pub(crate) async fn settled_bounds(&self, stream: &str) -> Result<Bounds, CallError> {
        loop {
            let bounds = self.bounds(stream).await?;
            if bounds.first > bounds.last || !self.is_within_batch(stream, bounds.last).await? {
                return Ok(bounds);
            }
            // The server is about to store the rest.
            sleep(COMMIT_PAUSE).await;
        }
    }

    async fn is_within_batch(&self, stream: &str, sequence: u64) -> Result<bool, CallError> {
        let got = self.api::<Got>(&format!("STREAM.MSG.GET.{stream}"), &json!({ "seq": sequence })).await;
        match got {
            Ok(Got { message }) => {
                let headers = message.headers();
                let has = |name: &HeaderName| headers.contains(&format!("\n{name}:"));
                Ok(has(&NATS_BATCH_SEQUENCE) && !has(&NATS_BATCH_COMMIT))
            }
            Err(CallError::Api { code: code::NO_MESSAGE, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn bounds(&self, stream: &str) -> Result<Bounds, CallError> {
        let info: stream::Info = self.api(&format!("STREAM.INFO.{stream}"), &json!({})).await?;
        let last = info.state.last_sequence;
        // A stream that never had a message says 0, or 1, by its version.
        Ok(Bounds { first: info.state.first_sequence.max(1), last })
    }

    pub(crate) async fn consumer(&self, stream: &str, name: &str) -> Result<consumer::Info, CallError> {
        self.api(&format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await
    }

    /// Deletes what is before `sequence`.
    pub(crate) async fn purge(&self, stream: &str, sequence: u64) -> Result<(), CallError> {
        let purge = PurgeRequest { sequence: Some(sequence), filter: None, keep: None };
        self.api::<serde_json::Value>(&format!("STREAM.PURGE.{stream}"), &purge).await.map(drop)
    }

    /// What comes to an inbox of its own.
    pub(crate) async fn inbox(&self) -> Result<(String, Subscriber), CallError> {
        let inbox = self.client.new_inbox();
        let messages = self.client.subscribe(inbox.clone()).await;
        Ok((inbox, messages.map_err(|error| CallError::NotSent(error.to_string()))?))
    }
}

/// Whether TLS is what failed: its errors are data that makes no sense to the transport.
fn is_of_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
        || error.source().is_some_and(is_of_tls)
}

/// What JetStream said.
pub(crate) fn answer<A: DeserializeOwned>(payload: &[u8]) -> Result<A, CallError> {
    #[derive(Deserialize)]
    struct Refusal {
        error: Option<ApiError>,
    }
    #[derive(Deserialize)]
    struct ApiError {
        #[serde(default)]
        err_code: u64,
        #[serde(default)]
        description: String,
    }
    match serde_json::from_slice::<Refusal>(payload) {
        Ok(Refusal { error: Some(error) }) => {
            Err(CallError::Api { code: error.err_code, text: error.description })
        }
        _ => serde_json::from_slice(payload)
            .map_err(|error| CallError::NoAnswer(format!("an answer that cannot be read: {error}"))),
    }
}
