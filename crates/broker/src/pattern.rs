//! Names by regular expression. The syntax is RE2's, as far as the crate `regex` has it, which is of the same kind: no
//! expression takes more than linear time.

use std::collections::BTreeSet;

use regex::{Regex, RegexBuilder};

/// What a compiled expression may take.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// An expression that matches whole names.
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
}

/// It does not compile, or takes too much compiled.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
pub struct PatternError(#[from] regex::Error);

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let compile = |pattern: &str| RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build();
        // By itself first: what closes a group that it has not opened must not close ours.
        compile(pattern)?;
        Ok(Self { regex: compile(&format!(r"\A(?:{pattern})\z"))? })
    }

    /// Whether it matches all of a name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    pub(crate) fn matching<'a>(&self, names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        names.filter(|name| self.matches(name)).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_whole_names() {
        #[track_caller]
        fn check(pattern: &str, expected: &[&str]) {
            let names = ["a", "ab", "b", "orders.eu", "orders-eu"];
            let matching = Pattern::new(pattern).unwrap().matching(names.into_iter());
            assert_eq!(matching.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{pattern}");
        }
        check("a", &["a"]);
        check("a|b", &["a", "b"]);
        check("a|ab", &["a", "ab"]);
        check("a.*", &["a", "ab"]);
        check("^b$", &["b"]);
        check("(?i)ORDERS\\..*", &["orders.eu"]);
        check("orders.eu", &["orders-eu", "orders.eu"]);
        check("", &[]);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in ["[", "a)|(b", "(?=a)", "(a)\\1", "*", "(a{500}){500}"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }
}
