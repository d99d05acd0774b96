//! From a fetch's answer to a frame, without copying the records.
//!
//! The messages' crate copies them into the frame. They are most of what leaves a broker, and may be a hundred megabytes:
//! here the frame is a list of pieces, and a large piece is the very bytes that were read from the log.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::FetchResponse;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::protocol::Encodable;

/// Records smaller than this are copied after all: a piece costs more than they do.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// Collects the pieces of a frame.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn put(&mut self, bytes: Bytes) {
        if bytes.len() < PIECE_BYTES_MIN {
            self.open.put_slice(&bytes);
        } else {
            self.done.extend([self.open.split().freeze(), bytes]);
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
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        self.done.push(self.open.freeze());
        self.done.retain(|piece| !piece.is_empty());
        self.done
    }
}

/// The body of a fetch's answer (`FetchResponse.json`, versions 4 to 18), behind `head`. `None` if it cannot be said in
/// this version.
pub(crate) fn encode(head: BytesMut, response: FetchResponse, version: i16) -> Option<Pieces> {
    let is_flexible = version >= 12;
    let has_tags = !response.node_endpoints.is_empty() || !response.unknown_tagged_fields.is_empty();
    if has_tags {
        return None; // One node never tells of others.
    }
    let mut pieces = Pieces { open: head, ..Pieces::default() };
    pieces.open.put_i32(response.throttle_time_ms);
    if version >= 7 {
        pieces.open.put_i16(response.error_code);
        pieces.open.put_i32(response.session_id);
    }
    pieces.array(is_flexible, response.responses.len())?;
    for topic in response.responses {
        encode_topic(&mut pieces, topic, version, is_flexible)?;
    }
    if is_flexible {
        pieces.open.put_u8(0);
    }
    Some(pieces)
}

fn encode_topic(
    pieces: &mut Pieces,
    topic: FetchableTopicResponse,
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
    pieces.array(is_flexible, topic.partitions.len())?;
    for partition in topic.partitions {
        encode_partition(pieces, partition, version, is_flexible)?;
    }
    if is_flexible {
        pieces.open.put_u8(0);
    }
    Some(())
}

/// Everything but the records is left to the messages' crate: records are the last field, so that those of an answer
/// without any can be put in the place of none.
fn encode_partition(
    pieces: &mut Pieces,
    mut partition: PartitionData,
    version: i16,
    is_flexible: bool,
) -> Option<()> {
    const NONE: &[u8] = &[0, 0, 0, 0];
    const COMPACT_NONE_AND_NO_TAGS: &[u8] = &[1, 0];
    let records = partition.records.replace(Bytes::new()).unwrap_or_default();
    partition.encode(&mut pieces.open, version).ok()?;
    let none = if is_flexible { COMPACT_NONE_AND_NO_TAGS } else { NONE };
    if !pieces.open.ends_with(none) {
        return None;
    }
    pieces.open.truncate(pieces.open.len() - none.len());
    pieces.array(is_flexible, records.len())?;
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
                let mut expected = BytesMut::from(&b"head"[..]);
                response.encode(&mut expected, version).unwrap();
                let is_large = !response.responses.is_empty();
                let pieces = encode(BytesMut::from(&b"head"[..]), response, version).unwrap().finish();
                assert!(pieces.concat() == expected, "version {version}");
                assert_eq!(pieces.iter().any(|piece| piece.as_ptr() == large.as_ptr()), is_large);
                assert!(pieces.len() <= 6, "small ones make no pieces");
            }
        }
    }
}
