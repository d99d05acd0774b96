//! `anabranch consume`

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{ClusterArgs, LogContext, Observer, Span, client_error, code_error};
use super::failure::usage;
use super::format::{Format, Shown, to_json};
use super::output::Output;
use super::place::Place;

/// How long to wait for a record before looking whether to stop.
const POLL: Duration = Duration::from_millis(100);
/// Records are printed together up to this many bytes, and whenever no more are there.
const PRINT_BYTES: usize = 64 << 10;

/// Print the records of a topic
///
/// It prints what is there and then what comes, until Ctrl-C; with --to or --count it ends by itself. Without --group it
/// reads every partition and leaves no trace; with it, the partitions are shared with the group's other members, and
/// where the group stands is stored after records are printed.
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
    /// How a record is printed
    #[arg(short, long, default_value = "%v\\n", conflicts_with = "json")]
    format: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

const EXAMPLES: &str = "\
Examples:
  anabranch consume orders                     What is there, then what comes
  anabranch consume orders --to end            What is there
  anabranch consume orders --from end          What comes
  anabranch consume orders --from -10          The last ten of each partition, then what comes
  anabranch consume orders --from @2013-07-01T00:00:00Z --to @2013-07-02T00:00:00Z
  anabranch consume orders --group billing     As a member of a group
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
    let stop = stop_on_signals()?;
    match &args.group {
        Some(group) => as_member(args, group, &stop, output),
        None => alone(args, &stop, output),
    }
}

/// Set when the user wants it to end: records that were read are printed and the group is left in order.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let listen = |kind| {
        let _inside = runtime.enter();
        signal(kind).context("cannot listen for signals")
    };
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        told.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// Prints records and remembers how far.
struct Printer<'a> {
    args: &'a ConsumeArgs,
    output: &'a mut Output,
    buffer: Vec<u8>,
    printed: u64,
    /// After the last record in the buffer or printed, by partition.
    next: BTreeMap<i32, i64>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a ConsumeArgs, output: &'a mut Output) -> Self {
        Self { args, output, buffer: Vec::new(), printed: 0, next: BTreeMap::new() }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let shown = Shown::from(message);
        if self.output.is_json() {
            serde_json::to_writer(&mut self.buffer, &to_json(&shown))?;
            self.buffer.push(b'\n');
        } else {
            self.args.format.write(&shown, &mut self.buffer);
        }
        self.next.insert(message.partition(), message.offset() + 1);
        self.printed += 1;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.buffer.len() >= PRINT_BYTES
    }

    fn is_done(&self) -> bool {
        self.args.count.is_some_and(|count| self.printed >= count)
    }

    fn print(&mut self) -> anyhow::Result<()> {
        self.output.bytes(&self.buffer)?;
        self.buffer.clear();
        self.output.flush()
    }
}

/// Reads partitions of its own choice.
fn alone(args: &ConsumeArgs, stop: &AtomicBool, output: &mut Output) -> anyhow::Result<()> {
    let topic = &args.topic;
    // librdkafka reads partitions only in the name of a group; nothing is ever stored under it.
    let settings = [("group.id", "anabranch-consume"), ("enable.partition.eof", "true")];
    let observer = args.cluster.observe(&settings)?;
    let spans = spans(args, &observer)?;
    let starts = resolve(&observer, topic, &spans, args.from)?;
    let ends = match args.to {
        Some(to) => resolve(&observer, topic, &spans, to)?,
        None => BTreeMap::new(),
    };
    let is_before_end = |partition: i32, offset: i64| ends.get(&partition).is_none_or(|end| offset < *end);
    let mut open: BTreeSet<i32> =
        spans.keys().copied().filter(|partition| is_before_end(*partition, starts[partition])).collect();
    let consumer = &observer.consumer;
    let mut assignment = TopicPartitionList::new();
    for partition in &open {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(starts[partition]))?;
    }
    consumer.assign(&assignment).context("cannot begin to read")?;

    let mut printer = Printer::new(args, output);
    while !open.is_empty() && !printer.is_done() && !stop.load(Ordering::Relaxed) {
        match consumer.poll(if printer.buffer.is_empty() { POLL } else { Duration::ZERO }) {
            None => printer.print()?,
            Some(Ok(message)) => {
                let partition = message.partition();
                if open.contains(&partition) && is_before_end(partition, message.offset()) {
                    printer.take(&message)?;
                }
                if !is_before_end(partition, message.offset() + 1) && open.remove(&partition) {
                    pause(consumer, topic, partition)?;
                }
            }
            // Everything that the partition held at the start was read. What was not seen of it is no record: the end of
            // a transaction, or compacted away.
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                if !is_before_end(partition, spans[&partition].end) {
                    open.remove(&partition);
                }
            }
            Some(Err(error)) => tolerate(error, topic)?,
        }
        if printer.is_full() {
            printer.print()?;
        }
    }
    printer.print()
}

/// Where the partitions that are to be read begin and end now.
fn spans(args: &ConsumeArgs, observer: &Observer) -> anyhow::Result<BTreeMap<i32, Span>> {
    let all = observer.partitions(&args.topic)?;
    if let Some(missing) = args.partitions.iter().find(|number| !all.contains(number)) {
        return Err(usage(format!("topic {} has no partition {missing}", args.topic)));
    }
    let wanted =
        all.into_iter().filter(|number| args.partitions.is_empty() || args.partitions.contains(number));
    wanted.map(|partition| Ok((partition, observer.span(&args.topic, partition)?))).collect()
}

fn pause(consumer: &BaseConsumer<LogContext>, topic: &str, partition: i32) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    consumer.pause(&list).context("cannot pause a partition that was read to its end")
}

/// Reads what a group gives it.
fn as_member(args: &ConsumeArgs, group: &str, stop: &AtomicBool, output: &mut Output) -> anyhow::Result<()> {
    let reset = match args.from {
        Place::Beginning => "earliest",
        Place::End => "latest",
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
    let config = args.cluster.config(&[
        ("group.id", group),
        ("auto.offset.reset", reset),
        ("enable.auto.commit", "true"),
        // Stored when they are printed, not when they are read.
        ("enable.auto.offset.store", "false"),
        ("enable.partition.eof", "true"),
    ])?;
    let consumer: BaseConsumer<LogContext> = config.create_with_context(LogContext).map_err(client_error)?;
    consumer.subscribe(&[&args.topic]).with_context(|| format!("cannot subscribe to {}", args.topic))?;

    let mut printer = Printer::new(args, output);
    let mut at_end = BTreeSet::new();
    while !printer.is_done() && !stop.load(Ordering::Relaxed) {
        match consumer.poll(if printer.buffer.is_empty() { POLL } else { Duration::ZERO }) {
            None => store(&consumer, &mut printer)?,
            Some(Ok(message)) => {
                at_end.remove(&message.partition());
                printer.take(&message)?;
                if printer.is_full() {
                    store(&consumer, &mut printer)?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition);
                let assigned = consumer.assignment().context("cannot read the assignment")?;
                if to_end && assigned.elements().iter().all(|mine| at_end.contains(&mine.partition())) {
                    break;
                }
            }
            Some(Err(error)) => tolerate(error, &args.topic)?,
        }
    }
    store(&consumer, &mut printer)?;
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(rdkafka::types::RDKafkaErrorCode::NoOffset)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot store where group {group} stands")),
    }
}

/// Prints, and then says so: a record that was not printed is read again by whoever comes next.
fn store(consumer: &BaseConsumer<LogContext>, printer: &mut Printer<'_>) -> anyhow::Result<()> {
    printer.print()?;
    for (partition, next) in std::mem::take(&mut printer.next) {
        // A partition that went to another member in the meantime is that member's business.
        let stored = consumer.store_offset(&printer.args.topic, partition, next - 1);
        if let Err(error) = stored {
            tracing::debug!(partition, %error, "the offset was not stored");
        }
    }
    Ok(())
}

/// Errors after which librdkafka goes on by itself are told by its log; the others end the command.
fn tolerate(error: KafkaError, topic: &str) -> anyhow::Result<()> {
    use rdkafka::types::RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(
            Code::BrokerTransportFailure | Code::AllBrokersDown | Code::OperationTimedOut | Code::Resolve,
        ) => Ok(()),
        Some(code @ (Code::UnknownTopicOrPartition | Code::UnknownTopic)) => {
            Err(code_error(code)).with_context(|| format!("cannot read topic {topic}"))
        }
        _ => Err(error).with_context(|| format!("cannot read topic {topic}")),
    }
}

/// The offset of a place, in each partition. It is never below what the partition holds.
fn resolve(
    observer: &Observer,
    topic: &str,
    spans: &BTreeMap<i32, Span>,
    place: Place,
) -> anyhow::Result<BTreeMap<i32, i64>> {
    if let Place::Time(time_ms) = place {
        let asked: Vec<(String, i32)> =
            spans.keys().map(|partition| (topic.to_owned(), *partition)).collect();
        let found = observer.at_time(&asked, time_ms)?;
        return Ok(found.into_iter().map(|((_, partition), offset)| (partition, offset)).collect());
    }
    let offset = |span: &Span| match place {
        Place::Beginning => span.start,
        Place::End | Place::Time(_) => span.end,
        Place::BeforeEnd(records) => span.end.saturating_sub(records).max(span.start),
        Place::Offset(offset) => offset.max(span.start),
    };
    Ok(spans.iter().map(|(partition, span)| (*partition, offset(span))).collect())
}
