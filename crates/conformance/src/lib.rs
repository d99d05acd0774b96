//! What every engine promises: behaviours that are written once, and run against each engine.
//!
//! [`Engine`](anabranch_core::engine::Engine) has several implementations, and an application that moves from one to another
//! must not find out by itself where they differ. So each promise of the seam is a [`Behaviour`] here, with a name, a sentence
//! and a function ([`table`]), and [`ALL`] of them run on whatever [`Ground`] an engine is brought on: a data directory of its
//! own, or a running cluster. A behaviour that needs what the ground cannot do (cut a network, kill a node) is told as
//! skipped, never as kept.
//!
//! An engine's own description is held to the truth ([`judge`]): a behaviour whose capabilities are declared must be kept; and
//! where one is declared absent, the behaviour that witnesses it must fail, by a typed refusal where there is one.
//!
//! The checkers are checked: [`Liar`] wraps an engine and breaks one promise, and a table in the tests says which behaviours
//! must tell.
//!
//! ```text
//! cargo test -p anabranch-conformance                       the embedded engine, and the liars
//! tests/conformance/run --engine kafka --nodes 1            a peer
//! ```

pub mod behaviours;
mod child;
mod ground;
mod judge;
mod liar;
mod proxy;
mod report;
mod run;
mod stage;
#[macro_use]
pub mod table;

pub use child::{CHILD, play};
pub use ground::{Ground, Network, Nodes};
pub use judge::{Verdict, judge};
pub use liar::{Liar, Lie};
pub use proxy::Proxy;
pub use report::{Line, markdown, read_lines};
pub use run::{RESULTS, check, run};
pub use stage::{Outcome, Stage, Stop};
pub use table::{ALL, Behaviour};
