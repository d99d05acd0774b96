//! `check` on directories that are whole, torn, damaged, in use, or none.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anabranch::{Apply, Broker, NewTopic, Record};
use serde_json::{Value, json};

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
pub(crate) fn everything(data: &Path) -> Vec<(PathBuf, Vec<u8>)> {
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

/// Three topics with some records, closed.
fn three_topics(data: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let broker = Broker::open(data).await.unwrap();
        for name in ["one", "two", "three"] {
            let topic = broker
                .create_topic(NewTopic::new(name).config("segment.bytes", "2000"), Apply::Now)
                .await
                .unwrap();
            for n in 0..60 {
                topic.append(Record::new("key", format!("{name} {n}"))).await.unwrap();
            }
        }
        broker.close().await;
    });
}

/// The files and directories below, with the bytes of files.
fn tree(data: &Path) -> std::collections::BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = std::collections::BTreeMap::new();
    let mut directories = vec![data.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.clone(), path.is_file().then(|| fs::read(&path).unwrap()));
            directories.extend(Some(path).filter(|path| path.is_dir()));
        }
    }
    found
}

/// What became of a directory, in the words of `check`.
fn difference(before: &Path, data: &Path) -> Vec<Value> {
    let named = |root: &Path, path: &Path| path.strip_prefix(root).unwrap().to_owned();
    let of = |root: &Path| -> std::collections::BTreeMap<PathBuf, Option<Vec<u8>>> {
        tree(root).into_iter().map(|(path, bytes)| (named(root, &path), bytes)).collect()
    };
    let (old, new) = (of(before), of(data));
    let mut changes = Vec::new();
    for (name, bytes) in &new {
        let path = data.join(name);
        match (old.get(name), bytes) {
            (Some(Some(old)), Some(new)) if old != new => {
                let position = old.iter().zip(new).take_while(|(old, new)| old == new).count();
                let (from, to) = (old.len(), new.len());
                changes.push(match position == new.len() {
                    true => json!({ "change": "cut", "path": path, "from_bytes": from, "to_bytes": to }),
                    false => json!({ "change": "written", "path": path, "position": position, "from_bytes": from, "to_bytes": to }),
                });
            }
            (Some(_), _) => {}
            (None, bytes) => {
                changes.push(
                    json!({ "change": "created", "path": path, "bytes": bytes.as_ref().map(Vec::len) }),
                );
            }
        }
    }
    let is_gone = |name: &Path| old.contains_key(name) && !new.contains_key(name);
    let gone = old.keys().filter(|name| is_gone(name) && !name.parent().is_some_and(is_gone));
    changes.extend(gone.map(|name| json!({ "change": "removed", "path": data.join(name) })));
    changes
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in tree(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        match bytes {
            Some(bytes) => fs::write(to, bytes).unwrap(),
            None => fs::create_dir(to).unwrap(),
        }
    }
}

fn newest(data: &Path, topic: &str, extension: &str) -> PathBuf {
    let names = fs::read_dir(data.join("topics").join(topic).join("0")).unwrap();
    let paths = names.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|e| e == extension)).max().unwrap()
}

fn flip(path: &Path, at: impl Fn(usize) -> usize) {
    let mut bytes = fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// `check` tells all that the next start does, file by file, and does none of it.
#[test]
fn what_is_told_is_what_the_next_start_does() {
    type Harm = fn(&Path);
    let harms: &[(&str, Harm)] = &[
        ("none", |_| {}),
        ("a torn tail", |data| {
            let log = newest(data, "one", "log");
            OpenOptions::new().append(true).open(log).unwrap().write_all(&[7; 100]).unwrap();
        }),
        ("a snapshot that is wrong", |data| flip(&newest(data, "two", "snapshot"), |len| len / 2)),
        ("all snapshots lost", |data| {
            let names = fs::read_dir(data.join("topics/two/0")).unwrap().map(|entry| entry.unwrap().path());
            let snapshots = names.filter(|path| path.extension().is_some_and(|e| e == "snapshot"));
            snapshots.for_each(|path| fs::remove_file(path).unwrap());
        }),
        ("the newest segment cut", |data| {
            let log = newest(data, "three", "log");
            let len = fs::metadata(&log).unwrap().len();
            OpenOptions::new().write(true).open(log).unwrap().set_len(len - 1).unwrap();
        }),
        ("a damaged record in the middle", |data| flip(&newest(data, "three", "log"), |len| len / 2)),
        ("directories that nobody knows", |data| {
            fs::create_dir_all(data.join("topics/nobody/0")).unwrap();
            fs::create_dir_all(data.join("topics/empty/0")).unwrap();
            fs::write(data.join("topics/empty/0/00000000000000000000.log"), []).unwrap();
            fs::create_dir_all(data.join("topics/records/0")).unwrap();
            fs::copy(newest(data, "one", "log"), data.join("topics/records/0/00000000000000000000.log"))
                .unwrap();
        }),
        ("a partition that is gone", |data| fs::remove_dir_all(data.join("topics/two/0")).unwrap()),
        ("a catalogue that is damaged", |data| {
            flip(&newest(data, "__anabranch_catalogue", "log"), |_| 70);
        }),
    ];
    let whole = tempfile::tempdir().unwrap();
    three_topics(whole.path());
    let check_one = |name: &str, chosen: &[Harm]| {
        let home = tempfile::tempdir().unwrap();
        let (data, before) = (home.path().join("data"), home.path().join("before"));
        for directory in [&data, &before] {
            fs::create_dir(directory).unwrap();
            copy(whole.path(), directory);
            chosen.iter().for_each(|harm| harm(directory));
        }
        let outcome = check(&data);
        assert_eq!(difference(&before, &data), Vec::<Value>::new(), "{name}: nothing was changed");
        let told: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}"));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let opened = runtime.block_on(Broker::open(&data));
        let mut happened = difference(&before, &data);
        let mut said = told["changes"].as_array().unwrap().clone();
        happened.sort_by_key(Value::to_string);
        said.sort_by_key(Value::to_string);
        assert_eq!(said, happened, "{name}");
        let error = opened.as_ref().err().map(ToString::to_string);
        assert_eq!(told["start_error"].as_str(), error.as_deref(), "{name}");
        let fails = told["damaged"] == true || error.is_some();
        assert_eq!(outcome.code, Some(i32::from(fails)), "{name}");
        if let Ok(broker) = opened {
            runtime.block_on(broker.close());
        }
        said
    };
    for (name, harm) in harms {
        let said = check_one(name, &[*harm]);
        assert!(*name != "none" || said.is_empty(), "{said:?}");
        assert!(*name != "a torn tail" || said.iter().any(|change| change["change"] == "cut"), "{said:?}");
        let removed = said.iter().filter(|change| change["change"] == "removed").count();
        let expected = match *name {
            "directories that nobody knows" => 2,
            "a snapshot that is wrong" => 1,
            _ => 0,
        };
        assert_eq!(removed, expected, "{name}: {said:?}");
    }
    let all: Vec<Harm> = harms[..harms.len() - 1].iter().map(|(_, harm)| *harm).collect();
    check_one("all but the last", &all);
}
