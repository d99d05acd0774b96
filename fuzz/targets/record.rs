//! A record in a fuzzer's input: a byte that says how long the key is, whose highest bit says that there is no value; the key;
//! the value.

pub fn split(data: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (first, rest) = data.split_first()?;
    let (key, value) = rest.split_at_checked(usize::from(first & 0x7f))?;
    Some((key, (first & 0x80 == 0).then_some(value)))
}
