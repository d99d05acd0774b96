//! Engines by their addresses.

use anabranch::EngineError;
use anabranch::engine::{self, Capability, OpenError, Support};
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

/// The README's table is what the code says. `ANABRANCH_UPDATE=1` writes it anew.
#[test]
fn the_readme_tells_what_each_engine_can_do() {
    const BEGIN: &str = "<!-- what each engine can do: tests/it/engine.rs writes it -->\n";
    let engines = engine::at_best();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let names = engines.iter().map(|description| description.engine.to_owned());
    let mut table = line(std::iter::once(String::new()).chain(names).collect());
    table += &line(vec!["---".to_owned(); engines.len() + 1]);
    for capability in Capability::ALL {
        let support = engines.iter().map(|description| match description.support(capability) {
            Support::Native => "yes",
            Support::Emulated { .. } => "emulated",
            Support::Absent { .. } => "",
        });
        let name = std::iter::once(capability.name());
        table += &line(name.chain(support).map(str::to_owned).collect());
    }
    for (description, capability) in
        engines.iter().flat_map(|description| Capability::ALL.map(|capability| (description, capability)))
    {
        let is_told = capability.had_by().contains(&description.engine);
        assert_eq!(description.has(capability), is_told, "{}: {capability}", description.engine);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let start = readme.find(BEGIN).expect("the README has the table") + BEGIN.len();
    let end = start + readme[start..].find("\n\n").unwrap() + 1;
    if std::env::var_os("ANABRANCH_UPDATE").is_some() {
        let written = format!("{}{table}{}", &readme[..start], &readme[end..]);
        std::fs::write(path, written).unwrap();
        return;
    }
    assert_eq!(&readme[start..end], table, "ANABRANCH_UPDATE=1 writes it anew");
}
