//! What happened, line by line: the last lines are for a person, the hash of all of them is for the test of determinism.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

/// Lines that are kept.
const LINES_MAX: usize = 200;

/// The trace of one run. Cheap to clone; all clones are the same trace.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    count: u64,
    lines: VecDeque<String>,
    aloud: bool,
}

impl Trace {
    /// A trace that prints each line as it comes, if `aloud`.
    #[must_use]
    pub fn new(aloud: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { aloud, ..Inner::default() })))
    }

    /// Adds a line.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        let mut text = match inner.lines.len() < LINES_MAX {
            true => String::new(),
            false => inner.lines.pop_front().unwrap_or_default(),
        };
        text.clear();
        let _ = text.write_fmt(line);
        // FNV-1a; it need only tell two runs apart.
        for byte in text.bytes().chain([b'\n']) {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if inner.aloud {
            println!("{:>6}  {text}", inner.count);
        }
        inner.count += 1;
        inner.lines.push_back(text);
    }

    /// A number that two runs share only if they did the same.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.0.lock().hash
    }

    /// The last lines, at most `count`.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let inner = self.0.lock();
        inner.lines.iter().skip(inner.lines.len().saturating_sub(count)).cloned().collect()
    }
}
