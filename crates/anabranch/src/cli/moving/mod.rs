//! `anabranch move`

mod gate;
mod lookout;
mod own;
mod report;
mod side;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anabranch::engine::Engine;
use anabranch_move::{Move, MoveError};
use anyhow::Context;

use self::lookout::Newcomers;
use self::own::{Left, Own};
use self::side::{Side, open_source, open_target};
use super::failure::{Advise, usage};
use super::output::Output;

/// Move topics and groups from one engine to another, while they are in use
///
/// Records are copied in order, with keys, headers and timestamps, and read back and compared with the source, all of
/// them. Where groups stand is translated exactly: an application goes on at the record after its last commit. Flows and
/// queues go on where they were, too: what they have stored is moved with their topics. At the end the source is held
/// still for a moment. Interrupted anywhere, the same command goes on where it was.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MoveArgs {
    /// What to move from: a data directory, embedded:DIR, kafka://HOST:PORT or nats://HOST:PORT
    #[arg(long, value_name = "ENGINE")]
    from: String,
    /// What to move to
    #[arg(long, value_name = "ENGINE")]
    to: String,
    /// These topics only, with commas between [default: all]
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    topics: Vec<String>,
    /// These groups only, with commas between [default: all that stand in these topics]
    #[arg(long, value_name = "GROUP", value_delimiter = ',')]
    groups: Vec<String>,
    /// Where the move keeps its notes [default: DIR/moves for a data directory, else ./anabranch-move]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How long a source must have stood still that is not a data directory: nothing is appended for so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    still: Duration,
    /// How many seconds a data directory is held still at most: its producers wait so long
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    pause_max: Duration,
    /// What becomes of clients that come to the old server after the move from a data directory
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = OldClients::Refuse)]
    old_clients: OldClients,
    /// Look at what is to be done, and do none of it
    #[arg(long)]
    dry_run: bool,
    /// Give the move from a data directory up, decided or not: its topics take records again, and forget old ones. What was
    /// copied stays where it is
    #[arg(long, conflicts_with = "dry_run")]
    abandon: bool,
}

/// What becomes of old clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OldClients {
    /// They get an error that names the target, and are to be started with the new address
    Refuse,
    /// They are told of the target's brokers, and go on there by themselves: all topics must move, to a kafka://
    Redirect,
}

const EXAMPLES: &str = "\
Examples:
  anabranch move --from ./data --to kafka://one:9092,two:9092?replication=3 --dry-run
  anabranch move --from ./data --to kafka://one:9092,two:9092?replication=3
  anabranch move --from ./data --to kafka://one:9092 --old-clients redirect
  anabranch move --from ./data --to nats://one:4222 --topics orders,bills
  anabranch move --from kafka://one:9092 --to ./data     Stop the producers when it asks for that";

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let text = text.strip_suffix('s').unwrap_or(text);
    let seconds: f64 = text.parse().map_err(|_| "it is no number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

pub(super) fn run(args: &MoveArgs, output: &mut Output) -> anyhow::Result<ExitCode> {
    super::client::start_logging();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if args.abandon {
        runtime.block_on(side::abandon(&side::address(&args.from), &side::address(&args.to)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let moved = runtime.block_on(move_all(args, output.is_json()));
    let moved = moved?;
    match output.is_json() {
        true => output.json(&report::as_json(&moved))?,
        false => report::show(&moved, output)?,
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn move_all(args: &MoveArgs, is_json: bool) -> anyhow::Result<Moved> {
    let (from, to) = (side::address(&args.from), side::address(&args.to));
    if from == to {
        return Err(usage("--from and --to are the same"));
    }
    let redirect = match args.old_clients {
        OldClients::Refuse => None,
        OldClients::Redirect => Some(side::elsewhere(&from, &to).await?),
    };
    let is_redirected = redirect.is_some();
    let Side { engine: source, gate, notes, hint } =
        open_source(&from, &to, args.still, args.pause_max, redirect).await?;
    let target = match open_target(&to).await {
        Ok(target) => target,
        Err(error) => {
            source.close().await;
            return Err(error);
        }
    };
    let notes = args.state.clone().unwrap_or(notes).join(Move::id(&*source, &*target));
    let moved = async {
        let Chosen { topics, own: Own { carried, left }, all } = choose(args, &*source, &*target).await?;
        if let (true, Some(stays)) = (is_redirected, all.iter().find(|name| !topics.contains(name))) {
            return Err(usage(format!(
                "--old-clients redirect: topic {stays} stays, and a client's metadata cannot be of two clusters"
            )))
            .advise("Move all topics, and delete before what cannot be; or let old clients be refused.");
        }
        let mut moving = Move::new(source.clone(), target.clone(), gate).notes(&notes).dry_run(args.dry_run);
        // What is named is all that is wanted.
        if args.topics.is_empty() {
            let (source, target, planned) = (source.clone(), target.clone(), topics.clone());
            let waiting = left.iter().filter(|left| left.is_empty).map(|left| left.topic.clone()).collect();
            let lookout = Newcomers { source, target, known: all, waiting, planned, is_redirected };
            moving = moving.lookout(Box::new(lookout));
        }
        moving = moving.topics(topics).carrying(carried);
        if !args.groups.is_empty() {
            moving = moving.groups(args.groups.iter().cloned());
        }
        let view = view::show(moving.progress(), hint, is_json);
        let moved = tokio::select! {
            moved = moving.run() => moved.map_err(advised),
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")).advise("The same command goes on where it was."),
        };
        view.end().await;
        Ok(Moved { report: moved?, left, is_redirected })
    };
    let moved = moved.await;
    target.close().await;
    source.close().await;
    moved
}

/// What is moved, and what stays.
struct Chosen {
    topics: Vec<String>,
    /// What of a flow's or a queue's own is carried and what is left.
    own: Own,
    /// All topics that there are.
    all: Vec<String>,
}

/// What came of it.
struct Moved {
    report: anabranch_move::Report,
    left: Vec<Left>,
    /// Old clients are sent on.
    is_redirected: bool,
}

async fn choose(args: &MoveArgs, source: &dyn Engine, target: &dyn Engine) -> anyhow::Result<Chosen> {
    let all = lookout::topics(source).await.context("cannot list the topics of the source")?;
    let wanted = if args.topics.is_empty() { all.clone() } else { args.topics.clone() };
    let own = own::own_topics(source, target, &all, &wanted).await.context("cannot read the source")?;
    if let (false, Some(Left { topic, why, .. })) = (args.topics.is_empty(), own.left.first()) {
        return Err(usage(format!("--topics {topic}: it is a flow's or a queue's own, and {why}"))).advise(
            "Leave it out, or move what it needs with it. Without it a flow reads its input again there and writes its results under the same keys; a queue begins where its group stands.",
        );
    }
    let is_left = |name: &String| own.left.iter().any(|left| left.topic == *name);
    let topics = wanted.into_iter().filter(|name| !is_left(name)).collect();
    Ok(Chosen { topics, own, all })
}

/// What to do about what stopped a move.
fn advised(error: MoveError) -> anyhow::Error {
    let advice = match &error {
        MoveError::AfterSwitch(_) => "The same command does what is left.",
        MoveError::Unknown { what: "topic", .. } => "`anabranch topic list` shows what there is.",
        MoveError::Unknown { .. } => "`anabranch group list` shows what there is.",
        MoveError::Diverged { .. } | MoveError::Surplus { .. } | MoveError::Gone { .. } => {
            "The source is as it was. After the topic is deleted in the target, the same command copies it anew."
        }
        _ => "The source is as it was. The same command goes on where the move is.",
    };
    super::failure::advised(anyhow::Error::from(error).context("the move stopped"), advice)
}
