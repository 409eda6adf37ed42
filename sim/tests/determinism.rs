//! A run follows from its scenario and its seed, to the last byte and nanosecond, and in whatever process.

#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command};

use serde_json::Value;

/// Everything that could go another way: jitter, loss, a crash with a restart, a partition, messages and calls.
const SCENARIO: &str = r#"
name = "small"
about = "Small, and with something of everything."
seed = 1
duration = "40s"
quiet = "10s"

[fleet]
nodes = 7

[topology]
kind = "random-regular"
degree = 4
dial = "anyone"

[links]
latency = { mean = "30ms", deviation = "10ms" }
jitter = "5ms"
loss = 0.01

[[fault]]
kind = "churn"
at = "12s"
down = "4s"

[[fault]]
kind = "partition"
at = "18s"
for = "5s"

[[workload]]
name = "news"
kind = "publish"
rate = "2/s"
start = "5s"

[[workload]]
name = "greet"
kind = "call"
rate = "1/s"
start = "5s"
"#;

fn run(dir: &Path, text: &str, seed: u64) -> Value {
    let file = dir.join("small.toml");
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_weft-sim"))
        .args([
            "run",
            file.to_str().unwrap(),
            "--json",
            "--quiet",
            "--seed",
            &seed.to_string(),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn hash(report: &Value) -> String {
    report["trace_hash"].as_str().unwrap().to_owned()
}

/// What of a report may differ between two runs: what they cost.
fn without_costs(mut report: Value) -> Value {
    for cost in ["wall_seconds", "cpu_seconds", "rss_bytes_peak"] {
        report.as_object_mut().unwrap().remove(cost).unwrap();
    }
    report
}

#[test]
fn the_same_seed_gives_the_same_run_in_every_process_and_another_seed_another_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(dir.path(), SCENARIO, 7);
    assert!(first["trace_events"].as_u64().unwrap() > 5_000, "{first}");
    assert!(first["workloads"][0]["delivered"].as_u64().unwrap() > 50, "{first}");
    let again = run(dir.path(), SCENARIO, 7);
    assert_eq!(hash(&first), hash(&again));
    assert_eq!(without_costs(first.clone()), without_costs(again));
    let other = run(dir.path(), SCENARIO, 8);
    assert_ne!(hash(&first), hash(&other));
}

#[test]
fn the_same_holds_over_datagrams() {
    let dir = tempfile::tempdir().unwrap();
    let quic = SCENARIO.replace("seed = 1\n", "seed = 1\ntransport = \"quic\"\n");
    let (first, again, other) = (
        run(dir.path(), &quic, 7),
        run(dir.path(), &quic, 7),
        run(dir.path(), &quic, 8),
    );
    assert!(first["workloads"][0]["delivered"].as_u64().unwrap() > 50, "{first}");
    assert_eq!(hash(&first), hash(&again));
    assert_eq!(without_costs(first.clone()), without_costs(again));
    assert_ne!(hash(&first), hash(&other));
    assert_ne!(hash(&first), hash(&run(dir.path(), SCENARIO, 7)));
}

#[test]
fn a_change_of_a_millisecond_shows() {
    let dir = tempfile::tempdir().unwrap();
    let plain = run(dir.path(), SCENARIO, 7);
    let changed = run(dir.path(), &SCENARIO.replace("mean = \"30ms\"", "mean = \"31ms\""), 7);
    assert_ne!(hash(&plain), hash(&changed));
}
