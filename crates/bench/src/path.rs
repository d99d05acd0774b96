//! The produce path, so many times: for counting instructions (`cargo xtask bench instructions`), which are steady where
//! times are not, and for profiles.
//!
//! * `broker`: decode a request, check and append its batches, encode the answer; on a real disk, without syncs.
//! * `door`: the same through the Kafka door and a socket, with one request in flight.
//! * `fetch`: what `door` wrote, fetched through the door, 1 MiB at a time.
//!
//! Everything is on one thread but the log's writer, and each step waits for the one before, so that two runs do the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anabranch_broker::{Ack, Apply, Broker, NewTopic, Topic};
use anabranch_core::batch::NO_TIMESTAMP;
use anabranch_serve::{ServeConfig, Server};
use anabranch_wire::messages::ProduceResponse;
use anabranch_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use anabranch_wire::{
    FrameDecoder, Next, REQUEST_BYTES_MAX, Request, Response, decode_request, encode_response,
};
use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::directory::RELAXED;
use crate::fetch;
use crate::request::{Acks, Codec, Connection, ProduceFrame, batch, check_produced};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    path: Way,
    /// Requests
    #[arg(long, default_value_t = 1000)]
    count: u32,
    /// Records of 1 KiB in a batch
    #[arg(long, default_value_t = 16)]
    batch_records: usize,
    /// Batches in a request, each for another of as many partitions
    #[arg(long, default_value_t = 1)]
    batches: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Broker,
    Door,
    Fetch,
}

/// What was done.
#[derive(Debug, Serialize)]
pub(crate) struct Done {
    requests: u32,
    seconds: f64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Done> {
    let dir = tempfile::tempdir()?;
    let batch = batch(options.batch_records, 1024, Codec::None)?;
    let frame = ProduceFrame::new("produced", Acks::Leader, &batch, options.batches)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = std::time::Instant::now();
    match options.path {
        Way::Broker => runtime.block_on(through_broker(dir.path(), frame, options.count))?,
        Way::Door => runtime.block_on(through_door(dir.path(), frame, options.count))?,
        Way::Fetch => fetched(&runtime, dir.path(), frame, options.count)?,
    }
    Ok(Done { requests: options.count, seconds: start.elapsed().as_secs_f64() })
}

async fn open(dir: &Path, partitions: usize) -> anyhow::Result<(Broker, Arc<Topic>)> {
    let broker = Broker::open(dir).await?;
    let topic = NewTopic::new("produced").partitions(i32::try_from(partitions)?).config(RELAXED.0, RELAXED.1);
    let topic = broker.create_topic(topic, Apply::Now).await?;
    Ok((broker, topic))
}

async fn through_broker(dir: &Path, mut frame: ProduceFrame, count: u32) -> anyhow::Result<()> {
    let (broker, topic) = open(dir, frame.batches()).await?;
    let mut frames = FrameDecoder::new(REQUEST_BYTES_MAX);
    for correlation in 1..=count {
        frame.patch(correlation as i32, 0, frame.batches() as u32);
        let mut input = BytesMut::from(frame.bytes());
        let body = loop {
            match frames.next(&mut input)? {
                Next::Length(_) => {}
                Next::Frame(body) => break body,
                Next::More => bail!("the frame is not whole"),
            }
        };
        let answer = produce(&topic, body).await?;
        ensure!(check_produced(&answer[4..], frame.batches())? == correlation as i32, "another's answer");
    }
    broker.close().await;
    Ok(())
}

async fn produce(topic: &Topic, mut body: Bytes) -> anyhow::Result<Bytes> {
    let (head, request) = decode_request(&mut body)?;
    let Request::Produce(request) = request else { bail!("not a produce request") };
    let mut topics = Vec::with_capacity(request.topic_data.len());
    for data in request.topic_data {
        let mut queued = Vec::with_capacity(data.partition_data.len());
        for data in data.partition_data {
            let partition = topic.partition(data.index).context("there is no such partition")?;
            let records = data.records.unwrap_or_default();
            queued.push((data.index, partition.submit(records, Ack::Written).await?));
        }
        let mut answered = Vec::with_capacity(queued.len());
        for (index, queued) in queued {
            let produced = queued.answer().await?;
            answered.push(
                PartitionProduceResponse::default()
                    .with_index(index)
                    .with_base_offset(produced.base_offset.0)
                    .with_log_append_time_ms(NO_TIMESTAMP)
                    .with_log_start_offset(produced.log_start.0),
            );
        }
        topics.push(TopicProduceResponse::default().with_name(data.name).with_partition_responses(answered));
    }
    let response = Response::from(ProduceResponse::default().with_responses(topics));
    Ok(encode_response(&head, response)?.concat().into())
}

async fn serve(broker: Broker) -> anyhow::Result<Server> {
    let kafka_addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Ok(Server::start(broker, ServeConfig { kafka_addr, ..ServeConfig::default() }).await?)
}

async fn through_door(dir: &Path, mut frame: ProduceFrame, count: u32) -> anyhow::Result<()> {
    let (broker, _topic) = open(dir, frame.batches()).await?;
    let server = serve(broker.clone()).await?;
    let mut stream = TcpStream::connect(server.kafka_addr()).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for correlation in 1..=count {
        frame.patch(correlation as i32, 0, frame.batches() as u32);
        stream.write_all(frame.bytes()).await?;
        let length = usize::try_from(stream.read_i32().await?)?;
        answer.resize(length, 0);
        stream.read_exact(&mut answer).await?;
        ensure!(check_produced(&answer, frame.batches())? == correlation as i32, "another's answer");
    }
    drop(stream);
    server.shutdown().await;
    broker.close().await;
    Ok(())
}

/// Fetching blocks in the client, so the runtime has a thread of its own meanwhile.
fn fetched(
    runtime: &tokio::runtime::Runtime,
    dir: &Path,
    frame: ProduceFrame,
    count: u32,
) -> anyhow::Result<()> {
    const WRITTEN: u32 = 1024;
    let partitions = frame.batches();
    runtime.block_on(through_door(dir, frame, WRITTEN))?;
    let (broker, server) = runtime.block_on(async {
        let broker = Broker::open(dir).await?;
        let server = serve(broker.clone()).await?;
        anyhow::Ok((broker, server))
    })?;
    let address = server.kafka_addr().to_string();
    let client = std::thread::spawn(move || -> anyhow::Result<()> {
        let mut connection = Connection::open(&address)?;
        for _ in 0..count {
            let mut positions = (0..partitions as i32).map(|index| (index, 0)).collect();
            fetch::send(&mut connection, &fetch::fetch_of("produced", &positions, (1, 1 << 20, 1 << 20)))?;
            let (records, _) = fetch::take(&mut connection, &mut positions)?;
            ensure!(records > 0, "nothing came");
        }
        Ok(())
    });
    runtime.block_on(async {
        while !client.is_finished() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        server.shutdown().await;
        broker.close().await;
    });
    client.join().expect("the client does not panic")
}
