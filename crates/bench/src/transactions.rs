//! Producers that do nothing but transactions, one after the other: a batch for each of some partitions in one request, and a
//! commit. As Kafka's newest client does it (KIP-890): partitions are added by producing to them, and every commit gives the
//! producer a new epoch.

use std::thread;
use std::time::{Duration, Instant};

use anabranch_core::batch::{Batch, check_batch};
use anabranch_core::{ProducerEpoch, ProducerId};
use anabranch_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use anabranch_wire::messages::{
    self, ApiKey, EndTxnRequest, EndTxnResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse, TransactionalId,
};
use anabranch_wire::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use anyhow::{Context, bail, ensure};
use serde::Serialize;

use crate::latency::{Latencies, Latency, cpu_seconds};
use crate::request::{Codec, Connection, batch};
use crate::topic::name;

/// The newest that have a topic by its name and an epoch with each end.
const PRODUCE: i16 = 12;
const END: i16 = 5;
const INIT: i16 = 5;
const FIND: i16 = 2;

/// Of transactions, to FindCoordinator.
const KEY_TYPE: i8 = 1;

/// The coordinator is being made, or the transaction before is still being ended: both go on by themselves.
const RETRIED: [i16; 4] = [14, 15, 16, 51];

/// Before a request is tried again: less than any client waits, so that it is the server that is measured.
const PAUSE: Duration = Duration::from_millis(1);

/// A request that has been tried for so long is not going to succeed.
const RETRIES_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Producers, each with a transactional id and a connection of its own
    #[arg(long, default_value_t = 1)]
    producers: u32,
    /// Batches in a transaction, each for another partition
    #[arg(long, default_value_t = 1)]
    batches: u32,
    #[arg(long, default_value_t = 10)]
    batch_records: usize,
    #[arg(long, default_value_t = 100)]
    record_bytes: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds before those, which are not counted
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Committed {
    transactions_per_second: f64,
    /// From the request to end it to the answer that it is committed, in microseconds.
    commit_us: Latency,
    /// From its first byte to the answer that it is committed, in microseconds.
    transaction_us: Latency,
    /// All that were committed, those that were not counted included.
    transactions_total: u64,
    client_cpu_seconds: f64,
}

/// One of the producers.
struct Producer {
    connection: Connection,
    id: TransactionalId,
    producer: ProducerId,
    epoch: ProducerEpoch,
    topic: String,
    batch: Batch,
    partitions: Vec<u32>,
}

struct Tally {
    commits: Latencies,
    transactions: Latencies,
    total: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Committed> {
    ensure!(
        (1..=options.partitions).contains(&options.batches) && options.producers > 0,
        "a transaction has a batch for 1 to all of the partitions"
    );
    let counted_from = Instant::now() + Duration::from_secs_f64(options.warm_up);
    let end = counted_from + Duration::from_secs_f64(options.seconds);
    let tallies = thread::scope(|scope| {
        let one = |number| scope.spawn(move || Producer::open(options, number)?.work(counted_from, end));
        let working: Vec<_> = (0..options.producers).map(one).collect();
        let done = working.into_iter().map(|producer| producer.join().expect("a producer does not panic"));
        done.collect::<anyhow::Result<Vec<Tally>>>()
    })?;
    let (mut commits, mut transactions, mut total) = (Latencies::new(), Latencies::new(), 0);
    for tally in &tallies {
        commits.add(&tally.commits);
        transactions.add(&tally.transactions);
        total += tally.total;
    }
    let transaction_us = transactions.summary();
    ensure!(transaction_us.count > 0, "nothing was committed in the time that counts");
    Ok(Committed {
        transactions_per_second: transaction_us.count as f64 / options.seconds,
        commit_us: commits.summary(),
        transaction_us,
        transactions_total: total,
        client_cpu_seconds: cpu_seconds(),
    })
}

impl Producer {
    fn open(options: &Options, number: u32) -> anyhow::Result<Self> {
        let mut connection = Connection::open(&options.bootstrap)?;
        let id = TransactionalId(StrBytes::from_string(format!("{}-{number}", options.topic)));
        // Kafka makes the topic of its coordinator when it is asked for.
        let find = FindCoordinatorRequest::default().with_key(id.0.clone()).with_key_type(KEY_TYPE);
        let found = |answer: &FindCoordinatorResponse| answer.error_code;
        until_taken(|| ask(&mut connection, ApiKey::FindCoordinator, FIND, &find), found)
            .context("looking for the coordinator")?;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(messages::ProducerId(-1))
            .with_producer_epoch(-1);
        let given = |answer: &InitProducerIdResponse| answer.error_code;
        let answer = until_taken(|| ask(&mut connection, ApiKey::InitProducerId, INIT, &request), given)
            .context("asking for a producer id")?;
        let first = u64::from(number) * u64::from(options.partitions) / u64::from(options.producers);
        let partitions = (0..options.batches)
            .map(|at| ((first + u64::from(at)) % u64::from(options.partitions)) as u32)
            .collect();
        Ok(Self {
            connection,
            id,
            producer: ProducerId(answer.producer_id.0),
            epoch: ProducerEpoch(answer.producer_epoch),
            topic: options.topic.clone(),
            batch: check_batch(&batch(options.batch_records, options.record_bytes, Codec::None)?)?,
            partitions,
        })
    }

    /// One transaction after the other, until the end.
    fn work(mut self, counted_from: Instant, end: Instant) -> anyhow::Result<Tally> {
        let mut tally = Tally { commits: Latencies::new(), transactions: Latencies::new(), total: 0 };
        loop {
            let begun = Instant::now();
            if begun >= end {
                return Ok(tally);
            }
            self.produce()?;
            let produced = Instant::now();
            self.commit()?;
            let committed = Instant::now();
            tally.total += 1;
            if begun >= counted_from && committed < end {
                tally.commits.record(committed - produced);
                tally.transactions.record(committed - begun);
            }
        }
    }

    fn produce(&mut self) -> anyhow::Result<()> {
        // A partition that has been refused has nothing of the batch; one that has it must not get it again.
        let mut left = self.partitions.clone();
        // With its new epoch, a producer's sequence numbers begin anew.
        let records = self.batch.in_transaction(self.producer, self.epoch, 0);
        let deadline = Instant::now() + RETRIES_MAX;
        loop {
            let data = |&index: &u32| {
                PartitionProduceData::default().with_index(index as i32).with_records(Some(records.clone()))
            };
            let topic = TopicProduceData::default()
                .with_name(name(&self.topic))
                .with_partition_data(left.iter().map(data).collect());
            let request = ProduceRequest::default()
                .with_transactional_id(Some(self.id.clone()))
                .with_acks(-1)
                .with_timeout_ms(30_000)
                .with_topic_data(vec![topic]);
            let answer: ProduceResponse = ask(&mut self.connection, ApiKey::Produce, PRODUCE, &request)?;
            left.clear();
            for one in answer.responses.iter().flat_map(|topic| &topic.partition_responses) {
                match one.error_code {
                    0 => {}
                    code if RETRIED.contains(&code) => left.push(one.index as u32),
                    code => bail!("partition {} answered with error code {code}", one.index),
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "producing was refused for {} s", RETRIES_MAX.as_secs());
            thread::sleep(PAUSE);
        }
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.id.clone())
            .with_producer_id(messages::ProducerId(self.producer.0))
            .with_producer_epoch(self.epoch.0)
            .with_committed(true);
        let ended = |answer: &EndTxnResponse| answer.error_code;
        let answer = until_taken(|| ask(&mut self.connection, ApiKey::EndTxn, END, &request), ended)
            .context("committing")?;
        (self.producer, self.epoch) =
            (ProducerId(answer.producer_id.0), ProducerEpoch(answer.producer_epoch));
        Ok(())
    }
}

fn ask<R: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
    connection: &mut Connection,
    key: ApiKey,
    version: i16,
    request: &R,
) -> anyhow::Result<A> {
    connection.send(key, version, request)?;
    connection.receive(version)
}

/// Asks again while the coordinator is busy.
fn until_taken<A>(mut ask: impl FnMut() -> anyhow::Result<A>, code: fn(&A) -> i16) -> anyhow::Result<A> {
    let deadline = Instant::now() + RETRIES_MAX;
    loop {
        let answer = ask()?;
        match code(&answer) {
            0 => return Ok(answer),
            code if RETRIED.contains(&code) && Instant::now() < deadline => thread::sleep(PAUSE),
            code => bail!("error code {code}"),
        }
    }
}
