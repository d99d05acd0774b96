//! Runs behaviours, and notes what came of them.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anabranch_core::engine::EngineError;

use crate::ground::Ground;
use crate::judge::{Verdict, is_to_run, judge};
use crate::report::Line;
use crate::stage::{Stage, Stop};
use crate::table::{ALL, Behaviour};

/// Names the file to which each verdict is appended as a line of JSON ([`Line`]).
pub const RESULTS: &str = "ANABRANCH_CONFORMANCE_RESULTS";

/// Runs one behaviour.
pub async fn run(behaviour: &'static Behaviour, ground: &Arc<dyn Ground>) -> Line {
    let line = |engine: &str, version: &str, nodes, (verdict, detail): (Verdict, String)| Line {
        behaviour: behaviour.name.to_owned(),
        engine: engine.to_owned(),
        version: version.to_owned(),
        nodes,
        verdict,
        detail,
    };
    let stage = match Stage::open(behaviour, Arc::clone(ground)).await {
        Ok(stage) => stage,
        Err(error) => {
            return line("?", "?", 0, (Verdict::Broken, format!("the engine does not open: {error}")));
        }
    };
    let description = stage.engine().description().clone();
    let outcome = match is_to_run(behaviour, &description) {
        // Nothing that is asked of an engine waits for ever: this is behind all that waits in the behaviour itself.
        true => Some(
            tokio::time::timeout(ground.patience() * 4, (behaviour.run)(&stage))
                .await
                .unwrap_or_else(|_| Err(Stop::Broken("it came to no end".to_owned()))),
        ),
        false => None,
    };
    drop(stage);
    ground.release().await;
    let verdict = judge(behaviour, &description, outcome);
    line(description.engine, &description.version, description.nodes, verdict)
}

/// A test: runs the behaviour `name` on the ground that `lay` gives, if it gives one; appends the verdict to the file of
/// [`RESULTS`].
///
/// # Panics
/// The promise is broken.
pub fn check(name: &str, lay: impl AsyncFnOnce() -> Result<Option<Arc<dyn Ground>>, EngineError>) {
    let behaviour = ALL.iter().find(|behaviour| behaviour.name == name).expect("it is in the table");
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("there are threads");
    let line = runtime.block_on(async {
        match lay().await {
            Ok(Some(ground)) => Some(run(behaviour, &ground).await),
            Ok(None) => None,
            Err(error) => panic!("there is no ground to test on: {error}"),
        }
    });
    runtime.shutdown_background();
    let Some(line) = line else {
        println!("not run: nothing tells where the engine is");
        return;
    };
    println!("{}: {} after {:?} {}", line.engine, line.verdict, started.elapsed(), line.detail);
    if let Some(path) = std::env::var_os(RESULTS) {
        let text = serde_json::to_string(&line).expect("it is text and numbers") + "\n";
        let mut file = OpenOptions::new().create(true).append(true).open(path).expect("results can be noted");
        file.write_all(text.as_bytes()).expect("results can be noted");
    }
    assert!(
        !line.verdict.fails(),
        "{}: {}\n{}\n{}",
        line.engine,
        line.verdict,
        behaviour.promise,
        line.detail
    );
}
