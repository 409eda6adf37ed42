//! The same handle over the local API.

use std::{collections::BTreeMap, collections::HashMap, time::Duration};

use axum::{
    body::Bytes,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{IntoResponse, Response},
};
use futures::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};
use tracing::Instrument as _;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::limits::DIRECT_BODY_BYTES_MAX;

use super::{CallError, CallOptions, IncomingCall, ServiceOptions, Serving};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
        resolve,
    },
    tasks::Tasks,
    telemetry::trace,
};

/// Calls one serving application may hold at once, unless it asks for fewer.
const CONCURRENCY_MAX: usize = 256;
/// A call's deadline at most.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// A frame's JSON header.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Frames waiting to be written to one application.
const FRAMES_MAX: usize = 64;
/// A serving application that is not heard of for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const PING_EVERY: Duration = Duration::from_secs(20);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(call))
        .routes(routes!(call_endpoint))
        .routes(routes!(serve))
}

/// An instance of a service.
#[derive(Debug, Serialize, ToSchema)]
struct Service {
    name: String,
    version: String,
    peer_id: String,
    node: String,
    id: String,
    endpoints: Vec<String>,
    metadata: BTreeMap<String, String>,
    local: bool,
    reachable: bool,
}

/// The services of the mesh
#[utoipa::path(get, path = "/v1/services", responses((status = 200, body = [Service])))]
async fn list(State(app): State<App>) -> Json<Vec<Service>> {
    let trust = app.node.trust();
    let name = |peer: &weft_protocol::PeerId| {
        trust
            .member(peer)
            .map(|m| m.name)
            .or_else(|| trust.record(peer).map(|r| r.name))
    };
    Json(
        app.calls
            .services()
            .into_iter()
            .map(|i| Service {
                peer_id: i.peer.to_string(),
                node: name(&i.peer).unwrap_or_default(),
                name: i.info.name,
                version: i.info.version,
                id: i.info.id,
                endpoints: i.info.endpoints,
                metadata: i.info.metadata.into_iter().collect(),
                local: i.is_local,
                reachable: i.is_connected,
            })
            .collect(),
    )
}

/// Call a service's default endpoint
#[utoipa::path(post, path = "/v1/services/{service}", params(("service" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn call(
    State(app): State<App>,
    Path(service): Path<String>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    perform(&app, &service, "", &headers, body).await
}

/// Call an endpoint of a service
#[utoipa::path(post, path = "/v1/services/{service}/endpoints/{endpoint}", params(("service" = String, Path), ("endpoint" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
async fn call_endpoint(
    State(app): State<App>,
    Path((service, endpoint)): Path<(String, String)>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    perform(&app, &service, &endpoint, &headers, body).await
}

async fn perform(
    app: &App,
    service: &str,
    endpoint: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let options = options(app, headers)?;
    let span = tracing::info_span!("call", service, endpoint, trace_id = tracing::field::Empty);
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    trace::continue_from(&span, text("traceparent"), text("tracestate"));
    let answer = app
        .calls
        .call(service, endpoint, body.into(), options)
        .instrument(span)
        .await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(CallError::Failed { code, reason }) => return Err(Problem::of_service(code, reason)),
        Err(error) => return Err(NodeError::from(error).into()),
    };
    let mut response = answer.body.into_response();
    for (name, value) in &answer.headers {
        let name = HeaderName::try_from(format!("weft-header-{}", name.to_ascii_lowercase()));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            response.headers_mut().append(name, value);
        }
    }
    let rtt_ms = format!("{:.3}", answer.elapsed.as_secs_f64() * 1e3);
    for (name, value) in [("weft-node", answer.node.to_string()), ("weft-rtt-ms", rtt_ms)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

fn options(app: &App, headers: &HeaderMap) -> Result<CallOptions, NodeError> {
    let mut options = CallOptions::default();
    for (name, value) in headers {
        let text = || {
            value
                .to_str()
                .map_err(|_| NodeError::invalid(format!("the header {name} is no plain text")))
        };
        match name.as_str() {
            "weft-timeout-ms" => {
                let ms: u64 = text()?
                    .parse()
                    .ok()
                    .filter(|ms| (1..=TIMEOUT_MAX_MS).contains(ms))
                    .ok_or_else(|| {
                        NodeError::invalid(format!(
                            "weft-timeout-ms is a number of milliseconds from 1 to {TIMEOUT_MAX_MS}"
                        ))
                    })?;
                options.timeout = Duration::from_millis(ms);
            }
            "weft-node" => options.node = Some(resolve(app, text()?)?),
            other => {
                if let Some(name) = other.strip_prefix("weft-header-") {
                    options.headers.push((name.to_owned(), text()?.to_owned()));
                }
            }
        }
    }
    Ok(options)
}

/// How to serve.
#[derive(Debug, Deserialize, IntoParams)]
struct ServeQuery {
    /// A semantic version.
    #[serde(default = "default_version")]
    version: String,
    /// Without it, `default`.
    endpoint: Option<String>,
    /// Calls at once.
    concurrency: Option<usize>,
    /// A JSON object of strings.
    metadata: Option<String>,
}

fn default_version() -> String {
    "1.0.0".to_owned()
}

/// Offer a service: a WebSocket on which calls come and answers go
#[utoipa::path(get, path = "/v1/services/{service}/serve", params(("service" = String, Path), ServeQuery), responses((status = 101)))]
async fn serve(
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
    let serving = app
        .calls
        .serve(ServiceOptions {
            name: service,
            version: query.version,
            endpoints: query.endpoint.into_iter().collect(),
            metadata: metadata.into_iter().collect(),
        })
        .await?;
    let concurrency = query.concurrency.unwrap_or(CONCURRENCY_MAX).clamp(1, CONCURRENCY_MAX);
    let tasks = app.node.tasks().child();
    let upgrade = upgrade.max_message_size(DIRECT_BODY_BYTES_MAX + HEADER_BYTES_MAX + 4);
    Ok(upgrade.on_upgrade(move |socket| converse(socket, serving, concurrency, tasks)))
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
    },
    Cancel {
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

/// Carries calls to the application and its answers back until either side ends.
async fn converse(socket: WebSocket, serving: Serving, concurrency: usize, tasks: Tasks) {
    let (mut write, mut read) = socket.split();
    let mut serving = Some(serving);
    let instance = serving.as_ref().map(|s| s.id.clone()).unwrap_or_default();
    if write
        .send(frame(
            &ToApplication::Ready {
                id: 0,
                instance: &instance,
            },
            &[],
        ))
        .await
        .is_err()
    {
        return;
    }
    let (gone, mut abandoned) = mpsc::channel::<u64>(FRAMES_MAX);
    let mut calls: HashMap<u64, Pending> = HashMap::new();
    let mut next_id = 0;
    let mut heard = Instant::now();
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        let takes_more = calls.len() < concurrency && serving.is_some();
        tokio::select! {
            call = async { match serving.as_mut() { Some(s) => s.next().await, None => std::future::pending().await } }, if takes_more => {
                let Some(call) = call else { break };
                next_id += 1;
                if write.send(request_frame(next_id, &call)).await.is_err() { break }
                calls.insert(next_id, Pending::watch(next_id, call, gone.clone(), &tasks));
            }
            Some(id) = abandoned.recv() => {
                if calls.remove(&id).is_some() && write.send(frame(&ToApplication::Cancel { id }, &[])).await.is_err() { break }
            }
            message = read.next() => {
                heard = Instant::now();
                match message {
                    Some(Ok(Message::Binary(bytes))) => match parse(&bytes) {
                        Some((FromApplication::Drain, _)) => serving = None,
                        Some((FromApplication::Answer { id, headers }, body)) => {
                            if let Some(call) = calls.remove(&id) { call.answer(headers.into_iter().collect(), body.to_vec()) }
                        }
                        Some((FromApplication::Error { id, code, reason }, _)) => {
                            if let Some(call) = calls.remove(&id) { call.fail(code, reason) }
                        }
                        None => break,
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(_)) | Some(Err(_)) | None => break,
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE_MAX || write.send(Message::Ping(Bytes::new())).await.is_err() { break }
            }
        }
    }
}

fn request_frame(id: u64, call: &IncomingCall) -> Message {
    let header = ToApplication::Request {
        id,
        service: &call.service,
        endpoint: &call.endpoint,
        headers: call.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        deadline_ms: call.deadline.saturating_duration_since(Instant::now()).as_millis() as u64,
        caller: call.caller.to_string(),
        traceparent: trace::of(&call.span).map(|t| t.traceparent()),
    };
    frame(&header, &call.body)
}

enum Outcome {
    Answer(Vec<(String, String)>, Vec<u8>),
    Fail(u16, String),
}

/// A call the application works on; it learns when the caller no longer waits.
struct Pending(tokio::sync::oneshot::Sender<Outcome>);

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
        Pending(sender)
    }

    fn answer(self, headers: Vec<(String, String)>, body: Vec<u8>) {
        let _ = self.0.send(Outcome::Answer(headers, body));
    }

    fn fail(self, code: u16, reason: String) {
        let _ = self.0.send(Outcome::Fail(code, reason));
    }
}
