//! The simulator itself: it replays, and its disk lies as it says.

mod disk;
mod replay;
