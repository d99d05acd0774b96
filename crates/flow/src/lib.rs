//! Continuous computations over topics: event time, windows, keyed state.
//!
//! A *flow* reads topics and writes topics. Each record is decoded, placed in time by when its event happened (not by
//! when it arrived), assigned to a key and to windows of time, and taken into what is computed there. The *watermark*
//! tells how far event time has come: when it passes the end of a window, the window's result is emitted. What comes
//! later still is *late*, and the flow says what becomes of it.
//!
//! ```
//! use std::{error::Error, path::Path, sync::Arc, time::Duration};
//! use anabranch_core::{batch::{Record, RecordAt}, engine::Engine, seam::SystemClock};
//! use anabranch_flow::{Count, Disorder, Flow, Late, Max, Mean, Tumbling, Undecodable};
//!
//! #[derive(serde::Deserialize)]
//! struct Flight { origin: String, scheduled_ms: i64, delay: Option<i64> }
//!
//! /// Departures, mean and worst delay per airport and hour.
//! async fn departures(engine: Arc<dyn Engine>, state: &Path) -> Result<(), Box<dyn Error>> {
//!     const HOUR: Duration = Duration::from_secs(3600);
//!     let json = |at: &RecordAt| serde_json::from_slice::<Flight>(at.record.value.as_deref().unwrap_or_default());
//!     let flow = Flow::named("departures")
//!         .source(["flights"])
//!         .decode(json, Undecodable::Fail)
//!         .filter(|flight| flight.delay.is_some())
//!         .event_time(|flight| flight.scheduled_ms, Disorder::bounded(HOUR))
//!         .key_by(|flight| flight.origin.clone())
//!         .window(Tumbling::of(HOUR), Late::ToTopic("flights-late".into()))
//!         .aggregate((Count, Mean::of(|f: &Flight| f.delay), Max::of(|f: &Flight| f.delay)))
//!         .sink("departures-by-hour", |origin, window, result| {
//!             let value = serde_json::to_vec(&result).expect("numbers have a JSON form");
//!             Record::new(format!("{origin}/{}", window.start_ms), value)
//!         });
//!     flow.open(engine, state, Arc::new(SystemClock::new())).await?.run_until_end().await?;
//!     Ok(())
//! }
//! ```
//!
//! # What is promised
//! Results are *upserts*: the newest record per key is the result for that key and window, and a tombstone takes one
//! back. Window state, watermark, input positions and the records that follow from them are stored in one atomic batch,
//! and then the records are appended. So a flow that is killed goes on where it stood: every input record takes part
//! once, and what was appended last may be appended once more, to the letter. That is **at least once** for readers,
//! and a reader that keeps the newest value per key sees no difference. Records that go aside carry their origin, so
//! that readers can tell the repeated from the new ([`header`]).
//!
//! State lives in a local store and memory holds only what changed since the last commit, however many keys there are.

pub mod aggregate;
mod error;
mod flow;
pub mod header;
mod metrics;
mod outbox;
mod partitioner;
mod policy;
mod run;
mod state;
mod watermark;
pub mod window;
mod worker;

pub use aggregate::{Aggregate, Count, Max, Mean, Min, Sum};
pub use error::FlowError;
pub use flow::{Aggregated, Definition, Flow, Keyed, Records, Source, Timed, Windowed};
pub use metrics::{Counts, Metrics, Snapshot};
pub use policy::{Disorder, Late, Undecodable};
pub use run::OpenFlow;
pub use window::{Hopping, Session, Tumbling, Window, WindowKind};
