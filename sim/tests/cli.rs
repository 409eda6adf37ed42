//! The program `weft-sim` from outside: what it prints, what it refuses, and with which exit code.

#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

fn weft_sim(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft-sim"))
        .args(args)
        .current_dir(folder)
        .env_remove("WEFT_BIN")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What it printed, and nothing on standard error but what is expected.
#[track_caller]
fn ok(folder: &Path, args: &[&str]) -> String {
    let output = weft_sim(folder, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The exit code and what it complained about.
#[track_caller]
fn refused(folder: &Path, args: &[&str]) -> (i32, String) {
    let output = weft_sim(folder, args);
    assert!(
        !output.status.success(),
        "{args:?} was not refused: {}",
        text(&output.stdout)
    );
    assert_eq!(text(&output.stdout), "", "{args:?}");
    (output.status.code().unwrap(), text(&output.stderr).trim().to_owned())
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_topology_is_described_and_drawn() {
    let folder = folder();
    let text = ok(
        folder.path(),
        &["topology", "line", "--nodes", "5", "--draw", "line.svg"],
    );
    assert!(
        text.contains("diameter      4 hops") && text.contains("cut vertices  3 (1, 2, 3)"),
        "{text}"
    );
    let svg = std::fs::read_to_string(folder.path().join("line.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.matches("<circle class=\"g0\"").count() == 5);
    let json: Value = serde_json::from_str(&ok(
        folder.path(),
        &["topology", "random-regular", "-n", "50", "--degree", "6", "--json"],
    ))
    .unwrap();
    assert_eq!(
        (&json["edges"], &json["degree_min"], &json["components"]),
        (&150.into(), &6.into(), &1.into())
    );
    let again: Value = serde_json::from_str(&ok(
        folder.path(),
        &["topology", "random-regular", "-n", "50", "--degree", "6", "--json"],
    ))
    .unwrap();
    assert_eq!(json, again);
}

#[test]
fn a_topology_that_cannot_be_is_refused() {
    let folder = folder();
    assert_eq!(
        refused(
            folder.path(),
            &["topology", "random-regular", "--nodes", "5", "--degree", "9"]
        ),
        (2, "weft-sim: degree 9 needs at least 10 nodes, there are 5".to_owned())
    );
    let (code, words) = refused(folder.path(), &["topology", "rign", "--nodes", "5"]);
    assert!(
        code == 2 && words.contains("`rign` is neither a kind of topology"),
        "{words}"
    );
    assert_eq!(
        refused(folder.path(), &["topology", "ring", "--nodes", "5", "--degree", "3"]),
        (
            2,
            "weft-sim: --degree goes with random-regular, small-world, islands, not with ring".to_owned()
        )
    );
    let (code, words) = refused(folder.path(), &["topology", "there-is-none.graphml"]);
    assert!(
        code == 1 && words.contains("cannot read the topology there-is-none.graphml"),
        "{words}"
    );
}

#[test]
fn a_graphml_file_is_a_topology() {
    let folder = folder();
    write(
        folder.path(),
        "net.graphml",
        "<graphml><graph><node id='a'/><node id='b'/><node id='c'/><edge source='a' target='b'/><edge source='b' target='c'/></graph></graphml>",
    );
    let text = ok(folder.path(), &["topology", "net.graphml"]);
    assert!(
        text.contains("nodes         3") && text.contains("cut vertices  1 (1)"),
        "{text}"
    );
}

#[test]
fn scenarios_are_listed_and_printed_and_what_is_printed_can_be_read() {
    let folder = folder();
    let list: Vec<Value> = serde_json::from_str(&ok(folder.path(), &["scenarios", "--json"])).unwrap();
    let names: Vec<&str> = list.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    for wanted in [
        "hello",
        "churn",
        "islands",
        "slow-link",
        "thundering-herd",
        "wan",
        "flood",
        "sybil",
        "eclipse",
        "relay-island",
        "upgrade",
        "scale",
    ] {
        assert!(names.contains(&wanted), "{wanted} does not come with the program");
    }
    let text = ok(folder.path(), &["scenarios", "islands"]);
    write(folder.path(), "mine.toml", &text);
    let exported = ok(
        folder.path(),
        &["export", "shadow", "mine.toml", "--out", "x", "--json"],
    );
    assert!(exported.contains("shadow.yaml"));
    let (code, words) = refused(folder.path(), &["scenarios", "nothing"]);
    assert!(code == 3 && words.contains("there are hello, churn"), "{words}");
}

#[test]
fn a_wrong_scenario_is_refused_with_line_and_key_before_anything_starts() {
    let folder = folder();
    write(
        folder.path(),
        "wrong.toml",
        "duration = \"60s\"\n[fleet]\nnodes = 10\n[[fault]]\nkind = \"kill\"\nat = \"5s\"\ncount = 11\n[[check]]\nkind = \"answered\"\nmin = 1\n",
    );
    assert_eq!(
        refused(folder.path(), &["run", "wrong.toml"]),
        (
            2,
            "weft-sim: 2 errors in the scenario\n  \
             wrong.toml:7: fault.count is 11, but the fleet has only 10 nodes\n  \
             wrong.toml:9: check.kind answered checks a workload of the kind call, but the scenario has none"
                .to_owned()
        )
    );
    write(
        folder.path(),
        "huge.toml",
        "duration = \"60s\"\n[fleet]\nnodes = 1000000\n[topology]\nkind = \"ring\"\n",
    );
    let (code, words) = refused(folder.path(), &["run", "huge.toml"]);
    assert!(
        code == 2 && words.contains("1000000 nodes need at least 390689 MiB of memory in mode virtual"),
        "{words}"
    );
    let (code, words) = refused(folder.path(), &["run", "there-is-none.toml"]);
    assert!(
        code == 3 && words.contains("there is no file there-is-none.toml"),
        "{words}"
    );
    let (code, _) = refused(folder.path(), &["run", "hello", "--seeds", "5..1"]);
    assert_eq!(code, 2);
}

#[test]
fn a_mode_refuses_what_it_cannot_do() {
    let folder = folder();
    assert_eq!(
        refused(folder.path(), &["run", "islands", "--mode", "processes", "--quiet"]),
        (
            2,
            "weft-sim: mode processes has no links to break (fault islands): --mode hosts has them, and --mode virtual"
                .to_owned()
        )
    );
    let (code, words) = refused(
        folder.path(),
        &[
            "run",
            "upgrade",
            "--mode",
            "processes",
            "--weft",
            "no-such-weft",
            "--quiet",
        ],
    );
    assert_eq!(
        (code, words.as_str()),
        (3, "weft-sim: there is no program no-such-weft")
    );
    let (code, words) = refused(folder.path(), &["compare", "hello", "--with", "virtual"]);
    assert!(code == 2 && words.contains("not with itself"), "{words}");
}

#[test]
fn an_export_does_not_write_over_files() {
    let folder = folder();
    ok(folder.path(), &["export", "kubernetes", "wan", "--out", "k8s"]);
    for name in [
        "kustomization.yaml",
        "service.yaml",
        "configmap.yaml",
        "statefulsets.yaml",
        "README.md",
    ] {
        assert!(folder.path().join("k8s").join(name).is_file(), "{name}");
    }
    let (code, words) = refused(folder.path(), &["export", "kubernetes", "wan", "--out", "k8s"]);
    assert!(code == 2 && words.contains("is there already"), "{words}");
    ok(
        folder.path(),
        &["export", "kubernetes", "wan", "--out", "k8s", "--force"],
    );
}

#[test]
fn a_report_that_is_none_cannot_be_replayed() {
    let folder = folder();
    write(folder.path(), "r.json", "{\"scenario\":1}");
    let (code, words) = refused(folder.path(), &["replay", "r.json"]);
    assert!(
        code == 2 && words.contains("r.json is no report of `weft-sim run --json`"),
        "{words}"
    );
    assert_eq!(refused(folder.path(), &["replay", "none.json"]).0, 3);
}

#[test]
fn completions_and_manual_pages_are_generated() {
    let folder = folder();
    assert!(ok(folder.path(), &["completions", "bash"]).contains("weft-sim"));
    ok(folder.path(), &["man", "pages"]);
    assert!(folder.path().join("pages/weft-sim-run.1").is_file());
}
