//! Calling over the local API.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
};
use tracing::Instrument as _;
use weft_protocol::PeerId;

use super::super::{CallError, CallOptions, STATUS};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Body, Path, Problem},
        resolve,
    },
    telemetry::trace,
};

/// A call's deadline at most.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Further tries at most.
const RETRIES_MAX: u32 = 16;

/// Call a service's default endpoint
#[utoipa::path(post, path = "/v1/services/{service}", params(("service" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn call(
    State(app): State<App>,
    Path(service): Path<String>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Problem> {
    perform(&app, &service, "", &headers, body).await
}

/// Call an endpoint of a service
#[utoipa::path(post, path = "/v1/services/{service}/endpoints/{endpoint}", params(("service" = String, Path), ("endpoint" = String, Path)), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream")))]
pub(super) async fn call_endpoint(
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
        Err(error) => return Err(problem(error)),
    };
    let mut response = answer.body.into_response();
    if let Some(status) = answer_status(&answer.headers) {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    answer_headers(headers, &answer.headers, answer.node, answer.elapsed);
    let receipt = answer.receipt.map(|receipt| data_encoding::BASE64.encode(&receipt));
    if let Some(Ok(receipt)) = receipt.map(HeaderValue::try_from) {
        headers.insert("weft-receipt", receipt);
    }
    headers.insert("weft-attempts", HeaderValue::from(answer.attempts));
    Ok(response)
}

/// The status an answer asks for. Only that of a success: what is none is no answer.
pub(super) fn answer_status(own: &[(String, String)]) -> Option<StatusCode> {
    let (_, value) = own.iter().find(|(name, _)| name.eq_ignore_ascii_case(STATUS))?;
    let status: StatusCode = value.parse().ok()?;
    status.is_success().then_some(status)
}

/// What an answer says besides its body.
pub(super) fn answer_headers(headers: &mut HeaderMap, own: &[(String, String)], node: PeerId, elapsed: Duration) {
    for (name, value) in own {
        let name = HeaderName::try_from(format!("weft-header-{}", name.to_ascii_lowercase()));
        if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    let rtt_ms = format!("{:.3}", elapsed.as_secs_f64() * 1e3);
    for (name, value) in [("weft-node", node.to_string()), ("weft-rtt-ms", rtt_ms)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

/// The headers that are the service's or its caller's own.
pub(super) fn service_headers(headers: &HeaderMap) -> Result<Vec<(String, String)>, NodeError> {
    let mut own = Vec::new();
    for (name, value) in headers {
        if let Some(short) = name.as_str().strip_prefix("weft-header-") {
            let text = value.to_str();
            let text = text.map_err(|_| NodeError::invalid(format!("the header {name} is no plain text")))?;
            own.push((short.to_owned(), text.to_owned()));
        }
    }
    Ok(own)
}

/// A failed call, as the client is told.
pub(super) fn problem(error: CallError) -> Problem {
    match error {
        CallError::Failed { code, reason } => Problem::of_service(code, reason),
        CallError::AllBusy {
            retry_after: Some(pause),
            ..
        } => Problem::from(NodeError::from(error)).with_retry_after(pause),
        error => NodeError::from(error).into(),
    }
}

/// A number from a header.
fn number<T: std::str::FromStr + PartialOrd>(
    name: &HeaderName,
    text: &str,
    least: T,
    most: T,
    what: &str,
) -> Result<T, NodeError> {
    let number: Option<T> = text.parse().ok();
    number
        .filter(|number| *number >= least && *number <= most)
        .ok_or_else(|| NodeError::invalid(format!("{name} is a number {what}")))
}

pub(super) fn options(app: &App, headers: &HeaderMap) -> Result<CallOptions, NodeError> {
    let mut options = CallOptions {
        headers: service_headers(headers)?,
        ..CallOptions::default()
    };
    for (name, value) in headers {
        let text = || {
            value
                .to_str()
                .map_err(|_| NodeError::invalid(format!("the header {name} is no plain text")))
        };
        let ms = || {
            let what = format!("of milliseconds from 1 to {TIMEOUT_MAX_MS}");
            number(name, text()?, 1, TIMEOUT_MAX_MS, &what).map(Duration::from_millis)
        };
        match name.as_str() {
            "weft-timeout-ms" => options.timeout = ms()?,
            "weft-hedge-ms" => options.hedge_after = Some(ms()?),
            "weft-retries" => {
                let what = format!("of further tries, at most {RETRIES_MAX}");
                options.retries = number(name, text()?, 0, RETRIES_MAX, &what)?;
            }
            "weft-node" => options.node = Some(resolve(app, text()?)?),
            "weft-instance" => options.instance = Some(text()?.to_owned()),
            "weft-version" => options.version = Some(text()?.to_owned()),
            "weft-receipt" => options.receipt = text()? == "true",
            "idempotency-key" => options.idempotency_key = Some(text()?.to_owned()),
            _ => {}
        }
    }
    Ok(options)
}
