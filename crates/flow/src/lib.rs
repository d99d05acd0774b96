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
//! **Exactly once.** What comes of a stretch of input is one transaction of the engine: results, records that go aside,
//! changed state, and where the input stands. So readers of committed records (`isolation.level=read_committed`; in process
//! all, unless they ask for more) see the output of one pass over the input, however often the flow was killed on the way.
//! An engine without transactions is refused, unless less is asked for by name: [`Definition::or_at_least_once`] for a flow that
//! is to run on every engine, [`Definition::at_least_once`]. Then results may be repeated after a crash; [`Snapshot::delivery`]
//! tells which it is.
//!
//! Results are *upserts*: the newest record per key is the result for that key and window, and a tombstone takes one back.
//!
//! State is a topic, the flow's *changelog* (`NAME-changelog`, compacted), and goes where the engine goes. In the local
//! directory there is a copy, which may be removed, or behind: opened again, the flow catches up from the changelog. (It
//! cannot tell that the engine was set back to a backup: whoever does that removes the local directories of its flows.)
//! Memory holds only what changed since the last commit, however many keys there are.
//!
//! # Several processes
//! [`Definition::shards`] divides a flow's keys, and a [`Runner`] in each process runs the parts that its group gives to it. One
//! is gone, and the others go on with what it had: state comes from the changelog. Between the sources and the shards
//! records go through a topic of the flow's own, with how far event time had come: a window fires the same whoever runs what.
//!
//! Of those that open a part, the one that was last goes on; others, on any machine, are fenced.

pub mod aggregate;
mod changelog;
mod delivery;
mod error;
mod flow;
mod frame;
pub mod header;
mod intake;
mod layout;
mod logic;
mod metrics;
mod moving;
mod opening;
mod outbox;
mod part;
mod policy;
mod repartition;
mod run;
mod runner;
mod state;
mod watermark;
pub mod window;
mod work;
mod worker;

pub use aggregate::{Aggregate, Count, Max, Mean, Min, Sum};
pub use delivery::Guarantee;
pub use error::FlowError;
pub use flow::{Aggregated, Definition, Flow, Keyed, Records, Source, Timed, Windowed};
pub use metrics::{Counts, Metrics, Snapshot};
pub use moving::OwnTopics;
pub use policy::{Disorder, Late, Undecodable};
pub use run::OpenFlow;
pub use runner::{Runner, Status};
pub use window::{Hopping, Session, Tumbling, Window, WindowKind};
