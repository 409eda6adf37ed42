//! The simulator's real side: one scenario with processes of the shipped program, and `weft sim`.

use std::path::PathBuf;

use serde_json::Value;
use weft_tests::command;

/// The simulator, where the program under test lies.
fn simulator() -> PathBuf {
    let path = command::binary().with_file_name("weft-sim");
    assert!(
        path.is_file(),
        "no {}: build it with `cargo build -p weft-sim`",
        path.display()
    );
    path
}

const SCENARIO: &str = r#"
duration = "24s"
quiet = "8s"
[fleet]
nodes = 4
[topology]
kind = "ring"
[[fault]]
kind = "kill"
at = "3s"
nodes = [2]
restart = "1s"
[[fault]]
kind = "pause"
at = "8s"
for = "1s"
nodes = [3]
[[workload]]
name = "news"
kind = "publish"
senders = 2
rate = "4/s"
start = "1s"
[[workload]]
name = "greet"
kind = "call"
senders = 1
rate = "2/s"
start = "1s"
[[check]]
kind = "delivery-ratio"
min = 0.95
[[check]]
kind = "answered"
min = 0.8
[[check]]
kind = "no-duplicates"
"#;

#[test]
fn a_scenario_runs_with_processes_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.toml"), SCENARIO).unwrap();
    let output = std::process::Command::new(simulator())
        .args([
            "run",
            "small.toml",
            "--mode",
            "processes",
            "--json",
            "--quiet",
            "--report",
            "small.html",
        ])
        .current_dir(folder.path())
        .env("WEFT_BIN", command::binary())
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert_eq!(report["mode"], "processes");
    let tally = |index: usize, key: &str| report["workloads"][index][key].as_u64().unwrap();
    assert!(tally(0, "acknowledged") > 40 && tally(0, "delivered") > 60, "{report}");
    assert!(tally(1, "delivered") > 15, "{report}");
    assert_eq!(tally(0, "impossible") + tally(1, "impossible"), 0, "{report}");
    assert_eq!(report["faults"].as_array().unwrap().len(), 2);
    let copies: u64 = report["duplicates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_u64().unwrap())
        .sum();
    let degrees: Vec<u64> = report["series"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["mesh_degree"][2].as_u64().unwrap())
        .collect();
    assert!(
        copies > 0 && degrees.iter().any(|most| *most >= 2),
        "{copies} copies, neighbours {degrees:?}"
    );
    // Every delivery came by some way, and none took more hops than there are nodes to take them by.
    let hops: Vec<u64> = serde_json::from_value(report["hops"].clone()).unwrap();
    let known: u64 = hops.iter().sum();
    assert!(hops[0] == 0 && hops[1] > 0 && hops.len() <= 5, "{hops:?}");
    assert!(known * 10 >= tally(0, "delivered") * 9, "{hops:?} of {report}");
    assert!(report["rss_bytes_peak"].as_u64().unwrap() > 4 << 20);
    assert!(
        report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .all(|check| check["passed"] == true),
        "{report}"
    );
    assert!(output.status.success(), "{said}");
    // Nothing is left: no folder, no process that works in one.
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
    let folder = folder.path().display().to_string();
    let running = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&folder)
    });
    assert_eq!(running.count(), 0);
}

#[test]
fn weft_sim_is_the_simulator() {
    simulator();
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| command::command(home.path()).args(args).output().unwrap();
    let listed = run(&["sim", "scenarios", "--json"]);
    let scenarios: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert!(scenarios.iter().any(|scenario| scenario["name"] == "hello"));
    let help = run(&["sim", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: weft-sim"));
    // Its exit code is the simulator's own.
    assert_eq!(run(&["sim", "run", "there-is-none"]).status.code(), Some(3));
}
