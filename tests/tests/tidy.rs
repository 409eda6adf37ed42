//! What clippy cannot see: the layering rules of ARCHITECTURE.md, and the house's own.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file longer than this is split, or says at its head why not.
const LINES_MAX: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Rust sources below a folder, with their paths from the root.
fn sources(below: &str) -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root.join(below), &mut found);
    found.sort();
    let name = |p: &Path| p.strip_prefix(&root).unwrap().display().to_string();
    found
        .iter()
        .map(|p| (name(p), fs::read_to_string(p).unwrap()))
        .collect()
}

/// Code without comments and without `#[cfg(test)]` modules at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs")
        || path.contains("/tests/")
        || path.ends_with("testing.rs")
        || path.ends_with("contract.rs")
}

/// No source below `folder` but the allowed ones contains any of `words`.
fn forbid(folder: &str, words: &[&str], allowed: &[&str], why: &str) {
    let mut broken = Vec::new();
    for (path, text) in sources(folder) {
        if is_test(&path) || allowed.iter().any(|a| path.starts_with(a)) {
            continue;
        }
        let code = code(&text);
        broken.extend(
            words
                .iter()
                .filter(|w| code.contains(**w))
                .map(|w| format!("{path}: {w}")),
        );
    }
    assert!(broken.is_empty(), "{why}:\n{}", broken.join("\n"));
}

#[test]
fn only_the_mesh_knows_the_swarm() {
    forbid(
        "node/src",
        &["Swarm<", "SwarmEvent", "NetworkBehaviour", "swarm::Config"],
        &["node/src/mesh/"],
        "libp2p's swarm is the mesh's secret",
    );
}

#[test]
fn the_mechanism_names_no_pattern() {
    let words = ["patterns::", "pub_sub::", "RequestResponse", "PubSub"];
    for folder in ["mesh", "store", "trust", "telemetry", "platform"] {
        forbid(
            &format!("node/src/{folder}"),
            &words,
            &[],
            "nothing below patterns/ names a pattern",
        );
    }
    for file in ["context.rs", "tasks.rs", "pattern.rs", "node.rs", "error.rs"] {
        let text = code(&fs::read_to_string(root().join("node/src").join(file)).unwrap());
        assert!(!words.iter().any(|w| text.contains(w)), "{file} names a pattern");
    }
}

#[test]
fn a_pattern_sees_neither_the_network_nor_the_disk_nor_the_clock() {
    forbid(
        "node/src/patterns",
        &[
            "libp2p::",
            "std::fs",
            "tokio::fs",
            "SystemTime",
            "std::time::Instant",
            "TcpStream",
            "UnixStream",
            "rand::",
        ],
        &[],
        "a pattern has its Context and nothing else",
    );
}

#[test]
fn the_protocol_does_no_io_and_reads_no_clock() {
    forbid(
        "protocol/src",
        &[
            "tokio",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "SystemTime",
            "std::time::Instant",
            "rand::",
            "OsRng",
        ],
        &["protocol/src/fixtures.rs"],
        "protocol is pure",
    );
}

#[test]
fn time_entropy_and_tasks_come_from_their_one_place() {
    forbid(
        "node/src",
        &["SystemTime::now", "rand::random", "SysRng", "OsRng", "thread_rng"],
        // The runtime of groups answers openraft's question for a generator, by a name that is not ours to choose: with numbers that are always the same.
        &["node/src/platform/", "node/src/consensus/runtime.rs"],
        "the calendar and entropy come through Platform",
    );
    forbid(
        "node/src/consensus",
        &[
            "SystemTime::now",
            "rand::random",
            "rand::rng",
            "rand::thread_rng",
            "SysRng",
            "OsRng",
            "ThreadRng",
        ],
        &[],
        "a group's election times come from the platform's entropy, and nothing else in it is left to chance",
    );
    forbid(
        "node/src",
        &["tokio::spawn(", "task::spawn("],
        &["node/src/tasks.rs", "node/src/cli/", "node/src/launch"],
        "tasks are spawned through Tasks",
    );
}

#[test]
fn queues_have_bounds() {
    forbid(
        "node/src",
        &["unbounded_channel", "mpsc::unbounded"],
        &[],
        "every queue has a bound",
    );
    forbid(
        "sim/src",
        &["unbounded_channel", "mpsc::unbounded"],
        &[],
        "every queue has a bound",
    );
}

#[test]
fn the_wire_code_does_not_panic() {
    forbid(
        "protocol/src",
        &[".unwrap()", "panic!(", "unreachable!("],
        &["protocol/src/fixtures.rs"],
        "a peer's bytes never panic",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let marks: Vec<String> = ["TO", "FIX"]
        .iter()
        .zip(["DO", "ME"])
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    let stubs = [
        "to".to_owned() + "do!(",
        "unimple".to_owned() + "mented!(",
        "#[ign".to_owned() + "ore]",
    ];
    for folder in ["protocol", "node", "sim", "tests"] {
        for (path, text) in sources(folder) {
            if path.contains("/target/") {
                continue;
            }
            for word in marks.iter().chain(&stubs) {
                assert!(!text.contains(word.as_str()), "{path} contains {word}");
            }
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let mut long = Vec::new();
    for folder in ["protocol/src", "node/src", "sim/src", "tests"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            if lines > LINES_MAX && !text.lines().take(20).any(|l| l.contains("Longer than")) {
                long.push(format!("{path}: {lines} lines"));
            }
        }
    }
    assert!(
        long.is_empty(),
        "split these, or say at their head why not:\n{}",
        long.join("\n")
    );
}

#[test]
fn every_module_says_what_it_is_for() {
    let mut silent = Vec::new();
    for folder in ["protocol/src", "node/src", "sim/src"] {
        for (path, text) in sources(folder) {
            if !is_test(&path) && !text.trim_start().starts_with("//!") {
                silent.push(path);
            }
        }
    }
    assert!(
        silent.is_empty(),
        "these modules open without a word:\n{}",
        silent.join("\n")
    );
}

#[test]
fn the_rules_can_be_broken() {
    // A rule that finds nothing in anything would pass too.
    let text = "fn f() {\n    // tokio::spawn(\n    tokio::spawn(g());\n}\n#[cfg(test)]\nmod tests {\n unwrap\n}";
    assert!(code(text).contains("tokio::spawn("));
    assert_eq!(code(text).matches("tokio::spawn(").count(), 1);
    assert!(!code(text).contains("unwrap"));
    assert!(sources("node/src").len() > 40 && sources("protocol/src").len() > 20);
}
