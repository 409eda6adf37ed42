//! The same handle over the local API.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{BatchingHandle, Dead, QueueInfo, QueueOptions, Record};
use crate::{
    error::{ErrorKind, NodeError},
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
        rfc3339,
    },
};

/// The header that says which records belong together.
const KEY: &str = "weft-batch-key";
const DEAD_MAX: usize = 500;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, define, remove))
        .routes(routes!(put))
        .routes(routes!(flush))
        .routes(routes!(dead, purge))
        .routes(routes!(retry))
}

fn handle(app: &App) -> Result<&BatchingHandle, NodeError> {
    let missing = || NodeError::internal("the node was built without batching");
    app.batches.as_ref().ok_or_else(missing)
}

/// A queue, and how it is.
#[derive(Debug, Serialize, ToSchema)]
struct QueueView {
    name: String,
    #[serde(flatten)]
    options: QueueOptions,
    /// Records in it.
    records: usize,
    /// Bytes of their data.
    bytes: usize,
    /// How long the oldest of them has waited, milliseconds.
    oldest_ms: Option<u64>,
    /// Batches that are closed and not done with.
    batches: usize,
    /// Batches that are being handed over.
    under_way: usize,
    /// How many may be at once now.
    window: usize,
    /// Records that arrived since the node's start.
    delivered: u64,
    /// Records that were given up, and are kept.
    dead: usize,
    /// The last thing that went wrong, if nothing has gone well since.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

fn view(info: QueueInfo, now_ms: u64) -> QueueView {
    let QueueInfo {
        name,
        options,
        standing,
    } = info;
    QueueView {
        name,
        options,
        records: standing.records,
        bytes: standing.bytes,
        oldest_ms: standing.oldest_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
        batches: standing.batches,
        under_way: standing.under_way.0,
        window: standing.under_way.1,
        delivered: standing.delivered,
        dead: standing.dead,
        trouble: standing.trouble,
    }
}

/// List the queues of this node
#[utoipa::path(get, path = "/v1/batches", responses((status = 200, body = [QueueView])))]
async fn list(State(app): State<App>) -> Result<Json<Vec<QueueView>>, Problem> {
    let handle = handle(&app)?;
    let now_ms = handle.now_ms();
    Ok(Json(
        handle.queues().into_iter().map(|info| view(info, now_ms)).collect(),
    ))
}

/// One queue
#[utoipa::path(get, path = "/v1/batches/{queue}", params(("queue" = String, Path)), responses((status = 200, body = QueueView)))]
async fn info(State(app): State<App>, Path(queue): Path<String>) -> Result<Json<QueueView>, Problem> {
    let handle = handle(&app)?;
    let info = handle.info(&queue).map_err(NodeError::from)?;
    Ok(Json(view(info, handle.now_ms())))
}

/// Define a queue, or define it anew
#[utoipa::path(put, path = "/v1/batches/{queue}", params(("queue" = String, Path)), request_body = QueueOptions, responses((status = 200, body = QueueView), (status = 201, body = QueueView)))]
async fn define(
    State(app): State<App>,
    Path(queue): Path<String>,
    Json(options): Json<QueueOptions>,
) -> Result<(StatusCode, Json<QueueView>), Problem> {
    let handle = handle(&app)?;
    let is_new = handle.define(&queue, options).await.map_err(NodeError::from)?;
    let info = handle.info(&queue).map_err(NodeError::from)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view(info, handle.now_ms()))))
}

/// How a queue is removed.
#[derive(Debug, Deserialize, IntoParams)]
struct RemoveQuery {
    /// Also if it holds records.
    #[serde(default)]
    force: bool,
}

/// Remove a queue
#[utoipa::path(delete, path = "/v1/batches/{queue}", params(("queue" = String, Path), RemoveQuery), responses((status = 204)))]
async fn remove(
    State(app): State<App>,
    Path(queue): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<StatusCode, Problem> {
    handle(&app)?
        .remove(&queue, query.force)
        .await
        .map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is put.
#[derive(Debug, Deserialize, IntoParams)]
struct PutQuery {
    /// Each line of the body is a record.
    #[serde(default)]
    lines: bool,
}

/// How many records it was.
#[derive(Debug, Serialize, ToSchema)]
struct Counted {
    records: u64,
}

/// Put records into a queue: they are on the disk when this is answered
#[utoipa::path(post, path = "/v1/batches/{queue}/records", params(("queue" = String, Path), PutQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = Counted)))]
async fn put(
    State(app): State<App>,
    Path(queue): Path<String>,
    Query(query): Query<PutQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Json<Counted>, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if headers.contains_key(KEY) && text(KEY).is_none() {
        return Err(Problem::new(ErrorKind::Invalid, format!("the header {KEY} is no text")));
    }
    let record = |data: &[u8]| Record {
        key: text(KEY).unwrap_or_default().to_owned(),
        content_type: text(header::CONTENT_TYPE.as_str()).map(str::to_owned),
        time_ms: 0,
        salt: None,
        data: data.to_vec(),
    };
    let records = if query.lines {
        let whole = body.strip_suffix(b"\n").unwrap_or(&body);
        let lines = whole.split(|byte| *byte == b'\n');
        lines
            .map(|line| record(line.strip_suffix(b"\r").unwrap_or(line)))
            .collect()
    } else {
        vec![record(&body)]
    };
    let records = handle(&app)?.put(&queue, records).await.map_err(NodeError::from)?;
    Ok(Json(Counted { records }))
}

/// Hand over what is there, without waiting for batches to be full
#[utoipa::path(post, path = "/v1/batches/{queue}/flush", params(("queue" = String, Path)), responses((status = 202)))]
async fn flush(State(app): State<App>, Path(queue): Path<String>) -> Result<StatusCode, Problem> {
    handle(&app)?.flush(&queue).await.map_err(NodeError::from)?;
    Ok(StatusCode::ACCEPTED)
}

/// Which of the dead.
#[derive(Debug, Deserialize, IntoParams)]
struct DeadQuery {
    /// Those after the one with this number.
    after: Option<u64>,
    /// So many; at most 500.
    limit: Option<usize>,
}

/// A record that its destination did not take.
#[derive(Debug, Serialize, ToSchema)]
struct DeadView {
    number: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// When it was put.
    put_at: String,
    /// Since when it is not tried any more.
    dead_since: String,
    reason: String,
    /// Its data, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    /// Its data, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

fn dead_view((number, dead): (u64, Dead)) -> DeadView {
    let Dead { record, reason, at_ms } = dead;
    let (data, data_base64) = match String::from_utf8(record.data) {
        Ok(text) => (Some(text), None),
        Err(bytes) => (None, Some(BASE64.encode(bytes.as_bytes()))),
    };
    DeadView {
        number,
        key: record.key,
        content_type: record.content_type,
        put_at: rfc3339(record.time_ms),
        dead_since: rfc3339(at_ms),
        reason,
        data,
        data_base64,
    }
}

/// List the dead records of a queue, the oldest first
#[utoipa::path(get, path = "/v1/batches/{queue}/dead", params(("queue" = String, Path), DeadQuery), responses((status = 200, body = [DeadView])))]
async fn dead(
    State(app): State<App>,
    Path(queue): Path<String>,
    Query(query): Query<DeadQuery>,
) -> Result<Json<Vec<DeadView>>, Problem> {
    let limit = query.limit.unwrap_or(DEAD_MAX).min(DEAD_MAX);
    let dead = handle(&app)?.dead(&queue, query.after, limit).await;
    Ok(Json(
        dead.map_err(NodeError::from)?.into_iter().map(dead_view).collect(),
    ))
}

/// Try all dead records of a queue once more
#[utoipa::path(post, path = "/v1/batches/{queue}/retry", params(("queue" = String, Path)), responses((status = 200, body = Counted)))]
async fn retry(State(app): State<App>, Path(queue): Path<String>) -> Result<Json<Counted>, Problem> {
    let records = handle(&app)?.retry(&queue).await.map_err(NodeError::from)?;
    Ok(Json(Counted { records }))
}

/// Let go of all dead records of a queue
#[utoipa::path(delete, path = "/v1/batches/{queue}/dead", params(("queue" = String, Path)), responses((status = 200, body = Counted)))]
async fn purge(State(app): State<App>, Path(queue): Path<String>) -> Result<Json<Counted>, Problem> {
    let records = handle(&app)?.purge(&queue).await.map_err(NodeError::from)?;
    Ok(Json(Counted { records }))
}
