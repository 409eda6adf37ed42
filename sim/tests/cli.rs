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
        code == 3 && words.contains("cannot read the topology there-is-none.graphml"),
        "{words}"
    );
    std::fs::write(folder.path().join("no.graphml"), "<graphml>\n<graph/></graphml>").unwrap();
    assert_eq!(
        refused(folder.path(), &["topology", "no.graphml"]),
        (
            2,
            "weft-sim: cannot read the topology no.graphml: it has no nodes".to_owned()
        )
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

/// Whether a process listens for SIGINT: until then it would end at once.
fn listens(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    mask & (1 << (rustix::process::Signal::INT.as_raw() - 1)) != 0
}

#[test]
fn a_value_of_a_scenario_is_changed_from_the_command_line() {
    let folder = folder();
    let report: Value = serde_json::from_str(&ok(
        folder.path(),
        &[
            "run",
            "hello",
            "--set",
            "fleet.nodes=12",
            "--set",
            "duration=20s",
            "--set",
            "name=tiny",
            "--set",
            "workload.1.start=6s",
            "--set",
            "workload.0.start=5s",
            "--json",
            "--quiet",
        ],
    ))
    .unwrap();
    assert_eq!((&report["nodes"], &report["scenario"]), (&12.into(), &"tiny".into()));
    // What was changed is in the report, so that it can be replayed.
    assert!(report["source"].as_str().unwrap().contains("nodes = 12"), "{report}");
    let (code, words) = refused(folder.path(), &["run", "hello", "--set", "fleet.nods=9"]);
    assert!(
        code == 2 && words.contains("hello (as changed)") && words.contains("nods"),
        "{words}"
    );
}

#[test]
fn an_interrupted_run_ends_with_the_report_so_far() {
    let folder = folder();
    let text = "duration = \"7d\"\n[fleet]\nnodes = 4\n[topology]\nkind = \"ring\"\n";
    write(folder.path(), "long.toml", text);
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-sim"))
        .args(["run", "long.toml", "--json", "--quiet"])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !listens(child.id()) {
        assert!(std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["ended_early"].is_string(), "{report}");
    assert!(report["virtual_seconds"].as_f64().unwrap() < 604_800.0);
}

#[test]
fn one_seed_has_one_trace_and_a_sweep_names_the_command_of_a_failing_seed() {
    let folder = folder();
    write(
        folder.path(),
        "fails.toml",
        "duration = \"20s\"\nquiet = \"5s\"\n[fleet]\nnodes = 4\n[topology]\nkind = \"clique\"\n[[fault]]\nkind = \"partition\"\nat = \"2s\"\nnodes = [1]\n\
         [[fault]]\nkind = \"pause\"\nat = \"3s\"\nfor = \"1s\"\n[[workload]]\nkind = \"publish\"\nstart = \"4s\"\nrate = \"2/s\"\n\
         [[check]]\nkind = \"latency\"\npercentile = 99\nmax = \"100ms\"\n",
    );
    let hash = |seed: &str| {
        let output = weft_sim(
            folder.path(),
            &["run", "fails.toml", "--seed", seed, "--json", "--quiet"],
        );
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["trace_hash"].as_str().unwrap().to_owned()
    };
    let first = hash("7");
    assert_eq!(first, hash("7"));
    assert_ne!(first, hash("8"));
    let output = weft_sim(folder.path(), &["run", "fails.toml", "--seeds", "7..8"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.contains("0 of 2 seeds passed") && said.contains("\n    weft-sim run fails.toml --seed 7\n"),
        "{said}"
    );
    // Replayed from its report, it is the same; shrunk, it is smaller and fails still.
    let output = weft_sim(
        folder.path(),
        &["run", "fails.toml", "--seed", "7", "--json", "--quiet"],
    );
    std::fs::write(folder.path().join("r.json"), &output.stdout).unwrap();
    let replayed: Value = serde_json::from_str(&ok(folder.path(), &["replay", "r.json", "--json", "--quiet"])).unwrap();
    assert_eq!(
        (&replayed["same_trace"], &replayed["trace_hash_now"]),
        (&true.into(), &Value::from(first))
    );
    ok(
        folder.path(),
        &["shrink", "fails.toml", "--seed", "7", "--out", "small.toml", "--quiet"],
    );
    let small = std::fs::read_to_string(folder.path().join("small.toml")).unwrap();
    assert!(small.contains("partition") && !small.contains("pause"), "{small}");
    let output = weft_sim(folder.path(), &["run", "small.toml", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
}

#[test]
fn without_root_mode_hosts_is_denied() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};

    let folder = folder();
    let mut command = if rustix::process::geteuid().is_root() {
        // Where somebody without rights can reach it.
        let program = folder.path().join("weft-sim");
        std::fs::copy(env!("CARGO_BIN_EXE_weft-sim"), &program).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(program);
        command.uid(65_534).gid(65_534);
        command
    } else {
        Command::new(env!("CARGO_BIN_EXE_weft-sim"))
    };
    let output = command
        .args(["run", "hello", "--mode", "hosts", "--quiet"])
        .current_dir("/")
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), text(&output.stderr).trim()),
        (
            Some(4),
            "weft-sim: mode hosts makes network namespaces, which needs root: run it as root, or with --mode processes"
        )
    );
}

/// Attackers who break gossip's rules are neighbours of whom they like without scoring, and of nobody with it.
#[test]
fn scoring_keeps_out_who_breaks_the_rules_of_gossip() {
    let folder = tempfile::tempdir().unwrap();
    let text = "name = \"pushy\"\nduration = \"40s\"\nscoring = true\n[fleet]\nnodes = 12\n[topology]\ndegree = 6\n\
        [[attack]]\nkind = \"sybil\"\nattackers = 12\nat = \"5s\"\nbreaks_rules = true\n\
        [[workload]]\nkind = \"publish\"\nrate = \"2/s\"\nstart = \"10s\"\n";
    std::fs::write(folder.path().join("pushy.toml"), text).unwrap();
    let figures = |scoring: &str| -> (f64, f64) {
        let set = format!("scoring={scoring}");
        let output = weft_sim(
            folder.path(),
            &["run", "pushy.toml", "--quiet", "--json", "--set", &set],
        );
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |key: &str| report["attacks"][0][key].as_f64().unwrap();
        (of("attacker_share_of_mesh"), of("delivery_ratio"))
    };
    let (with, without) = (figures("true"), figures("false"));
    assert!(with.0 < 0.05, "{with:?}");
    assert!(without.0 > 0.3, "{without:?}");
    assert_eq!((with.1, without.1), (1.0, 1.0), "nothing is lost either way");
}
