//! Offering a service over the local API: a WebSocket on which calls come and answers go.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    response::Response,
};
use futures::{SinkExt as _, StreamExt as _, stream::SplitSink};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use tracing::Instrument as _;
use utoipa::IntoParams;
use weft_protocol::limits::DIRECT_BODY_BYTES_MAX;

use super::super::{DEFAULT_ENDPOINT, EndpointOptions, IncomingCall, RequestResponseHandle, ServiceOptions, Serving};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Path, Problem, Query},
    },
    tasks::Tasks,
    telemetry::trace,
};

/// Calls one serving application may hold at once, unless it asks for fewer.
const CONCURRENCY_MAX: usize = 4096;
const CONCURRENCY: usize = 256;
/// A frame's JSON header.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Calls that were given up and that the application has not been told of.
const GIVEN_UP_MAX: usize = 64;
/// A serving application that is not heard of for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(20);

/// How to serve.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct ServeQuery {
    /// A semantic version.
    #[serde(default = "default_version")]
    version: String,
    /// Their names, with commas between; without it, `default`.
    endpoint: Option<String>,
    /// Those of them that may be called twice, with commas between; `*`: all.
    idempotent: Option<String>,
    /// It takes requests of any size, by `/v1/stream/calls/{call}`.
    streams: Option<bool>,
    /// Calls at once.
    concurrency: Option<usize>,
    /// A JSON object of strings.
    metadata: Option<String>,
}

impl ServeQuery {
    fn endpoints(&self) -> Result<Vec<EndpointOptions>, NodeError> {
        let names = self.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).split(',');
        let idempotent: Vec<&str> = self.idempotent.as_deref().unwrap_or_default().split(',').collect();
        let endpoints: Vec<EndpointOptions> = names
            .map(|name| EndpointOptions {
                idempotent: idempotent.contains(&"*") || idempotent.contains(&name),
                ..EndpointOptions::new(name)
            })
            .collect();
        let is_there = |name: &&str| endpoints.iter().any(|endpoint| endpoint.name == **name);
        let stray = idempotent
            .iter()
            .find(|name| !name.is_empty() && **name != "*" && !is_there(name));
        match stray {
            Some(name) => Err(NodeError::invalid(format!(
                "there is no endpoint {name} to be idempotent"
            ))),
            None => Ok(endpoints),
        }
    }
}

fn default_version() -> String {
    "1.0.0".to_owned()
}

/// Offer a service: a WebSocket on which calls come and answers go
#[utoipa::path(get, path = "/v1/services/{service}/serve", params(("service" = String, Path), ServeQuery), responses((status = 101)))]
pub(super) async fn serve(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<ServeQuery>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|error| Problem::new(ErrorKind::Invalid, error.body_text()))?;
    let metadata: BTreeMap<String, String> = match query.metadata.as_deref() {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| NodeError::invalid(format!("metadata is no JSON object of strings: {error}")))?,
        None => BTreeMap::new(),
    };
    let concurrency = query.concurrency.unwrap_or(CONCURRENCY).clamp(1, CONCURRENCY_MAX);
    let serving = app
        .calls
        .serve(ServiceOptions {
            name: service,
            endpoints: query.endpoints()?,
            version: query.version,
            metadata: metadata.into_iter().collect(),
            concurrency: concurrency as u32,
            takes_streams: query.streams.unwrap_or(false),
        })
        .await?;
    let tasks = app.node.tasks().child();
    let upgrade = upgrade.max_message_size(DIRECT_BODY_BYTES_MAX + HEADER_BYTES_MAX + 4);
    let calls = app.calls.clone();
    Ok(upgrade.on_upgrade(move |socket| converse(socket, serving, concurrency, (calls, tasks))))
}

/// What goes to the serving application.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToApplication<'a> {
    Ready {
        id: u64,
        instance: &'a str,
    },
    Request {
        id: u64,
        service: &'a str,
        endpoint: &'a str,
        headers: BTreeMap<&'a str, &'a str>,
        deadline_ms: u64,
        caller: String,
        traceparent: Option<String>,
        /// Where the request's body is to be fetched and the answer's to be brought.
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<&'a str>,
    },
    Cancel {
        id: u64,
    },
    /// Somebody asked this instance to drain: what it has it may answer.
    Drain {
        id: u64,
    },
    /// Everything is answered, and nothing new will come.
    Drained {
        id: u64,
    },
}

/// What comes from it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum FromApplication {
    Answer {
        id: u64,
        #[serde(default)]
        headers: BTreeMap<String, String>,
    },
    Error {
        id: u64,
        #[serde(default = "default_code")]
        code: u16,
        #[serde(default)]
        reason: String,
    },
    Drain,
    /// The JSON Schema of an endpoint; its text is the body.
    Schema {
        endpoint: String,
    },
}

fn default_code() -> u16 {
    500
}

fn frame(header: &ToApplication<'_>, body: &[u8]) -> Message {
    let header = serde_json::to_vec(header).unwrap_or_default();
    let mut bytes = Vec::with_capacity(4 + header.len() + body.len());
    bytes.extend_from_slice(&(header.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(body);
    Message::Binary(bytes.into())
}

fn parse(bytes: &[u8]) -> Option<(FromApplication, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    if length > HEADER_BYTES_MAX {
        return None;
    }
    let (header, body) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(header).ok()?, body))
}

type Sink = SplitSink<WebSocket, Message>;

/// One serving application.
struct Application {
    write: Sink,
    serving: Serving,
    calls: HashMap<u64, Pending>,
    handle: RequestResponseHandle,
    next_id: u64,
    given_up: mpsc::Sender<u64>,
    tasks: Tasks,
}

/// The application is gone, or must go.
struct End;

/// Carries calls to the application and its answers back until either side ends.
async fn converse(
    socket: WebSocket,
    serving: Serving,
    concurrency: usize,
    (handle, tasks): (RequestResponseHandle, Tasks),
) {
    let (write, mut read) = socket.split();
    let (given_up, mut to_tell) = mpsc::channel::<u64>(GIVEN_UP_MAX);
    let mut application = Application {
        write,
        serving,
        calls: HashMap::new(),
        handle,
        next_id: 0,
        given_up,
        tasks,
    };
    let instance = application.serving.id.clone();
    let ready = ToApplication::Ready {
        id: 0,
        instance: &instance,
    };
    if application.say(&ready, &[]).await.is_err() {
        return;
    }
    let mut heard = Instant::now();
    let mut ping = tokio::time::interval(PING_EVERY);
    let mut is_draining = false;
    let mut draining = std::pin::pin!(application.serving.draining());
    loop {
        let takes_more = application.calls.len() < concurrency;
        let step = tokio::select! {
            biased;
            call = application.serving.next(), if takes_more => match call {
                Some(call) => application.hand(call).await,
                None => {
                    let _ = application.say(&ToApplication::Drained { id: 0 }, &[]).await;
                    let _ = application.write.send(Message::Close(None)).await;
                    return;
                }
            },
            Some(id) = to_tell.recv() => application.give_up(id).await,
            message = read.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => application.take(&bytes).await,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                    Some(Ok(_)) | Some(Err(_)) | None => Err(End),
                }
            }
            () = &mut draining, if !is_draining => {
                is_draining = true;
                application.say(&ToApplication::Drain { id: 0 }, &[]).await
            }
            _ = ping.tick() => {
                let is_there = heard.elapsed() <= SILENCE_MAX;
                match is_there && application.write.send(Message::Ping(Bytes::new())).await.is_ok() {
                    true => Ok(()),
                    false => Err(End),
                }
            }
        };
        if step.is_err() {
            return;
        }
    }
}

impl Application {
    async fn say(&mut self, header: &ToApplication<'_>, body: &[u8]) -> Result<(), End> {
        self.write.send(frame(header, body)).await.map_err(|_| End)
    }

    async fn hand(&mut self, call: IncomingCall) -> Result<(), End> {
        self.next_id += 1;
        let id = self.next_id;
        let key = call.is_streamed().then(|| {
            let inner = &self.handle.inner;
            format!("{:016x}{:016x}", inner.dice(), inner.dice())
        });
        let frame = request_frame(id, &call, key.as_deref());
        // Whoever hears of a call may come for it at once.
        let pending = match key {
            Some(key) => Pending::leave(id, key, call, self),
            None => Pending::watch(id, call, self.given_up.clone(), &self.tasks),
        };
        self.write.send(frame).await.map_err(|_| End)?;
        self.calls.insert(id, pending);
        Ok(())
    }

    async fn give_up(&mut self, id: u64) -> Result<(), End> {
        match self.calls.remove(&id) {
            Some(_) => self.say(&ToApplication::Cancel { id }, &[]).await,
            None => Ok(()),
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), End> {
        let (header, body) = parse(bytes).ok_or(End)?;
        match header {
            FromApplication::Drain => self.serving.drain().await,
            // Only the first answer to a call counts: afterwards it is not among them.
            FromApplication::Answer { id, headers } => {
                if let Some(call) = self.calls.remove(&id) {
                    call.answer(headers.into_iter().collect(), body.to_vec());
                }
            }
            FromApplication::Error { id, code, reason } => {
                if let Some(call) = self.calls.remove(&id) {
                    call.fail(code, reason);
                }
            }
            FromApplication::Schema { endpoint } => {
                let text = String::from_utf8(body.to_vec()).map_err(|_| End)?;
                if let Err(error) = self.serving.set_schema(&endpoint, text).await {
                    let reason = error.to_string();
                    let frame = refusal(&reason);
                    let _ = self.write.send(frame).await;
                    return Err(End);
                }
            }
        }
        Ok(())
    }
}

/// The end of the conversation, and why; cut to what such a frame can hold.
fn refusal(reason: &str) -> Message {
    let end = reason
        .char_indices()
        .map(|(at, c)| at + c.len_utf8())
        .take_while(|end| *end <= 120)
        .last();
    Message::Close(Some(CloseFrame {
        code: close_code::POLICY,
        reason: reason[..end.unwrap_or(0)].into(),
    }))
}

fn request_frame(id: u64, call: &IncomingCall, stream: Option<&str>) -> Message {
    let header = ToApplication::Request {
        id,
        service: &call.service,
        endpoint: &call.endpoint,
        headers: call.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        deadline_ms: call.deadline.saturating_duration_since(Instant::now()).as_millis() as u64,
        caller: call.caller.to_string(),
        traceparent: trace::of(&call.span).map(|t| t.traceparent()),
        stream,
    };
    frame(&header, &call.body)
}

enum Outcome {
    Answer(Vec<(String, String)>, Vec<u8>),
    Fail(u16, String),
}

/// A call the application works on; it learns when the caller no longer waits.
enum Pending {
    Whole(tokio::sync::oneshot::Sender<Outcome>),
    Streamed(Streamed),
}

/// A call whose bodies flow by themselves.
struct Streamed {
    handle: RequestResponseHandle,
    key: String,
    fail: Option<tokio::sync::oneshot::Sender<(u16, String)>>,
}

impl Drop for Streamed {
    /// What was not answered by now will not be.
    fn drop(&mut self) {
        self.handle.inner.pickups.remove(&self.key);
    }
}

impl Pending {
    fn watch(id: u64, mut call: IncomingCall, gone: mpsc::Sender<u64>, tasks: &Tasks) -> Self {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let deadline = call.deadline;
        let span = call.span.clone();
        let work = async move {
            tokio::select! {
                biased;
                outcome = receiver => match outcome {
                    Ok(Outcome::Answer(headers, body)) => call.answer(headers, body),
                    Ok(Outcome::Fail(code, reason)) => call.fail(code, &reason),
                    Err(_) => {}
                },
                () = call.abandoned() => drop(gone.send(id).await),
                () = tokio::time::sleep_until(deadline) => drop(gone.send(id).await),
            }
        };
        // Ends with the call: when the socket closes, the sender is dropped.
        tasks.spawn("serve-call", work.instrument(span));
        Pending::Whole(sender)
    }

    /// Leaves a call to be fetched and answered by its key.
    fn leave(id: u64, key: String, call: IncomingCall, application: &Application) -> Self {
        let (over, gone) = (call.token(), application.given_up.clone());
        application.tasks.spawn("serve-call", async move {
            over.cancelled().await;
            let _ = gone.send(id).await;
        });
        let handle = application.handle.clone();
        let fail = Some(handle.inner.pickups.put(key.clone(), call));
        Pending::Streamed(Streamed { handle, key, fail })
    }

    fn answer(self, headers: Vec<(String, String)>, body: Vec<u8>) {
        match self {
            Pending::Whole(sender) => drop(sender.send(Outcome::Answer(headers, body))),
            Pending::Streamed(streamed) => {
                if let Some((call, _)) = streamed.handle.inner.pickups.call(&streamed.key) {
                    call.answer(headers, body);
                }
            }
        }
    }

    fn fail(self, code: u16, reason: String) {
        match self {
            Pending::Whole(sender) => drop(sender.send(Outcome::Fail(code, reason))),
            Pending::Streamed(mut streamed) => match streamed.handle.inner.pickups.call(&streamed.key) {
                Some((call, _)) => call.fail(code, &reason),
                // Its answer has begun.
                None => drop(streamed.fail.take().map(|fail| fail.send((code, reason)))),
            },
        }
    }
}
