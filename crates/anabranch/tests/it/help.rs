//! The command line tells how it is used.

use crate::harness::run;

const COMMANDS: &[&[&str]] = &[
    &["serve"],
    &["demo"],
    &["check"],
    &["topic", "create"],
    &["topic", "list"],
    &["topic", "describe"],
    &["topic", "alter"],
    &["topic", "delete"],
    &["produce"],
    &["consume"],
    &["group", "list"],
    &["group", "describe"],
    &["group", "reset-offsets"],
    &["group", "delete"],
    &["engine", "describe"],
    &["move"],
    &["completions"],
    &["man"],
];

#[test]
fn every_command_has_help_and_the_first_page_names_it() {
    let first = run(&["--help"]).ok();
    assert!(first.contains("Getting started:") && first.contains("Exit codes:"));
    for command in COMMANDS {
        assert!(first.contains(&format!("\n  {}", command[0])), "{command:?}");
        let help = run(&[command, &["--help"][..]].concat()).ok();
        assert!(help.contains("Usage: anabranch"), "{command:?}: {help}");
        assert!(help.contains("--json"), "{command:?}: {help}");
    }
}

#[test]
fn short_help_is_shorter_and_both_have_examples() {
    for command in ["serve", "consume"] {
        let (short, long) = (run(&[command, "-h"]).ok(), run(&[command, "--help"]).ok());
        assert!(short.len() < long.len(), "{command}");
        assert!(short.contains("Examples:") && long.contains("Examples:"), "{command}");
    }
}

#[test]
fn no_command_and_unknown_commands_are_usage_errors() {
    assert_eq!(run(&[]).code, Some(2));
    let outcome = run(&["serv"]);
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.stderr.contains("'serve'"), "{outcome:?}");
}

#[test]
fn completions_and_man_pages_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).ok();
        assert!(script.contains("reset-offsets") && script.contains("bootstrap"), "{shell}");
    }
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("man1");
    run(&["man", directory.to_str().unwrap()]).ok();
    for command in COMMANDS {
        let page = directory.join(format!("anabranch-{}.1", command.join("-")));
        assert!(std::fs::read_to_string(&page).unwrap().contains(".SH SYNOPSIS"), "{}", page.display());
    }
}
