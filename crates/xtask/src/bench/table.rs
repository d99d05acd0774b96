//! Tables in Markdown, and what stands in their cells.

use std::fmt;

/// What several rounds said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) min: f64,
    pub(super) median: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { min, median, max })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(0);
        let Self { min, median, max } = self;
        let [min, median, max] = [min, median, max].map(|value| format!("{value:.digits$}"));
        if min == max { write!(f, "{median}") } else { write!(f, "{median} ({min}–{max})") }
    }
}

/// A cell: what the rounds said, or nothing.
pub(super) fn cell(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    Spread::of(values).map_or_else(String::new, |spread| format!("{spread:.digits$}"))
}

pub(super) fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// A table in Markdown, aligned for reading as it is.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&header]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    [&header, &rule].into_iter().chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_rounds_and_their_ends() {
        let said = |values: &[f64]| cell(values.iter().copied(), 1);
        assert_eq!(said(&[]), "");
        assert_eq!(said(&[2.0]), "2.0");
        assert_eq!(said(&[4.0, 1.0]), "2.5 (1.0–4.0)");
        assert_eq!(said(&[9.0, 1.0, 2.0]), "2.0 (1.0–9.0)");
    }
}
