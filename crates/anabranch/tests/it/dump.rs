//! `dump`, from outside.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Server, command, finish, run};

fn dump(path: &Path) -> Vec<Value> {
    let outcome = run(&["dump", "--records", "--json", path.to_str().unwrap()]);
    outcome.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn files_are_printed_and_damage_is_told_and_read_over() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    let server = Server::start(data);
    server.client(&["topic", "create", "orders", "-p", "1"]).ok();
    for n in 0..3 {
        server.client_with_input(&["produce", "orders", "-K", ":"], &format!("order {n}:two\u{e9}\n")).ok();
    }
    // What the running server has is printed, too: its journal, if it has one by now, and its segments.
    let told = run(&["dump", data.to_str().unwrap()]).ok();
    assert!(told.contains("offsets 2-2, 1 record"), "{told}");
    server.stop();

    let file = data.join("topics/orders/0/00000000000000000000.log");
    let told = run(&["dump", "--records", file.to_str().unwrap()]).ok();
    assert!(told.contains("key \"order 1\" value \"two\u{e9}\""), "{told}");
    assert!(told.ends_with("  3 batches, 3 records\n"), "{told}");
    let batches = dump(&file);
    assert_eq!(batches.iter().map(|batch| batch["kind"].as_str().unwrap()).collect::<Vec<_>>(), ["batch"; 3]);
    assert_eq!(batches[1]["records"][0]["key"], "order 1");
    assert_eq!(batches[2]["base_offset"], 2);

    let mut bytes = fs::read(&file).unwrap();
    let second = batches[1]["position"].as_u64().unwrap() as usize;
    bytes[second + 64] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let outcome = run(&["dump", data.to_str().unwrap()]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains(&format!("DAMAGE @{second}, ")), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("2 batches, 2 records; DAMAGE in 1 place"), "{}", outcome.stdout);
    let told = dump(data);
    let damage: Vec<&Value> = told.iter().filter(|item| item["kind"] == "damage").collect();
    assert_eq!((damage.len(), &damage[0]["position"]), (1, &Value::from(second)));
    assert_eq!(damage[0]["file"], file.to_str().unwrap());
    assert_eq!(fs::read(&file).unwrap(), bytes, "nothing was changed");

    let nowhere = finish(command().args(["dump", "/no/such/file"])).fails(2);
    assert!(nowhere.contains("/no/such/file"), "{nowhere}");
}
