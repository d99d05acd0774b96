//! Data on standard output: tables for people, JSON for programs.

use std::io::{self, BufWriter, Stdout, Write};

use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Standard output, in the form that the user asked for.
#[derive(Debug)]
pub(super) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Words: to the left.
    Text(&'static str),
    /// Figures: to the right.
    Number(&'static str),
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json, out: BufWriter::new(io::stdout()) }
    }

    /// Whether programs read it.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// One JSON value on one line.
    pub(super) fn json(&mut self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value).context("cannot encode the output as JSON")?;
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// One line of text.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> anyhow::Result<()> {
        self.bytes(text.as_ref().as_bytes())?;
        self.bytes(b"\n")
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.out.write_all(bytes).context("cannot write to standard output")
    }

    /// Sends everything on its way. Every command ends with it, so that a failure to print is a failure.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        self.out.flush().context("cannot write to standard output")
    }

    /// A [`table`].
    pub(super) fn table(&mut self, columns: &[Column], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        self.line(table(columns, rows))
    }
}

/// A table without lines, as programs that print lists have it; nothing but the head when there are no rows.
pub(crate) fn table(columns: &[Column], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Text(name) | Column::Number(name) => *name,
    }));
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        let cells = table.column_mut(index).expect("the head has as many columns");
        // The first column stands at the edge; between columns there are two blanks.
        cells.set_padding((if index == 0 { 0 } else { 2 }, 0));
        if let Column::Number(_) = column {
            cells.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `one` or `many` after its count: `1 record`, `2 records`.
pub(super) fn counted(count: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(count), if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (-1_234_567, "-1,234,567"),
            (i64::MIN, "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(counted(1, "record"), "1 record");
        assert_eq!(counted(2000, "record"), "2,000 records");
    }
}
