//! What a member was given, as consumers of the classic protocol write it down. Layout, big-endian
//! (Kafka's `ConsumerProtocolAssignment`):
//!
//! ```text
//! version i16 | topicCount i32 | { nameLength i16 | name | partitionCount i32 | { partition i32 }* }* | ...
//! ```

/// The partitions in an assignment. Groups of other protocols write other bytes: what is no assignment gives none.
pub(super) fn assigned(bytes: &[u8]) -> Vec<(String, i32)> {
    read(bytes).unwrap_or_default()
}

fn read(bytes: &[u8]) -> Option<Vec<(String, i32)>> {
    let mut rest = bytes;
    let _version = i16::from_be_bytes(take(&mut rest)?);
    let mut partitions = Vec::new();
    for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
        let length = usize::try_from(i16::from_be_bytes(take(&mut rest)?)).ok()?;
        let (name, after) = rest.split_at_checked(length)?;
        rest = after;
        let name = std::str::from_utf8(name).ok()?;
        for _ in 0..i32::from_be_bytes(take(&mut rest)?) {
            partitions.push((name.to_owned(), i32::from_be_bytes(take(&mut rest)?)));
        }
    }
    Some(partitions)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read_and_other_bytes_are_none() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01a\0\0\0\x02\0\0\0\0\0\0\0\x05\0\x02bc\0\0\0\x01\0\0\0\x07\xff\xff\xff\xff";
        assert_eq!(assigned(bytes), [("a".into(), 0), ("a".into(), 5), ("bc".into(), 7)]);
        for end in 0..bytes.len() - 4 {
            assert_eq!(assigned(&bytes[..end]), [], "{end}");
        }
        assert_eq!(assigned(b"\0\0\x7f\xff\xff\xff"), []);
        assert_eq!(assigned(b"\0\0\0\0\0\x01\xff\xff"), []);
    }
}
