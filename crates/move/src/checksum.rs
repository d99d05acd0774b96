//! What a partition's records come to, in sixteen bytes.

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use anabranch_core::batch::Record;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};

/// A checksum over records in their order: of each record SipHash-2-4 with 128 bits, keyed with the checksum before it. So it
/// goes on from any record at which it was noted. Keys, values, headers and timestamps are in it, and positions are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Checksum(u64, u64);

/// Where a field is null.
const NULL: u64 = u64::MAX;

impl Checksum {
    /// Takes in the next record.
    pub fn take(&mut self, record: &Record) {
        let mut hasher = SipHasher24::new_with_keys(self.0, self.1);
        let mut field = |bytes: Option<&[u8]>| {
            hasher.write(&bytes.map_or(NULL, |bytes| bytes.len() as u64).to_le_bytes());
            hasher.write(bytes.unwrap_or_default());
        };
        field(Some(&record.timestamp_ms.to_le_bytes()));
        field(record.key.as_deref());
        field(record.value.as_deref());
        for header in &record.headers {
            field(Some(&header.key));
            field(header.value.as_deref());
        }
        let hash = hasher.finish128();
        *self = Self(hash.h1, hash.h2);
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0, self.1)
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Checksum {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a checksum has 32 hexadecimal digits";
        let (high, low) = text.split_at_checked(16).ok_or(wrong)?;
        let half = |text: &str| match text.len() {
            16 => u64::from_str_radix(text, 16).map_err(|_| wrong),
            _ => Err(wrong),
        };
        Ok(Self(half(high)?, half(low)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_and_the_order_are_in_it_and_it_goes_on_from_where_it_was_noted() {
        let of = |records: &[Record]| {
            let mut checksum = Checksum::default();
            records.iter().for_each(|record| checksum.take(record));
            checksum
        };
        let records = [
            Record::new("k", "v"),
            Record::new("kv", ""),
            Record::new("", "kv"),
            Record::keyless("kv"),
            Record::tombstone("kv"),
            Record::new("k", "v").at(5),
            Record::new("k", "v").header("h", "x"),
            Record::new("k", "v").header("hx", ""),
            Record::new("k", "v").header("h", "x").header("h", "x"),
        ];
        for (at, one) in records.iter().enumerate() {
            for other in &records[at + 1..] {
                assert_ne!(of(std::slice::from_ref(one)), of(std::slice::from_ref(other)));
                assert_ne!(of(&[one.clone(), other.clone()]), of(&[other.clone(), one.clone()]));
            }
        }
        let mut noted: Checksum = of(&records[..4]).to_string().parse().unwrap();
        records[4..].iter().for_each(|record| noted.take(record));
        assert_eq!(noted, of(&records));
        assert!("00".parse::<Checksum>().is_err() && "+".repeat(32).parse::<Checksum>().is_err());
    }
}
