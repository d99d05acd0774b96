//! `check` on directories that are whole, torn, damaged, in use, or none.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Outcome, Server, run};

fn check(data: &Path) -> Outcome {
    run(&["check", "--json", data.to_str().unwrap()])
}

fn partition<'a>(report: &'a Value, topic: &str) -> &'a Value {
    report["partitions"].as_array().unwrap().iter().find(|partition| partition["topic"] == topic).unwrap()
}

/// A directory with ten records, and the file that they are in.
fn ten_records(data: &Path) -> PathBuf {
    let server = Server::start(data);
    server.client(&["topic", "create", "orders", "-p", "1"]).ok();
    for n in 0..10 {
        server.client_with_input(&["produce", "orders"], &format!("order {n}\n")).ok();
    }
    server.stop();
    data.join("topics/orders/0/00000000000000000000.log")
}

/// Every file below, with its bytes.
fn everything(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn whole_torn_and_damaged_directories_are_told_apart_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    let file = ten_records(data);

    let report = check(data).json();
    assert_eq!(report["damaged"], false);
    let orders = partition(&report, "orders");
    assert_eq!((&orders["records"], &orders["end_offset"]), (&10.into(), &10.into()));
    assert_eq!(orders["torn_tail_bytes"], 0);

    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"half a batch").unwrap();
    let before = everything(data);
    let report = check(data).json();
    assert_eq!(report["damaged"], false, "a torn tail is no damage");
    assert_eq!(partition(&report, "orders")["torn_tail_bytes"], 12);
    assert_eq!(partition(&report, "orders")["records"], 10);
    let told = run(&["check", data.to_str().unwrap()]).ok();
    assert!(told.contains("torn tail of 12 bytes"), "{told}");
    assert_eq!(everything(data), before, "nothing was changed");

    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let before = everything(data);
    let outcome = check(data);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["damaged"], true);
    let fault = &partition(&report, "orders")["faults"][0];
    assert_eq!(fault["file"], file.to_str().unwrap());
    assert!(partition(&report, "orders")["records"].as_u64().unwrap() < 10);
    let outcome = run(&["check", data.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains(&format!("damage: {}", file.display())), "{}", outcome.stdout);
    assert_eq!(everything(data), before, "nothing was changed");
}

#[test]
fn a_directory_in_use_and_what_is_no_data_directory_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    let told = check(home.path()).fails(2);
    assert!(told.contains("is in use by another process"), "{told}");
    server.stop();
    assert_eq!(check(home.path()).code, Some(0));
    let told = check(&home.path().join("topics")).fails(2);
    assert!(told.contains("not a data directory"), "{told}");
    fs::write(home.path().join("format"), "format 999\n").unwrap();
    assert!(check(home.path()).fails(2).contains("format 999"));
}
