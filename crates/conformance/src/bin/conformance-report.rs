//! Prints the report that the files of results named on the command line come to.

use std::process::ExitCode;

use anabranch_conformance::{markdown, read_lines};

fn main() -> ExitCode {
    let mut lines = Vec::new();
    for path in std::env::args().skip(1) {
        let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
        match read.and_then(|text| read_lines(&text).map_err(|error| error.to_string())) {
            Ok(more) => lines.extend(more),
            Err(error) => {
                eprintln!("{path}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    print!("{}", markdown(&lines));
    ExitCode::SUCCESS
}
