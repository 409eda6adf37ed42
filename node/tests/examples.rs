//! The examples do what the README says they do.

#![allow(clippy::unwrap_used)]

use std::{
    path::PathBuf,
    process::{Command, Output},
};

/// Runs an example that cargo built beside this test.
fn run(example: &str) -> Output {
    let mut path = std::env::current_exe().unwrap();
    // target/debug/deps/examples-… lies beside target/debug/examples.
    assert!(path.pop() && path.pop());
    path.extend(["examples", example]);
    Command::new(&path)
        .output()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", path.display()))
}

fn says(example: &str, words: &[&str]) {
    let output = run(example);
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success(),
        "{example}: {}\n{stdout}{stderr}",
        output.status
    );
    for word in words {
        assert!(
            stdout.contains(word),
            "{example} does not say {word:?}:\n{stdout}{stderr}"
        );
    }
}

#[test]
fn an_outsider_adds_a_tenth_pattern() {
    says("tenth_pattern", &["alpha keeps \"hello from beta\""]);
}

#[test]
fn a_service_is_called_by_its_name() {
    says(
        "request_response",
        &["answered \"hello world\"", "no member offers the service nobody"],
    );
}

#[test]
fn what_is_published_is_taken_in() {
    says("pub_sub", &["published \"{\\\"id\\\":1}\""]);
}

#[test]
fn what_was_decided_upon_is_so_and_can_be_proved() {
    says(
        "event_sourcing",
        &[
            "paid at 2, and not again: true",
            "1 order.created",
            "2 order.paid\norder.paid",
        ],
    );
}

#[test]
fn what_the_readme_quotes_is_what_runs() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let lines = |text: &str| text.lines().map(|l| l.trim().to_owned()).collect::<Vec<_>>();
    let readme = std::fs::read_to_string(root.join("../README.md")).unwrap();
    let examples = ["request_response", "pub_sub", "event_sourcing"].map(|name| {
        let path = root.join(format!("examples/{name}.rs"));
        lines(&std::fs::read_to_string(path).unwrap())
    });
    let quotes: Vec<Vec<String>> = readme
        .split("```rust\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next().map(lines))
        .collect();
    assert_eq!(quotes.len(), 3, "one quotation per pattern");
    for quote in quotes {
        let is_there = examples
            .iter()
            .any(|example| example.windows(quote.len()).any(|part| part == quote));
        assert!(is_there, "no example has this any more:\n{}", quote.join("\n"));
    }
}

#[test]
fn an_example_is_short_and_stands_in_the_readme() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("../README.md")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()).filter(|n| n.ends_with(".rs")) else {
            continue;
        };
        count += 1;
        assert!(
            readme.contains(&format!("node/examples/{name}")),
            "the README does not name {name}"
        );
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines < 60, "{name} has {lines} lines");
    }
    assert!(count >= 3, "{count} examples");
}
