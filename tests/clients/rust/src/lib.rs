//! What the Rust smoke programs share: run each check on its own, in bounded time, and print one JSON line.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

pub const TIMES_MS: [i64; 3] = [1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000];
/// One fits into a topic of [`LARGE_TOPIC`], two do not.
pub const LARGE: usize = 2_500_000;
pub const LARGE_TOPIC: (&str, &str) = ("max.message.bytes", "3000000");

pub fn bootstrap() -> String {
    std::env::var("KAFKA_BOOTSTRAP").expect("KAFKA_BOOTSTRAP names the broker")
}

pub fn unique(prefix: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!("smoke-{prefix}-{}-{}", std::process::id(), now.as_nanos())
}

pub fn values(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("v{i}")).collect()
}

pub fn equal<T: PartialEq + std::fmt::Debug>(actual: T, expected: T) -> Result<()> {
    ensure!(actual == expected, "expected {expected:?}, got {actual:?}");
    Ok(())
}

/// The outcome must be an error that says why.
pub fn refused<T: std::fmt::Debug, E: std::fmt::Debug>(reason: &str, outcome: Result<T, E>) -> Result<()> {
    let told = format!("{:?}", outcome);
    ensure!(outcome.is_err() && told.contains(reason), "must be refused with {reason}: {told}");
    Ok(())
}

/// Asks until the condition is met.
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, condition: impl Fn() -> F) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !condition().await? {
        ensure!(Instant::now() < deadline, "in 15 s it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

type Check = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The checks of a client, in order.
#[derive(Default)]
pub struct Checks(Vec<(&'static str, Check)>);

impl Checks {
    pub fn add(&mut self, name: &'static str, check: impl Future<Output = Result<()>> + Send + 'static) {
        self.0.push((name, Box::pin(check)));
    }
}

/// Runs the checks, prints the report, and ends the process: what hangs must not keep it alive.
pub async fn report(client: &str, version: &str, checks: Checks, cannot: &[(&str, &str)]) -> ! {
    let seconds = std::env::var("CHECK_SECONDS_MAX").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let (mut passed, mut errors) = (Map::new(), Map::new());
    for (name, check) in checks.0 {
        // A task of its own, so that a panic is a report.
        let outcome = tokio::time::timeout(Duration::from_secs(seconds), tokio::spawn(check)).await;
        let error = match outcome {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(format!("{error:#}")),
            Ok(Err(panic)) => Some(panic.to_string()),
            Err(_) => Some(format!("no answer within {seconds} s")),
        };
        passed.insert(name.to_owned(), Value::Bool(error.is_none()));
        errors.extend(error.map(|error| (name.to_owned(), Value::String(error))));
    }
    passed.extend(cannot.iter().map(|(name, _)| ((*name).to_owned(), Value::Null)));
    let notes: Map<String, Value> =
        cannot.iter().map(|(name, why)| ((*name).to_owned(), json!(why))).collect();
    println!(
        "{}",
        json!({"client": client, "version": version, "checks": passed, "errors": errors, "notes": notes})
    );
    std::process::exit(0);
}
