//! Opens a flow's parts: takes each over from whoever had it, and brings it to where it was committed last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Engine, Place, Position};
use anabranch_core::seam::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::FlowError;
use crate::aggregate::Aggregate;
use crate::changelog::{self, Changelog, Opened};
use crate::delivery::{Delivery, Mode};
use crate::intake::{Intake, Pace};
use crate::layout::Layout;
use crate::logic::Logic;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::part::{Part, blocking};
use crate::policy::Disorder;
use crate::run::READ_BYTES;
use crate::state::{Progress, Role, Store, Table};
use crate::watermark::Watermarks;
use crate::work::Work;
use crate::worker::{Options, Origins, Worker};

/// What all parts of a flow have in common.
pub(crate) struct Opening<T, K, A: Aggregate<T>> {
    pub(crate) flow: String,
    pub(crate) identity: String,
    pub(crate) logic: Arc<Logic<T, K, A>>,
    pub(crate) layout: Layout,
    pub(crate) options: Options,
    pub(crate) disorder: Disorder,
    pub(crate) commit_interval: Duration,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) state_dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
}

impl<T, K, A> Opening<T, K, A>
where
    T: 'static,
    K: Serialize + DeserializeOwned + 'static,
    A: Aggregate<T>,
{
    pub(crate) async fn intake(&self, source: usize) -> Result<Part, FlowError> {
        let (engine, layout) = (&*self.engine, &self.layout);
        let at = layout.sources[source].clone();
        let start = engine.locate(&at, Place::Earliest).await?;
        let log = layout.place(source);
        let mut delivery = Delivery::open(layout.mode, engine, log.clone(), &self.flow).await?;
        let opening = changelog::Opening {
            engine,
            delivery: &mut delivery,
            clock: &*self.clock,
            log,
            identity: self.identity.clone(),
            beginning: Progress::beginning(vec![start.0], 1),
        };
        let progress = changelog::place(opening).await?;
        if progress.positions.len() != 1 || progress.latest_events_ms.len() != 1 {
            let topic = layout.place(source).topic;
            return Err(FlowError::Changelog { topic, what: "its positions are not the sources'" });
        }
        let now = self.clock.monotonic();
        let Progress { latest_events_ms, watermark_ms, .. } = &progress;
        let worker = Intake {
            logic: Arc::clone(&self.logic),
            source: at.clone(),
            number: u32::try_from(source).expect("a topic's partitions are counted so"),
            undecodable: self.options.undecodable.clone(),
            shards: layout.repartition().expect("it is what intakes are for"),
            commit_records: self.options.commit_records,
            parts: self.options.parts,
            outbox: Outbox::new(self.options.append_records_max),
            watermarks: Watermarks::restore(self.disorder, latest_events_ms, *watermark_ms, now),
            pace: Pace::at(&progress),
            progress,
        };
        Ok(self.part(vec![at], delivery, worker, false))
    }

    pub(crate) async fn shard(&self, shard: i32) -> Result<Part, FlowError> {
        let (engine, layout) = (&*self.engine, &self.layout);
        let path = layout.store_path(&self.state_dir, shard);
        let role = if layout.mode == Mode::Local { Role::Only } else { Role::Cache };
        let (identity, parts) = (self.identity.clone(), self.options.parts);
        // Its lock comes first: a second flow of this directory must not fence the first.
        let store = blocking(move || Store::open(&path, &identity, role, parts)).await??;
        let beginning = layout.beginning(engine, shard).await?;
        let log = layout.changelog(shard);
        let mut delivery = Delivery::open(layout.mode, engine, log.clone(), &self.flow).await?;
        let (store, progress, changelog, restored) = match layout.mode {
            Mode::Local => {
                let (store, known) =
                    blocking(move || store.progress().map(|progress| (store, progress))).await??;
                (store, known.unwrap_or(beginning), None, 0)
            }
            Mode::Transactions | Mode::Conditions => {
                let opening = changelog::Opening {
                    engine,
                    delivery: &mut delivery,
                    clock: &*self.clock,
                    log,
                    identity: self.identity.clone(),
                    beginning,
                };
                let Opened { changelog, store, progress, restored } = Changelog::open(opening, store).await?;
                (store, progress, Some(changelog), restored)
            }
        };
        let origins = Origins { inputs: layout.inputs_of(shard), sources: layout.sources_of(shard) };
        let taken = progress.taken.as_ref();
        let fits = progress.positions.len() == origins.inputs.len()
            && progress.latest_events_ms.len() == origins.sources.len()
            && taken.is_some() == layout.repartition().is_some()
            && taken.is_none_or(|taken| taken.positions.len() == origins.sources.len());
        if !fits {
            return Err(store.damaged("its positions are not the sources'"));
        }
        let now = self.clock.monotonic();
        let Progress { latest_events_ms, watermark_ms, .. } = &progress;
        let mut watermarks = Watermarks::restore(self.disorder, latest_events_ms, *watermark_ms, now);
        if let Some(taken) = taken {
            watermarks.restore_idle(&taken.idle);
        }
        let (logic, options, inputs) =
            (Arc::clone(&self.logic), self.options.clone(), origins.inputs.clone());
        let worker = Worker::new(logic, options, origins, changelog, Table::new(store), watermarks, progress);
        let part = self.part(inputs, delivery, worker, true);
        self.metrics.update(part.number, |snapshot| snapshot.restored = restored);
        Ok(part)
    }

    fn part(
        &self,
        inputs: Vec<TopicPartition>,
        delivery: Delivery,
        worker: impl Work + 'static,
        is_shard: bool,
    ) -> Part {
        let number = self.metrics.add(is_shard);
        self.metrics.update(number, |snapshot| worker.report(snapshot));
        let begins = worker.positions().first().copied().unwrap_or(Position(0));
        Part {
            engine: Arc::clone(&self.engine),
            clock: Arc::clone(&self.clock),
            inputs,
            commit_interval: self.commit_interval,
            read_bytes: READ_BYTES / self.options.parts,
            last_commit: self.clock.monotonic(),
            metrics: Arc::clone(&self.metrics),
            number,
            delivery,
            reached: BTreeMap::new(),
            trimmed: (is_shard && self.layout.repartition().is_some()).then_some(begins),
            worker: Arc::new(Mutex::new(worker)),
        }
    }
}
