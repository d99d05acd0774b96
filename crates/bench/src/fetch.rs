//! A consumer that does as little as one can: it fetches a topic from its beginning to its end, looks at the batches'
//! headers, and drops the records.

use std::collections::BTreeMap;
use std::thread;
use std::time::Instant;

use anabranch_core::batch::BatchHeader;
use anabranch_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use anabranch_wire::messages::{ApiKey, BrokerId, FetchRequest};
use anyhow::{Context, ensure};
use serde::Serialize;

use crate::latency::cpu_seconds;
use crate::request::{self, Connection, skip, take_i32};
use crate::topic;

const FETCH_VERSION: i16 = 11;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// `max.partition.fetch.bytes`
    #[arg(long, default_value_t = 8 << 20)]
    partition_bytes_max: i32,
    /// `fetch.max.bytes`
    #[arg(long, default_value_t = 32 << 20)]
    bytes_max: i32,
    /// Read all of it so many times
    #[arg(long, default_value_t = 1)]
    times: u32,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Fetched {
    records: u64,
    /// Of batches, as they came.
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    mib_per_second: f64,
    client_cpu_seconds: f64,
}

/// How far each partition was read.
type Positions = BTreeMap<i32, i64>;

pub(crate) fn run(options: &Options) -> anyhow::Result<Fetched> {
    let ends = ends(options)?;
    let start = Instant::now();
    let counts = thread::scope(|scope| {
        let reader = |number: u32| {
            let is_its = |index: i32| index as u32 % options.connections == number;
            let ends: Positions =
                ends.iter().filter(|(index, _)| is_its(**index)).map(|(index, end)| (*index, *end)).collect();
            scope.spawn(move || -> anyhow::Result<(u64, u64)> {
                let mut connection = Connection::open(&options.bootstrap)?;
                let mut sum = (0, 0);
                for _ in 0..options.times {
                    let (records, bytes) = read(&mut connection, options, &ends)?;
                    sum = (sum.0 + records, sum.1 + bytes);
                }
                Ok(sum)
            })
        };
        let readers: Vec<_> = (0..options.connections).map(reader).collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let records: u64 = counts.iter().map(|count| count.0).sum();
    let bytes: u64 = counts.iter().map(|count| count.1).sum();
    let expected = u64::try_from(ends.values().sum::<i64>())? * u64::from(options.times);
    ensure!(records == expected, "{records} records came, and there are {expected}");
    Ok(Fetched {
        records,
        bytes,
        seconds,
        records_per_second: records as f64 / seconds,
        mib_per_second: bytes as f64 / f64::from(1 << 20) / seconds,
        client_cpu_seconds: cpu_seconds(),
    })
}

fn ends(options: &Options) -> anyhow::Result<Positions> {
    let mut connection = Connection::open(&options.bootstrap)?;
    let mut ends = Positions::new();
    for partition in topic::list_offsets(&mut connection, &options.topic, options.partitions)? {
        ensure!(partition.error_code == 0, "ListOffsets: error code {}", partition.error_code);
        ends.insert(partition.partition_index, partition.offset);
    }
    Ok(ends)
}

/// A fetch of these partitions from there on.
pub(crate) fn fetch_of(
    topic: &str,
    positions: &Positions,
    (bytes_min, partition_bytes_max, bytes_max): (i32, i32, i32),
) -> FetchRequest {
    let partition = |(&index, &offset): (&i32, &i64)| {
        FetchPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(partition_bytes_max)
    };
    let topic = FetchTopic::default()
        .with_topic(topic::name(topic))
        .with_partitions(positions.iter().map(partition).collect());
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(5000)
        .with_min_bytes(bytes_min)
        .with_max_bytes(bytes_max)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// Takes an answer, moves the positions on, and says how many records and bytes it had. It is read where it lies
/// (`FetchResponse.json` version 11): a decoder that owns what it decodes would take a copy.
pub(crate) fn take(connection: &mut Connection, positions: &mut Positions) -> anyhow::Result<(u64, u64)> {
    let input = &mut connection.receive_frame()?;
    skip(input, 2 * size_of::<i32>())?; // correlation id, throttle time
    let code = i16::from_be_bytes(request::take(input)?);
    ensure!(code == 0, "Fetch: error code {code}");
    skip(input, size_of::<i32>())?; // session id
    let (mut records, mut bytes) = (0, 0);
    for _ in 0..take_i32(input)? {
        let name = i16::from_be_bytes(request::take(input)?);
        skip(input, usize::try_from(name).context("a topic without a name")?)?;
        for _ in 0..take_i32(input)? {
            let index = take_i32(input)?;
            let code = i16::from_be_bytes(request::take(input)?);
            ensure!(code == 0, "Fetch: error code {code} for partition {index}");
            skip(input, 3 * size_of::<i64>())?; // high watermark, last stable offset, log start
            let aborted = usize::try_from(take_i32(input)?).unwrap_or(0);
            skip(input, aborted * 2 * size_of::<i64>() + size_of::<i32>())?; // and the preferred replica
            let length = usize::try_from(take_i32(input)?).unwrap_or(0);
            let batches = input.get(..length).context("the answer is cut short")?;
            skip(input, length)?;
            let position = positions.get_mut(&index).context("a partition that nobody asked for")?;
            let (more_records, more_bytes) = walk(batches, position)?;
            records += more_records;
            bytes += more_bytes;
        }
    }
    Ok((records, bytes))
}

/// Moves the position behind the batches. Kafka may cut the last one short.
fn walk(mut batches: &[u8], position: &mut i64) -> anyhow::Result<(u64, u64)> {
    let (mut records, mut bytes) = (0, 0);
    while let Ok(header) = BatchHeader::parse(batches) {
        let Some(rest) = batches.get(header.len_bytes..) else { break };
        let next = header.base_offset.0 + i64::from(header.last_offset_delta) + 1;
        records += u64::try_from(next - (*position).max(header.base_offset.0))?;
        bytes += header.len_bytes as u64;
        *position = next;
        batches = rest;
    }
    Ok((records, bytes))
}

pub(crate) fn send(connection: &mut Connection, request: &FetchRequest) -> anyhow::Result<()> {
    connection.send(ApiKey::Fetch, FETCH_VERSION, request)
}

fn read(connection: &mut Connection, options: &Options, ends: &Positions) -> anyhow::Result<(u64, u64)> {
    let mut positions: Positions =
        ends.iter().filter(|(_, end)| **end > 0).map(|(&index, _)| (index, 0)).collect();
    let mut sum = (0, 0);
    let mut turn = 0;
    while !positions.is_empty() {
        // The partitions in another order each time, as consumers do, so that the last is not starved.
        let index = *positions.keys().nth(turn % positions.len()).expect("it is within them");
        let mut asked =
            fetch_of(&options.topic, &positions, (1, options.partition_bytes_max, options.bytes_max));
        asked.topics[0].partitions.sort_by_key(|partition| partition.partition < index);
        send(connection, &asked)?;
        let (records, bytes) = take(connection, &mut positions)?;
        ensure!(bytes > 0, "nothing came, and there is more");
        sum = (sum.0 + records, sum.1 + bytes);
        positions.retain(|index, position| *position < ends[index]);
        turn += 1;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Codec, batch};

    #[test]
    fn a_batch_that_is_cut_short_is_fetched_again() {
        let one = batch(3, 10, Codec::None).unwrap();
        let mut two = one.to_vec();
        two.extend_from_slice(&one);
        two[one.len()..one.len() + 8].copy_from_slice(&3_i64.to_be_bytes());
        let mut position = 0;
        assert_eq!(walk(&two, &mut position).unwrap(), (6, 2 * one.len() as u64));
        assert_eq!(position, 6);
        // From the middle of the first batch, with the second cut short.
        let mut position = 1;
        assert_eq!(walk(&two[..two.len() - 1], &mut position).unwrap(), (2, one.len() as u64));
        assert_eq!(position, 3);
    }
}
