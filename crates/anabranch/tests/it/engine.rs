//! Engines by their addresses.

use anabranch::EngineError;
use anabranch::engine::{self, Capability, OpenError};
use serde_json::Value;

use crate::harness::{Server, run};

fn support<'a>(described: &'a Value, capability: &str) -> &'a Value {
    let all = described["capabilities"].as_array().unwrap();
    all.iter().find(|one| one["capability"] == capability).unwrap()
}

#[test]
fn engines_are_described_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let here = format!("embedded:{}", dir.path().join("here").display());
    let text = run(&["engine", "describe", &here]).ok();
    assert!(
        text.contains("transactions") && text.contains("it is one machine (kafka and nats can have it)"),
        "{text}"
    );
    let described = run(&["--json", "engine", "describe", &here]).json();
    assert_eq!(described["engine"], "embedded");
    assert_eq!(support(&described, "survives the loss of power")["support"], "native");

    let served = dir.path().join("served");
    let server = Server::start(&served);
    let described = run(&["--json", "engine", "describe", &format!("kafka://{}", server.kafka)]).json();
    assert_eq!((&described["engine"], &described["nodes"]), (&Value::from("kafka"), &Value::from(1)));
    assert_eq!(
        support(&described, "survives the loss of power")["support"],
        "native",
        "its settings are seen"
    );
    let verbatim = support(&described, "verbatim batches");
    assert_eq!(
        (&verbatim["support"], &verbatim["had_by"][0]),
        (&Value::from("absent"), &Value::from("embedded"))
    );
    let owned = run(&["engine", "describe", &format!("embedded:{}", served.display())]).fails(1);
    assert!(owned.contains("kafka://HOST:PORT"), "{owned}");
    server.stop();
}

#[test]
fn a_wrong_address_is_not_tried() {
    for (url, said) in [
        ("somewhere", "embedded:DIR"),
        ("embedded:", "names no directory"),
        ("kafka://a?acks=1", "the engine depends on it"),
        ("kafka://me:secret@a", "sasl.password_file"),
    ] {
        let error = run(&["engine", "describe", url]).fails(2);
        assert!(error.contains(said) && !error.contains("secret"), "{url}: {error}");
    }
    let away = run(&["engine", "describe", "kafka://127.0.0.1:1"]).fails(1);
    assert!(away.contains("cannot reach a broker at 127.0.0.1:1"), "{away}");
}

#[tokio::test]
async fn what_is_needed_and_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("embedded:{}", dir.path().display());
    let error = engine::open(&url, &[Capability::SurvivesNodeLoss, Capability::AppendIds]).await.unwrap_err();
    let OpenError::Engine(EngineError::Unsuitable(unsuitable)) = error else { panic!("{error}") };
    assert_eq!(unsuitable.missing.len(), 2);
    engine::open(&url, &[Capability::Transactions]).await.expect("the directory was given up").close().await;
}
