//! From a fetch's answer to a frame, without copying the records.
//!
//! The messages' crate copies them into the frame. They are most of what leaves a broker, and may be a hundred megabytes:
//! here the frame is a list of pieces. A large piece is the very bytes that were read from the log, or stands for bytes that
//! are read when their turn comes.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::protocol::Encodable;

/// Records smaller than this are copied after all: a piece costs more than they do.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// Records that are not in memory yet. Only their length is known.
pub trait Absent {
    /// How many bytes they are.
    fn len_bytes(&self) -> usize;
}

/// All records are there.
impl Absent for Infallible {
    fn len_bytes(&self) -> usize {
        match *self {}
    }
}

/// A fetch's answer, some of whose records are not in memory.
#[derive(Debug)]
pub struct Fetched<A> {
    /// The answer. Partitions whose records are absent have none here.
    pub response: FetchResponse,
    /// The records of other partitions: the places of their topic and of them in it, in order.
    pub absent: Vec<((usize, usize), A)>,
}

impl<A> From<FetchResponse> for Fetched<A> {
    fn from(response: FetchResponse) -> Self {
        Self { response, absent: Vec::new() }
    }
}

/// A piece of a frame.
#[derive(Debug)]
pub enum Piece<A> {
    /// As it is.
    Bytes(Bytes),
    /// To be read.
    Absent(A),
}

impl<A: Absent> Piece<A> {
    /// How many bytes it is.
    pub fn len_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Absent(absent) => absent.len_bytes(),
        }
    }
}

/// Collects the pieces of a frame.
#[derive(Debug)]
struct Pieces<A> {
    done: Vec<Piece<A>>,
    open: BytesMut,
}

impl<A: Absent> Pieces<A> {
    fn put(&mut self, records: Piece<A>) {
        match records {
            Piece::Bytes(bytes) if bytes.len() < PIECE_BYTES_MIN => self.open.put_slice(&bytes),
            records => self.done.extend([Piece::Bytes(self.open.split().freeze()), records]),
        }
    }

    fn compact(&mut self, length: usize) {
        let mut rest = length;
        while rest >= 0x80 {
            self.open.put_u8(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.open.put_u8(rest as u8);
    }

    /// An array's length, in whichever of the two forms.
    fn array(&mut self, is_flexible: bool, length: usize) -> Option<()> {
        match is_flexible {
            true => self.compact(length + 1),
            false => self.open.put_i32(i32::try_from(length).ok()?),
        }
        Some(())
    }

    /// The pieces in order, none of them empty.
    fn finish(mut self) -> Vec<Piece<A>> {
        self.done.push(Piece::Bytes(self.open.freeze()));
        self.done.retain(|piece| piece.len_bytes() > 0);
        self.done
    }
}

/// The body of a fetch's answer (`FetchResponse.json`, versions 4 to 18). `None` if it cannot be said in this version.
pub(crate) fn encode<A: Absent>(fetched: Fetched<A>, version: i16) -> Option<Vec<Piece<A>>> {
    let Fetched { response, absent } = fetched;
    let is_flexible = version >= 12;
    let has_tags = !response.node_endpoints.is_empty() || !response.unknown_tagged_fields.is_empty();
    if has_tags {
        return None; // One node never tells of others.
    }
    let mut absent = absent.into_iter().peekable();
    let mut pieces = Pieces { done: Vec::new(), open: BytesMut::new() };
    pieces.open.put_i32(response.throttle_time_ms);
    if version >= 7 {
        pieces.open.put_i16(response.error_code);
        pieces.open.put_i32(response.session_id);
    }
    pieces.array(is_flexible, response.responses.len())?;
    for (of_topic, topic) in response.responses.into_iter().enumerate() {
        encode_topic_head(&mut pieces, &topic, version, is_flexible)?;
        for (of_partition, mut partition) in topic.partitions.into_iter().enumerate() {
            let there = partition.records.replace(Bytes::new()).unwrap_or_default();
            let records = match absent.next_if(|(place, _)| *place == (of_topic, of_partition)) {
                Some((_, absent)) if there.is_empty() => Piece::Absent(absent),
                Some(_) => return None,
                None => Piece::Bytes(there),
            };
            encode_partition(&mut pieces, &partition, records, version, is_flexible)?;
        }
        if is_flexible {
            pieces.open.put_u8(0);
        }
    }
    if is_flexible {
        pieces.open.put_u8(0);
    }
    match absent.next() {
        None => Some(pieces.finish()),
        Some(_) => None, // Its place is not in the answer, or not in order.
    }
}

fn encode_topic_head<A: Absent>(
    pieces: &mut Pieces<A>,
    topic: &FetchableTopicResponse,
    version: i16,
    is_flexible: bool,
) -> Option<()> {
    match version {
        13.. => pieces.open.put_slice(topic.topic_id.as_bytes()),
        12 => {
            pieces.compact(topic.topic.len() + 1);
            pieces.open.put_slice(topic.topic.as_bytes());
        }
        _ => {
            pieces.open.put_i16(i16::try_from(topic.topic.len()).ok()?);
            pieces.open.put_slice(topic.topic.as_bytes());
        }
    }
    pieces.array(is_flexible, topic.partitions.len())
}

/// Everything but the records is left to the messages' crate: records are the last field, so that those of an answer
/// without any can be put in the place of none.
fn encode_partition<A: Absent>(
    pieces: &mut Pieces<A>,
    partition: &PartitionData,
    records: Piece<A>,
    version: i16,
    is_flexible: bool,
) -> Option<()> {
    const NONE: &[u8] = &[0, 0, 0, 0];
    const COMPACT_NONE_AND_NO_TAGS: &[u8] = &[1, 0];
    partition.encode(&mut pieces.open, version).ok()?;
    let none = if is_flexible { COMPACT_NONE_AND_NO_TAGS } else { NONE };
    if !pieces.open.ends_with(none) {
        return None;
    }
    pieces.open.truncate(pieces.open.len() - none.len());
    pieces.array(is_flexible, records.len_bytes())?;
    pieces.put(records);
    if is_flexible {
        pieces.open.put_u8(0);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::TopicName;
    use kafka_protocol::messages::fetch_response::AbortedTransaction;
    use kafka_protocol::protocol::StrBytes;
    use uuid::Uuid;

    use super::*;

    fn topic(name: &'static str, records: &[Option<Bytes>], version: i16) -> FetchableTopicResponse {
        let partitions = records.iter().zip(0..).map(|(records, index)| {
            PartitionData::default()
                .with_partition_index(index)
                .with_error_code(index as i16)
                .with_high_watermark(7 << 40)
                .with_last_stable_offset(-1)
                .with_log_start_offset(3)
                .with_aborted_transactions(match index % 3 {
                    0 => None,
                    1 => Some(Vec::new()),
                    _ => Some(vec![AbortedTransaction::default().with_first_offset(5); 200]),
                })
                .with_records(records.clone())
        });
        let topic = FetchableTopicResponse::default().with_partitions(partitions.collect());
        match version {
            13.. => topic.with_topic_id(Uuid::from_u128(77)),
            _ => topic.with_topic(TopicName(StrBytes::from_static_str(name))),
        }
    }

    /// In every version, the pieces are what the messages' crate makes of it; and large records are not copied.
    #[test]
    fn the_pieces_are_the_frame_and_large_records_are_themselves() {
        let large = Bytes::from(vec![1; 70_000]);
        let records = [
            Some(large.clone()),
            Some(Bytes::from_static(b"small")),
            Some(Bytes::new()),
            Some(large.slice(..20_000)),
            Some(large.slice(..130)),
        ];
        for version in 4..=18 {
            let mut responses = vec![topic("one", &records, version), topic("two", &[], version)];
            responses.extend((0..200).map(|_| topic("many", &records[1..3], version)));
            for responses in [Vec::new(), responses] {
                let mut response =
                    FetchResponse::default().with_throttle_time_ms(9).with_responses(responses);
                if version >= 7 {
                    response = response.with_session_id(4).with_error_code(2);
                }
                let mut expected = BytesMut::new();
                response.encode(&mut expected, version).unwrap();
                let is_large = !response.responses.is_empty();
                let pieces: Vec<Bytes> = encode(Fetched::<Infallible>::from(response), version)
                    .unwrap()
                    .into_iter()
                    .map(|piece| match piece {
                        Piece::Bytes(bytes) => bytes,
                        Piece::Absent(never) => match never {},
                    })
                    .collect();
                assert!(pieces.concat() == expected, "version {version}");
                assert_eq!(pieces.iter().any(|piece| piece.as_ptr() == large.as_ptr()), is_large);
                assert!(pieces.len() <= 6, "small ones make no pieces");
            }
        }
    }

    impl Absent for Bytes {
        fn len_bytes(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn absent_records_have_their_place_and_their_length() {
        let all = [100_000, 3, 0, 70_000, 200].map(|bytes| Some(Bytes::from(vec![bytes as u8; bytes])));
        for version in 4..=18 {
            let mut response = FetchResponse::default()
                .with_responses(vec![topic("one", &all, version), topic("two", &all[1..4], version)]);
            let mut expected = BytesMut::new();
            response.encode(&mut expected, version).unwrap();
            let mut absent = Vec::new();
            for place in [(0, 0), (0, 4), (1, 0), (1, 2)] {
                let partition = &mut response.responses[place.0].partitions[place.1];
                absent.push((place, partition.records.take().unwrap()));
            }
            let pieces = encode(Fetched { response: response.clone(), absent: absent.clone() }, version);
            let whole = pieces.unwrap().into_iter().map(|piece| match piece {
                Piece::Bytes(bytes) | Piece::Absent(bytes) => bytes,
            });
            assert!(whole.collect::<Vec<_>>().concat() == expected, "version {version}");

            let refused = |absent| encode(Fetched { response: response.clone(), absent }, version).is_none();
            assert!(refused(absent.iter().rev().cloned().collect()), "in another order");
            assert!(refused(vec![((1, 3), Bytes::new())]), "of nobody");
            assert!(refused(vec![((0, 1), Bytes::new())]), "of one that has records");
        }
    }
}
