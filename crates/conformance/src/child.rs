//! What a child process does until it is killed: it says on standard output what it was told was done.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anabranch_core::TopicPartition;
use anabranch_core::engine::{
    AppendOptions, Durability, Engine, EngineError, GroupPositions, Position, QueueConsumer, QueueSpec,
    Settlement, TakeLimits,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;

use crate::behaviours::queue::queues;
use crate::ground::Ground;
use crate::stage::{Outcome, Stage, Stop, record, text, transactions};

/// Set in a child: what it is to do, in words.
pub const CHILD: &str = "ANABRANCH_CONFORMANCE_CHILD";

/// Begins each line that a child says, among those of the test harness.
const SAYS: &str = "conformance child: ";

/// In a child, plays the part that the environment names, and says so; elsewhere does nothing.
///
/// # Panics
/// The engine fails.
pub async fn play(ground: &dyn Ground) {
    let Ok(part) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = part.split(' ').collect();
    let engine = ground.open("child").await.expect("a child opens the engine");
    // The topic may have to get round first. Who waits in vain is killed.
    while let Err(EngineError::NotFound(_)) = engine.partition_count(words[1]).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let done = match words[..] {
        ["append", topic, durability] => appends(&*engine, topic, durability).await,
        ["commit", topic, id, group] => commits(&*engine, topic, id, group).await,
        ["member", topic, group] => joins(&*engine, topic, group).await,
        ["accept", topic, group] => accepts(&*engine, topic, group).await,
        ["take", topic, group] => takes(&*engine, topic, group).await,
        ["keep", topic, group] => keeps(&*engine, topic, group).await,
        _ => panic!("no such part: {part}"),
    };
    done.unwrap_or_else(|stop| panic!("{part}: {stop}"));
}

fn say(what: std::fmt::Arguments<'_>) {
    // A child that was killed by its parent says this to nobody.
    println!("{SAYS}{what}");
}

/// Appends numbers without an end, and says each when it is acknowledged.
async fn appends(engine: &dyn Engine, topic: &str, durability: &str) -> Outcome {
    let at = TopicPartition::new(topic, 0);
    let durability = match durability {
        "written" => Durability::Written,
        _ => Durability::Durable,
    };
    for number in 0_u64.. {
        engine.append(&at, record(&number.to_string()).into(), AppendOptions::new(durability)).await?;
        say(format_args!("did {number}"));
    }
    Ok(())
}

/// Commits numbers to two partitions with the group's position, without an end, and says each when it is done.
async fn commits(engine: &dyn Engine, topic: &str, id: &str, group: &str) -> Outcome {
    let mut producer = transactions(engine)?.producer(id, Duration::from_secs(60)).await?;
    for number in 0_u64.. {
        let appends = (0..2)
            .map(|partition| (TopicPartition::new(topic, partition), record(&number.to_string()).into()));
        let stands = vec![(TopicPartition::new(topic, 0), Position(number + 1))];
        let positions = Some(GroupPositions { group: group.to_owned(), positions: stands });
        producer.commit(appends.collect(), positions).await?;
        say(format_args!("did {number}"));
    }
    Ok(())
}

/// Joins a group and commits positions without an end.
async fn joins(engine: &dyn Engine, topic: &str, group: &str) -> Outcome {
    let at = TopicPartition::new(topic, 0);
    let mut member = engine.join(group, &[topic.to_owned()]).await?;
    member.next_event().await?;
    for number in 0_u64.. {
        member.commit(&[(at.clone(), Position(number))]).await?;
        say(format_args!("did {number}"));
    }
    Ok(())
}

/// A consumer that takes at most so many records at once, and what is not settled soon comes again.
async fn consumer(
    engine: &dyn Engine,
    (topic, group): (&str, &str),
    deliveries_max: usize,
) -> Outcome<(Box<dyn QueueConsumer>, TakeLimits)> {
    let spec = QueueSpec { settle_within: Duration::from_secs(2), ..QueueSpec::new(group, [topic]) };
    let limits = TakeLimits { deliveries_max, ..TakeLimits::default() };
    Ok((queues(engine)?.consumer(spec).await?, limits))
}

/// Accepts records one by one, and says each when it is done.
async fn accepts(engine: &dyn Engine, topic: &str, group: &str) -> Outcome {
    let (mut consumer, limits) = consumer(engine, (topic, group), 1).await?;
    loop {
        for taken in consumer.next(limits).await? {
            if consumer.settle(vec![(taken.ticket, Settlement::Accept)]).await?[0].is_ok() {
                say(format_args!("did {}", text(&taken.record.record)));
            }
        }
    }
}

/// Takes records, says each, and settles none.
async fn takes(engine: &dyn Engine, topic: &str, group: &str) -> Outcome {
    let (mut consumer, limits) = consumer(engine, (topic, group), 10).await?;
    for taken in consumer.next(TakeLimits { wait_max: Duration::from_secs(60), ..limits }).await? {
        say(format_args!("did {}", text(&taken.record.record)));
    }
    std::future::pending().await
}

/// Takes a record and extends it again and again, until it is too late. Rejects it then.
async fn keeps(engine: &dyn Engine, topic: &str, group: &str) -> Outcome {
    let (mut consumer, limits) = consumer(engine, (topic, group), 1).await?;
    let taken = consumer.next(TakeLimits { wait_max: Duration::from_secs(60), ..limits }).await?;
    for number in 0_u64.. {
        if consumer.extend(&[taken[0].ticket]).await?[0].is_err() {
            break;
        }
        say(format_args!("did {number}"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let reason = "it is mine".to_owned();
    consumer.settle(vec![(taken[0].ticket, Settlement::Reject { reason })]).await?;
    // What it has said counts, and no leave: it is as if it had not.
    std::process::exit(0)
}

/// A child that works.
#[derive(Debug)]
pub(crate) struct Working {
    child: Child,
    said: mpsc::UnboundedReceiver<u64>,
}

impl Stage {
    /// Starts a child with this part. All that this process has open is closed first, where only one can have it.
    pub(crate) async fn child(&self, part: &str) -> Outcome<Working> {
        let Some(mut command) = self.ground().child() else {
            return Err(Stop::Lacks("no child process can be started here".to_owned()));
        };
        if !self.ground().is_shared() {
            self.ground().release().await;
        }
        command.env(CHILD, part).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("this program can be started");
        let (say, said) = mpsc::unbounded_channel();
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        std::thread::spawn(move || {
            // The harness may have begun the line.
            let numbers = lines
                .map_while(Result::ok)
                .filter_map(|line| line.split_once(SAYS)?.1.strip_prefix("did ")?.parse().ok());
            numbers.take_while(|&number| say.send(number).is_ok()).for_each(drop);
        });
        Ok(Working { child, said })
    }

    /// Starts a child that is there beside this process.
    pub(crate) async fn child_beside(&self, part: &str) -> Outcome<Working> {
        match self.ground().is_shared() {
            true => self.child(part).await,
            false => Err(Stop::Lacks("the engine is in one process at a time".to_owned())),
        }
    }

    /// Lets it work until it has said that `until` was done.
    pub(crate) async fn work(&self, working: &mut Working, until: u64) -> Outcome<u64> {
        loop {
            let last = ensure_some(self.soon("a child's work", working.said.recv()).await?)?;
            if last >= until {
                return Ok(last);
            }
        }
    }

    /// Lets it work until it ends by itself.
    pub(crate) async fn end(&self, mut working: Working) -> Outcome {
        let ends = async { while working.said.recv().await.is_some() {} };
        self.soon("a child whose work was taken", ends).await
    }

    /// Lets it work until it has said that `until` was done, kills it, and tells the last that it said.
    pub(crate) async fn kill_after(&self, mut working: Working, until: u64) -> Outcome<u64> {
        let mut last = Some(self.work(&mut working, until).await?);
        working.kill();
        while let Some(number) = working.said.recv().await {
            last = Some(number);
        }
        ensure_some(last)
    }
}

fn ensure_some(last: Option<u64>) -> Outcome<u64> {
    last.ok_or_else(|| Stop::Broken("a child process ended by itself".to_owned()))
}

impl Working {
    /// Stops it where it stands, as a machine that hangs does.
    pub(crate) fn halt(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child takes signals");
    }

    fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child that was killed ends");
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // It may be dead already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
