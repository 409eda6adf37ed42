//! One question to every instance over the local API: a line of JSON for each answer, as it comes.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};

use super::{
    super::{GatherOptions, Gathered},
    call::{options, problem},
    name,
};
use crate::{
    error::{ErrorKind, Kind as _},
    local::{
        App,
        problem::{Body as WholeBody, Path, Problem, Query},
    },
};

/// Answers waiting to be read by the client.
const ANSWERS_AHEAD: usize = 16;

/// When to stop.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct GatherQuery {
    /// Another endpoint than `default`.
    endpoint: Option<String>,
    /// After so many answers.
    max: Option<usize>,
    /// When nothing more came for so long after an answer.
    stall_ms: Option<u64>,
    /// An empty answer ends it.
    sentinel: Option<bool>,
}

/// What one instance said.
#[derive(Debug, Serialize, ToSchema)]
struct Answered {
    peer_id: String,
    node: String,
    id: String,
    /// The answer, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// The answer, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    kind: Option<ErrorKind>,
}

/// Call every instance of a service: a line of JSON for each answer
#[utoipa::path(post, path = "/v1/services/{service}/all", params(("service" = String, Path), GatherQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Answered, content_type = "application/x-ndjson")))]
pub(super) async fn all(
    State(app): State<App>,
    Path(service): Path<String>,
    Query(query): Query<GatherQuery>,
    headers: HeaderMap,
    WholeBody(body): WholeBody,
) -> Result<Response, Problem> {
    let options = options(&app, &headers)?;
    let gather = GatherOptions {
        answers_max: query.max,
        stall: query.stall_ms.map(Duration::from_millis),
        ends_at_empty: query.sentinel.unwrap_or(false),
    };
    let endpoint = query.endpoint.unwrap_or_default();
    let (sink, mut answers) = mpsc::channel(ANSWERS_AHEAD);
    let calls = app.calls.clone();
    let (ended, outcome) = tokio::sync::oneshot::channel();
    // Ends with the answers: when the client goes, nobody reads them.
    app.node.tasks().spawn("call-all", async move {
        let _ = ended.send(
            calls
                .call_all(&service, &endpoint, &body, &options, &gather, sink)
                .await,
        );
    });
    // The first answer, or why there will be none, decides what the client is told.
    let first = answers.recv().await;
    if first.is_none()
        && let Ok(Err(error)) = outcome.await
    {
        return Err(problem(error));
    }
    let lines = stream::unfold((app, first, answers), |(app, first, mut answers)| async move {
        let gathered = match first {
            Some(gathered) => gathered,
            None => answers.recv().await?,
        };
        let line = line(&app, gathered);
        Some((Ok::<_, std::convert::Infallible>(line), (app, None, answers)))
    });
    let mut response = Response::new(Body::from_stream(lines));
    let media = HeaderValue::from_static("application/x-ndjson");
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    Ok(response)
}

fn line(app: &App, gathered: Gathered) -> Bytes {
    let mut answered = Answered {
        peer_id: gathered.peer.to_string(),
        node: name(app, &gathered.peer),
        id: gathered.instance,
        data: None,
        data_base64: None,
        headers: BTreeMap::new(),
        rtt_ms: None,
        error: None,
        kind: None,
    };
    match gathered.answer {
        Ok(answer) => {
            answered.rtt_ms = Some(answer.elapsed.as_secs_f64() * 1e3);
            answered.headers = answer.headers.into_iter().collect();
            match String::from_utf8(answer.body) {
                Ok(text) => answered.data = Some(text),
                Err(error) => answered.data_base64 = Some(data_encoding::BASE64.encode(error.as_bytes())),
            }
        }
        Err(error) => {
            answered.kind = Some(error.kind());
            answered.error = Some(error.to_string());
        }
    }
    let mut line = serde_json::to_vec(&answered).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
