//! Kafka requests as a client that is in a hurry writes them: a produce request is built once, and only the few bytes
//! that change are patched; everything else goes through `anabranch_wire`.
//!
//! Produce version 7, Fetch version 11: the newest without tagged fields that Apache Kafka 4 and Anabranch both serve.

use std::io::{Read, Write};
use std::net::TcpStream;

use anabranch_core::batch::{BatchBuilder, Compression, Record};
use anabranch_wire::messages::{ApiKey, RequestHeader, ResponseHeader};
use anabranch_wire::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;

pub(crate) const PRODUCE: i16 = 0;
pub(crate) const PRODUCE_VERSION: i16 = 7;
const CLIENT_ID: &str = "bench";

/// How a produce request may be acknowledged, as Kafka's clients call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Acks {
    All,
    #[value(name = "1")]
    Leader,
}

impl Acks {
    fn code(self) -> i16 {
        match self {
            Self::All => -1,
            Self::Leader => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Codec {
    None,
    Zstd,
}

/// A batch of equal records: half noise and half one letter, which zstd makes half of.
pub(crate) fn batch(records: usize, record_bytes: usize, codec: Codec) -> anyhow::Result<Bytes> {
    let mut builder = BatchBuilder::new(match codec {
        Codec::None => Compression::None,
        Codec::Zstd => Compression::Zstd,
    });
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..records {
        let value: Vec<u8> = (0..record_bytes)
            .map(|at| {
                // xorshift64 (Marsaglia): no generator's quality is needed, and its dependency neither.
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                if at % 2 == 0 { noise as u8 } else { b'a' }
            })
            .collect();
        let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        builder
            .push(&Record { key: None, value: Some(value.into()), ..Record::new("", "") }.at(now_ms as i64));
    }
    Ok(builder.build()?)
}

/// A produce request of one batch for each of some partitions, over and over.
#[derive(Debug, Clone)]
pub(crate) struct ProduceFrame {
    bytes: Vec<u8>,
    /// Where the partitions' numbers stand.
    indices_at: Vec<usize>,
}

/// Where a request's correlation id stands: after the length, the key and the version.
const CORRELATION_AT: usize = 8;

impl ProduceFrame {
    /// Request header 1, then ProduceRequest 7 (`ProduceRequest.json`).
    pub(crate) fn new(topic: &str, acks: Acks, batch: &[u8], batches: usize) -> anyhow::Result<Self> {
        let mut bytes = Vec::with_capacity(64 + topic.len() + batches * (batch.len() + 8));
        bytes.put_i32(0); // the length, below
        bytes.put_i16(PRODUCE);
        bytes.put_i16(PRODUCE_VERSION);
        bytes.put_i32(0); // the correlation id, patched
        put_string(&mut bytes, CLIENT_ID);
        bytes.put_i16(-1); // no transaction
        bytes.put_i16(acks.code());
        bytes.put_i32(30_000); // ms that replicas may take
        bytes.put_i32(1);
        put_string(&mut bytes, topic);
        bytes.put_i32(batches as i32);
        let mut indices_at = Vec::new();
        for _ in 0..batches {
            indices_at.push(bytes.len());
            bytes.put_i32(0); // the partition, patched
            bytes.put_i32(i32::try_from(batch.len())?);
            bytes.extend_from_slice(batch);
        }
        let length = i32::try_from(bytes.len() - 4).context("a request of more than 2 GiB")?;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        Ok(Self { bytes, indices_at })
    }

    /// The next request, for `partitions` in turn from `first` on.
    pub(crate) fn patch(&mut self, correlation: i32, first: u32, partitions: u32) {
        let mut put = |at: usize, value: i32| self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
        put(CORRELATION_AT, correlation);
        for (number, &at) in (0..).zip(&self.indices_at) {
            put(at, ((first + number) % partitions) as i32);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn batches(&self) -> usize {
        self.indices_at.len()
    }
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_i16(text.len() as i16);
    bytes.extend_from_slice(text.as_bytes());
}

/// Looks through the answer to a [`ProduceFrame`] (response header 0, `ProduceResponse.json` version 7; without the
/// length) and gives back its correlation id. It fails at the first error code.
pub(crate) fn check_produced(mut answer: &[u8], batches: usize) -> anyhow::Result<i32> {
    let input = &mut answer;
    let correlation = take_i32(input)?;
    let mut answered = 0;
    for _ in 0..take_i32(input)? {
        let name = i16::from_be_bytes(take(input)?);
        skip(input, usize::try_from(name).context("a topic without a name")?)?;
        for _ in 0..take_i32(input)? {
            let index = take_i32(input)?;
            let code = i16::from_be_bytes(take(input)?);
            ensure!(code == 0, "partition {index} answered with error code {code}");
            skip(input, 3 * size_of::<i64>())?; // base offset, log append time, log start
            answered += 1;
        }
    }
    ensure!(answered == batches, "{answered} of {batches} batches were answered");
    Ok(correlation)
}

pub(crate) fn skip(input: &mut &[u8], count: usize) -> anyhow::Result<()> {
    *input = input.get(count..).context("the answer is cut short")?;
    Ok(())
}

pub(crate) fn take<const N: usize>(input: &mut &[u8]) -> anyhow::Result<[u8; N]> {
    let (head, rest) = input.split_first_chunk().context("the answer is cut short")?;
    *input = rest;
    Ok(*head)
}

pub(crate) fn take_i32(input: &mut &[u8]) -> anyhow::Result<i32> {
    Ok(i32::from_be_bytes(take(input)?))
}

/// A connection on which one request at a time is asked and answered.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    correlation: i32,
    input: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(bootstrap).with_context(|| format!("connecting to {bootstrap}"))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, correlation: 0, input: Vec::new() })
    }

    /// Sends whole frames as they are.
    pub(crate) fn send_frame(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        Ok(self.stream.write_all(frame)?)
    }

    /// Sends a request, and does not wait for its answer.
    pub(crate) fn send<R: Encodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        version: i16,
        request: &R,
    ) -> anyhow::Result<()> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version))?;
        request.encode(&mut frame, version)?;
        let length = i32::try_from(frame.len() - 4)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.send_frame(&frame)
    }

    /// The next answer, without its length.
    pub(crate) fn receive_frame(&mut self) -> anyhow::Result<&[u8]> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).context("waiting for an answer")?;
        let length = usize::try_from(i32::from_be_bytes(length)).context("a negative length")?;
        self.input.clear();
        // Into memory that is there and that nobody fills with zeros before.
        self.input.reserve(length);
        (&mut self.stream).take(length as u64).read_to_end(&mut self.input)?;
        ensure!(self.input.len() == length, "the server closed the connection inside of an answer");
        Ok(&self.input)
    }

    /// The answer to a request that was sent.
    pub(crate) fn receive<A: Decodable + HeaderVersion>(&mut self, version: i16) -> anyhow::Result<A> {
        let mut frame = Bytes::copy_from_slice(self.receive_frame()?);
        let header = ResponseHeader::decode(&mut frame, A::header_version(version))?;
        if header.correlation_id != self.correlation {
            bail!("answer {} to request {}", header.correlation_id, self.correlation);
        }
        A::decode(&mut frame, version)
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::batch::check_batch;
    use anabranch_wire::{Request, Response, decode_request, encode_response};

    use super::*;

    #[test]
    fn the_frame_is_a_produce_request_for_the_partitions_in_turn() {
        let batch = batch(3, 100, Codec::None).unwrap();
        assert_eq!(check_batch(&batch).unwrap().header().record_count, 3);
        let mut frame = ProduceFrame::new("t", Acks::All, &batch, 2).unwrap();
        frame.patch(77, 4, 5);
        let length = i32::from_be_bytes(frame.bytes()[..4].try_into().unwrap());
        assert_eq!(length as usize, frame.bytes().len() - 4);
        let mut body = Bytes::copy_from_slice(&frame.bytes()[4..]);
        let (head, request) = decode_request(&mut body).unwrap();
        assert!(body.is_empty(), "nothing is left over");
        assert_eq!((head.correlation_id, head.version), (77, PRODUCE_VERSION));
        let Request::Produce(request) = request else { panic!("{request:?}") };
        assert_eq!(request.acks, -1);
        let partitions = &request.topic_data[0].partition_data;
        assert_eq!(partitions.iter().map(|one| one.index).collect::<Vec<_>>(), [4, 0]);
        assert!(partitions.iter().all(|one| one.records.as_ref() == Some(&batch)));
    }

    #[test]
    fn an_answer_with_an_error_or_too_few_batches_is_no_answer() {
        use anabranch_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
        use anabranch_wire::messages::{ProduceResponse, TopicName};
        let answer = |code: i16| {
            let partition = PartitionProduceResponse::default().with_index(3).with_error_code(code);
            let topic = TopicProduceResponse::default()
                .with_name(TopicName(StrBytes::from_static_str("t")))
                .with_partition_responses(vec![partition]);
            let response = Response::from(ProduceResponse::default().with_responses(vec![topic]));
            let head = anabranch_wire::Head {
                key: ApiKey::Produce,
                version: PRODUCE_VERSION,
                correlation_id: 9,
                client_id: None,
            };
            encode_response(&head, response).unwrap().concat()[4..].to_vec()
        };
        assert_eq!(check_produced(&answer(0), 1).unwrap(), 9);
        assert!(check_produced(&answer(7), 1).unwrap_err().to_string().contains("error code 7"));
        assert!(check_produced(&answer(0), 2).is_err());
        assert!(check_produced(&answer(0)[..20], 1).is_err());
    }
}
