//! Bodies of any size over the local API: calling with them, and, for an application that serves, fetching a call's request and bringing
//! its answer.
//!
//! Paths below `/v1/stream/` have no limit of size; nothing of them is kept, so a side that is slow holds up the other.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::{
    super::{BodyReader, IncomingCall},
    call::{answer_headers, answer_status, options, problem, service_headers},
};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Path, Problem},
        streamed::{carry, incoming, outgoing},
    },
    telemetry::trace,
};

/// Call a service's default endpoint with a body of any size, and read an answer of any size
#[utoipa::path(post, path = "/v1/stream/services/{service}", params(("service" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn call(
    State(app): State<App>,
    Path(service): Path<String>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Problem> {
    perform(&app, &service, "", &headers, request).await
}

/// The same for an endpoint of a service
#[utoipa::path(post, path = "/v1/stream/services/{service}/endpoints/{endpoint}", params(("service" = String, Path), ("endpoint" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn call_endpoint(
    State(app): State<App>,
    Path((service, endpoint)): Path<(String, String)>,
    headers: HeaderMap,
    request: Body,
) -> Result<Response, Problem> {
    perform(&app, &service, &endpoint, &headers, request).await
}

async fn perform(
    app: &App,
    service: &str,
    endpoint: &str,
    headers: &HeaderMap,
    request: Body,
) -> Result<Response, Problem> {
    let options = options(app, headers)?;
    let span = tracing::info_span!("call", service, endpoint, trace_id = tracing::field::Empty);
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    trace::continue_from(&span, text("traceparent"), text("tracestate"));
    let input = incoming(app.node.tasks(), request);
    let answer = app
        .calls
        .call_stream(service, endpoint, input, options)
        .instrument(span)
        .await;
    let answer = answer.map_err(problem)?;
    let mut response = Response::new(outgoing(answer.body));
    if let Some(status) = answer_status(&answer.headers) {
        *response.status_mut() = status;
    }
    answer_headers(response.headers_mut(), &answer.headers, answer.node, answer.elapsed);
    Ok(response)
}

/// Fetch the request of a call that this application serves
#[utoipa::path(get, path = "/v1/stream/calls/{call}", params(("call" = String, Path)), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn fetch(State(app): State<App>, Path(call): Path<String>) -> Result<Response, Problem> {
    let input = app.calls.inner.pickups.input(&call).ok_or_else(gone)?;
    Ok(Response::new(outgoing(input)))
}

/// Bring the answer to a call that this application serves; answered when the caller has it
#[utoipa::path(post, path = "/v1/stream/calls/{call}", params(("call" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 204)))]
pub(super) async fn bring(
    State(app): State<App>,
    Path(call): Path<String>,
    headers: HeaderMap,
    answer: Body,
) -> Result<StatusCode, Problem> {
    let headers = service_headers(&headers)?;
    let (call, failed) = app.calls.inner.pickups.call(&call).ok_or_else(gone)?;
    let failed = async {
        match failed.await {
            Ok(failure) => failure,
            Err(_) => std::future::pending().await,
        }
    };
    carry(answer, call.stream(headers), failed).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn gone() -> NodeError {
    NodeError::not_found("there is no such call, or it is over, or this was done already")
}

struct Pickup {
    input: Option<BodyReader>,
    call: Option<(IncomingCall, oneshot::Receiver<(u16, String)>)>,
}

/// Streamed calls that applications of this node have been told of, until they are over.
#[derive(Default)]
pub(in super::super) struct Pickups(Mutex<HashMap<String, Pickup>>);

impl Pickups {
    /// Puts a call there; by the sender it fails.
    pub(super) fn put(&self, key: String, mut call: IncomingCall) -> oneshot::Sender<(u16, String)> {
        let (fail, failed) = oneshot::channel();
        let pickup = Pickup {
            input: Some(call.take_body()),
            call: Some((call, failed)),
        };
        self.lock().insert(key, pickup);
        fail
    }

    fn input(&self, key: &str) -> Option<BodyReader> {
        self.lock().get_mut(key)?.input.take()
    }

    /// The call itself, to be answered.
    pub(super) fn call(&self, key: &str) -> Option<(IncomingCall, oneshot::Receiver<(u16, String)>)> {
        self.lock().get_mut(key)?.call.take()
    }

    /// The call is over.
    pub(super) fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Pickup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
