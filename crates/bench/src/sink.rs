//! A server that answers every produce request at once: what a client reaches against it is the client's own limit.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anabranch_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use anabranch_wire::messages::{ApiKey, ProduceRequest, ProduceResponse};
use anabranch_wire::protocol::{Decodable, Encodable};
use anyhow::{Context, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::request::{PRODUCE, PRODUCE_VERSION};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// Prints where it listens, and serves until it is killed.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!("{}", start(options.port, Duration::ZERO)?);
    loop {
        thread::park();
    }
}

/// Listens; `delay` is what each answer waits.
pub(crate) fn start(port: u16, delay: Duration) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", port)).context("listening")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                // The client says what went wrong; here its connection ends.
                let _ = serve(stream, delay);
            });
        }
    });
    Ok(address)
}

fn serve(mut stream: TcpStream, delay: Duration) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BytesMut::new();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        input.resize(length, 0);
        stream.read_exact(&mut input)?;
        let answer = answer(input.split().freeze())?;
        thread::sleep(delay);
        stream.write_all(&answer)?;
    }
}

/// Decoding takes no copy: the records stay where they are.
fn answer(mut request: Bytes) -> anyhow::Result<BytesMut> {
    let (key, version) = (request.try_get_i16()?, request.try_get_i16()?);
    ensure!((key, version) == (PRODUCE, PRODUCE_VERSION), "a sink takes nothing but {PRODUCE_VERSION}");
    let correlation = request.try_get_i32()?;
    let client = usize::try_from(request.try_get_i16()?).unwrap_or(0);
    request.advance(client.min(request.len()));
    let request = ProduceRequest::decode(&mut request, version)?;
    let topics = request.topic_data.into_iter().map(|topic| {
        let index = topic.partition_data.iter().map(|data| data.index);
        TopicProduceResponse::default().with_name(topic.name).with_partition_responses(
            index.map(|index| PartitionProduceResponse::default().with_index(index)).collect(),
        )
    });
    let response = ProduceResponse::default().with_responses(topics.collect());
    debug_assert_eq!(ApiKey::Produce.response_header_version(version), 0);
    let mut answer = BytesMut::new();
    answer.put_i32(0);
    answer.put_i32(correlation);
    response.encode(&mut answer, version)?;
    let length = i32::try_from(answer.len() - 4)?;
    answer[..4].copy_from_slice(&length.to_be_bytes());
    Ok(answer)
}
