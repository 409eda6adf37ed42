//! Streams of messages: when they start, how they end, and what happens in between.

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json as value};

use super::{code, run, run_on};
use crate::cli::testing::{Body, FakeNode, problem};

/// A response whose body is these chunks and then never ends.
fn events(chunks: Vec<String>) -> Response<Body> {
    let frames = futures::stream::iter(chunks.into_iter().map(|chunk| Ok(Frame::data(Bytes::from(chunk)))));
    Response::new(BodyExt::boxed(StreamBody::new(
        frames.chain(futures::stream::pending()),
    )))
}

fn message(number: u64) -> String {
    let event = value!({ "specversion": "1.0", "subject": "a.b", "datacontenttype": "text/plain", "data": format!("m{number}\u{7}") });
    format!("id: p{number}\nevent: message\ndata: {event}\n\n")
}

#[tokio::test]
async fn a_subscription_says_when_it_is_active_and_ends_after_its_count() {
    let gap = "event: gap\ndata: {\"dropped\":7}\n\n".to_owned();
    let node = FakeNode::start(move |_| {
        events(vec![
            ": hello\n\n".into(),
            message(1),
            gap.clone(),
            message(2),
            message(3),
        ])
    });
    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--count", "2"]).await;
    outcome.expect("two messages");
    assert_eq!(captured.stdout(), "[a.b] m1\\u{7}\n[a.b] m2\\u{7}\n");
    assert!(
        captured
            .stderr()
            .starts_with("subscribed to a.>\n7 messages were dropped"),
        "{}",
        captured.stderr()
    );
    assert_eq!(node.last().path, "/v1/messages?subject=a.%3E");

    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--count", "2", "--raw"]).await;
    outcome.expect("two messages");
    assert_eq!(captured.stdout(), "m1\u{7}\nm2\u{7}\n");

    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--count", "1", "--json"]).await;
    outcome.expect("a message");
    assert_eq!(
        serde_json::from_str::<Value>(&captured.stdout()).expect("JSON")["data"],
        "m1\u{7}"
    );
}

#[tokio::test]
async fn what_nobody_has_any_more_is_said() {
    let gap = "event: gap\ndata: {\"publisher\":\"12D3\",\"from\":3,\"to\":5}\n\n".to_owned();
    let node = FakeNode::start(move |_| events(vec![gap.clone(), message(6)]));
    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--count", "1"]).await;
    outcome.expect("a message");
    let said = captured.stderr();
    assert!(said.contains("3 messages of 12D3 are lost: numbers 3 to 5"), "{said}");
    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--count", "1", "--json"]).await;
    outcome.expect("a message");
    let lines: Vec<Value> = captured
        .stdout()
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect();
    assert_eq!(lines[0], value!({ "gap": { "publisher": "12D3", "from": 3, "to": 5 } }));
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn a_subscription_ends_with_its_time() {
    let node = FakeNode::start(move |_| events(vec![message(1)]));
    let (outcome, captured) = run_on(&node, &["sub", "a.>", "--timeout", "300ms"]).await;
    outcome.expect("the time is over, and that was asked for");
    assert_eq!(captured.stdout().lines().count(), 1);
    let (outcome, _) = run_on(&node, &["sub", "a.>", "--timeout", "300ms", "--count", "2"]).await;
    assert_eq!(code(&outcome), 5);
    assert!(outcome.expect_err("too few").to_string().starts_with("1 of 2 messages"));
}

#[tokio::test]
async fn a_subscription_survives_its_node() {
    let node = FakeNode::start(move |_| events(vec![message(1)]));
    let (session, captured) = node.session(false);
    let restart = async {
        captured.says("subscribed to a.>").await;
        while captured.stdout().is_empty() {
            tokio::task::yield_now().await;
        }
        let dir = node.kill().await;
        captured.says("waiting for the node").await;
        FakeNode::start_in(dir, |_| events(vec![message(2)]))
    };
    let (outcome, node) = tokio::join!(run(&session, &["sub", "a.>", "--count", "2"]), restart);
    outcome.expect("both messages");
    captured.says("subscribed to a.> again").await;
    assert_eq!(captured.stdout(), "[a.b] m1\\u{7}\n[a.b] m2\\u{7}\n");
    assert_eq!(node.last().header("last-event-id"), Some("p1"));
}

#[tokio::test]
async fn a_refused_subscription_is_an_error_at_once() {
    let node = FakeNode::start(|_| problem(503, "unreachable", "not yet"));
    let (outcome, captured) = run_on(&node, &["sub", "a.>"]).await;
    assert_eq!(code(&outcome), 5);
    assert!(!captured.stderr().contains("subscribed"));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_command_quietly() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let node = FakeNode::start(move |_| events(vec![message(1)]));
    let (mut session, _) = node.session(false);
    session.out = crate::cli::output::Out::piped(false, Box::new(Gone), Box::new(std::io::sink()));
    let error = run(&session, &["sub", "a.>"]).await.expect_err("nobody reads");
    assert!(error.is_silent());
    assert_eq!(error.exit_code(), 0);
}
