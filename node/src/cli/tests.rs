//! Arguments, exit codes and the words between them; the commands themselves against a fake node are in the modules below.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use clap::{CommandFactory, Parser};
use serde_json::{Value, json as value};

use super::{
    Cli, CliError, Command, Session, dispatch,
    output::{escape, json_text},
    parse,
    testing::{Captured, FakeNode},
};
use crate::error::ErrorKind;

mod commands;
mod subscriptions;

/// Parses and runs a command as `main` would.
async fn run(session: &Session, line: &[&str]) -> Result<(), CliError> {
    let command = Cli::try_parse_from(std::iter::once(&"weft").chain(line))
        .expect("good arguments")
        .command;
    let outcome = dispatch(session, command.expect("a command"));
    tokio::time::timeout(Duration::from_secs(20), outcome)
        .await
        .expect("an end")
}

async fn run_on(node: &FakeNode, line: &[&str]) -> (Result<(), CliError>, Captured) {
    let (session, captured) = node.session(line.contains(&"--json"));
    (run(&session, line).await, captured)
}

fn code(outcome: &Result<(), CliError>) -> u8 {
    outcome.as_ref().err().map_or(0, CliError::exit_code)
}

fn refused(line: &[&str]) -> i32 {
    Cli::try_parse_from(std::iter::once(&"weft").chain(line))
        .expect_err("bad arguments")
        .exit_code()
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_help_and_most_have_examples() {
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        let has_subcommands = command.get_subcommands().next().is_some();
        let has_examples = command
            .get_after_help()
            .is_some_and(|text| text.to_string().contains("Examples:"));
        assert!(
            has_examples || has_subcommands || command.is_hide_set(),
            "{} has no examples",
            command.get_name()
        );
    }
}

#[test]
fn wrong_arguments_exit_with_two() {
    for line in [
        &["nonsense"][..],
        &["status", "--nonsense"],
        &["call"],
        &["call", "a b"],
        &["call", "greet", "--timeout", "5"],
        &["call", "greet", "--header", "no-colon"],
        &["call", "greet", "data", "--file", "-"],
        &["serve", "greet"],
        &["serve", "greet", "--echo", "--exec", "true"],
        &["serve", "greet", "--echo", "--concurrency", "0"],
        &["sub", "a", "--count", "0"],
        &["sub", "a", "--raw", "--json"],
        &["invite", "--uses", "0"],
        &["invite", "--label", "novalue"],
        &["invite", "--ttl", "0s"],
        &["member", "ls", "--pending", "--revoked"],
        &["run", "--memory-budget", "lots"],
        &["run", "--open", "--join", "weft1x"],
        &["--color", "pink", "status"],
    ] {
        assert_eq!(refused(line), 2, "{line:?}");
    }
}

#[test]
fn an_argument_that_is_not_text_is_refused_but_data_may_be_any_bytes() {
    let bytes = OsStr::from_bytes(b"\xff\xfe");
    let line = |words: &[&OsStr]| Cli::try_parse_from(std::iter::once(OsStr::new("weft")).chain(words.iter().copied()));
    let error = line(&[OsStr::new("ping"), bytes]).expect_err("not text");
    assert_eq!(error.exit_code(), 2);
    assert!(line(&[OsStr::new("call"), bytes]).is_err());
    let cli = line(&[OsStr::new("call"), OsStr::new("greet"), bytes]).expect("data is bytes");
    assert!(matches!(cli.command, Some(Command::Call(_))));
}

#[test]
fn exit_codes_are_as_promised() {
    let of_kind = |kind: ErrorKind| CliError::Node(crate::error::NodeError::new(kind, "x")).exit_code();
    assert_eq!(ErrorKind::ALL.map(of_kind), [3, 4, 2, 1, 5, 5, 1, 1, 1, 1]);
    assert_eq!(CliError::Usage(String::new()).exit_code(), 2);
    assert_eq!(CliError::NoNode { dir: "/x".into() }.exit_code(), 5);
    assert_eq!(CliError::Timeout(String::new()).exit_code(), 5);
    let broken_pipe = CliError::Output(std::io::ErrorKind::BrokenPipe.into());
    assert_eq!(broken_pipe.exit_code(), 0);
    assert!(broken_pipe.is_silent());
}

#[test]
fn durations_and_sizes() {
    let ms = |text| parse::duration(text).map(parse::millis);
    assert_eq!(ms("500ms"), Ok(500));
    assert_eq!(ms("30s"), Ok(30_000));
    assert_eq!(ms("1h30m"), Ok(5_400_000));
    assert_eq!(ms("90d"), Ok(90 * 86_400_000));
    assert_eq!(ms(" 2w "), Ok(14 * 86_400_000));
    for bad in [
        "",
        "5",
        "s",
        "-1s",
        "1y",
        "1.5h",
        "99999999999999999999s",
        "36501d",
        "1s1",
        "٣s",
    ] {
        assert!(parse::duration(bad).is_err(), "{bad}");
    }
    assert_eq!(parse::size_bytes("256MiB"), Ok(256 << 20));
    assert_eq!(parse::size_bytes("65536"), Ok(65_536));
    assert_eq!(parse::size_bytes("10 MB"), Ok(10_000_000));
    for bad in ["", "0", "-1", "1TiBs", "99999999999GiB", "MiB"] {
        assert!(parse::size_bytes(bad).is_err(), "{bad}");
    }
}

#[test]
fn names_pairs_and_headers() {
    assert_eq!(
        parse::key_value("zone=eu=1"),
        Ok(("zone".to_owned(), "eu=1".to_owned()))
    );
    assert!(parse::key_value("=x").is_err() && parse::key_value("x").is_err() && parse::key_value("a=\u{1b}").is_err());
    let target = parse::target("orders/create").expect("a target");
    assert_eq!(
        (target.service.as_str(), target.endpoint.as_deref()),
        ("orders", Some("create"))
    );
    let target = parse::target("orders@>=1.2, <2/admin.reset").expect("a target");
    let parts = (
        target.service.as_str(),
        target.version.as_deref(),
        target.endpoint.as_deref(),
    );
    assert_eq!(parts, ("orders", Some(">=1.2, <2"), Some("admin.reset")));
    for bad in [
        "",
        "/",
        "a/",
        "a/b/c",
        "..",
        "a b",
        "a@",
        "a@one",
        "@1",
        "a/b.",
        "a/.b",
        &"x".repeat(65),
    ] {
        assert!(parse::target(bad).is_err(), "{bad}");
    }
    let header = parse::header("Trace: a b").expect("a header");
    assert_eq!(
        (header.name.as_str(), header.value.to_str().ok()),
        ("weft-header-trace", Some("a b"))
    );
    for bad in ["x", ":x", "a b:x", "a:b\r\nc:d"] {
        assert!(parse::header(bad).is_err(), "{bad}");
    }
    assert_eq!(parse::percent("a>b/ü"), "a%3Eb%2F%C3%BC");
    assert_eq!(parse::percent(".."), "%2E%2E");
}

#[test]
fn text_of_strangers_cannot_steer_the_terminal() {
    assert_eq!(escape("plain ü"), "plain ü");
    assert_eq!(
        escape("a\u{1b}[2Jb\n\u{202e}c\u{9b}"),
        "a\\u{1b}[2Jb\\n\\u{202e}c\\u{9b}"
    );
    let text = json_text(&value!({ "name": "a\u{9b}\u{202e}\u{7f}\u{1b}" }));
    assert_eq!(text, r#"{"name":"a\u009b\u202e\u007f\u001b"}"#);
    assert_eq!(
        serde_json::from_str::<Value>(&text).expect("JSON")["name"],
        "a\u{9b}\u{202e}\u{7f}\u{1b}"
    );
}
