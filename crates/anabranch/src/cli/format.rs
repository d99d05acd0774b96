//! How `consume` prints a record: a format string in the manner of kcat's, or JSON.

use std::borrow::Cow;
use std::str::FromStr;

use anabranch::engine::Position;
use anabranch_core::TopicPartition;
use anabranch_core::batch::{NO_TIMESTAMP, Record};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::place::time_text;

/// What is printed of a record.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) at: &'a TopicPartition,
    pub(super) position: Position,
    pub(super) record: &'a Record,
}

impl Shown<'_> {
    /// Milliseconds since the Unix epoch, if the record has a time.
    fn timestamp_ms(&self) -> Option<i64> {
        (self.record.timestamp_ms != NO_TIMESTAMP).then_some(self.record.timestamp_ms)
    }

    fn headers(&self) -> impl Iterator<Item = (Cow<'_, str>, Option<&[u8]>)> {
        self.record
            .headers
            .iter()
            .map(|header| (String::from_utf8_lossy(&header.key), header.value.as_deref()))
    }
}

/// A format string, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Bytes(Vec<u8>),
    Field(char),
}

/// What stands behind `%`.
const FIELDS: &str = "kvstpoThSK";

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut bytes = Vec::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '%' => match rest.next() {
                    Some('%') => bytes.push(b'%'),
                    Some(field) if FIELDS.contains(field) => {
                        parts.extend([Part::Bytes(std::mem::take(&mut bytes)), Part::Field(field)]);
                    }
                    Some(other) => {
                        return Err(format!("%{other} is no field; there are %k %v %t %p %o %T %h %K %S"));
                    }
                    None => return Err("a field's letter must follow %; %% is a per cent sign".to_owned()),
                },
                '\\' => bytes.push(escape(&mut rest)?),
                other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        parts.push(Part::Bytes(bytes));
        parts.retain(|part| *part != Part::Bytes(Vec::new()));
        Ok(Self(parts))
    }
}

fn escape(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    match rest.next() {
        Some('n') => Ok(b'\n'),
        Some('r') => Ok(b'\r'),
        Some('t') => Ok(b'\t'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let digits: String = rest.take(2).collect();
            match digits.len() {
                2 => u8::from_str_radix(&digits, 16).map_err(|_| format!("\\x{digits} is no byte")),
                _ => Err("two hexadecimal digits must follow \\x".to_owned()),
            }
        }
        Some(other) => Err(format!("\\{other} is no escape; there are \\n \\r \\t \\0 \\\\ \\xNN")),
        None => Err("a letter must follow \\; \\\\ is a backslash".to_owned()),
    }
}

impl Format {
    /// Appends the record as it is to be printed. A key or value that is null prints nothing, and its length as -1.
    pub(super) fn write(&self, shown: &Shown<'_>, into: &mut Vec<u8>) {
        let record = shown.record;
        let len = |bytes: Option<&[u8]>| bytes.map_or("-1".to_owned(), |bytes| bytes.len().to_string());
        for part in &self.0 {
            let field = match part {
                Part::Bytes(bytes) => {
                    into.extend_from_slice(bytes);
                    continue;
                }
                Part::Field(field) => field,
            };
            match field {
                'k' => into.extend_from_slice(record.key.as_deref().unwrap_or_default()),
                'v' | 's' => into.extend_from_slice(record.value.as_deref().unwrap_or_default()),
                't' => into.extend_from_slice(shown.at.topic.as_bytes()),
                'p' => into.extend_from_slice(shown.at.partition.to_string().as_bytes()),
                'o' => into.extend_from_slice(shown.position.to_string().as_bytes()),
                'T' => {
                    into.extend_from_slice(shown.timestamp_ms().unwrap_or(-1).to_string().as_bytes());
                }
                'K' => into.extend_from_slice(len(record.key.as_deref()).as_bytes()),
                'S' => into.extend_from_slice(len(record.value.as_deref()).as_bytes()),
                'h' => write_headers(shown, into),
                _ => unreachable!("a format has only fields that there are"),
            }
        }
    }
}

/// `name=value,name=value`, as kcat has it.
fn write_headers(shown: &Shown<'_>, into: &mut Vec<u8>) {
    for (index, (name, value)) in shown.headers().enumerate() {
        if index > 0 {
            into.push(b',');
        }
        into.extend_from_slice(name.as_bytes());
        into.push(b'=');
        into.extend_from_slice(value.unwrap_or(b"NULL"));
    }
}

/// The record as JSON. Bytes that are no UTF-8 text stand under `key_base64`, `value_base64` instead.
pub(super) fn to_json(shown: &Shown<'_>) -> Value {
    let mut object = Map::new();
    object.insert("topic".to_owned(), json!(shown.at.topic));
    object.insert("partition".to_owned(), json!(shown.at.partition));
    object.insert("offset".to_owned(), json!(shown.position.0));
    let ms = shown.timestamp_ms();
    object.insert("timestamp_ms".to_owned(), json!(ms));
    object.insert("timestamp".to_owned(), json!(ms.map(time_text)));
    insert_bytes(&mut object, "key", shown.record.key.as_deref());
    insert_bytes(&mut object, "value", shown.record.value.as_deref());
    let headers = shown.headers().map(|(name, value)| {
        let mut header = Map::new();
        header.insert("key".to_owned(), json!(name));
        insert_bytes(&mut header, "value", value);
        Value::Object(header)
    });
    object.insert("headers".to_owned(), headers.collect());
    Value::Object(object)
}

pub(super) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), json!(text)),
        Some(Err(_)) => {
            object.insert(format!("{name}_base64"), json!(BASE64.encode(bytes.unwrap_or_default())))
        }
    };
}

#[cfg(test)]
mod tests {
    use anabranch_core::batch::Header;

    use super::*;

    fn record() -> Record {
        let header = |value: Option<&'static [u8]>| Header { key: "a".into(), value: value.map(Into::into) };
        Record {
            key: Some("o-1".into()),
            value: None,
            headers: vec![header(Some(b"1")), header(None)],
            timestamp_ms: 1_357_016_400_000,
        }
    }

    fn with_shown<T>(record: &Record, then: impl FnOnce(&Shown<'_>) -> T) -> T {
        let at = TopicPartition::new("orders", 2);
        then(&Shown { at: &at, position: Position(7), record })
    }

    #[test]
    fn formats_print_what_they_say() {
        let print = |format: &str| {
            let mut into = Vec::new();
            let format: Format = format.parse().unwrap();
            with_shown(&record(), |shown| format.write(shown, &mut into));
            into
        };
        assert_eq!(print(r"%t %p %o %k|%v|%s %K %S\n"), b"orders 2 7 o-1|| 3 -1\n");
        assert_eq!(print(r"%T %h%%\t\\\x41\0\xff"), b"1357016400000 a=1,a=NULL%\t\\A\0\xff");
        assert_eq!(print("\u{e4}"), "\u{e4}".as_bytes());
    }

    #[test]
    fn wrong_formats_are_refused() {
        for (format, told) in [
            ("%q", "%q is no field"),
            ("%", "must follow %"),
            (r"\q", r"\q is no escape"),
            (r"\x4", "two hex"),
            (r"\xzz", "no byte"),
            ("\\", "must follow"),
        ] {
            let error = format.parse::<Format>().unwrap_err();
            assert!(error.contains(told), "{format}: {error}");
        }
    }

    #[test]
    fn json_has_everything_and_bytes_that_are_no_text_in_base64() {
        assert_eq!(
            with_shown(&record(), to_json),
            json!({
                "topic": "orders", "partition": 2, "offset": 7,
                "timestamp_ms": 1_357_016_400_000_i64, "timestamp": "2013-01-01T05:00:00.000Z",
                "key": "o-1", "value": null,
                "headers": [{ "key": "a", "value": "1" }, { "key": "a", "value": null }],
            })
        );
        let binary = Record { value: Some(vec![0xff, 0].into()), ..record() };
        let binary = with_shown(&binary, to_json);
        assert_eq!(binary["value_base64"], "/wA=");
        assert!(binary.get("value").is_none());
    }
}
