//! The move, from its plan to its report.

use std::hash::Hasher;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{Carried, Engine, EngineError, Place, Position};
use anabranch_core::seam::{Clock, Disk, RealDisk, SystemClock};
use futures::future::{Either, select, try_join, try_join_all};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use siphasher::sip::SipHasher24;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::copy::{Copier, block_bytes};
use crate::error::MoveError;
use crate::gate::{Begun, Errand, Gate, Pause};
use crate::groups::{self, Groups};
use crate::lane::{Lane, Matched};
use crate::lookout::Lookout;
use crate::notes::{Notebook, Notes};
use crate::report::{MovedPartition, MovedTopic, Phase, Progress, Report};
use crate::settings::PlannedTopic;
use crate::word::{Speaker, last_words, pieces};
use crate::write::Writer;

/// Partitions that are compared at the same time.
const COMPARED_AT_ONCE: usize = 8;
/// How often it is noted how far it came.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);
/// How long it tries again what fails for a moment, without coming further.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits before it tries again, without coming further: twice as long each time.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(200);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);
/// How often a mover takes the place of one that has taken its own. Of two that live, one gives up.
const FENCED_MAX: u32 = 3;
/// How often the source may go on before all was done.
const PAUSES_MAX: u32 = 10;
/// How long it waits until the target shows what it says is written, and how often it looks.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
const SHOWN_INTERVAL: Duration = Duration::from_millis(10);
/// The source is held still when so little is left to be compared.
const NEAR_POSITIONS: u64 = 20_000;

/// A move from one engine to another. What was begun before, and interrupted anywhere, goes on.
#[derive(Debug)]
pub struct Move {
    source: Arc<dyn Engine>,
    target: Arc<dyn Engine>,
    gate: Box<dyn Gate>,
    topics: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    carried: Vec<Arc<dyn Carried>>,
    lookout: Option<Box<dyn Lookout>>,
    notebook: Option<Notebook>,
    disk: Arc<dyn Disk>,
    progress: watch::Sender<Progress>,
    is_dry_run: bool,
}

/// What is to be moved.
#[derive(Debug)]
struct Plan {
    id: String,
    topics: Vec<PlannedTopic>,
    lanes: Arc<[TopicPartition]>,
}

impl Move {
    /// From `source` to `target`, which is decided by `gate`: all topics that are not internal, and all groups.
    #[must_use]
    pub fn new(source: Arc<dyn Engine>, target: Arc<dyn Engine>, gate: Box<dyn Gate>) -> Self {
        Self {
            source,
            target,
            gate,
            topics: None,
            groups: None,
            carried: Vec::new(),
            lookout: None,
            notebook: None,
            disk: Arc::new(RealDisk),
            progress: watch::Sender::default(),
            is_dry_run: false,
        }
    }

    /// These topics only.
    #[must_use]
    pub fn topics<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.topics = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// These groups only.
    #[must_use]
    pub fn groups<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        self.groups = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Among these topics are such in whose records positions of others stand.
    #[must_use]
    pub fn carrying(mut self, carried: impl IntoIterator<Item = Arc<dyn Carried>>) -> Self {
        self.carried.extend(carried);
        self
    }

    /// Something may begin meanwhile that cannot be left.
    #[must_use]
    pub fn lookout(mut self, lookout: Box<dyn Lookout>) -> Self {
        self.lookout = Some(lookout);
        self
    }

    /// Where the notes are kept.
    #[must_use]
    pub fn notes(mut self, directory: &Path) -> Self {
        self.notebook = Some(Notebook::new(Arc::clone(&self.disk), directory));
        self
    }

    /// On another disk; call it before [`Move::notes`].
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Looks at what is to be done, and does none of it.
    #[must_use]
    pub fn dry_run(mut self, is_dry_run: bool) -> Self {
        self.is_dry_run = is_dry_run;
        self
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The name of a move between these two engines.
    #[must_use]
    pub fn id(source: &dyn Engine, target: &dyn Engine) -> String {
        let mut hasher = SipHasher24::new();
        for side in [source, target] {
            let description = side.description();
            for part in [description.engine, &description.cluster] {
                hasher.write(&(part.len() as u64).to_le_bytes());
                hasher.write(part.as_bytes());
            }
        }
        format!("{:016x}", hasher.finish())
    }

    /// Moves. Dropping the future is as killing the process is: begun again, it goes on.
    ///
    /// # Errors
    /// [`MoveError`]
    pub async fn run(self) -> Result<Report, MoveError> {
        let began = Instant::now();
        let plan = self.plan().await?;
        if self.is_dry_run {
            let topics = plan.topics.iter().map(|topic| reported(topic, false, Vec::new(), &[]));
            return Ok(Report {
                id: plan.id,
                is_dry_run: true,
                was_decided: false,
                topics: topics.collect(),
                groups: Vec::new(),
                pause: Duration::ZERO,
                took: began.elapsed(),
            });
        }
        let mut notes = match &self.notebook {
            Some(notebook) => notebook.read(&plan.id)?,
            None => Notes::new(&plan.id),
        };
        let errand = Errand {
            id: plan.id.clone(),
            topics: plan.topics.iter().map(|topic| topic.name.clone()).collect(),
            partitions: plan.lanes.to_vec(),
        };
        let begun = self.gate.begin(&errand).await?;
        let mut was_there = vec![true; plan.topics.len()];
        let mut pause = Duration::ZERO;
        let was_decided = match begun {
            Begun::Moved => true,
            Begun::AsNoted => notes.is_decided,
            Begun::Copying => {
                // What was decided was given up since, and the target has gone ways of its own.
                if notes.is_decided {
                    notes = Notes::new(&plan.id);
                    self.write(&mut notes)?;
                }
                false
            }
        };
        if !was_decided {
            for (topic, was_there) in plan.topics.iter().zip(&mut was_there) {
                *was_there = topic.create(&*self.target).await?;
                // Notes of it are of one that was deleted.
                if !*was_there && notes.retain(|noted| noted.at.topic != topic.name) {
                    self.write(&mut notes)?;
                }
            }
            pause = self.move_all(&plan, &mut notes).await?;
        }
        self.progress.send_modify(|progress| progress.phase = Phase::Finishing);
        let mut topics = Vec::new();
        for (topic, was_there) in plan.topics.iter().zip(was_there) {
            let left = topic.finish(&*self.target).await.map_err(MoveError::AfterSwitch)?;
            topics.push(reported(topic, was_there, left, &notes.matched));
        }
        Ok(Report {
            id: plan.id,
            is_dry_run: false,
            was_decided,
            topics,
            groups: notes.moved_groups(),
            pause,
            took: began.elapsed(),
        })
    }

    async fn plan(&self) -> Result<Plan, MoveError> {
        let admin = self.source.admin();
        let names = match &self.topics {
            Some(names) => names.clone(),
            None => {
                let all = admin.topics().await.map_err(MoveError::Source)?;
                all.into_iter().filter(|topic| !topic.is_internal).map(|topic| topic.name).collect()
            }
        };
        let mut topics = Vec::new();
        for name in names {
            let topic = PlannedTopic::of(admin, &name).await;
            topics.push(topic.map_err(|error| match error {
                EngineError::NotFound(_) => MoveError::Unknown { what: "topic", name: name.clone() },
                error => MoveError::Source(error),
            })?);
        }
        self.check_carried(&topics)?;
        if let Some(wanted) = &self.groups {
            groups::check(&*self.source, wanted).await?;
        }
        let lanes = topics.iter().flat_map(|topic| {
            (0..topic.partitions).map(|partition| TopicPartition::new(&topic.name, partition))
        });
        let lanes = lanes.collect();
        Ok(Plan { id: Self::id(&*self.source, &*self.target), topics, lanes })
    }

    /// What the topics need whose positions stand in others' records goes with them.
    fn check_carried(&self, topics: &[PlannedTopic]) -> Result<(), MoveError> {
        let is_planned = |name: &String| topics.iter().any(|topic| topic.name == *name);
        for carried in &self.carried {
            let own = carried.topics();
            let Some(topic) = own.iter().find(|name| is_planned(name)) else { continue };
            if let Some(needs) = own.iter().chain(&carried.needs()).find(|name| !is_planned(name)) {
                return Err(MoveError::Without { topic: topic.clone(), needs: needs.clone() });
            }
        }
        Ok(())
    }

    fn speaker(&self, plan: &Plan, at: &TopicPartition) -> Option<Speaker> {
        let carried = self.carried.iter().find(|carried| carried.topics().contains(&at.topic))?;
        Some(Speaker { carried: Arc::clone(carried), id: plan.id.as_str().into() })
    }

    /// Copies, compares and decides, again from what the target holds when something fails that may pass.
    async fn move_all(&self, plan: &Plan, notes: &mut Notes) -> Result<Duration, MoveError> {
        let (mut came_further, mut again_after) = (Instant::now(), AGAIN_AFTER_MIN);
        let (mut compared, mut fenced, mut pauses) = (0, 0, 0);
        loop {
            let mut lanes = Vec::new();
            let outcome = self.pass(plan, notes, &mut lanes).await;
            if !lanes.is_empty() {
                notes.matched = lanes.into_iter().map(|lane: Lane| lane.matched).collect();
            }
            let error = match outcome {
                Ok(Some(done)) => {
                    notes.is_decided = true;
                    self.write(notes)?;
                    return Ok(done);
                }
                // What was under way then was given up in the middle. The target tells how far it came.
                Ok(None) if pauses < PAUSES_MAX => {
                    pauses += 1;
                    self.gate.go_on().await;
                    tracing::warn!(pauses, "the pause was too short for what was left; the source goes on");
                    continue;
                }
                Ok(None) => {
                    let reason = "what was left was more than could be done in that time".to_owned();
                    MoveError::NotStill { attempts: pauses, reason }
                }
                Err(error) => error,
            };
            self.gate.go_on().await;
            let now: u64 = notes.matched.iter().map(|matched| matched.records).sum();
            if now > std::mem::replace(&mut compared, now) {
                (came_further, again_after) = (Instant::now(), AGAIN_AFTER_MIN);
            }
            // The request of a mover that was killed may come late. Another that lives does it again.
            let is_fenced = matches!(&error, MoveError::Target(EngineError::ProducerFenced { .. }));
            fenced += u32::from(is_fenced);
            let is_passing = error.is_passing() || (is_fenced && fenced <= FENCED_MAX);
            if !is_passing || came_further.elapsed() > PATIENCE {
                return Err(error);
            }
            tracing::warn!(%error, "the move begins again from what the target holds");
            sleep(again_after).await;
            again_after = (2 * again_after).min(AGAIN_AFTER_MAX);
        }
    }

    /// One try: from fencing an older mover to the decision. `None` if the source could not stand still for long enough.
    async fn pass(
        &self,
        plan: &Plan,
        notes: &mut Notes,
        lanes: &mut Vec<Lane>,
    ) -> Result<Option<Duration>, MoveError> {
        self.progress.send_modify(|progress| progress.phase = Phase::Comparing);
        let (writer, ends) = Writer::open(&*self.target, &plan.id, &plan.lanes).await?;
        // Where the target holds less than was noted, that is of what was there before, and nothing of it is believed.
        if notes.retain(|noted| holds(&plan.lanes, &ends, noted)) {
            self.write(notes)?;
        }
        for at in plan.lanes.iter() {
            let speaker = self.speaker(plan, at);
            let is_heard = |noted: &&Matched| speaker.is_none() || noted.is_heard;
            let matched = match notes.matched.iter().find(|noted| noted.at == *at).filter(is_heard) {
                Some(noted) => noted.clone(),
                None => self.start(plan, at).await?,
            };
            let bytes_max = block_bytes(plan.lanes.len());
            lanes.push(Lane::open(&*self.source, &*self.target, matched, speaker, bytes_max).await?);
        }
        self.compare(lanes, &ends, notes).await?;
        self.progress.send_modify(|progress| progress.phase = Phase::Copying);
        let from = lanes.iter().map(|lane| lane.matched.end.0).collect();
        let copier = Copier::start(
            &*self.source,
            Arc::clone(&self.target),
            writer,
            Arc::clone(&plan.lanes),
            from,
            ends,
        );
        let mut copier = copier.await?;
        self.follow(&mut copier, lanes, notes, is_near).await?;

        let mut moved = Groups::default();
        for attempt in 1..=PAUSES_MAX {
            self.progress.send_modify(|progress| progress.phase = Phase::Pausing);
            // It copies on meanwhile. A step is never given up in the middle: what it has read would be lost.
            let still = OnceLock::new();
            let pausing = async {
                let pause = self.gate.pause().await?;
                Ok(*still.get_or_init(|| pause))
            };
            let copying = self.follow(&mut copier, lanes, notes, |_, _| still.get().is_some());
            let (pause, ()) = try_join(pausing, copying).await?;
            let began = Instant::now();
            self.progress.send_modify(|progress| progress.phase = Phase::Still);
            let tail = self.tail(&mut copier, lanes, notes, &mut moved);
            match within(pause, tail).await {
                Some(done) => done?,
                None => return Ok(None),
            }
            notes.matched = lanes.iter().map(|lane| lane.matched.clone()).collect();
            notes.set_groups(&moved.report());
            self.write(notes)?;
            let shifted = notes.matched.iter().filter(|matched| matched.is_shifted());
            let shifted: Vec<_> = shifted.map(|matched| matched.at.clone()).collect();
            match self.gate.switch(&shifted).await {
                Ok(()) => return Ok(Some(began.elapsed())),
                Err(MoveError::NotStill { reason, .. }) => {
                    self.gate.go_on().await;
                    tracing::warn!(attempt, reason, "the source did not stand still; it is tried again");
                }
                Err(error) => return Err(error),
            }
        }
        Err(MoveError::NotStill { attempts: PAUSES_MAX, reason: "somebody wrote".to_owned() })
    }

    /// The source stands still: copies and compares the rest, and writes what stands where.
    async fn tail(
        &self,
        copier: &mut Copier,
        lanes: &mut [Lane],
        notes: &mut Notes,
        moved: &mut Groups,
    ) -> Result<(), MoveError> {
        let ends = lanes.iter().map(|lane| self.source.locate(&lane.matched.at, Place::Latest));
        let ends = try_join_all(ends).await.map_err(MoveError::Source)?;
        if !copier.has_reached(&ends) {
            self.follow(copier, lanes, notes, |copier, _| copier.has_reached(&ends)).await?;
        }
        let there = self.compare_to_the_end(lanes, &copier.ends).await?;
        for ((lane, end), there) in lanes.iter_mut().zip(&ends).zip(&there) {
            lane.complete(*end, *there).await?;
            lane.matched.check_owed()?;
            // Nothing that is shown stands between: all before these was read.
            lane.matched.end = (lane.matched.end.0.max(*end), *there);
        }
        self.say_last_words(copier, lanes).await?;
        let matched: Vec<_> = lanes.iter().map(|lane| &lane.matched).collect();
        moved.translate(&*self.source, &*self.target, &matched, self.groups.as_deref()).await?;
        match &self.lookout {
            Some(lookout) => match lookout.begun().await.map_err(MoveError::Source)? {
                Some(topic) => Err(MoveError::BegunMeanwhile { topic }),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Compares all that the target has; tells where it ends: not where it should, `written`, but it is waited for that. It still has
    /// all that was compared before.
    async fn compare_to_the_end(
        &self,
        lanes: &mut [Lane],
        written: &[Position],
    ) -> Result<Vec<Position>, MoveError> {
        let until = Instant::now() + SHOWN_WITHIN;
        let there = loop {
            let there = lanes.iter().map(|lane| self.target.locate(&lane.matched.at, Place::Latest));
            let there = try_join_all(there).await.map_err(MoveError::Target)?;
            // Apache Kafka answers that a transaction is committed before its partitions have heard of it.
            if there.iter().zip(written).all(|(there, written)| there >= written) || Instant::now() >= until {
                break there;
            }
            sleep(SHOWN_INTERVAL).await;
        };
        self.compare_lanes(lanes, &there).await?;
        match lanes.iter().zip(&there).find(|(lane, there)| **there < lane.matched.end.1) {
            Some((lane, there)) => Err(lane.matched.lost(*there)),
            None => Ok(there),
        }
    }

    /// All else is there: writes what stands where to the topics that tell it, and reads that back.
    async fn say_last_words(&self, copier: &mut Copier, lanes: &mut [Lane]) -> Result<(), MoveError> {
        let words = last_words(lanes, SystemClock::new().now_ms())?;
        if words.is_empty() {
            return Ok(());
        }
        lanes.iter_mut().for_each(|lane| lane.words.clear());
        copier.say(pieces(&words)).await?;
        let there = self.compare_to_the_end(lanes, &copier.ends).await?;
        for (number, word) in words {
            let lane = &mut lanes[number];
            if lane.words != word.records {
                return Err(MoveError::WordDiffers { at: lane.matched.at.clone() });
            }
            lane.matched.end.1 = there[number];
            lane.matched.translated = (word.positions, word.gone);
        }
        Ok(())
    }

    /// Copies, and compares behind that, until `is_enough`.
    async fn follow(
        &self,
        copier: &mut Copier,
        lanes: &mut [Lane],
        notes: &mut Notes,
        is_enough: impl Fn(&Copier, u64) -> bool,
    ) -> Result<(), MoveError> {
        let (goal, goals) = watch::channel(copier.ends.clone());
        let (compared, seen) = watch::channel(distance(lanes));
        let copying = async {
            loop {
                copier.step().await?;
                goal.send_replace(copier.ends.clone());
                self.show(copier, *seen.borrow());
                // What was copied by other steps, and not compared.
                let behind = copier.ends.iter().map(|end| end.0).sum::<u64>().saturating_sub(*seen.borrow());
                if is_enough(copier, behind) {
                    return Ok::<_, MoveError>(());
                }
            }
        };
        let comparing = self.compare_on(lanes, notes, goals, compared);
        futures::pin_mut!(copying, comparing);
        match select(copying, comparing).await {
            Either::Left((copied, _)) => copied,
            Either::Right((compared, _)) => compared,
        }
    }

    /// Compares what is copied, whenever there is more; ends with an error only.
    async fn compare_on(
        &self,
        lanes: &mut [Lane],
        notes: &mut Notes,
        mut goals: watch::Receiver<Vec<Position>>,
        compared: watch::Sender<u64>,
    ) -> Result<(), MoveError> {
        loop {
            let ends = goals.borrow_and_update().clone();
            self.compare(lanes, &ends, notes).await?;
            compared.send_replace(distance(lanes));
            if goals.changed().await.is_err() {
                return Ok(()); // nobody copies any more
            }
        }
    }

    /// Compares up to `ends`, and notes from time to time how far that is.
    async fn compare(
        &self,
        lanes: &mut [Lane],
        ends: &[Position],
        notes: &mut Notes,
    ) -> Result<(), MoveError> {
        let compared = self.compare_lanes(lanes, ends).await;
        if self.notebook.is_some() && notes.is_due(NOTE_INTERVAL) {
            notes.matched = lanes.iter().map(|lane| lane.matched.clone()).collect();
            self.write(notes)?;
        }
        compared
    }

    async fn compare_lanes(&self, lanes: &mut [Lane], ends: &[Position]) -> Result<(), MoveError> {
        let source = &*self.source;
        let each = lanes.iter_mut().zip(ends).map(|(lane, end)| lane.catch_up(source, *end).boxed());
        let each: Vec<_> = each.collect();
        stream::iter(each).buffer_unordered(COMPARED_AT_ONCE).try_collect::<()>().await
    }

    /// A partition that was not compared before.
    async fn start(&self, plan: &Plan, at: &TopicPartition) -> Result<Matched, MoveError> {
        let topic = plan.topics.iter().find(|topic| topic.name == at.topic);
        let is_thinned = topic.is_some_and(|topic| topic.is_thinned_in(&*self.target));
        let source = self.source.locate(at, Place::Earliest).await.map_err(MoveError::Source)?;
        let target = match is_thinned {
            // The oldest that it keeps is not where it began.
            true => Position(0),
            false => self.target.locate(at, Place::Earliest).await.map_err(MoveError::Target)?,
        };
        Ok(Matched::new(at.clone(), (source, target), is_thinned))
    }

    fn write(&self, notes: &mut Notes) -> Result<(), MoveError> {
        match &self.notebook {
            Some(notebook) => notebook.write(notes),
            None => Ok(()),
        }
    }

    fn show(&self, copier: &Copier, compared: u64) {
        self.progress.send_modify(|progress| {
            progress.copied = copier.records;
            progress.total = copier.records + copier.lag();
            progress.compared = compared;
            progress.bytes = copier.bytes;
        });
    }
}

/// Whether the target, whose lanes end at `ends`, goes as far as was noted.
fn holds(lanes: &[TopicPartition], ends: &[Position], noted: &Matched) -> bool {
    let end = lanes.iter().zip(ends).find(|(at, _)| **at == noted.at);
    end.is_none_or(|(_, end)| noted.end.1 <= *end)
}

/// How far the target was compared, over all partitions: a sum of positions.
fn distance(lanes: &[Lane]) -> u64 {
    lanes.iter().map(|lane| lane.matched.end.1.0).sum()
}

/// Little is left.
fn is_near(copier: &Copier, behind: u64) -> bool {
    copier.is_level() && behind <= NEAR_POSITIONS
}

/// What comes of `work` while the source stands still.
async fn within<T>(pause: Pause, work: impl Future<Output = T>) -> Option<T> {
    match pause.until {
        None => Some(work.await),
        Some(until) => timeout_at(until, work).await.ok(),
    }
}

fn reported(
    topic: &PlannedTopic,
    was_there: bool,
    settings_left: Vec<(String, String)>,
    matched: &[Matched],
) -> MovedTopic {
    let of_it = matched.iter().filter(|matched| matched.at.topic == topic.name);
    let partitions = of_it.map(|matched| MovedPartition {
        at: matched.at.clone(),
        records: matched.records,
        thinned: matched.thinned.as_ref().map_or(0, |thinned| thinned.records),
        bytes: matched.bytes,
        source_checksum: matched.source_checksum,
        target_checksum: matched.target_checksum,
        source: (matched.start.0, matched.end.0),
        target: (matched.start.1, matched.end.1),
        is_shifted: matched.is_shifted(),
        translated: matched.translated.0,
        gone: matched.translated.1,
    });
    MovedTopic {
        name: topic.name.clone(),
        partition_count: topic.partitions,
        was_there,
        settings_left,
        partitions: partitions.collect(),
    }
}
