//! `anabranch consume`

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anabranch::engine::{
    Delivery, Engine, EngineError, Fetched, GroupEvent, GroupMember, Position, QueueSpec, ReadLimits, Reader,
    Settlement, TakeLimits,
};
use anabranch_core::TopicPartition;
use anabranch_core::batch::RecordAt;
use anabranch_core::engine::Place as SeamPlace;
use anyhow::Context;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::client::{EngineArgs, Span, Told, partitions, span, told};
use super::failure::usage;
use super::format::{Format, Shown, to_json};
use super::output::Output;
use super::place::Place;

/// How long to wait before an engine that is away is tried again.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// A queue that has had nothing for so long is at its end.
const QUEUE_ENDS_AFTER: Duration = Duration::from_secs(3);
/// How often it is stored where a group stands.
const STORE_EVERY: Duration = Duration::from_secs(1);
/// Records are printed together up to this many bytes, and whenever no more are there.
const PRINT_BYTES: usize = 64 << 10;

/// Print the records of a topic
///
/// It prints what is there and then what comes, until Ctrl-C; with --to or --count it ends by itself. Without --group it
/// reads every partition and leaves no trace; with it, the partitions are shared with the group's other members, and
/// where the group stands is stored after records are printed. With --queue each record goes to one of the queue's consumers.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{PLACES_AND_FIELDS}")
)]
pub(super) struct ConsumeArgs {
    /// Which topic
    topic: String,
    /// Where to begin; with --group, for partitions where the group does not stand anywhere yet
    #[arg(
        long,
        value_name = "PLACE",
        default_value = "beginning",
        allow_hyphen_values = true,
        help_heading = "Range"
    )]
    from: Place,
    /// Where to end, when it should
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, help_heading = "Range")]
    to: Option<Place>,
    /// End after so many records
    #[arg(short, long, value_name = "NUMBER", help_heading = "Range")]
    count: Option<u64>,
    /// Only this partition; may be given many times
    #[arg(
        short,
        long = "partition",
        value_name = "NUMBER",
        conflicts_with = "group",
        help_heading = "Range"
    )]
    partitions: Vec<i32>,
    /// Read as a member of this group
    #[arg(short, long)]
    group: Option<String>,
    /// Take records from this queue: each goes to one of its consumers, and is done when it is printed
    #[arg(short, long, conflicts_with_all = ["group", "partitions"])]
    queue: Option<String>,
    /// How a record is printed
    #[arg(short, long, default_value = "%v\\n", conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  anabranch consume orders                     What is there, then what comes
  anabranch consume orders --to end            What is there
  anabranch consume orders --from end          What comes
  anabranch consume orders --from -10          The last ten of each partition, then what comes
  anabranch consume orders --from @2013-07-01T00:00:00Z --to @2013-07-02T00:00:00Z
  anabranch consume orders --group billing     As a member of a group
  anabranch consume orders --queue shipping    As one who takes work from a queue
  anabranch consume orders -f '%p %o %k=%v\\n'
  anabranch consume orders --json | jq .value";

const PLACES_AND_FIELDS: &str = "\
Places, for --from and --to:
  beginning    the oldest record that is kept
  end          after the newest record there is now
  OFFSET       a number; --to stops before it
  -N           N records before the end
  @TIME        the first record at least as late; milliseconds since 1970, or RFC 3339

Fields, for --format:
  %k key   %v value (also %s)   %t topic   %p partition   %o offset   %h headers
  %T timestamp in ms   %K %S length of key and value, -1 when null   %% a per cent sign
  \\n \\r \\t \\0 \\\\ \\xNN as usual

With --json, each record is an object on a line; keys and values that are no UTF-8 text stand under
key_base64 and value_base64.";

pub(super) fn run(args: &ConsumeArgs, output: &mut Output) -> anyhow::Result<()> {
    args.engine.run(async |engine| {
        let mut stop = stop_on_signals()?;
        let mut printer = Printer::new(args, output);
        let reading = async {
            match (&args.group, &args.queue) {
                (Some(group), _) => as_member(args, group, engine, &mut printer, &mut stop).await,
                (None, Some(queue)) => from_queue(args, queue, &**engine, &mut printer, &mut stop).await,
                (None, None) => alone(args, &**engine, &mut printer, &mut stop).await,
            }
        };
        reading.await?;
        printer.print()
    })
}

/// Turns true when the user wants it to end: records that were read are printed and the group is left in order.
fn stop_on_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tell.send_replace(true);
        // Whoever looks later sees it too.
        tell.closed().await;
    });
    Ok(told)
}

/// Prints records, and counts them.
struct Printer<'a> {
    args: &'a ConsumeArgs,
    output: &'a mut Output,
    buffer: Vec<u8>,
    printed: u64,
    /// Everything that was taken is out.
    is_printed: bool,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ConsumeArgs, output: &'a mut Output) -> Self {
        Self { args, output, buffer: Vec::new(), printed: 0, is_printed: true }
    }

    fn take(&mut self, shown: &Shown<'_>) -> anyhow::Result<()> {
        if self.output.is_json() {
            serde_json::to_writer(&mut self.buffer, &to_json(shown))?;
            self.buffer.push(b'\n');
        } else {
            self.args.format.write(shown, &mut self.buffer);
        }
        self.printed += 1;
        self.is_printed = false;
        if self.buffer.len() >= PRINT_BYTES {
            self.output.bytes(&std::mem::take(&mut self.buffer))?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.printed >= count)
    }

    fn print(&mut self) -> anyhow::Result<()> {
        self.is_printed = true;
        self.output.bytes(&std::mem::take(&mut self.buffer))?;
        self.output.flush()
    }
}

/// A partition that is read.
struct Part {
    at: TopicPartition,
    reader: Box<dyn Reader>,
}

/// What came of a read; the partition is read again unless it is dropped.
struct Came {
    part: Part,
    from: Position,
    fetched: Fetched,
}

type Reading = Pin<Box<dyn Future<Output = anyhow::Result<Came>> + Send>>;

impl Part {
    async fn open(engine: &dyn Engine, at: TopicPartition, from: Position) -> anyhow::Result<Self> {
        let reader = engine.reader(&at, from).await.told();
        Ok(Self { reader: reader.with_context(|| format!("cannot read {at}"))?, at })
    }

    fn read(mut self) -> Reading {
        Box::pin(async move {
            loop {
                let from = self.reader.position();
                match self.reader.read(ReadLimits::default()).await {
                    Ok(fetched) => return Ok(Came { part: self, from, fetched }),
                    // It comes back, or the user ends it.
                    Err(error @ EngineError::Away { .. }) => {
                        tracing::warn!("{}: {error}", self.at);
                        tokio::time::sleep(AWAY_PAUSE).await;
                    }
                    // What was to be read is too old meanwhile, or was deleted.
                    Err(EngineError::OutOfRange { earliest, .. }) if earliest > from => {
                        tracing::warn!("{}: records before {earliest} are gone", self.at);
                        self.reader.seek(earliest);
                    }
                    Err(error) => {
                        return Err(told(error)).with_context(|| format!("cannot read {}", self.at));
                    }
                }
            }
        })
    }
}

/// Reads partitions of its own choice.
async fn alone(
    args: &ConsumeArgs,
    engine: &dyn Engine,
    printer: &mut Printer<'_>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let topic = &args.topic;
    let failed = || format!("cannot read topic {topic}");
    let mut all = partitions(engine, topic).await.with_context(failed)?;
    if let Some(missing) =
        args.partitions.iter().find(|number| !all.iter().any(|at| at.partition == **number))
    {
        return Err(usage(format!("topic {topic} has no partition {missing}")));
    }
    all.retain(|at| args.partitions.is_empty() || args.partitions.contains(&at.partition));
    let mut ends = BTreeMap::new();
    let mut readings = FuturesUnordered::new();
    for at in all {
        let span = span(engine, &at).await?;
        let start = resolve(engine, &at, span, args.from).await?;
        let end = match args.to {
            Some(to) => resolve(engine, &at, span, to).await?,
            None => Position(u64::MAX),
        };
        if start < end {
            ends.insert(at.clone(), end);
            readings.push(Part::open(engine, at, start).await?.read());
        }
    }
    while !readings.is_empty() && !printer.is_done() {
        let Some(came) = next(&mut readings, printer, stop).await? else { return Ok(()) };
        let Came { part, from, fetched } = came;
        let end = ends[&part.at];
        let next = fetched.next;
        show(&part.at, from, fetched, end, printer)?;
        if next < end {
            readings.push(part.read());
        }
    }
    Ok(())
}

/// The next that comes; prints what there is before it waits. None when the user wants to end.
async fn next(
    readings: &mut FuturesUnordered<Reading>,
    printer: &mut Printer<'_>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<Option<Came>> {
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
            Some(came) = readings.next(), if !readings.is_empty() => return came.map(Some),
            () = std::future::ready(()), if !printer.is_printed => printer.print()?,
        }
    }
}

/// Takes the records before `end`, as many as are wanted; tells where the one after the last of them is.
fn show(
    at: &TopicPartition,
    from: Position,
    fetched: Fetched,
    end: Position,
    printer: &mut Printer<'_>,
) -> anyhow::Result<Position> {
    let records = fetched.block.into_records(from).with_context(|| format!("cannot read {at}"))?;
    for RecordAt { offset, record } in &records {
        let position = Position::from(*offset);
        if position >= end || printer.is_done() {
            return Ok(position);
        }
        printer.take(&Shown { at, position, record })?;
    }
    Ok(fetched.next)
}

/// Reads what a group gives it.
async fn as_member(
    args: &ConsumeArgs,
    group: &str,
    engine: &Arc<dyn Engine>,
    printer: &mut Printer<'_>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let begin = match args.from {
        Place::Beginning => SeamPlace::Earliest,
        Place::End => SeamPlace::Latest,
        _ => {
            return Err(usage(
                "a group begins where it stands: with --group, --from is beginning or end, for partitions where it does \
                 not stand anywhere yet (`anabranch group reset-offsets` moves it)",
            ));
        }
    };
    let to_end = match args.to {
        None => false,
        Some(Place::End) => true,
        Some(_) => return Err(usage("with --group, --to can only be end")),
    };
    let topic = &args.topic;
    partitions(&**engine, topic).await.with_context(|| format!("cannot read topic {topic}"))?;
    let failed = || format!("group {group} cannot go on");
    let mut member = engine.join(group, std::slice::from_ref(topic)).await.told().with_context(failed)?;
    let mut member_is_at = Standing::default();
    let mut readings: FuturesUnordered<Reading> = FuturesUnordered::new();
    let mut store = tokio::time::interval(STORE_EVERY);
    let outcome = loop {
        if printer.is_done() {
            break Ok(());
        }
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break Ok(()),
            event = member.next_event() => match event {
                Ok(GroupEvent::Assigned(assigned)) => {
                    readings.clear();
                    member_is_at = Standing::default();
                    for (at, position) in assigned {
                        let from = match position {
                            Some(position) => position,
                            None => engine.locate(&at, begin).await.told()?,
                        };
                        member_is_at.0.insert(at.clone(), Stand { next: from, stored: from, is_at_end: false });
                        readings.push(Part::open(&**engine, at, from).await?.read());
                    }
                }
                Ok(GroupEvent::Revoked(gone)) => {
                    printer.print()?;
                    member_is_at.store(&mut *member).await.with_context(failed)?;
                    member_is_at.0.retain(|at, _| !gone.contains(at));
                }
                Ok(GroupEvent::Lost(gone)) => member_is_at.0.retain(|at, _| !gone.contains(at)),
                Err(error @ EngineError::Away { .. }) => {
                    tracing::warn!("{error}");
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                Err(error) => break Err(told(error)).with_context(failed),
            },
            _ = store.tick() => {
                printer.print()?;
                member_is_at.store(&mut *member).await.with_context(failed)?;
            }
            Some(came) = readings.next(), if !readings.is_empty() => {
                if let Some(part) = member_is_at.take(came?, printer)? {
                    readings.push(part.read());
                }
                if to_end && member_is_at.is_at_end() {
                    break Ok(());
                }
            }
            // It prints what is there before it waits.
            () = std::future::ready(()), if !printer.is_printed => printer.print()?,
        }
    };
    printer.print()?;
    member_is_at
        .store(&mut *member)
        .await
        .with_context(|| format!("cannot store where group {group} stands"))?;
    member.leave().await.told().with_context(failed)?;
    outcome
}

/// Takes what a queue gives it.
async fn from_queue(
    args: &ConsumeArgs,
    queue: &str,
    engine: &dyn Engine,
    printer: &mut Printer<'_>,
    stop: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    if args.from != Place::Beginning {
        return Err(usage(
            "a queue begins at the oldest record, and goes on where it is: there is no --from",
        ));
    }
    let to_end = match args.to {
        None => false,
        Some(Place::End) => true,
        Some(_) => {
            return Err(usage("with --queue, --to can only be end: when nothing is to be done for a while"));
        }
    };
    let queues = engine.queues();
    let queues = queues.ok_or_else(|| usage(format!("{} has no queues", engine.description().engine)))?;
    let failed = || format!("queue {queue} cannot go on");
    let mut consumer =
        queues.consumer(QueueSpec::new(queue, [&args.topic])).await.told().with_context(failed)?;
    let wait_max = if to_end { QUEUE_ENDS_AFTER } else { TakeLimits::default().wait_max };
    while !printer.is_done() {
        let left = args.count.map_or(usize::MAX, |count| (count - printer.printed) as usize);
        let default = TakeLimits::default();
        let limits = TakeLimits { deliveries_max: default.deliveries_max.min(left), wait_max, ..default };
        let taken = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            taken = consumer.next(limits) => taken,
        };
        let deliveries = match taken {
            Ok(deliveries) => deliveries,
            Err(error @ EngineError::Away { .. }) => {
                tracing::warn!("{error}");
                tokio::time::sleep(AWAY_PAUSE).await;
                continue;
            }
            Err(error) => return Err(told(error)).with_context(failed),
        };
        if deliveries.is_empty() && to_end {
            break;
        }
        for Delivery { at, record, .. } in &deliveries {
            printer.take(&Shown { at, position: record.offset.into(), record: &record.record })?;
        }
        printer.print()?;
        let done = deliveries.into_iter().map(|delivery| (delivery.ticket, Settlement::Accept)).collect();
        let late = consumer.settle(done).await.told().with_context(failed)?;
        let late = late.iter().filter(|done| done.is_err()).count();
        if late > 0 {
            tracing::warn!("{late} records were printed too late, and come again");
        }
    }
    consumer.leave().await.told().with_context(failed)
}

/// How far a member has printed.
#[derive(Default)]
struct Standing(BTreeMap<TopicPartition, Stand>);

struct Stand {
    next: Position,
    stored: Position,
    is_at_end: bool,
}

impl Standing {
    /// Takes records; gives back the partition if it is still the member's.
    fn take(&mut self, came: Came, printer: &mut Printer<'_>) -> anyhow::Result<Option<Part>> {
        let Came { part, from, fetched } = came;
        let Some(stand) = self.0.get_mut(&part.at) else { return Ok(None) };
        // Another assignment has brought it back elsewhere.
        if from < stand.next {
            return Ok(None);
        }
        stand.is_at_end = fetched.next >= fetched.latest;
        stand.next = show(&part.at, from, fetched, Position(u64::MAX), printer)?;
        Ok(Some(part))
    }

    fn is_at_end(&self) -> bool {
        !self.0.is_empty() && self.0.values().all(|stand| stand.is_at_end)
    }

    /// Stores what was printed: a record that was not is read again by whoever comes next.
    async fn store(&mut self, member: &mut dyn GroupMember) -> anyhow::Result<()> {
        let news = self.0.iter().filter(|(_, stand)| stand.next > stand.stored);
        let positions: Vec<_> = news.map(|(at, stand)| (at.clone(), stand.next)).collect();
        if positions.is_empty() {
            return Ok(());
        }
        match member.commit(&positions).await {
            Ok(()) => {
                for stand in self.0.values_mut() {
                    stand.stored = stand.next;
                }
                Ok(())
            }
            // A partition that went to another member in the meantime is that member's business; and what is not stored now
            // is stored with the next.
            Err(error @ (EngineError::Fenced { .. } | EngineError::Away { .. } | EngineError::Failed(_))) => {
                tracing::debug!(%error, "where the group stands was not stored");
                Ok(())
            }
            Err(error) => Err(told(error)),
        }
    }
}

/// The position of a place. It is never below what the partition holds.
async fn resolve(
    engine: &dyn Engine,
    at: &TopicPartition,
    span: Span,
    place: Place,
) -> anyhow::Result<Position> {
    Ok(match place {
        Place::Beginning => span.start,
        Place::End => span.end,
        Place::BeforeEnd(records) => Position(span.end.0.saturating_sub(records)).max(span.start),
        Place::Offset(offset) => Position(offset).max(span.start),
        Place::Time(ms) => {
            let found = engine.locate(at, SeamPlace::AtTime(ms)).await.told();
            found.with_context(|| format!("cannot look up a time in {at}"))?
        }
    })
}
