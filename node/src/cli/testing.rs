//! A node that is not one: it answers on a Unix socket with what a test tells it.

use std::{
    convert::Infallible,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};

use super::{Globals, Session, output::Out};

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// One request as the fake node saw it.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Bytes,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// A data dir with a door behind which a closure answers.
pub(super) struct FakeNode {
    pub(super) dir: TempDir,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl FakeNode {
    pub(super) fn start(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        Self::start_in(TempDir::new().expect("a folder"), answer)
    }

    pub(super) fn start_in(dir: TempDir, answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let socket = dir.path().join("api.sock");
        // The node before this one left its socket behind, as after kill -9.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        write_doors(&dir, &serde_json::json!({ "pid": 1, "socket": socket }));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, seen.clone(), Arc::new(answer)));
        Self { dir, seen, task }
    }

    pub(super) fn session(&self, json: bool) -> (Session, Captured) {
        session_on(self.dir.path().to_owned(), json)
    }

    pub(super) fn last(&self) -> Seen {
        self.seen
            .lock()
            .expect("not poisoned")
            .last()
            .cloned()
            .expect("a request")
    }

    /// Ends the node with all its connections; the data dir stays.
    pub(super) async fn kill(self) -> TempDir {
        self.task.abort();
        let _ = self.task.await;
        self.dir
    }
}

pub(super) fn write_doors(dir: &TempDir, doors: &serde_json::Value) {
    std::fs::write(dir.path().join("api.json"), doors.to_string()).expect("api.json");
}

async fn serve(
    listener: UnixListener,
    seen: Arc<Mutex<Vec<Seen>>>,
    answer: Arc<impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static>,
) {
    // Dropped with this task, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (seen, answer) = (seen.clone(), answer.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (seen, answer) = (seen.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.expect("a whole body").to_bytes();
                let request = Seen {
                    method: parts.method.to_string(),
                    path: parts.uri.to_string(),
                    headers: parts.headers,
                    body,
                };
                seen.lock().expect("not poisoned").push(request.clone());
                Ok::<_, Infallible>(answer(&request))
            }
        });
        connections.spawn(async move {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

pub(super) fn reply(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

pub(super) fn json(value: &serde_json::Value) -> Response<Body> {
    reply(200, value.to_string())
}

pub(super) fn problem(status: u16, kind: &str, detail: &str) -> Response<Body> {
    reply(
        status,
        serde_json::json!({ "status": status, "kind": kind, "title": "Title", "detail": detail }).to_string(),
    )
}

/// What a command wrote.
#[derive(Clone, Default)]
pub(super) struct Captured {
    stdout: Buffer,
    stderr: Buffer,
}

impl Captured {
    pub(super) fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub(super) fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until standard error says something, at most ten seconds.
    pub(super) async fn says(&self, words: &str) {
        let waiting = async {
            while !self.stderr().contains(words) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
        assert!(waited.is_ok(), "never said `{words}`, but: {}", self.stderr());
    }
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned")).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn session_on(dir: PathBuf, json: bool) -> (Session, Captured) {
    let captured = Captured::default();
    let out = Out::piped(
        json,
        Box::new(captured.stdout.clone()),
        Box::new(captured.stderr.clone()),
    );
    let globals = Globals {
        data_dir: Some(dir),
        json,
        ..Globals::default()
    };
    (Session { globals, out }, captured)
}
