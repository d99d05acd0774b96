//! The shapes of requests, and a walk over bytes that believes nothing.
//!
//! The generated decoder allocates for as many array elements as the bytes *say*, so eight hostile bytes could ask for
//! gigabytes. The walk goes first: it allocates nothing, finds every element that is announced, and bounds how many there
//! may be. What it lets through, the decoder reads along the very same places.
//!
//! Fields and versions are those of Kafka's message schemas (`clients/src/main/resources/common/message/*Request.json`),
//! within the versions that are served. Nullability is left to the decoder: it sizes nothing.

use Kind::{Blob, Fixed, List, NullableStruct, Struct, Text};

/// How many array elements and tagged fields one request may have: decoded, each may take a few hundred bytes, whatever
/// it took on the wire.
pub const REQUEST_ELEMENTS_MAX: usize = 250_000;

/// How the bytes of a request differ from their shape. The peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field, or an announced element, lies behind the end.
    #[error("the request ends early")]
    Truncated,
    /// A length is below -1, or a variable-length number is too long.
    #[error("a length in the request is impossible")]
    BadLength,
    /// A tagged field is not as long as it says.
    #[error("a tagged field is not as long as it says")]
    BadTag,
    /// More elements than anybody needs.
    #[error("more than {REQUEST_ELEMENTS_MAX} elements")]
    TooManyElements,
}

/// What stands in a field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string; its length is an i16, or compact.
    Text,
    /// Bytes; their length is an i32, or compact.
    Blob,
    /// An array; its length is an i32, or compact.
    List(&'static Kind),
    Struct(&'static [Field]),
    /// A struct behind a byte that is 1 if it is there.
    NullableStruct(&'static [Field]),
}

/// A field and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) kind: Kind,
    first: i16,
    last: i16,
    pub(crate) tag: Option<u32>,
}

impl Field {
    pub(crate) fn is_in(&self, version: i16) -> bool {
        (self.first..=self.last).contains(&version)
    }
}

const BYTE: Kind = Fixed(1);
const I16: Kind = Fixed(2);
const I32: Kind = Fixed(4);
const I64: Kind = Fixed(8);
const UUID: Kind = Fixed(16);

const fn always(kind: Kind) -> Field {
    within(0, i16::MAX, kind)
}

const fn since(first: i16, kind: Kind) -> Field {
    within(first, i16::MAX, kind)
}

const fn within(first: i16, last: i16, kind: Kind) -> Field {
    Field { kind, first, last, tag: None }
}

const fn tagged(tag: u32, first: i16, kind: Kind) -> Field {
    Field { kind, first, last: i16::MAX, tag: Some(tag) }
}

pub(crate) const PRODUCE: &[Field] = &[
    always(Text),
    always(I16),
    always(I32),
    always(List(&Struct(&[
        within(3, 12, Text),
        since(13, UUID),
        always(List(&Struct(&[always(I32), always(Blob)]))),
    ]))),
];
pub(crate) const FETCH: &[Field] = &[
    tagged(0, 12, Text),
    within(4, 14, I32),
    tagged(1, 15, Struct(&[since(15, I32), since(15, I64)])),
    always(I32),
    always(I32),
    always(I32),
    always(BYTE),
    since(7, I32),
    since(7, I32),
    always(List(&Struct(&[
        within(4, 12, Text),
        since(13, UUID),
        always(List(&Struct(&[
            always(I32),
            since(9, I32),
            always(I64),
            since(12, I32),
            since(5, I64),
            always(I32),
            tagged(0, 17, UUID),
            tagged(1, 18, I64),
        ]))),
    ]))),
    since(7, List(&Struct(&[within(7, 12, Text), since(13, UUID), since(7, List(&I32))]))),
    since(11, Text),
];
pub(crate) const LIST_OFFSETS: &[Field] = &[
    always(I32),
    since(2, BYTE),
    always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32), since(4, I32), always(I64)])))]))),
    since(10, I32),
];
pub(crate) const METADATA: &[Field] = &[
    always(List(&Struct(&[since(10, UUID), always(Text)]))),
    since(4, BYTE),
    within(8, 10, BYTE),
    since(8, BYTE),
];
pub(crate) const OFFSET_COMMIT: &[Field] = &[
    always(Text),
    always(I32),
    always(Text),
    since(7, Text),
    within(2, 4, I64),
    always(List(&Struct(&[
        always(Text),
        always(List(&Struct(&[always(I32), always(I64), since(6, I32), always(Text)]))),
    ]))),
];
pub(crate) const OFFSET_FETCH: &[Field] = &[
    within(1, 7, Text),
    within(1, 7, List(&Struct(&[within(1, 7, Text), within(1, 7, List(&I32))]))),
    since(
        8,
        List(&Struct(&[
            since(8, Text),
            since(9, Text),
            since(9, I32),
            since(8, List(&Struct(&[since(8, Text), since(8, List(&I32))]))),
        ])),
    ),
    since(7, BYTE),
];
pub(crate) const FIND_COORDINATOR: &[Field] = &[within(0, 3, Text), since(1, BYTE), since(4, List(&Text))];
pub(crate) const JOIN_GROUP: &[Field] = &[
    always(Text),
    always(I32),
    since(1, I32),
    always(Text),
    since(5, Text),
    always(Text),
    always(List(&Struct(&[always(Text), always(Blob)]))),
    since(8, Text),
];
pub(crate) const HEARTBEAT: &[Field] = &[always(Text), always(I32), always(Text), since(3, Text)];
pub(crate) const LEAVE_GROUP: &[Field] = &[
    always(Text),
    within(0, 2, Text),
    since(3, List(&Struct(&[since(3, Text), since(3, Text), since(5, Text)]))),
];
pub(crate) const SYNC_GROUP: &[Field] = &[
    always(Text),
    always(I32),
    always(Text),
    since(3, Text),
    since(5, Text),
    since(5, Text),
    always(List(&Struct(&[always(Text), always(Blob)]))),
];
pub(crate) const DESCRIBE_GROUPS: &[Field] = &[always(List(&Text)), since(3, BYTE)];
pub(crate) const LIST_GROUPS: &[Field] = &[since(4, List(&Text)), since(5, List(&Text))];
pub(crate) const API_VERSIONS: &[Field] = &[since(3, Text), since(3, Text)];
pub(crate) const CREATE_TOPICS: &[Field] = &[
    always(List(&Struct(&[
        always(Text),
        always(I32),
        always(I16),
        always(List(&Struct(&[always(I32), always(List(&I32))]))),
        always(List(&Struct(&[always(Text), always(Text)]))),
    ]))),
    always(I32),
    always(BYTE),
];
pub(crate) const DELETE_TOPICS: &[Field] =
    &[since(6, List(&Struct(&[since(6, Text), since(6, UUID)]))), within(1, 5, List(&Text)), always(I32)];
pub(crate) const DELETE_RECORDS: &[Field] = &[
    always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32), always(I64)])))]))),
    always(I32),
];
pub(crate) const INIT_PRODUCER_ID: &[Field] = &[always(Text), always(I32), since(3, I64), since(3, I16)];
/// Of a topic's name and partitions.
const PARTITIONS: Kind = List(&Struct(&[always(Text), always(List(&I32))]));
pub(crate) const OFFSET_FOR_LEADER_EPOCH: &[Field] = &[
    since(3, I32),
    always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32), always(I32), always(I32)])))]))),
];
pub(crate) const ADD_PARTITIONS_TO_TXN: &[Field] = &[
    since(4, List(&Struct(&[always(Text), always(I64), always(I16), always(BYTE), always(PARTITIONS)]))),
    within(0, 3, Text),
    within(0, 3, I64),
    within(0, 3, I16),
    within(0, 3, PARTITIONS),
];
pub(crate) const ADD_OFFSETS_TO_TXN: &[Field] = &[always(Text), always(I64), always(I16), always(Text)];
pub(crate) const WRITE_TXN_MARKERS: &[Field] =
    &[always(List(&Struct(&[always(I64), always(I16), always(BYTE), always(PARTITIONS), always(I32)])))];
pub(crate) const DESCRIBE_PRODUCERS: &[Field] = &[always(PARTITIONS)];
pub(crate) const DESCRIBE_TRANSACTIONS: &[Field] = &[always(List(&Text))];
pub(crate) const LIST_TRANSACTIONS: &[Field] =
    &[always(List(&Text)), always(List(&I64)), since(1, I64), since(2, Text)];
pub(crate) const TXN_OFFSET_COMMIT: &[Field] = &[
    always(Text),
    always(Text),
    always(I64),
    always(I16),
    since(3, I32),
    since(3, Text),
    since(3, Text),
    always(List(&Struct(&[
        always(Text),
        always(List(&Struct(&[always(I32), always(I64), since(2, I32), always(Text)]))),
    ]))),
];
pub(crate) const END_TXN: &[Field] = &[always(Text), always(I64), always(I16), always(BYTE)];
pub(crate) const DESCRIBE_CONFIGS: &[Field] = &[
    always(List(&Struct(&[always(BYTE), always(Text), always(List(&Text))]))),
    always(BYTE),
    since(3, BYTE),
];
pub(crate) const ALTER_CONFIGS: &[Field] = &[
    always(List(&Struct(&[
        always(BYTE),
        always(Text),
        always(List(&Struct(&[always(Text), always(Text)]))),
    ]))),
    always(BYTE),
];
pub(crate) const ALTER_REPLICA_LOG_DIRS: &[Field] =
    &[always(List(&Struct(&[always(Text), always(PARTITIONS)])))];
pub(crate) const DESCRIBE_LOG_DIRS: &[Field] = &[always(PARTITIONS)];
pub(crate) const CREATE_PARTITIONS: &[Field] = &[
    always(List(&Struct(&[always(Text), always(I32), always(List(&Struct(&[always(List(&I32))])))]))),
    always(I32),
    always(BYTE),
];
pub(crate) const DELETE_GROUPS: &[Field] = &[always(List(&Text))];
pub(crate) const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    always(List(&Struct(&[
        always(BYTE),
        always(Text),
        always(List(&Struct(&[always(Text), always(BYTE), always(Text)]))),
    ]))),
    always(BYTE),
];
pub(crate) const ELECT_LEADERS: &[Field] = &[since(1, BYTE), always(PARTITIONS), always(I32)];
pub(crate) const ALTER_PARTITION_REASSIGNMENTS: &[Field] = &[
    always(I32),
    since(1, BYTE),
    always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32), always(List(&I32))])))]))),
];
pub(crate) const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[always(I32), always(PARTITIONS)];
pub(crate) const OFFSET_DELETE: &[Field] =
    &[always(Text), always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32)])))])))];
pub(crate) const DESCRIBE_QUORUM: &[Field] =
    &[always(List(&Struct(&[always(Text), always(List(&Struct(&[always(I32)])))])))];
pub(crate) const UPDATE_FEATURES: &[Field] = &[
    always(I32),
    always(List(&Struct(&[always(Text), always(I16), within(0, 0, BYTE), since(1, BYTE)]))),
    since(1, BYTE),
];
pub(crate) const DESCRIBE_CLUSTER: &[Field] = &[always(BYTE), since(1, BYTE), since(2, BYTE)];
pub(crate) const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    always(Text),
    always(Text),
    always(I32),
    always(Text),
    always(Text),
    always(I32),
    always(List(&Text)),
    since(1, Text),
    always(Text),
    always(List(&Struct(&[always(UUID), always(List(&I32))]))),
];
pub(crate) const CONSUMER_GROUP_DESCRIBE: &[Field] = &[always(List(&Text)), always(BYTE)];
pub(crate) const LIST_CONFIG_RESOURCES: &[Field] = &[since(1, List(&BYTE))];
pub(crate) const DESCRIBE_TOPIC_PARTITIONS: &[Field] = &[
    always(List(&Struct(&[always(Text)]))),
    always(I32),
    always(NullableStruct(&[always(Text), always(I32)])),
];

pub(crate) const DESCRIBE_ACLS: &[Field] =
    &[always(BYTE), always(Text), always(BYTE), always(Text), always(Text), always(BYTE), always(BYTE)];

/// Bytes being walked.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    left: &'a [u8],
    flexible: bool,
    elements_left: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { left: bytes, flexible, elements_left: REQUEST_ELEMENTS_MAX }
    }

    /// Bytes not walked yet.
    pub(crate) fn left(&self) -> usize {
        self.left.len()
    }

    /// Walks the fields that `version` has, in order, and the tagged fields after them.
    pub(crate) fn fields(&mut self, shape: &[Field], version: i16) -> Result<(), ShapeError> {
        let has = |field: &&Field| field.is_in(version);
        for field in shape.iter().filter(has).filter(|field| field.tag.is_none()) {
            self.field(&field.kind, version)?;
        }
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.counted_varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            match shape.iter().filter(has).find(|field| field.tag == Some(tag)) {
                None => self.skip(length)?,
                // The decoder reads a field that it knows by its kind, whatever its length says.
                Some(field) => {
                    let end = self.left.len().checked_sub(length).ok_or(ShapeError::Truncated)?;
                    self.field(&field.kind, version)?;
                    if self.left.len() != end {
                        return Err(ShapeError::BadTag);
                    }
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, kind: &Kind, version: i16) -> Result<(), ShapeError> {
        match *kind {
            Fixed(bytes) => self.skip(bytes),
            Text => self.text(),
            Blob => {
                let length = self.length()?;
                self.skip(length)
            }
            List(element) => {
                let count = self.length()?;
                self.elements_left =
                    self.elements_left.checked_sub(count).ok_or(ShapeError::TooManyElements)?;
                (0..count).try_for_each(|_| self.field(element, version))
            }
            Struct(shape) => self.fields(shape, version),
            NullableStruct(shape) => match self.take::<1>()? {
                [1] => self.fields(shape, version),
                _ => Ok(()),
            },
        }
    }

    fn text(&mut self) -> Result<(), ShapeError> {
        let length = match self.flexible {
            // As in Kafka, a string is no longer than where its length is an i16.
            true => match self.length()? {
                length if length > i16::MAX as usize => return Err(ShapeError::BadLength),
                length => length,
            },
            false => nullable(i16::from_be_bytes(self.take()?).into())?,
        };
        self.skip(length)
    }

    /// The length of bytes or of an array; null counts as empty.
    fn length(&mut self) -> Result<usize, ShapeError> {
        match self.flexible {
            true => Ok((self.varint()? as usize).saturating_sub(1)),
            false => nullable(i32::from_be_bytes(self.take()?)),
        }
    }

    fn counted_varint(&mut self) -> Result<usize, ShapeError> {
        let count = self.varint()? as usize;
        self.elements_left = self.elements_left.checked_sub(count).ok_or(ShapeError::TooManyElements)?;
        Ok(count)
    }

    fn varint(&mut self) -> Result<u32, ShapeError> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            if shift == 28 && byte > 0x0f {
                return Err(ShapeError::BadLength);
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let (head, rest) = self.left.split_first_chunk().ok_or(ShapeError::Truncated)?;
        self.left = rest;
        Ok(*head)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.left = self.left.get(bytes..).ok_or(ShapeError::Truncated)?;
        Ok(())
    }
}

fn nullable(length: i32) -> Result<usize, ShapeError> {
    usize::try_from(length.checked_add(1).ok_or(ShapeError::BadLength)?)
        .map(|plus_one| plus_one.saturating_sub(1))
        .map_err(|_| ShapeError::BadLength)
}
