//! The `anabranch` command.

mod cli;
mod demo;

use std::process::ExitCode;

/// The C library's gives large blocks back to the system at once, and with them half the time of an append of 1 MiB.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::main()
}
