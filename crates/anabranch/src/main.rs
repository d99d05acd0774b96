//! The `anabranch` command.

mod cli;
mod demo;

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(anabranch_planted)]
    if let Ok(name) = std::env::var("ANABRANCH_PLANTED") {
        assert!(anabranch_core::planted::plant_named(&name), "there is no bug {name}");
    }
    cli::main()
}
