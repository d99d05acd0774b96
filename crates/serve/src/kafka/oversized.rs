//! Produce requests for which there can never be memory.
//!
//! Kafka closes the connection on a request that is larger than `socket.request.max.bytes`, and so do we. Below that, a
//! request may still be larger than the memory that this server has. Closing the connection would have its producer try for
//! ever: instead the request is read without being kept, and each of its batches is refused as too large, which tells a
//! producer to make smaller ones or to give up.

use anabranch_wire::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use anabranch_wire::messages::{ApiKey, ProduceResponse, TopicName};
use anabranch_wire::protocol::StrBytes;
use anabranch_wire::{DecodeError, ErrorCode, Head, Response, ShapeError, api};
use bytes::{Buf, Bytes};
use uuid::Uuid;

use super::codes::refusal;
use super::connection::{Closed, Connection};

/// Partitions that one such request may name.
const PARTITIONS_MAX: usize = 10_000;
/// The longest text or number that it may have; what is longer is skipped.
const FIELD_BYTES_MAX: usize = 1 << 15;

/// Reads the rest of a request of `bytes`, and what is said to it.
///
/// # Errors
/// [`Closed`] when it is no produce request, wants no answer, or is malformed: all that is left is to close the connection.
pub(super) async fn refuse(
    connection: &mut Connection<'_>,
    bytes: usize,
) -> Result<Option<(Head, Response)>, Closed> {
    let max_bytes = connection.door.memory.bytes_max();
    let no_memory = || Closed::NoMemory { bytes, max_bytes };
    let mut rest = Rest { connection, left: bytes };
    let (key, version) = (rest.i16().await?, rest.i16().await?);
    let is_served = api(key).is_some_and(|api| api.serves(version));
    if key != ApiKey::Produce as i16 || !is_served {
        return Err(no_memory());
    }
    let is_flexible = version >= 9;
    let correlation_id = rest.i32().await?;
    let client_id = rest.text(false).await?;
    if is_flexible {
        rest.tags().await?;
    }
    rest.text(is_flexible).await?; // the transactional id
    let acks = rest.i16().await?;
    rest.i32().await?; // the timeout
    let why = no_memory().to_string();
    let mut partitions_left = PARTITIONS_MAX;
    let mut responses = Vec::new();
    for _ in 0..rest.array(is_flexible, partitions_left).await? {
        let mut topic = TopicProduceResponse::default();
        if version >= 13 {
            topic.topic_id = Uuid::from_slice(&rest.take(16).await?).unwrap_or_default();
        } else {
            topic.name = TopicName(rest.text(is_flexible).await?.unwrap_or_default());
        }
        let count = rest.array(is_flexible, partitions_left).await?;
        partitions_left -= count;
        for _ in 0..count {
            let index = rest.i32().await?;
            rest.skip_records(is_flexible).await?;
            if is_flexible {
                rest.tags().await?;
            }
            let (code, message) = refusal(ErrorCode::MessageTooLarge, why.clone());
            let response = PartitionProduceResponse::default().with_index(index).with_base_offset(-1);
            topic.partition_responses.push(response.with_error_code(code).with_error_message(message));
        }
        if is_flexible {
            rest.tags().await?;
        }
        responses.push(topic);
    }
    rest.skip(rest.left).await?;
    if acks == 0 {
        return Err(no_memory());
    }
    let head = Head { key: ApiKey::Produce, version, correlation_id, client_id };
    Ok(Some((head, ProduceResponse::default().with_responses(responses).into())))
}

/// What is left of the request.
struct Rest<'a, 'b> {
    connection: &'a mut Connection<'b>,
    left: usize,
}

impl Rest<'_, '_> {
    async fn take(&mut self, bytes: usize) -> Result<Bytes, Closed> {
        if bytes > self.left || bytes > FIELD_BYTES_MAX {
            return Err(malformed(ShapeError::Truncated));
        }
        while self.connection.input.len() < bytes {
            self.more().await?;
        }
        self.left -= bytes;
        Ok(Bytes::copy_from_slice(&self.connection.input.split_to(bytes)))
    }

    async fn skip(&mut self, mut bytes: usize) -> Result<(), Closed> {
        if bytes > self.left {
            return Err(malformed(ShapeError::Truncated));
        }
        self.left -= bytes;
        while bytes > 0 {
            if self.connection.input.is_empty() {
                self.more().await?;
            }
            let step = bytes.min(self.connection.input.len());
            self.connection.input.advance(step);
            bytes -= step;
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<(), Closed> {
        match self.connection.fill(true).await? {
            true => Ok(()),
            false => Err(Closed::HungUp),
        }
    }

    async fn i16(&mut self) -> Result<i16, Closed> {
        Ok(self.take(2).await?.get_i16())
    }

    async fn i32(&mut self) -> Result<i32, Closed> {
        Ok(self.take(4).await?.get_i32())
    }

    async fn varint(&mut self) -> Result<usize, Closed> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.take(1).await?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed(ShapeError::BadLength))
    }

    async fn text(&mut self, is_flexible: bool) -> Result<Option<StrBytes>, Closed> {
        let length = match is_flexible {
            true => self.varint().await?.checked_sub(1),
            false => usize::try_from(self.i16().await?).ok(),
        };
        match length {
            None => Ok(None),
            Some(length) => StrBytes::from_utf8(self.take(length).await?)
                .map(Some)
                .map_err(|_| malformed(ShapeError::BadLength)),
        }
    }

    async fn array(&mut self, is_flexible: bool, max: usize) -> Result<usize, Closed> {
        let length = match is_flexible {
            true => self.varint().await?.saturating_sub(1),
            false => usize::try_from(self.i32().await?).unwrap_or(0),
        };
        match length > max {
            true => Err(malformed(ShapeError::TooManyElements)),
            false => Ok(length),
        }
    }

    async fn skip_records(&mut self, is_flexible: bool) -> Result<(), Closed> {
        let length = match is_flexible {
            true => self.varint().await?.saturating_sub(1),
            false => usize::try_from(self.i32().await?).unwrap_or(0),
        };
        self.skip(length).await
    }

    async fn tags(&mut self) -> Result<(), Closed> {
        for _ in 0..self.varint().await? {
            self.varint().await?;
            let length = self.varint().await?;
            self.skip(length).await?;
        }
        Ok(())
    }
}

fn malformed(error: ShapeError) -> Closed {
    Closed::Request(DecodeError::Malformed { name: "Produce", version: -1, error })
}
