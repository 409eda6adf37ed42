//! Finding doors, going through them, and reading events cut anywhere.

use std::io::{Read, Write};

use http::Method;

use super::{Call, CliError, Client, Event, sse::Parser};
use crate::cli::testing::{FakeNode, json, reply, write_doors};

fn parse(chunks: &[&[u8]]) -> Vec<Event> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    for chunk in chunks {
        parser.feed(chunk).expect("a good stream");
        events.extend(std::iter::from_fn(|| parser.next_event()));
    }
    events
}

#[test]
fn events_are_the_same_however_they_are_cut() {
    let text = "\u{feff}: comment\n\nid: 1\nevent: gap\ndata: a\ndata:b\r\n\r\ndata: c\r\rid: 2\n\ndata\n\nevent: lost\ndata: x";
    let whole = parse(&[text.as_bytes()]);
    let event = |id: &str, name: &str, data: &str| Event {
        id: Some(id.into()),
        name: name.into(),
        data: data.into(),
    };
    assert_eq!(
        whole,
        [
            event("1", "gap", "a\nb"),
            event("1", "message", "c"),
            event("2", "message", "")
        ]
    );
    for at in 0..text.len() {
        let (left, right) = text.as_bytes().split_at(at);
        assert_eq!(parse(&[left, right]), whole, "cut at {at}");
    }
}

#[test]
fn an_endless_line_and_an_endless_event_are_refused() {
    let mut parser = Parser::default();
    let line = vec![b'x'; 1 << 20];
    assert!((0..9).any(|_| parser.feed(&line).is_err()));
    let mut parser = Parser::default();
    let line = [b"data: ".as_slice(), &line, b"\n"].concat();
    assert!((0..9).any(|_| parser.feed(&line).is_err()));
}

#[tokio::test]
async fn a_damaged_doors_file_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    for content in [
        "",
        "{",
        "7",
        r#"{"api":"ftp://x"}"#,
        r#"{"api":"http://example.org:80"}"#,
    ] {
        std::fs::write(dir.path().join("api.json"), content).expect("a file");
        match Client::find(dir.path().to_owned()) {
            Err(error) => assert!(error.to_string().contains("api.json"), "{error}"),
            Ok(_) => panic!("took {content}"),
        }
    }
    let error = Client::find("/dev/null".into()).err().expect("no folder");
    assert!(matches!(error, CliError::NoNode { .. }));
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_is_replaced_when_it_is_gone() {
    let node = FakeNode::start(|_| json(&serde_json::json!({ "ok": true })));
    let client = Client::find(node.dir.path().to_owned()).expect("a node");
    for _ in 0..3 {
        client.get("/v1/status").await.expect("an answer");
    }
    let dir = node.kill().await;
    let error = client.get("/v1/status").await.expect_err("gone");
    assert_eq!(error.exit_code(), 5);
    let _node = FakeNode::start_in(dir, |_| json(&serde_json::json!({ "ok": true })));
    client.get("/v1/status").await.expect("an answer from the new node");
}

#[tokio::test]
async fn over_tcp_the_token_goes_along() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // The socket is the leftover of a dead node: nobody listens there.
    let doors =
        serde_json::json!({ "pid": 1, "api": format!("http://{address}"), "socket": dir.path().join("gone.sock") });
    write_doors(&dir, &doors);
    let client = Client::find(dir.path().to_owned()).expect("a node");
    let error = client.get("/v1/status").await.expect_err("no token file");
    assert!(error.to_string().contains("api.token"), "{error}");

    std::fs::write(dir.path().join("api.token"), "s3cret\n").expect("a token");
    let server = std::thread::spawn(move || {
        // The first connection was the one without a token.
        let (first, _) = listener.accept().expect("a connection");
        drop(first);
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = [0; 4096];
        let length = stream.read(&mut request).expect("a request");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            .expect("an answer");
        String::from_utf8_lossy(&request[..length]).to_ascii_lowercase()
    });
    client.get("/v1/status").await.expect("an answer");
    let request = server.join().expect("no panic");
    assert!(request.contains("authorization: bearer s3cret\r\n"), "{request}");
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
}

#[tokio::test]
async fn a_node_that_never_answers_is_given_up() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("api.sock");
    let _listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
    write_doors(&dir, &serde_json::json!({ "pid": 1, "socket": socket }));
    let client = Client::find(dir.path().to_owned()).expect("a node");
    let call = Call::new(Method::GET, "/v1/status").time_max(std::time::Duration::from_millis(50));
    let error = client.send(call).await.expect_err("silence");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("did not answer"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_not_json_is_an_error() {
    let node = FakeNode::start(|_| reply(200, "<html>"));
    let client = Client::find(node.dir.path().to_owned()).expect("a node");
    assert!(matches!(client.get("/v1/status").await, Err(CliError::Protocol(_))));
}
