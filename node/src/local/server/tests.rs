use std::{collections::HashMap, os::unix::fs::PermissionsExt as _, sync::atomic::{AtomicUsize, Ordering}};

use axum::{
    extract::ws::{Message, WebSocketUpgrade},
    routing::{any, get, post},
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, stream};
use tokio::{net::{TcpStream, UnixStream}, sync::mpsc, task::JoinHandle};

use super::*;
use crate::{
    config::{ApiConfig, ByteSize},
    local::problem::{Json, Path, Query},
    telemetry::process,
};

/// Every wait of a test ends here.
const PATIENCE: Duration = Duration::from_secs(10);

/// The deadlines under test, short; `LONG` is far longer than them and far shorter than any test waits.
const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(60);

fn config() -> ApiConfig {
    ApiConfig {
        connections_max: 16,
        body_bytes_max: ByteSize::kib(64),
        header_timeout: LONG,
        body_timeout: LONG,
        write_timeout: LONG,
        idle_timeout: LONG,
        ..ApiConfig::default()
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    dropped: Dropped,
    task: JoinHandle<()>,
}

async fn start(config: &ApiConfig, router: Router) -> Running {
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, dropped) = (CancellationToken::new(), Dropped::default());
    let limits = Arc::new(ServerLimits::new(config));
    let task = tokio::spawn(serve(listener.into(), router, limits, dropped.clone(), stop.clone(), SHORT * 4));
    Running { address, stop, dropped, task }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Whether the server still serves others.
    async fn is_alive(&self) -> bool {
        let mut stream = self.connect().await;
        stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        all(&mut stream).await.starts_with("HTTP/1.1 200 OK")
    }
}

fn router() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route("/slow", get(|| async {
            sleep(SHORT * 3).await;
            "slow"
        }))
        .route("/echo", post(|problem::Body(bytes): problem::Body| async move { bytes }))
        .route("/ignore", post(|| async { "not read" }))
        .route("/json", post(|Json(map): Json<HashMap<String, u32>>| async move { Json(map) }))
        .route("/number/{n}", get(|Path(n): Path<u32>, Query(map): Query<HashMap<String, u32>>| async move { format!("{n} {map:?}") }))
        .route("/panic", get(|| async { panic!("on purpose") as &str }))
        .route("/forever", get(|| async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) }))
        .route("/ws", any(|upgrade: WebSocketUpgrade| async {
            upgrade.on_upgrade(|mut socket| async move {
                while let Some(Ok(message @ Message::Text(_))) = socket.recv().await {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
            })
        }))
}

/// Everything until the server closes; a reset counts as the end.
async fn all(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    let read = async {
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            bytes.extend_from_slice(&part[..count]);
        }
    };
    timeout(PATIENCE, read).await.expect("the server must close the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer with a known length.
async fn one(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = async {
        let mut byte = [0];
        while !text.ends_with("\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            text.push(byte[0].into());
        }
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        text.push_str(std::str::from_utf8(&body).unwrap());
    };
    timeout(PATIENCE, read).await.expect("an answer");
    text
}

async fn ask(server: &Running, request: impl AsRef<[u8]>) -> String {
    let mut stream = server.connect().await;
    stream.write_all(request.as_ref()).await.unwrap();
    all(&mut stream).await
}

fn problem_in(answer: &str) -> serde_json::Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    let value: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(value["status"].as_u64().unwrap().to_string(), head[9..12]);
    value
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server = start(&ApiConfig { header_timeout: SHORT, ..config() }, router()).await;
    let begin = Instant::now();
    assert_eq!(ask(&server, "").await, "");
    assert!(begin.elapsed() >= SHORT);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let server = start(&ApiConfig { header_timeout: SHORT, ..config() }, router()).await;
    let (mut reader, mut writer) = server.connect().await.into_split();
    let drip = tokio::spawn(async move {
        for byte in b"GET /hello HTTP/1.1\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(all(&mut reader).await, "");
    timeout(PATIENCE, drip).await.expect("the drip must meet a closed connection").unwrap();
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn between_two_requests_the_idle_time_holds_and_not_the_heads() {
    let server = start(&ApiConfig { header_timeout: SHORT, idle_timeout: SHORT * 8, ..config() }, router()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(one(&mut stream).await.ends_with("hello"));
    sleep(SHORT * 2).await;
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(one(&mut stream).await.ends_with("hello"), "the connection must outlive a pause longer than a head may take");
    let begin = Instant::now();
    assert_eq!(all(&mut stream).await, "");
    assert!(begin.elapsed() >= SHORT * 7);
}

#[tokio::test]
async fn the_second_head_must_come_in_time_too() {
    let server = start(&ApiConfig { header_timeout: SHORT, ..config() }, router()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    one(&mut stream).await;
    stream.write_all(b"GET /hel").await.unwrap();
    assert_eq!(all(&mut stream).await, "");
}

#[tokio::test]
async fn a_slow_handler_is_not_a_slow_client() {
    let short = ApiConfig { header_timeout: SHORT, idle_timeout: SHORT, write_timeout: SHORT, body_timeout: SHORT, ..config() };
    let server = start(&short, router()).await;
    assert!(ask(&server, "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.ends_with("slow"));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_408() {
    let server = start(&ApiConfig { body_timeout: SHORT, ..config() }, router()).await;
    let answer = ask(&server, "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab").await;
    let problem = problem_in(&answer);
    assert_eq!((problem["status"].as_u64(), problem["kind"].as_str()), (Some(408), Some("timeout")));
}

#[tokio::test]
async fn a_body_at_the_limit_passes_and_one_byte_more_does_not() {
    let server = start(&config(), router()).await;
    for (length, status) in [(64 * 1024, "200"), (64 * 1024 + 1, "413")] {
        let body = "x".repeat(length);
        let answer = ask(&server, format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")).await;
        assert_eq!(&answer[9..12], status);
        let answer = ask(&server, format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n")).await;
        assert_eq!(&answer[9..12], status);
    }
}

#[tokio::test]
async fn the_bounds_of_bodies_can_change_while_it_runs() {
    let listener = bind_tcp("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Arc::new(ServerLimits::new(&config()));
    let (stop, dropped) = (CancellationToken::new(), Dropped::default());
    let task = tokio::spawn(serve(listener.into(), router(), Arc::clone(&limits), dropped.clone(), stop.clone(), SHORT));
    let server = Running { address, stop, dropped, task };
    let request = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nab";
    assert!(ask(&server, request).await.ends_with("ab"));
    limits.reload(&ApiConfig { body_bytes_max: ByteSize(1), ..config() });
    assert_eq!(problem_in(&ask(&server, request).await)["detail"], "the body is larger than 1 bytes");
}

#[tokio::test]
async fn a_gigabyte_is_refused_without_being_kept_and_the_client_hears_why() {
    const GIB: usize = 1 << 30;
    let server = start(&config(), router()).await;
    let before = process::sample().unwrap().resident_bytes;
    let heads = [
        format!("POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {GIB}\r\n\r\n"),
        "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n40000000\r\n".to_owned(),
    ];
    for head in heads {
        let (mut reader, mut writer) = server.connect().await.into_split();
        let flood = tokio::spawn(async move {
            let part = vec![b'x'; 64 * 1024];
            writer.write_all(head.as_bytes()).await.unwrap();
            let mut sent = 0;
            while sent < GIB && writer.write_all(&part).await.is_ok() {
                sent += part.len();
            }
        });
        assert_eq!(problem_in(&all(&mut reader).await)["status"], 413);
        timeout(PATIENCE, flood).await.unwrap().unwrap();
    }
    // Other tests may run in this process; a quarter of what was sent leaves them room.
    let after = process::sample().unwrap().resident_bytes;
    assert!(after < before + GIB as u64 / 4, "grew from {before} to {after}");
}

#[tokio::test]
async fn who_asks_before_sending_too_much_is_not_told_to_go_on() {
    let server = start(&config(), router()).await;
    let answer = ask(&server, "POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 999999999\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_nobody_reads_does_not_hurt() {
    let server = start(&config(), router()).await;
    let request = format!("POST /ignore HTTP/1.1\r\nhost: x\r\ncontent-length: 999999\r\n\r\n{}", "x".repeat(200_000));
    assert!(ask(&server, request).await.contains("not read"));
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let server = start(&config(), router()).await;
    let long = format!("GET /hello HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /hello HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(100_000));
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    for request in [long, many, path] {
        let mut stream = server.connect().await;
        // The server may close before it has taken everything.
        let (mut reader, mut writer) = stream.split();
        let (_, answer) = tokio::join!(writer.write_all(request.as_bytes()), all(&mut reader));
        assert!(answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414") || answer.is_empty(), "{answer}");
    }
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = start(&ApiConfig { header_timeout: SHORT * 2, ..config() }, router()).await;
    let mut noise = [0; 4096];
    let mut state = 88_172_645_463_325_252_u64;
    for byte in &mut noise {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    let bad: [&[u8]; 12] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"/multistream/1.0.0\n",
        &noise,
        b"GET /hello\r\n\r\n",
        b"G E T /hello HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /hello HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost: x\r\nx: \0\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost : x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ];
    for request in bad {
        let answer = ask(&server, request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{:?}: {answer}", String::from_utf8_lossy(request));
    }
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn a_chunk_without_bounds_is_refused() {
    let server = start(&config(), router()).await;
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunk in ["fffffffffffffffff\r\n".to_owned(), format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(1 << 20)), "-1\r\n".to_owned()] {
        let mut stream = server.connect().await;
        let (mut reader, mut writer) = stream.split();
        let request = format!("{head}{chunk}");
        let (_, answer) = tokio::join!(writer.write_all(request.as_bytes()), all(&mut reader));
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn idle_connections_make_room_and_never_grow_beyond_the_limit() {
    let server = start(&config(), router()).await;
    let flood = usize::try_from(process::sample().unwrap().max_fds.min(8000) / 4).unwrap();
    let mut idle = Vec::new();
    for number in 0..flood {
        idle.push(server.connect().await);
        if number % 400 == 0 {
            assert!(server.is_alive().await, "after {number} idle connections");
        }
    }
    assert!(server.is_alive().await);
    // All but as many as there may be had to go.
    let evicted = server.dropped.get(QUEUE, "evicted");
    assert!(evicted >= flood as u64 - 16, "{evicted} of {flood}");
    assert_eq!(server.dropped.get(QUEUE, "full"), 0);
}

#[tokio::test]
async fn when_all_are_busy_a_newcomer_is_told_so() {
    let server = start(&ApiConfig { connections_max: 2, ..config() }, router()).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /forever HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        busy.push(stream);
    }
    let answer = ask(&server, "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let problem = problem_in(&answer);
    assert_eq!((problem["status"].as_u64(), problem["kind"].as_str(), problem["retryable"].as_bool()), (Some(503), Some("busy"), Some(true)));
    assert!(answer.contains("retry-after: 1"));
    assert_eq!(server.dropped.get(QUEUE, "full"), 1);
    drop(busy.pop());
    let deadline = Instant::now() + PATIENCE;
    while !server.is_alive().await {
        assert!(Instant::now() < deadline, "the place of a client that left must become free");
    }
}

/// A body without end that tells when it is dropped.
fn endless(told: mpsc::Sender<()>) -> Router {
    let route = get(move || {
        let told = told.clone();
        async move {
            let part = Bytes::from(vec![b'x'; 64 * 1024]);
            let guard = DropTells(told);
            Body::from_stream(stream::repeat_with(move || {
                let _ = &guard;
                Ok::<_, Infallible>(part.clone())
            }))
        }
    });
    router().route("/endless", route)
}

struct DropTells(mpsc::Sender<()>);

impl Drop for DropTells {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let (told, mut dropped) = mpsc::channel(1);
    let server = start(&ApiConfig { write_timeout: SHORT, ..config() }, endless(told)).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    timeout(PATIENCE, dropped.recv()).await.expect("the answer must be given up").unwrap();
    assert!(server.is_alive().await);
}

#[tokio::test]
async fn a_handler_that_panics_answers_500_and_the_server_lives() {
    let server = start(&config(), router()).await;
    let problem = problem_in(&ask(&server, "GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
    assert_eq!((problem["status"].as_u64(), problem["kind"].as_str()), (Some(500), Some("internal")));
    assert!(server.is_alive().await);
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn websocket(server: &Running) -> Socket {
    let stream = server.connect().await;
    tokio_tungstenite::client_async("ws://x/ws", stream).await.unwrap().0
}

#[tokio::test]
async fn a_websocket_outlives_the_times_of_requests() {
    let short = ApiConfig { header_timeout: SHORT, idle_timeout: SHORT, body_timeout: SHORT, ..config() };
    let server = start(&short, router()).await;
    let mut socket = websocket(&server).await;
    sleep(SHORT * 3).await;
    socket.send("still there".into()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_text().unwrap(), "still there");
}

#[tokio::test]
async fn on_stop_requests_finish_and_idle_connections_close() {
    let server = start(&config(), router()).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    one(&mut idle).await;
    let mut half = server.connect().await;
    half.write_all(b"GET /hel").await.unwrap();
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    // The slow handler has begun once the next connection is served.
    assert!(server.is_alive().await);
    server.stop.cancel();
    let begin = Instant::now();
    assert_eq!(all(&mut idle).await, "");
    assert_eq!(all(&mut half).await, "");
    let answer = all(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("slow"), "{answer}");
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(begin.elapsed() < SHORT * 6, "{:?}", begin.elapsed());
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn on_stop_what_does_not_finish_is_cut_after_the_grace() {
    let server = start(&config(), router()).await;
    let mut socket = websocket(&server).await;
    let mut forever = server.connect().await;
    forever.write_all(b"GET /forever HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    forever.read_exact(&mut head).await.unwrap();
    server.stop.cancel();
    timeout(PATIENCE, server.task).await.expect("the server must end").unwrap();
    all(&mut forever).await;
    let end = timeout(PATIENCE, socket.next()).await.expect("the WebSocket must end");
    assert!(!matches!(end, Some(Ok(message)) if message.is_text()));
}

#[tokio::test]
async fn bad_json_queries_paths_and_methods_are_problems() {
    let server = start(&config(), problem::with_fallbacks(router())).await;
    let post = |body: &str, kind: &str| {
        format!("POST /json HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(ask(&server, post("{\"a\":1}", "application/json; charset=utf-8")).await.ends_with("{\"a\":1}"));
    let deep = "[".repeat(60_000);
    for (request, status) in [
        (post("{\"a\":1}", "text/plain"), 415),
        (post("{\"a\":", "application/json"), 400),
        (post("{\"a\":-1}", "application/json"), 400),
        (post(&deep, "application/json"), 400),
        (get("/number/abc"), 400),
        (get("/number/1?a=b"), 400),
        (get("/number/%ff"), 400),
        (get("/nothing"), 404),
        (get("/../etc/passwd"), 404),
        (get("/echo"), 405),
    ] {
        let answer = ask(&server, &request).await;
        let problem = problem_in(&answer);
        assert_eq!(problem["status"], status, "{answer}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        assert_eq!(answer.contains("\r\nallow: POST\r\n"), status == 405, "{answer}");
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error_only_when_it_was_chosen() {
    let taken = bind_tcp("127.0.0.1:0".parse().unwrap(), true).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind_tcp(address, true).await.unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Conflict, format!("the address {address} of the local API is in use by another program")));
    let other = bind_tcp(address, false).await.unwrap();
    assert_ne!(other.local_addr().unwrap(), address);
    assert_eq!(bind_tcp("192.0.2.1:1".parse().unwrap(), true).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn it_serves_a_unix_socket_and_knows_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let place = crate::local::unix::place(dir.path(), None, None).unwrap();
    let (listener, socket) = crate::local::unix::bind(&place).unwrap();
    assert_eq!(std::fs::metadata(socket.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let router = Router::new().route("/", get(move |request: Request<Body>| async move {
        let own = rustix::process::geteuid().as_raw();
        if matches!(request.extensions().get::<Via>(), Some(Via::Unix { uid, pid: Some(_) }) if *uid == own) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let stop = CancellationToken::new();
    let limits = Arc::new(ServerLimits::new(&config()));
    let task = tokio::spawn(serve(listener.into(), router, limits, Dropped::default(), stop.clone(), SHORT));
    let mut stream = UnixStream::connect(socket.path()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(all(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
}
