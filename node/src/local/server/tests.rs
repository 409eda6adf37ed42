#![expect(
    clippy::disallowed_methods,
    reason = "a test is its own node: nobody else could cancel its tasks"
)]

mod bodies;
mod garbage;
mod room;
mod slow;

use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{
    extract::ws::{Message, WebSocketUpgrade},
    routing::{any, get, post},
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, stream};
use tokio::{
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinHandle,
};

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
    let task = tokio::spawn(serve(
        listener.into(),
        router,
        limits,
        dropped.clone(),
        stop.clone(),
        SHORT * 4,
    ));
    Running {
        address,
        stop,
        dropped,
        task,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Whether the server still serves others.
    async fn is_alive(&self) -> bool {
        let mut stream = self.connect().await;
        stream
            .write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        all(&mut stream).await.starts_with("HTTP/1.1 200 OK")
    }
}

fn router() -> Router {
    Router::new()
        .route("/hello", get(|| async { "hello" }))
        .route(
            "/slow",
            get(|| async {
                sleep(SHORT * 3).await;
                "slow"
            }),
        )
        .route(
            "/echo",
            post(|problem::Body(bytes): problem::Body| async move { bytes }),
        )
        .route("/ignore", post(|| async { "not read" }))
        .route(
            "/json",
            post(|Json(map): Json<HashMap<String, u32>>| async move { Json(map) }),
        )
        .route(
            "/number/{n}",
            get(|Path(n): Path<u32>, Query(map): Query<HashMap<String, u32>>| async move { format!("{n} {map:?}") }),
        )
        .route("/panic", get(|| async { panic!("on purpose") as &str }))
        .route(
            "/forever",
            get(|| async { Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()) }),
        )
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message @ Message::Text(_))) = socket.recv().await {
                        if socket.send(message).await.is_err() {
                            return;
                        }
                    }
                })
            }),
        )
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
    timeout(PATIENCE, read)
        .await
        .expect("the server must close the connection");
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
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap()
            .parse()
            .unwrap();
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
async fn a_handler_that_panics_answers_500_and_the_server_lives() {
    let server = start(&config(), router()).await;
    let problem = problem_in(&ask(&server, "GET /panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await);
    assert_eq!(
        (problem["status"].as_u64(), problem["kind"].as_str()),
        (Some(500), Some("internal"))
    );
    assert!(server.is_alive().await);
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn websocket(server: &Running) -> Socket {
    let stream = server.connect().await;
    tokio_tungstenite::client_async("ws://x/ws", stream).await.unwrap().0
}

#[tokio::test]
async fn a_websocket_outlives_the_times_of_requests() {
    let short = ApiConfig {
        header_timeout: SHORT,
        idle_timeout: SHORT,
        body_timeout: SHORT,
        ..config()
    };
    let server = start(&short, router()).await;
    let mut socket = websocket(&server).await;
    sleep(SHORT * 3).await;
    socket.send("still there".into()).await.unwrap();
    assert_eq!(
        socket.next().await.unwrap().unwrap().into_text().unwrap(),
        "still there"
    );
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
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\nGET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    // The slow handler has begun once the next connection is served.
    assert!(server.is_alive().await);
    server.stop.cancel();
    let begin = Instant::now();
    assert_eq!(all(&mut idle).await, "");
    assert_eq!(all(&mut half).await, "");
    let answer = all(&mut busy).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("slow"),
        "{answer}"
    );
    timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(begin.elapsed() < SHORT * 6, "{:?}", begin.elapsed());
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn on_stop_what_does_not_finish_is_cut_after_the_grace() {
    let server = start(&config(), router()).await;
    let mut socket = websocket(&server).await;
    let mut forever = server.connect().await;
    forever
        .write_all(b"GET /forever HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    forever.read_exact(&mut head).await.unwrap();
    server.stop.cancel();
    timeout(PATIENCE, server.task)
        .await
        .expect("the server must end")
        .unwrap();
    all(&mut forever).await;
    let end = timeout(PATIENCE, socket.next()).await.expect("the WebSocket must end");
    assert!(!matches!(end, Some(Ok(message)) if message.is_text()));
}

#[tokio::test]
async fn bad_json_queries_paths_and_methods_are_problems() {
    let server = start(&config(), problem::with_fallbacks(router())).await;
    let post = |body: &str, kind: &str| {
        format!(
            "POST /json HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(
        ask(&server, post("{\"a\":1}", "application/json; charset=utf-8"))
            .await
            .ends_with("{\"a\":1}")
    );
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
    assert_eq!(
        (error.kind(), error.to_string()),
        (
            ErrorKind::Conflict,
            format!("the address {address} of the local API is in use by another program")
        )
    );
    let other = bind_tcp(address, false).await.unwrap();
    assert_ne!(other.local_addr().unwrap(), address);
    assert_eq!(
        bind_tcp("192.0.2.1:1".parse().unwrap(), true).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn it_serves_a_unix_socket_and_knows_the_caller() {
    let dir = tempfile::tempdir().unwrap();
    let place = crate::local::unix::place(dir.path(), None, None).unwrap();
    let (listener, socket) = crate::local::unix::bind(&place).unwrap();
    assert_eq!(
        std::fs::metadata(socket.path()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let router = Router::new().route(
        "/",
        get(move |request: Request<Body>| async move {
            let own = rustix::process::geteuid().as_raw();
            if matches!(request.extensions().get::<Via>(), Some(Via::Unix { uid, pid: Some(_) }) if *uid == own) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }),
    );
    let stop = CancellationToken::new();
    let limits = Arc::new(ServerLimits::new(&config()));
    let task = tokio::spawn(serve(
        listener.into(),
        router,
        limits,
        Dropped::default(),
        stop.clone(),
        SHORT,
    ));
    let mut stream = UnixStream::connect(socket.path()).await.unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(all(&mut stream).await.starts_with("HTTP/1.1 200"));
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap();
}
