//! The laws of the house, one file per law.

mod edges;
mod length;
mod manifest;
mod paths;
mod places;
mod repository;

use std::fmt;
use std::process::ExitCode;

use repository::Repository;

/// Something that breaks a law, or comes near it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    level: Level,
    place: String,
    what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Told, but no failure.
    Warning,
    Error,
}

impl Finding {
    fn error(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level: Level::Error, place: place.into(), what: what.into() }
    }

    fn warning(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { level: Level::Warning, place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        };
        write!(f, "{level}: {}: {}", self.place, self.what)
    }
}

/// Checks everything, and tells everything before it fails.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let repository = Repository::read()?;
    let findings = check(&repository);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| finding.level == Level::Error).count();
    println!(
        "tidy: {} crates and {} text files read, {errors} errors, {} warnings",
        repository.rooms.len(),
        repository.files.len(),
        findings.len() - errors,
    );
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Warnings first, so that the errors stand where the reader's eye is.
fn check(repository: &Repository) -> Vec<Finding> {
    let Repository { rooms, files, .. } = repository;
    let mut findings = edges::check(rooms);
    findings.extend(length::check(files));
    findings.extend(manifest::check(files));
    findings.extend(paths::check(files, &repository.tracked));
    findings.extend(places::check(files));
    findings.sort();
    findings
}
