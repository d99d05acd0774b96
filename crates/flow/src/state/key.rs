//! The key of a window's state, which sorts by the window's end so that what is due stands together:
//!
//! ```text
//!  0  end    i64, sign flipped, big-endian
//!  8  start  i64, the same
//! 16  the record key, as serialised
//! ```

use std::ops::Bound;

use crate::window::Window;

/// Bytes before the record key.
const PREFIX_BYTES: usize = 16;
/// The store's keys end at 64 KiB.
pub(crate) const KEY_BYTES_MAX: usize = u16::MAX as usize - PREFIX_BYTES;

/// The key of one window of one record key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WindowKey<'a> {
    pub(crate) window: Window,
    pub(crate) key: &'a [u8],
}

impl<'a> WindowKey<'a> {
    /// Replaces what is in `into`.
    pub(crate) fn write(self, into: &mut Vec<u8>) {
        into.clear();
        into.extend_from_slice(&sortable(self.window.end_ms));
        into.extend_from_slice(&sortable(self.window.start_ms));
        into.extend_from_slice(self.key);
    }

    /// `None` if the bytes are too short to be such a key.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (end, rest) = bytes.split_first_chunk()?;
        let (start, key) = rest.split_first_chunk()?;
        Some(Self { window: Window { start_ms: unsortable(*start), end_ms: unsortable(*end) }, key })
    }
}

/// The store's range of windows that end after `after_ms`, and no later than `through_ms`.
pub(crate) fn ending(after_ms: i64, through_ms: i64) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let bound = |end_ms: i64| sortable(end_ms.saturating_add(1)).to_vec();
    (Bound::Included(bound(after_ms)), Bound::Excluded(bound(through_ms)))
}

fn sortable(ms: i64) -> [u8; 8] {
    (ms ^ i64::MIN).to_be_bytes()
}

fn unsortable(bytes: [u8; 8]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_end_and_come_back() {
        let key = |end_ms, start_ms, key| WindowKey { window: Window { start_ms, end_ms }, key };
        let ascending = [
            key(-10, -20, b"z".as_slice()),
            key(-1, -300, b""),
            key(0, -300, b"a"),
            key(0, -300, b"b"),
            key(0, -1, b"a"),
            key(1, 0, b"a"),
            key(256, 0, b"a"),
        ];
        let bytes = ascending.map(|key| {
            let mut bytes = b"left over".to_vec();
            key.write(&mut bytes);
            bytes
        });
        assert!(bytes.is_sorted());
        for (key, bytes) in ascending.iter().zip(&bytes) {
            assert_eq!(WindowKey::read(bytes), Some(*key));
        }
        let (Bound::Included(from), Bound::Excluded(to)) = ending(-1, 1) else { panic!("bounds") };
        let inside: Vec<_> = bytes.iter().filter(|key| from <= **key && **key < to).collect();
        assert_eq!(inside, bytes[2..6].iter().collect::<Vec<_>>());
        assert_eq!(WindowKey::read(&bytes[0][..15]), None);
    }
}
