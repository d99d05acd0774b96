//! Where effects come in: disk, clock, randomness, threads, and what the machine allows.
//!
//! Production code takes these as trait objects. The real ones are here; a simulator brings others and replays any
//! failure from its seed.

pub mod clock;
pub mod disk;
pub mod machine;
pub mod random;
pub mod workers;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk::{Disk, DiskFile, Entry, Lock, Open, RealDisk, Space};
pub use machine::Machine;
pub use random::{OsRandom, Random, SeededRandom};
pub use workers::{Dedicated, Task, Threads, Workers};
