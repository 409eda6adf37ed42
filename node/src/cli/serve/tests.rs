//! Commands that are really run, and connections to a node that is not one.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

use super::{
    exec::Exec,
    frame::{self, FromNode, Request, ToNode},
    handler::{ANSWER_BYTES_MAX, Answer, Failure},
    upstream::Upstream,
};
use crate::cli::{CliError, testing};

const SECOND: Duration = Duration::from_secs(1);

async fn exec(command: &str, body: impl Into<Bytes>) -> Result<Answer, Failure> {
    let exec = Exec::new(command).expect("a command");
    let request = Request::default();
    let running = exec.handle(&request, body.into(), 10 * SECOND);
    tokio::time::timeout(10 * SECOND, running).await.expect("an end")
}

async fn output(command: &str, body: impl Into<Bytes>) -> Bytes {
    exec(command, body).await.expect("a success").body
}

async fn failure(command: &str) -> Failure {
    exec(command, "").await.expect_err("a failure")
}

#[tokio::test]
async fn a_command_reads_the_request_and_its_output_is_the_answer() {
    assert_eq!(output("printf 'hello '; cat", "world").await, "hello world");
    assert_eq!(output("true", "ignored").await, "");
}

#[tokio::test]
async fn no_order_of_reading_and_writing_blocks() {
    let large = Bytes::from(vec![b'x'; ANSWER_BYTES_MAX]);
    // Never reads; reads while it writes; writes much to both before it reads.
    assert_eq!(output("echo done", large.clone()).await, "done\n");
    assert_eq!(output("cat", large.clone()).await, large);
    let noisy = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; cat >/dev/null";
    assert_eq!(output(noisy, large).await.len(), 300_000);
}

#[tokio::test]
async fn a_failing_command_gives_its_status_and_its_last_words() {
    assert_eq!(
        failure("echo gone >&2; exit 3").await,
        Failure::new(500, "the command exited with status 3: gone")
    );
    assert_eq!(failure("exit 4").await.reason, "the command exited with status 4");
    assert_eq!(failure("kill -9 $$").await.reason, "the command was killed by signal 9");
    let long = failure("head -c 5000 /dev/zero | tr '\\0' x >&2; echo END >&2; exit 1")
        .await
        .reason;
    assert!(long.ends_with("xEND") && long.len() < 1200, "{} bytes", long.len());
    assert!(failure("/no/such/program").await.reason.contains("status 127"));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_and_its_process_ends() {
    let started = Instant::now();
    let failure = failure("yes").await;
    assert!(failure.reason.contains("larger than 1048576 bytes"), "{failure}");
    assert!(started.elapsed() < 5 * SECOND);
}

#[tokio::test]
async fn the_environment_tells_of_the_call() {
    let headers = [("x-kind", "new"), ("nul", "a\0b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let request = Request {
        service: "orders".into(),
        endpoint: Some("create".into()),
        caller: Some("12D3KooWX".into()),
        traceparent: Some("00-1-2-01".into()),
        headers: BTreeMap::from(headers),
        ..Request::default()
    };
    let words = "echo $WEFT_SERVICE $WEFT_ENDPOINT $WEFT_CALLER $TRACEPARENT $WEFT_DEADLINE_MS $WEFT_HEADER_X_KIND $WEFT_HEADER_NUL.";
    let answer = Exec::new(words)
        .expect("a command")
        .handle(&request, Bytes::new(), SECOND)
        .await
        .expect("a success");
    assert_eq!(answer.body, "orders create 12D3KooWX 00-1-2-01 1000 new .\n");
}

#[tokio::test]
async fn the_path_of_a_program_may_hold_blanks_and_the_program_need_not_name_its_interpreter() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("say it.sh");
    std::fs::write(&path, "echo said $1; cat").expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    assert_eq!(output(path.to_str().expect("text"), "so").await, "said\nso");
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie is dead; whoever inherits it has merely not looked.
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_dropped_call_kills_the_whole_group() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("pid");
    let command = format!("sleep 1000 & echo $! >{0}.new; mv {0}.new {0}; wait", file.display());
    let exec = Exec::new(&command).expect("a command");
    let request = Request::default();
    let pid = async {
        loop {
            match std::fs::read_to_string(&file) {
                Ok(pid) => break pid.trim().to_owned(),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let pid = tokio::select! {
        pid = pid => pid,
        _ = exec.handle(&request, Bytes::new(), SECOND) => panic!("it waits for ever"),
    };
    let deadline = Instant::now() + 10 * SECOND;
    while is_alive(&pid) {
        assert!(Instant::now() < deadline, "{pid} is still alive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn frames_are_as_the_contract_says_and_bad_ones_are_errors() {
    let bytes = frame::encode(
        &ToNode::Error {
            id: 7,
            code: 500,
            reason: "r".into(),
        },
        b"body",
    )
    .expect("a frame");
    let header = br#"{"type":"error","id":7,"code":500,"reason":"r"}"#;
    assert_eq!(
        bytes,
        [&(header.len() as u32).to_be_bytes()[..], header, b"body"].concat()
    );
    let request = br#"{"type":"request","id":1,"service":"s","deadline_ms":5,"caller":"c","more":true}"#;
    let message = [&(request.len() as u32).to_be_bytes()[..], request, b"x"].concat();
    let (decoded, body) = frame::decode(Bytes::from(message.clone())).expect("a request");
    assert!(matches!(
        decoded,
        FromNode::Request(Request {
            id: 1,
            deadline_ms: Some(5),
            ..
        })
    ));
    assert_eq!(body, "x");
    for end in 0..message.len() - 1 {
        assert!(
            frame::decode(Bytes::copy_from_slice(&message[..end])).is_err(),
            "cut at {end}"
        );
    }
    assert!(frame::decode(Bytes::from_static(&[0xff; 64])).is_err());
    let unknown = [&16_u32.to_be_bytes()[..], br#"{"type":"later"}"#].concat();
    assert!(matches!(
        frame::decode(Bytes::from(unknown)),
        Ok((FromNode::Unknown, _))
    ));
}

/// Answers one HTTP request with these bytes and gives the request back.
fn http_server(answer: &'static [u8]) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/base/", listener.local_addr().expect("an address"));
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut request = Vec::new();
        let mut chunk = [0; 4096];
        while !request.ends_with(b"the body") {
            let length = stream.read(&mut chunk).expect("a request");
            assert_ne!(length, 0, "no body");
            request.extend_from_slice(&chunk[..length]);
        }
        stream.write_all(answer).expect("a reader");
        String::from_utf8_lossy(&request).into_owned()
    });
    (url, server)
}

async fn post(answer: &'static [u8]) -> (Result<Answer, Failure>, String) {
    let (url, server) = http_server(answer);
    let request = Request {
        endpoint: Some("a b".into()),
        caller: Some("12D3KooWX".into()),
        headers: BTreeMap::from(
            [
                ("accept", "text/csv"),
                ("content-type", "text/plain"),
                ("x-kind", "new"),
                ("host", "elsewhere"),
                ("content-length", "elsewhere"),
                ("transfer-encoding", "elsewhere"),
                ("weft-caller", "elsewhere"),
                ("no header", "elsewhere"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
        ..Request::default()
    };
    let outcome = Upstream::new(&url)
        .expect("a URL")
        .handle(&request, Bytes::from_static(b"the body"))
        .await;
    (outcome, server.join().expect("no panic"))
}

#[tokio::test]
async fn an_http_server_answers_for_the_service() {
    let (outcome, request) = post(b"HTTP/1.1 200 OK\r\ncontent-type: text/x\r\ncontent-length: 2\r\n\r\nok").await;
    let answer = outcome.expect("a success");
    assert_eq!(
        (&answer.body[..], answer.headers["content-type"].as_str()),
        (&b"ok"[..], "text/x")
    );
    assert!(request.starts_with("POST /base/a%20b HTTP/1.1\r\n"), "{request}");
    for line in [
        "accept: text/csv\r\n",
        "content-type: text/plain\r\n",
        "x-kind: new\r\n",
    ] {
        assert!(request.contains(line), "{request}");
    }
    assert!(!request.contains("elsewhere"), "{request}");
    assert!(request.contains("weft-caller: 12D3KooWX"), "{request}");
}

#[tokio::test]
async fn status_and_headers_of_an_answer_pass() {
    let (outcome, _) = post(
        b"HTTP/1.1 201 Created\r\nlocation: /orders/7\r\nvary: a\r\nvary: b\r\nweft-node: me\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let headers = outcome.expect("a success").headers;
    let expected = [("location", "/orders/7"), ("status", "201"), ("vary", "a, b")];
    assert_eq!(
        headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect::<Vec<_>>(),
        expected
    );
    let large = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
        "y".repeat(9000)
    );
    let (outcome, _) = post(large.leak().as_bytes()).await;
    let failure = outcome.expect_err("too much");
    assert!(
        failure.code == 502 && failure.reason.contains("8192 bytes"),
        "{failure}"
    );
}

#[tokio::test]
async fn what_is_not_2xx_is_a_failure_with_that_code() {
    let (outcome, _) = post(b"HTTP/1.1 409 Conflict\r\ncontent-length: 5\r\n\r\ntwice").await;
    assert_eq!(outcome, Err(Failure::new(409, "twice")));
    // A redirect is not followed.
    let (outcome, _) = post(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(outcome.expect_err("a redirect").code, 302);
    let unreachable = Upstream::new("http://127.0.0.1:1/")
        .expect("a URL")
        .handle(&Request::default(), Bytes::new())
        .await;
    assert_eq!(unreachable.expect_err("nobody").code, 503);
    for bad in ["", "greet", "ftp://x/", "http://"] {
        assert!(matches!(Upstream::new(bad), Err(CliError::Usage(_))), "{bad}");
    }
}

type Node = WebSocketStream<UnixStream>;

fn door(dir: &tempfile::TempDir) -> UnixListener {
    let socket = dir.path().join("api.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket");
    testing::write_doors(dir, &json!({ "pid": 1, "socket": socket }));
    listener
}

/// The node's side of a `serve`, after its `ready`.
async fn accept(listener: &UnixListener) -> Node {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut socket = accept_async(stream).await.expect("a handshake");
    tell(&mut socket, &json!({ "type": "ready", "id": 0, "instance": "i" }), b"").await;
    // The greeting asks for the node's name; it does without.
    drop(listener.accept().await);
    socket
}

async fn tell(socket: &mut Node, header: &Value, body: &[u8]) {
    let header = header.to_string().into_bytes();
    let message = [&(header.len() as u32).to_be_bytes()[..], &header, body].concat();
    socket.send(Message::Binary(message.into())).await.expect("sent");
}

async fn ask(socket: &mut Node, id: u64, body: &str) {
    let header =
        json!({ "type": "request", "id": id, "service": "s", "headers": {}, "deadline_ms": 10_000, "caller": "c" });
    tell(socket, &header, body.as_bytes()).await;
}

async fn hear(socket: &mut Node) -> (Value, Bytes) {
    let waiting = tokio::time::timeout(10 * SECOND, async {
        loop {
            match socket.next().await.expect("a message").expect("a good message") {
                Message::Binary(bytes) => break bytes,
                Message::Close(_) => panic!("closed"),
                _ => {}
            }
        }
    });
    let bytes = waiting.await.expect("in time");
    let length = u32::from_be_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
    (
        serde_json::from_slice(&bytes[4..4 + length]).expect("JSON"),
        bytes.slice(4 + length..),
    )
}

fn arguments(line: &[&str]) -> super::ServeArgs {
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: super::ServeArgs,
    }
    Line::try_parse_from(std::iter::once(&"serve").chain(line))
        .expect("arguments")
        .args
}

/// Serves with these arguments while `node` plays the other side.
async fn serving<T>(dir: &tempfile::TempDir, line: &[&str], node: impl Future<Output = T>) -> (T, testing::Captured) {
    let (session, captured) = testing::session_on(dir.path().to_owned(), false);
    let (_stop, stops) = mpsc::channel(1);
    let arguments = arguments(line);
    let outcome = tokio::select! {
        outcome = node => outcome,
        ended = super::serve(&session, &arguments, super::Signals(stops)) => panic!("ended: {ended:?}"),
        () = tokio::time::sleep(30 * SECOND) => panic!("too slow; said: {}", captured.stderr()),
    };
    (outcome, captured)
}

#[tokio::test]
async fn requests_are_answered_refused_and_cancelled() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = door(&dir);
    let command = "read x; case $x in slow) sleep 1000;; bad) echo no >&2; exit 2;; *) echo got $x;; esac";
    let node = async {
        let mut socket = accept(&listener).await;
        ask(&mut socket, 1, "slow\n").await;
        ask(&mut socket, 2, "one\n").await;
        let (header, body) = hear(&mut socket).await;
        assert_eq!(
            (&header["type"], &header["id"], &body[..]),
            (&json!("answer"), &json!(2), &b"got one\n"[..])
        );
        ask(&mut socket, 3, "bad\n").await;
        let (header, _) = hear(&mut socket).await;
        let reason = "the command exited with status 2: no";
        assert_eq!(
            header,
            json!({ "type": "error", "id": 3, "code": 500, "reason": reason })
        );
        // The only free permit shows that a cancel gives back what the call held.
        ask(&mut socket, 4, "slow\n").await;
        ask(&mut socket, 5, "two\n").await;
        tell(&mut socket, &json!({ "type": "cancel", "id": 1 }), b"").await;
        let (header, body) = hear(&mut socket).await;
        assert_eq!((&header["id"], &body[..]), (&json!(5), &b"got two\n"[..]));
    };
    let line = ["s", "--exec", command, "--concurrency", "2"];
    let ((), captured) = serving(&dir, &line, node).await;
    assert!(
        captured
            .stderr()
            .contains("serving s on this node; try: weft call s hello"),
        "{}",
        captured.stderr()
    );
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = door(&dir);
    let node = async {
        let mut socket = accept(&listener).await;
        ask(&mut socket, 1, "").await;
        hear(&mut socket).await.0
    };
    let (header, _) = serving(&dir, &["s", "--exec", "sleep 1000", "--timeout", "100ms"], node).await;
    assert_eq!(
        header,
        json!({ "type": "error", "id": 1, "code": 504, "reason": "no answer within 100 ms" })
    );
}

#[tokio::test]
async fn a_service_comes_back_when_its_node_does() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = door(&dir);
    let node = async {
        let mut socket = accept(&listener).await;
        ask(&mut socket, 1, "a").await;
        hear(&mut socket).await;
        drop((socket, listener));
        let listener = door(&dir);
        let mut socket = accept(&listener).await;
        ask(&mut socket, 1, "b").await;
        let heard = hear(&mut socket).await;
        // `listener` must live until the service has spoken.
        drop(listener);
        heard.1
    };
    let (body, captured) = serving(&dir, &["s", "--echo"], node).await;
    assert_eq!(body, "b");
    let said = captured.stderr();
    assert!(
        said.contains("waiting for the node") && said.contains("serving s on this node again"),
        "{said}"
    );
}

#[tokio::test]
async fn stopping_lets_running_calls_finish_and_a_second_stop_does_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let listener = door(&dir);
    let go = dir.path().join("go");
    let started = dir.path().join("started");
    let command = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo done",
        started.display(),
        go.display()
    );
    for finishes in [true, false] {
        let (stop, stops) = mpsc::channel(2);
        let node = async {
            let mut socket = accept(&listener).await;
            ask(&mut socket, 1, "").await;
            // The shell says by a file that the call runs: a stop that overtakes its request would have nothing to wait for.
            while !started.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            stop.send(()).await.expect("it listens");
            assert_eq!(hear(&mut socket).await.0, json!({ "type": "drain" }));
            if !finishes {
                stop.send(()).await.expect("it listens");
                // Kept open: the service must end by itself.
                return socket;
            }
            std::fs::write(&go, "").expect("a file");
            let (header, body) = hear(&mut socket).await;
            assert_eq!((&header["type"], &body[..]), (&json!("answer"), &b"done\n"[..]));
            let closed = tokio::time::timeout(10 * SECOND, socket.next()).await.expect("in time");
            assert!(matches!(closed, Some(Ok(Message::Close(_)))), "{closed:?}");
            socket
        };
        let (session, _) = testing::session_on(dir.path().to_owned(), false);
        let arguments = arguments(&["s", "--exec", &command]);
        let (outcome, _socket) = tokio::join!(super::serve(&session, &arguments, super::Signals(stops)), node);
        assert_eq!(
            outcome.err().map(|error| error.exit_code()),
            if finishes { None } else { Some(130) }
        );
        for file in [&go, &started] {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn the_path_carries_what_the_service_is() {
    let line = [
        "s",
        "--echo",
        "--endpoint",
        "e",
        "--metadata",
        "a=1&2",
        "--service-version",
        "2.0.0+x",
    ];
    let path = super::path(&arguments(&line));
    let metadata = "%7B%22a%22%3A%221%262%22%7D";
    assert_eq!(
        path,
        format!("/v1/services/s/serve?streams=true&version=2.0.0%2Bx&concurrency=16&endpoint=e&metadata={metadata}")
    );
}
