//! How a command fails: what failed, on what, why, and what to do.

use std::fmt;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

/// A failure, and what the user can do about it.
#[derive(Debug)]
struct Advised {
    error: anyhow::Error,
    advice: String,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// What the user asked for makes no sense; nothing was tried. Exit code 2.
#[derive(Debug)]
struct Usage(String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A [`Usage`] error.
pub(super) fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// Adds what to do to an error.
pub(super) trait Advise<T> {
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Advise<T> for Result<T, E> {
    fn advise(self, advice: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| advised(error, advice))
    }
}

/// The error with what to do.
pub(super) fn advised(error: impl Into<anyhow::Error>, advice: impl Into<String>) -> anyhow::Error {
    Advised { error: error.into(), advice: advice.into() }.into()
}

/// Whether standard error shows colours (<https://no-color.org>).
pub(super) fn has_colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Tells the user on standard error, and gives the exit code. A reader that went away (`| head`) is no failure.
pub(super) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    let (mark, plain) = if has_colours() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{mark}error:{plain} {}", chain(error));
    if let Some(advised) = error.downcast_ref::<Advised>() {
        eprintln!("  {}", advised.advice.replace('\n', "\n  "));
    }
    ExitCode::from(if is_usage(error) { 2 } else { 1 })
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.is::<Usage>() || error.downcast_ref::<Advised>().is_some_and(|advised| is_usage(&advised.error))
}

/// The error and its causes in one line; a cause that the text before it ends with is not told twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let told = cause.to_string();
        if !text.ends_with(&told) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&told);
        }
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    error.chain().any(is_pipe)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn causes_are_told_once_and_advice_survives_context() {
        let disk: Result<(), io::Error> = Err(io::Error::other("disk on fire"));
        let error = disk.context("cannot read x: disk on fire").advise("call the brigade").unwrap_err();
        assert_eq!(chain(&error), "cannot read x: disk on fire");
        let outer = error.context("while starting");
        assert_eq!(chain(&outer), "while starting: cannot read x: disk on fire");
        assert_eq!(outer.downcast_ref::<Advised>().unwrap().advice, "call the brigade");
    }

    #[test]
    fn usage_is_recognised_under_advice() {
        let error = Err::<(), _>(usage("no")).advise("yes").unwrap_err();
        assert!(is_usage(&error) && is_usage(&error.context("while trying")));
        assert!(!is_usage(&anyhow::anyhow!("no")));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let gone: io::Error = io::ErrorKind::BrokenPipe.into();
        assert!(is_broken_pipe(&anyhow::Error::from(gone).context("cannot print")));
        assert!(!is_broken_pipe(&anyhow::anyhow!("broken pipe")));
    }
}
