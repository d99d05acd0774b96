//! An answer as a tree of named fields, whatever message it is.
//!
//! The messages are generated and have no reflection but their `Debug` form, which names every field: it is read back here. So
//! every field of every message is compared, unless a rule says otherwise.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

use bytes::Bytes;

/// A value in an answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tree {
    /// A number, a UUID, true, false, or null.
    Leaf(String),
    /// A string.
    Text(String),
    /// Bytes.
    Bytes(Bytes),
    /// An array.
    List(Vec<Tree>),
    /// A message, or a structure inside it.
    Struct(Vec<(String, Tree)>),
}

/// Where two trees differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differing {
    /// The names of fields, and places in arrays.
    pub path: String,
    /// What stands there in the one.
    pub one: String,
    /// What stands there in the other.
    pub other: String,
}

impl Tree {
    /// The tree of a value whose `Debug` is derived.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    pub fn of(value: &impl fmt::Debug) -> Self {
        let text = format!("{value:?}");
        let mut parser = Parser { chars: text.chars().peekable() };
        let tree = parser.value();
        assert!(parser.chars.next().is_none(), "something is left of {text}");
        tree
    }

    /// A leaf.
    pub fn leaf(value: impl fmt::Display) -> Self {
        Self::Leaf(value.to_string())
    }

    /// The field of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Struct(fields) => fields.iter().find(|(each, _)| each == name).map(|(_, tree)| tree),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Self> {
        match self {
            Self::Struct(fields) => fields.iter_mut().find(|(each, _)| each == name).map(|(_, tree)| tree),
            _ => None,
        }
    }

    /// The elements of an array; none of anything else.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::List(elements) => elements,
            _ => &[],
        }
    }

    /// The string or the leaf's text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Leaf(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Calls `each` on every field, inner ones first.
    pub fn visit(&self, each: &mut impl FnMut(&str, &Self)) {
        match self {
            Self::Struct(fields) => {
                for (name, field) in fields {
                    field.visit(each);
                    each(name, field);
                }
            }
            Self::List(elements) => elements.iter().for_each(|element| element.visit(each)),
            Self::Leaf(_) | Self::Text(_) | Self::Bytes(_) => {}
        }
    }

    /// Calls `each` on every field, inner ones first.
    pub fn visit_mut(&mut self, each: &mut impl FnMut(&str, &mut Self)) {
        match self {
            Self::Struct(fields) => {
                for (name, field) in fields {
                    field.visit_mut(each);
                    each(name, field);
                }
            }
            Self::List(elements) => elements.iter_mut().for_each(|element| element.visit_mut(each)),
            Self::Leaf(_) | Self::Text(_) | Self::Bytes(_) => {}
        }
    }

    /// Every place where they differ.
    #[must_use]
    pub fn differing(&self, other: &Self) -> Vec<Differing> {
        let mut found = Vec::new();
        self.compare(other, String::new(), &mut found);
        found
    }

    fn compare(&self, other: &Self, path: String, found: &mut Vec<Differing>) {
        match (self, other) {
            (Self::Struct(mine), Self::Struct(theirs)) if same_names(mine, theirs) => {
                for ((name, mine), (_, theirs)) in mine.iter().zip(theirs) {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    mine.compare(theirs, path, found);
                }
            }
            (Self::List(mine), Self::List(theirs)) if mine.len() == theirs.len() => {
                for (at, (mine, theirs)) in mine.iter().zip(theirs).enumerate() {
                    mine.compare(theirs, format!("{path}[{at}]"), found);
                }
            }
            _ if self == other => {}
            _ => found.push(Differing { path, one: self.to_string(), other: other.to_string() }),
        }
    }
}

fn same_names(mine: &[(String, Tree)], theirs: &[(String, Tree)]) -> bool {
    mine.len() == theirs.len() && mine.iter().zip(theirs).all(|((mine, _), (theirs, _))| mine == theirs)
}

impl fmt::Display for Tree {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf(text) => out.write_str(text),
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Bytes(bytes) => write!(out, "{bytes:?}"),
            Self::List(elements) => {
                out.write_str("[")?;
                for (at, element) in elements.iter().enumerate() {
                    write!(out, "{}{element}", if at == 0 { "" } else { ", " })?;
                }
                out.write_str("]")
            }
            Self::Struct(fields) => {
                out.write_str("{")?;
                for (at, (name, field)) in fields.iter().enumerate() {
                    write!(out, "{}{name}: {field}", if at == 0 { "" } else { ", " })?;
                }
                out.write_str("}")
            }
        }
    }
}

/// Reads what derived `Debug` writes.
struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
}

impl Parser<'_> {
    fn value(&mut self) -> Tree {
        match self.chars.peek() {
            Some('[') => Tree::List(self.elements('[', ']')),
            Some('"') => Tree::Text(String::from_utf8_lossy(&self.quoted()).into_owned()),
            Some('{') => self.map(),
            _ => self.word(),
        }
    }

    /// A token, and what may stand behind it: `Some(..)`, a newtype, a struct, bytes.
    fn word(&mut self) -> Tree {
        let word = self.token();
        let is_struct = self.chars.clone().nth(1) == Some('{');
        match self.chars.peek() {
            Some('"') if word == "b" => Tree::Bytes(self.quoted().into()),
            Some('(') => {
                let mut inner = self.elements('(', ')');
                if inner.len() == 1 { inner.remove(0) } else { Tree::List(inner) }
            }
            Some(' ') if is_struct => {
                self.chars.next();
                self.fields()
            }
            _ if word == "None" => Tree::leaf("null"),
            _ => Tree::Leaf(word),
        }
    }

    fn token(&mut self) -> String {
        let mut token = String::new();
        while let Some(next) = self.chars.next_if(|next| !",:[](){}\" ".contains(*next)) {
            token.push(next);
        }
        token
    }

    fn elements(&mut self, open: char, close: char) -> Vec<Tree> {
        self.expect(open);
        let mut elements = Vec::new();
        while self.chars.next_if_eq(&close).is_none() {
            if !elements.is_empty() {
                self.expect(',');
                self.expect(' ');
            }
            elements.push(self.value());
        }
        elements
    }

    fn fields(&mut self) -> Tree {
        self.expect('{');
        self.expect(' ');
        let mut fields = Vec::new();
        loop {
            let name = self.token();
            self.expect(':');
            self.expect(' ');
            fields.push((name, self.value()));
            match self.chars.next() {
                Some(',') => self.expect(' '),
                _ => break,
            }
        }
        self.expect('}');
        Tree::Struct(fields)
    }

    /// Of tags that are not known.
    fn map(&mut self) -> Tree {
        self.expect('{');
        let mut fields = Vec::new();
        while self.chars.next_if_eq(&'}').is_none() {
            if !fields.is_empty() {
                self.expect(',');
                self.expect(' ');
            }
            let name = self.token();
            self.expect(':');
            self.expect(' ');
            fields.push((name, self.value()));
        }
        Tree::Struct(fields)
    }

    /// A string, or bytes behind their `b`.
    fn quoted(&mut self) -> Vec<u8> {
        self.expect('"');
        let mut bytes = Vec::new();
        let mut put = |char: char| bytes.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        let mut raw = Vec::new();
        loop {
            match self.chars.next().expect("a string ends") {
                '"' => break,
                '\\' => raw.push(self.escaped()),
                char => raw.push(Unit::Char(char)),
            }
        }
        for unit in &raw {
            if let Unit::Char(char) = unit {
                put(*char);
            }
        }
        if raw.iter().any(|unit| matches!(unit, Unit::Byte(_))) {
            // Bytes are written one by one, so what is not escaped is ASCII.
            bytes = raw
                .iter()
                .map(|unit| match unit {
                    Unit::Byte(byte) => *byte,
                    Unit::Char(char) => *char as u8,
                })
                .collect();
        }
        bytes
    }

    fn escaped(&mut self) -> Unit {
        match self.chars.next().expect("an escape goes on") {
            'n' => Unit::Char('\n'),
            'r' => Unit::Char('\r'),
            't' => Unit::Char('\t'),
            '0' => Unit::Char('\0'),
            'x' => {
                let digits: String = self.chars.by_ref().take(2).collect();
                Unit::Byte(u8::from_str_radix(&digits, 16).expect("two digits"))
            }
            'u' => {
                self.expect('{');
                let digits = self.token();
                self.expect('}');
                let code = u32::from_str_radix(&digits, 16).expect("digits");
                Unit::Char(char::from_u32(code).expect("a character"))
            }
            char => Unit::Char(char),
        }
    }

    fn expect(&mut self, wanted: char) {
        let found = self.chars.next();
        assert_eq!(found, Some(wanted), "before {}", self.chars.clone().take(80).collect::<String>());
    }
}

enum Unit {
    Char(char),
    Byte(u8),
}

#[cfg(test)]
mod tests {
    use anabranch_wire::messages::fetch_response::{FetchableTopicResponse, PartitionData};
    use anabranch_wire::messages::{FetchResponse, TopicName};

    use super::*;
    use crate::client::text;

    #[test]
    fn every_field_of_a_message_is_there() {
        let records = Bytes::from_static(b"\0\"a\\\xff\n'");
        let partition = PartitionData::default().with_high_watermark(-7).with_records(Some(records.clone()));
        let topic = FetchableTopicResponse::default()
            .with_topic(TopicName(text("a \"b\" {c}, d: \u{e9}\u{0}")))
            .with_partitions(vec![partition]);
        let tree = Tree::of(&FetchResponse::default().with_responses(vec![topic.clone(), topic]));
        let first = &tree.get("responses").unwrap().elements()[0];
        assert_eq!(first.get("topic"), Some(&Tree::Text("a \"b\" {c}, d: \u{e9}\u{0}".to_owned())));
        assert_eq!(first.get("topic_id"), Some(&Tree::leaf(uuid::Uuid::nil())));
        let partition = &first.get("partitions").unwrap().elements()[0];
        assert_eq!(partition.get("high_watermark"), Some(&Tree::leaf(-7)));
        assert_eq!(partition.get("aborted_transactions"), Some(&Tree::List(Vec::new())));
        assert_eq!(partition.get("records"), Some(&Tree::Bytes(records)));
        assert_eq!(tree.differing(&tree), []);
    }

    #[test]
    fn what_differs_is_told_by_its_path() {
        let one = |offset| {
            let partition = PartitionData::default().with_log_start_offset(offset);
            let topic = FetchableTopicResponse::default().with_partitions(vec![partition]);
            Tree::of(&FetchResponse::default().with_responses(vec![topic]))
        };
        let differing = one(3).differing(&one(4));
        let path = "responses[0].partitions[0].log_start_offset".to_owned();
        assert_eq!(differing, [Differing { path, one: "3".to_owned(), other: "4".to_owned() }]);
        let none = Tree::of(&FetchResponse::default());
        assert_eq!(one(3).differing(&none)[0].path, "responses");
    }
}
