//! The simulator itself: it replays, and its disk lies as it says. And stories that it found.
#![allow(clippy::unwrap_used)] // helpers are tests, too

mod disk;
mod flow;
mod replay;
mod stories;
