//! Starting and stopping the server, and what it refuses.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;

use crate::harness::{DEADLINE, Server, command, finish, run};

#[test]
fn it_stops_at_either_signal_and_is_the_same_cluster_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start(&data);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}");
    }
    let id = |server: &Server| {
        let page = get(server, "/metrics");
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        server.client(&["topic", "list", "--all"]).ok()
    };
    let server = Server::start(&data);
    let before = id(&server);
    server.stop();
    assert_eq!(id(&Server::start(&data)), before);
}

#[test]
fn it_answers_health_checks() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert!(get(&server, path).starts_with("HTTP/1.1 200"), "{path}");
    }
    assert!(get(&server, "/nothing").starts_with("HTTP/1.1 404"));
}

fn get(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(&server.http).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_port_in_use_is_told_and_the_directory_given_up() {
    let home = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let data = home.path().to_str().unwrap();
    for option in ["--kafka", "--http"] {
        let other = if option == "--kafka" { "--http" } else { "--kafka" };
        let told = run(&["serve", "--data", data, option, &addr, other, "127.0.0.1:0"]).fails(1);
        assert!(told.contains(&format!("cannot listen on {addr}")), "{told}");
        assert!(told.contains(&format!("choose another address with {option}")), "{told}");
    }
    Server::start(home.path()).stop();
}

#[test]
fn a_directory_has_one_process() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(home.path());
    let data = home.path().to_str().unwrap();
    let told = run(&["serve", "--data", data, "--kafka", "127.0.0.1:0"]).fails(1);
    assert!(told.contains(&format!("{data} is in use by another process")), "{told}");
    assert!(told.contains("--data"), "{told}");
    server.stop();
}

#[test]
fn a_directory_that_cannot_be_written_is_told() {
    let home = tempfile::tempdir().unwrap();
    // Not by permissions: they do not hold for root.
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let data = file.join("data");
    let told = run(&["serve", "--data", data.to_str().unwrap(), "--kafka", "127.0.0.1:0"]).fails(1);
    assert!(told.contains(&format!("cannot open the data directory {}", data.display())), "{told}");
}

#[test]
fn an_unknown_format_and_foreign_files_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().to_str().unwrap();
    let serve = ["serve", "--data", data, "--kafka", "127.0.0.1:0"];
    fs::write(home.path().join("letter.txt"), "dear").unwrap();
    let told = run(&serve).fails(1);
    assert!(told.contains("not a data directory"), "{told}");
    fs::write(home.path().join("format"), "anabranch data directory, format 999\n").unwrap();
    let told = run(&serve).fails(1);
    assert!(told.contains("format 999") && told.contains("the version that wrote it"), "{told}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "nothing was added");
}

#[test]
fn what_cannot_be_set_is_a_usage_error_with_its_source() {
    let told = run(&["serve", "--set", "num.partition=1"]).fails(2);
    assert!(
        told.contains("--set: there is no setting \"num.partition\"; did you mean num.partitions?"),
        "{told}"
    );
    let told = finish(command().arg("serve").env("ANABRANCH_SET_NUM_PARTITIONS", "none")).fails(2);
    assert!(
        told.contains("environment variable ANABRANCH_SET_NUM_PARTITIONS: num.partitions cannot be"),
        "{told}"
    );
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("anabranch.toml");
    fs::write(&file, "# mine\n[set]\nlog.segment.bytes = 1\n").unwrap();
    let told = run(&["serve", "--config", file.to_str().unwrap()]).fails(2);
    assert!(told.contains(&format!("{}:3: log.segment.bytes cannot be", file.display())), "{told}");
    let told = run(&["serve", "--config", "/nowhere.toml"]).fails(2);
    assert!(told.contains("/nowhere.toml"), "{told}");
}

#[test]
fn an_address_that_others_can_reach_must_be_asked_for() {
    let told = run(&["serve", "--kafka", "0.0.0.0:0"]).fails(2);
    assert!(told.contains("--insecure-listen"), "{told}");
    let told = run(&["serve", "--kafka", "127.0.0.1:0", "--http", "[::]:0"]).fails(2);
    assert!(told.contains("--insecure-listen"), "{told}");
    let home = tempfile::tempdir().unwrap();
    let server =
        Server::start_at(home.path(), "0.0.0.0:0", &["--insecure-listen", "--advertise", "127.0.0.1"]);
    server.stop();
}

#[test]
fn settings_reach_the_broker_and_are_shown_with_their_source() {
    let shown = finish(
        command()
            .args(["serve", "--show-settings", "--json", "--set", "max.connections=7"])
            .env("ANABRANCH_SET_NUM_PARTITIONS", "4"),
    )
    .json();
    let entry = |name: &str| shown.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
    assert_eq!(
        (&entry("max.connections")["value"], &entry("max.connections")["from"]),
        (&"7".into(), &"--set".into())
    );
    assert_eq!(entry("num.partitions")["value"], "4");
    assert_eq!(entry("log.retention.ms")["from"], "default");

    let home = tempfile::tempdir().unwrap();
    let server = Server::start_at(home.path(), "127.0.0.1:0", &["--set", "num.partitions=4"]);
    server.client(&["topic", "create", "t"]).ok();
    assert_eq!(server.client(&["topic", "list", "--json"]).json()[0]["partitions"], 4);
}
