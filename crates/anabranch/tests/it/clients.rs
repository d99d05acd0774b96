//! The client commands against the real server.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Server, command, eventually, feed, run, wait};

struct Home {
    server: Server,
    _directory: tempfile::TempDir,
}

fn home() -> Home {
    let directory = tempfile::tempdir().unwrap();
    // Nobody else joins these groups: there is nobody to wait for.
    let settings = ["--set", "group.initial.rebalance.delay.ms=0"];
    Home { server: Server::start_at(directory.path(), "127.0.0.1:0", &settings), _directory: directory }
}

#[test]
fn topics_are_created_listed_changed_and_deleted() {
    let Home { server, .. } = &home();
    let create = ["topic", "create", "orders", "-p", "3", "-c", "retention.ms=86400000"];
    assert_eq!(server.client(&create).ok(), "created topic orders\n");
    let told = server.client(&create).fails(1);
    assert!(told.contains("cannot create topic orders") && told.contains("--if-missing"), "{told}");
    let again = server.client(&["topic", "create", "orders", "--if-missing", "--json"]).json();
    assert_eq!(again, json!({ "topic": "orders", "created": false }));
    let told = server.client(&["topic", "create", "other", "-c", "retention.m=1"]).fails(1);
    assert!(told.contains("Did you mean retention.ms?"), "{told}");

    let listed = server.client(&["topic", "list", "--json"]).json();
    assert_eq!(listed, json!([{ "topic": "orders", "partitions": 3, "replicas": 1 }]));
    let all = server.client(&["topic", "list", "--all"]).ok();
    assert!(all.contains("__consumer_offsets"), "{all}");

    let settings = |server: &Server| {
        let described = server.client(&["topic", "describe", "orders", "--json"]).json();
        described[0]["settings"].clone()
    };
    assert_eq!(settings(server), json!([{ "name": "retention.ms", "value": "86400000", "default": false }]));
    server.client(&["topic", "alter", "orders", "-c", "max.message.bytes=2000", "-p", "4"]).ok();
    assert_eq!(settings(server).as_array().unwrap().len(), 2, "what was not named stays");
    server.client(&["topic", "alter", "orders", "--default", "retention.ms"]).ok();
    assert_eq!(settings(server), json!([{ "name": "max.message.bytes", "value": "2000", "default": false }]));
    let described = server.client(&["topic", "describe", "orders", "--json"]).json();
    assert_eq!(described[0]["partitions"].as_array().unwrap().len(), 4);
    for (change, told) in [
        (&["-c", "max.message.bytes=many"][..], "max.message.bytes cannot be"),
        (&["-c", "max.message.byte=1"], "Did you mean max.message.bytes?"),
        (&["-p", "1"], "1 partition"),
    ] {
        let error = server.client(&[&["topic", "alter", "orders"], change].concat()).fails(1);
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(settings(server).as_array().unwrap().len(), 1, "nothing changed");
    server.client(&["topic", "alter", "orders", "-c", "max.message.bytes=02000"]).ok();
    assert!(
        server.client(&["topic", "alter", "nowhere", "-c", "retention.ms=1"]).fails(1).contains("nowhere")
    );

    server.client_with_input(&["produce", "orders", "-K", ":"], "a:1\na:2\na:3\n").ok();
    let partitions = server.client(&["topic", "delete-records", "orders", "--before", "end", "--json"]).ok();
    let starts =
        partitions.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["start_offset"].clone());
    assert_eq!(starts.filter_map(|start| start.as_i64()).sum::<i64>(), 3, "{partitions}");
    server.client(&["topic", "delete-records", "orders", "--before", "9", "-p", "0"]).fails(1);
    server.client(&["topic", "delete-records", "orders", "--before", "soon"]).fails(2);

    assert_eq!(server.client(&["topic", "delete", "orders"]).ok(), "deleted topic orders\n");
    let told = server.client(&["topic", "describe", "orders"]).fails(1);
    assert!(told.contains("orders") && told.contains("topic list"), "{told}");
}

#[test]
fn records_come_back_as_they_went_in() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "orders", "-p", "1"]).ok();
    let produce = ["produce", "orders", "-K", ":", "-H", "a=1", "-H", "a=2", "-z", "zstd", "-Z", "--json"];
    let told = server.client_with_input(&produce, "k1:v1\nk2:v:2\nk3:\n").json();
    assert_eq!((&told["acknowledged"], &told["failed"]), (&3.into(), &0.into()));

    let format = ["consume", "orders", "--to", "end", "-f", r"%t/%p/%o %k=%v %K %S %h\n"];
    assert_eq!(
        server.client(&format).ok(),
        "orders/0/0 k1=v1 2 2 a=1,a=2\norders/0/1 k2=v:2 2 3 a=1,a=2\norders/0/2 k3= 2 -1 a=1,a=2\n"
    );
    let lines = server.client(&["consume", "orders", "--to", "end", "--json", "-c", "1"]).ok();
    let record: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&record["key"], &record["value"]), (&"k1".into(), &"v1".into()));
    assert_eq!(record["headers"], json!([{ "key": "a", "value": "1" }, { "key": "a", "value": "2" }]));
    assert!(record["timestamp_ms"].as_i64().unwrap() > 1_700_000_000_000);
}

#[test]
fn ranges_by_offset_and_time() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "n", "-p", "1"]).ok();
    let input: String = (0..10).map(|n| format!("{n}\n")).collect();
    assert_eq!(server.client_with_input(&["produce", "n"], &input).code, Some(0));
    let read = |range: &[&str]| {
        let out = server.client(&[&["consume", "n", "-f", "%v "], range].concat()).ok();
        out.trim_end().to_owned()
    };
    assert_eq!(read(&["--to", "end"]), "0 1 2 3 4 5 6 7 8 9");
    assert_eq!(read(&["--from", "3", "--to", "6"]), "3 4 5");
    assert_eq!(read(&["--from", "-2", "--to", "end"]), "8 9");
    assert_eq!(read(&["--from", "end", "--to", "end"]), "");
    assert_eq!(read(&["--from", "beginning", "-c", "2"]), "0 1");
    assert_eq!(read(&["--from", "@1000", "--to", "end", "-c", "1"]), "0");
    assert_eq!(read(&["--from", "@2100-01-01T00:00:00Z", "--to", "end"]), "");
    assert_eq!(read(&["--to", "@1000"]), "");
    assert_eq!(read(&["-p", "0", "--to", "1"]), "0");
    let told = server.client(&["consume", "n", "-p", "7"]).fails(2);
    assert!(told.contains("no partition 7"), "{told}");
}

#[test]
fn records_that_were_not_written_are_counted_and_fail_the_command() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "small", "-p", "1", "-c", "max.message.bytes=1000"]).ok();
    let long = "x".repeat(5000);
    let outcome =
        server.client_with_input(&["produce", "small", "-K", ":", "--json"], &format!("k:{long}\nnone\n"));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((&told["acknowledged"], &told["failed"]), (&0.into(), &2.into()));
    assert!(outcome.stderr.contains("line 2: it has no key delimiter"), "{outcome:?}");
}

#[test]
fn a_group_goes_on_where_it_stands_and_can_be_moved() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "orders", "-p", "2"]).ok();
    let put = |partition: &str, records: &str| {
        server.client_with_input(&["produce", "orders", "-p", partition], records).ok();
    };
    put("0", "a\nb\n");
    put("1", "c\n");
    let read = || {
        let out = server.client(&["consume", "orders", "--group", "g", "--to", "end", "-f", "%v"]).ok();
        let mut letters: Vec<char> = out.chars().collect();
        letters.sort_unstable();
        letters.into_iter().collect::<String>()
    };
    assert_eq!(read(), "abc");
    put("1", "d\n");
    let lag = |server: &Server| server.client(&["group", "describe", "g", "--json"]).json()["lag"].clone();
    assert_eq!(lag(server), 1);
    assert_eq!(read(), "d");
    assert_eq!(lag(server), 0);
    assert_eq!(server.client(&["group", "list", "--json"]).json()[0]["group"], "g");

    let reset = |more: &[&str]| server.client(&[&["group", "reset-offsets", "g", "--json"], more].concat());
    let planned = reset(&["--all-topics", "--to-earliest"]).json();
    assert_eq!((&planned["executed"], &planned["partitions"][0]["to_offset"]), (&false.into(), &0.into()));
    assert_eq!(lag(server), 0, "nothing was done yet");
    reset(&["--topic", "orders:0", "--shift-by", "-1", "--execute"]).json();
    assert_eq!(lag(server), 1);
    assert_eq!(read(), "b");
    reset(&["--topic", "orders", "--to-offset", "99", "--execute"]).json();
    assert_eq!(lag(server), 0, "an offset that there is not becomes the nearest");
    reset(&["--all-topics", "--by-duration", "PT1H", "--execute"]).json();
    assert_eq!(read(), "abcd");
    assert!(reset(&["--all-topics"]).code == Some(2), "where to must be said");

    assert_eq!(server.client(&["group", "delete", "g"]).ok(), "deleted group g\n");
    let told = server.client(&["group", "describe", "g"]).fails(1);
    assert!(told.contains("group g does not exist"), "{told}");
}

/// What is told of group `g`, whose one member, `reader`, reads topic `orders`.
fn check_busy_group(server: &Server, protocol: &str) {
    let described = server.client(&["group", "describe", "g", "--json"]).json();
    assert_eq!((&described["state"], &described["members"]), (&"Stable".into(), &1.into()));
    assert_eq!(described["type"], protocol);
    assert_eq!(described["partitions"][0]["client_id"], "reader");
    let listed = server.client(&["group", "list", "--json"]).json()[0].clone();
    let [state, kind, members] = ["state", "type", "members"].map(|field| listed[field].clone());
    assert_eq!((state, kind, members), ("Stable".into(), protocol.into(), 1.into()));
    let told = server
        .client(&["group", "reset-offsets", "g", "--topic", "orders", "--to-earliest", "--execute"])
        .fails(1);
    assert!(told.contains("has 1 member"), "{told}");
    let told = server.client(&["group", "delete", "g"]).fails(1);
    assert!(told.contains("cannot delete group g"), "{told}");
}

#[test]
fn a_group_of_the_consumer_protocol_is_described_and_not_moved() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "orders", "-p", "1"]).ok();
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &server.kafka)
        .set("client.id", "reader")
        .set("group.id", "g")
        .set("group.protocol", "consumer")
        .create()
        .unwrap();
    member.subscribe(&["orders"]).unwrap();
    eventually("it is assigned its partition", || {
        drop(member.poll(Duration::from_millis(100)));
        member.assignment().unwrap().count() == 1
    });
    check_busy_group(server, "consumer");
}

#[test]
fn a_group_with_members_is_described_and_not_moved_and_leaves_at_a_signal() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "orders", "-p", "1"]).ok();
    server.client_with_input(&["produce", "orders"], "a\n").ok();
    let mut member = server
        .client_command(&["consume", "orders", "--group", "g", "-X", "client.id=reader"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(member.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "a\n");
    check_busy_group(server, "classic");

    kill_process(Pid::from_child(&member), Signal::INT).unwrap();
    assert_eq!(wait(&mut member).code(), Some(0));
    let described = server.client(&["group", "describe", "g", "--json"]).json();
    assert_eq!((&described["state"], &described["lag"]), (&"Empty".into(), &0.into()));
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let Home { server, .. } = &home();
    server.client(&["topic", "create", "n", "-p", "1"]).ok();
    let mut consume = server
        .client_command(&["consume", "n"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(consume.stdout.take());
    server.client_with_input(&["produce", "n"], "a\n").ok();
    eventually("it notices", || consume.try_wait().unwrap().is_some());
    let output = consume.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}

#[test]
fn nobody_there_is_told_at_once() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in [&["topic", "list"][..], &["consume", "x"], &["group", "list"], &["produce", "x"]] {
        let told = run(&[command, &["--bootstrap", &free]].concat()).fails(1);
        assert!(told.contains(&format!("cannot reach a broker at {free}")), "{told}");
        assert!(told.contains("anabranch serve"), "{told}");
    }
}

/// What the commands say of the same things on each engine, in the words of the embedded one.
#[test]
fn the_commands_say_the_same_on_each_engine() {
    let Home { server, .. } = &home();
    let directory = tempfile::tempdir().unwrap();
    let embedded = format!("embedded:{}", directory.path().display());
    let door = format!("kafka://{}", server.kafka);
    let nats = std::env::var("ANABRANCH_NATS").ok().map(|addr| format!("nats://{addr}"));
    let engines = [Some(embedded), Some(door), nats].into_iter().flatten();
    let topic = format!("t-{}", std::process::id());
    let said = engines.map(|engine| {
        let on = |args: &[&str]| run(&[args, &["--engine", &engine]].concat());
        let ok = |args: &[&str]| on(args).ok().replace(&topic, "T");
        let group = format!("g-{topic}");
        let mut said = vec![ok(&["topic", "create", &topic, "-p", "2", "-c", "max.message.bytes=100000"])];
        let put = feed(
            command().args(["produce", &topic, "-K", ":", "--json", "--engine", &engine]),
            "a:1\nb:2\nc:3\n",
        );
        let put = put.json();
        said.push(format!("{} {}", put["acknowledged"], put["failed"]));
        said.push(ok(&["consume", &topic, "-p", "0", "--to", "end", "-f", "%t %p %o %k=%v %h\\n"]));
        said.push(ok(&["consume", &topic, "-p", "1", "--to", "end", "-f", "%t %p %o %k=%v %h\\n"]));
        let read = ok(&["consume", &topic, "--group", &group, "--to", "end", "-f", "%k\\n"]);
        let mut read: Vec<&str> = read.lines().collect();
        read.sort_unstable();
        said.push(read.join(" "));
        let described = on(&["group", "describe", &group, "--json"]).json();
        for field in ["state", "members", "lag", "partitions"] {
            said.push(described[field].to_string().replace(&topic, "T"));
        }
        said.push(
            ok(&["group", "reset-offsets", &group, "--topic", &topic, "--to-earliest", "--execute"])
                .replace(&group, "G"),
        );
        said.push(on(&["group", "describe", &group, "--json"]).json()["lag"].to_string());
        said.push(ok(&["group", "delete", &group]).replace(&group, "G"));
        let queue = format!("q-{topic}");
        let take = |how: &[&str]| ok(&[&["consume", &topic, "--queue", &queue, "-f", "%k"], how].concat());
        let taken = [take(&["-c", "2"]), take(&["--to", "end"]), take(&["--to", "end"])];
        assert_eq!(taken.each_ref().map(String::len), [2, 1, 0], "{engine}: {taken:?}");
        let described = on(&["topic", "describe", &topic, "--json"]).json();
        said.push(described[0]["settings"].to_string());
        said.push(ok(&["topic", "alter", &topic, "--partitions", "3"]));
        said.push(ok(&["topic", "delete-records", &topic, "-p", "0", "--before", "1"]));
        said.push(ok(&["topic", "delete", &topic]));
        let missing = on(&["consume", &topic, "--to", "end"]).fails(1);
        said.push(missing.replace(&topic, "T"));
        said
    });
    let said: Vec<_> = said.collect();
    assert_eq!(said[0][2].lines().count() + said[0][3].lines().count(), 3, "{said:?}");
    for other in &said[1..] {
        assert_eq!(*other, said[0]);
    }
}

#[test]
fn bench_leaves_nothing_behind() {
    let Home { server, .. } = &home();
    let told = server.client(&["bench", "-n", "1050", "--size", "10", "--append", "100", "--json"]).json();
    assert_eq!((&told["engine"], &told["records"]), (&"kafka".into(), &1050.into()));
    for (half, what) in told["measured"].as_array().unwrap().iter().zip(["write", "read"]) {
        assert_eq!(half["what"], what);
        let [rate, middle, most] =
            ["records_per_second", "p50_ms", "max_ms"].map(|field| half[field].as_f64().unwrap());
        assert!(rate > 0.0 && 0.0 < middle && middle <= most, "{half}");
    }
    assert_eq!(server.client(&["topic", "list", "--json"]).json(), json!([]));
}
