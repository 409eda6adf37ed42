//! The same handle over the local API.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Change, Moment, ProjectionError, ProjectionOptions, ProjectionsHandle, SnapshotInfo, Standing, handle::ROWS_MAX,
};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json, Path, Problem, Query},
        rfc3339,
    },
    patterns::cloud_event::parse_time,
};

/// How long a position is waited for, at most.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, define, remove))
        .routes(routes!(rows))
        .routes(routes!(difference))
        .routes(routes!(rebuild))
        .routes(routes!(snapshots, snapshot))
        .routes(routes!(remove_snapshot))
}

fn handle(app: &App) -> Result<&ProjectionsHandle, NodeError> {
    let missing = || NodeError::internal("the node was built without projections");
    app.projections.as_ref().ok_or_else(missing)
}

/// A projection, and how it is.
#[derive(Debug, Serialize, ToSchema)]
struct ProjectionView {
    name: String,
    /// The stream that it reads.
    stream: String,
    #[serde(flatten)]
    options: ProjectionOptions,
    columns: Vec<String>,
    created: String,
    /// `live`, `catching_up`, `waiting` (its stream cannot be read just now) or `stopped` (it cannot go on).
    state: &'static str,
    /// What keeps it from going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Everything up to here is in it.
    position: u64,
    /// Events of the stream that are not in it yet; nothing when the stream's owner does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<u64>,
    /// Events that counted.
    taken: u64,
    /// Groups, without those that `HAVING` leaves out.
    groups: u64,
    /// Values that were of no use: a text in a sum, say.
    misfits: u64,
    /// Events that the stream kept no more when it was their turn.
    missed: u64,
    /// When its last event was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_recorded: Option<String>,
    /// The one that is built anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    rebuilding: Option<RebuildingView>,
    snapshots: usize,
}

/// How far what is built anew is.
#[derive(Debug, Serialize, ToSchema)]
struct RebuildingView {
    /// As of a projection.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    /// Everything up to here is in it.
    position: u64,
}

impl From<Standing> for ProjectionView {
    fn from(standing: Standing) -> Self {
        ProjectionView {
            name: standing.name,
            stream: standing.stream,
            options: standing.options,
            columns: standing.columns,
            created: rfc3339(standing.created_ms),
            state: standing.state.as_str(),
            trouble: standing.trouble,
            position: standing.position,
            behind: standing
                .version
                .map(|version| version.saturating_sub(standing.position)),
            taken: standing.taken,
            groups: standing.groups,
            misfits: standing.misfits,
            missed: standing.missed,
            last_recorded: (standing.recorded_ms > 0).then(|| rfc3339(standing.recorded_ms)),
            rebuilding: standing.rebuilding.map(|rebuilding| RebuildingView {
                state: rebuilding.state.as_str(),
                trouble: rebuilding.trouble,
                position: rebuilding.position,
            }),
            snapshots: standing.snapshots,
        }
    }
}

/// List the projections of this node
#[utoipa::path(get, path = "/v1/projections", responses((status = 200, body = [ProjectionView])))]
async fn list(State(app): State<App>) -> Result<Json<Vec<ProjectionView>>, Problem> {
    let list = handle(&app)?.list().await.map_err(NodeError::from)?;
    Ok(Json(list.into_iter().map(ProjectionView::from).collect()))
}

async fn view(app: &App, projection: &str) -> Result<Json<ProjectionView>, NodeError> {
    Ok(Json(handle(app)?.info(projection).await?.into()))
}

/// One projection
#[utoipa::path(get, path = "/v1/projections/{projection}", params(("projection" = String, Path)), responses((status = 200, body = ProjectionView)))]
async fn info(State(app): State<App>, Path(projection): Path<String>) -> Result<Json<ProjectionView>, Problem> {
    Ok(view(&app, &projection).await?)
}

/// Define a projection; the same definition again is no mistake
#[utoipa::path(put, path = "/v1/projections/{projection}", params(("projection" = String, Path)), request_body = ProjectionOptions, responses((status = 200, body = ProjectionView), (status = 201, body = ProjectionView)))]
async fn define(
    State(app): State<App>,
    Path(projection): Path<String>,
    Json(options): Json<ProjectionOptions>,
) -> Result<(StatusCode, Json<ProjectionView>), Problem> {
    let is_new = handle(&app)?
        .define(&projection, options)
        .await
        .map_err(NodeError::from)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, view(&app, &projection).await?))
}

/// Remove a projection with its snapshots
#[utoipa::path(delete, path = "/v1/projections/{projection}", params(("projection" = String, Path)), responses((status = 204)))]
async fn remove(State(app): State<App>, Path(projection): Path<String>) -> Result<StatusCode, Problem> {
    handle(&app)?.remove(&projection).await.map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which rows.
#[derive(Debug, Deserialize, IntoParams)]
struct RowsQuery {
    /// The first keys of their groups, as a JSON array.
    keys: Option<String>,
    /// Behind these, as an earlier answer said.
    after: Option<String>,
    /// So many at most; 1000, if nothing is said.
    limit: Option<usize>,
    /// As they were behind this position, or at this time (RFC 3339).
    at: Option<String>,
    /// Wait until everything up to this position is in them.
    wait_for: Option<u64>,
    /// How long, milliseconds; 10 s, if nothing is said.
    wait_ms: Option<u64>,
}

/// Some rows of a projection.
#[derive(Debug, Serialize, ToSchema)]
struct RowsView {
    /// Everything up to here is in them.
    position: u64,
    rows: Vec<Map<String, Value>>,
    /// Say `after=` this for what may come behind them; nothing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn moment(text: &str) -> Result<Moment, NodeError> {
    if let Ok(position) = text.parse() {
        return Ok(Moment::Position(position));
    }
    let time = parse_time(text).map(Moment::Time);
    time.ok_or_else(|| NodeError::invalid(format!("{text:?} is neither a position nor a time (RFC 3339)")))
}

fn keys_of(text: &str) -> Result<Vec<Value>, NodeError> {
    serde_json::from_str(text).map_err(|_| NodeError::invalid("keys is no JSON array"))
}

/// The rows of a projection, in the order of their groups, as they are or as they were
#[utoipa::path(get, path = "/v1/projections/{projection}/rows", params(("projection" = String, Path), RowsQuery), responses((status = 200, body = RowsView)))]
async fn rows(
    State(app): State<App>,
    Path(projection): Path<String>,
    Query(query): Query<RowsQuery>,
) -> Result<Json<RowsView>, Problem> {
    let handle = handle(&app)?;
    let keys = query.keys.as_deref().map_or(Ok(Vec::new()), keys_of)?;
    let after = query
        .after
        .as_deref()
        .map(|after| BASE64URL_NOPAD.decode(after.as_bytes()));
    let after = after
        .transpose()
        .map_err(|_| NodeError::invalid("after is not what an answer said"))?;
    let at = query.at.as_deref().map(moment).transpose()?;
    if let Some(position) = query.wait_for {
        let within = query
            .wait_ms
            .map_or(Duration::from_secs(10), Duration::from_millis)
            .min(WAIT_MAX);
        handle
            .wait_for(&projection, position, within)
            .await
            .map_err(NodeError::from)?;
    }
    let most = query.limit.unwrap_or(ROWS_MAX);
    let rows = handle
        .rows(&projection, &keys, after.as_deref(), at, most)
        .await
        .map_err(NodeError::from)?;
    Ok(Json(RowsView {
        position: rows.position,
        rows: rows.rows,
        next: rows.next.map(|next| BASE64URL_NOPAD.encode(&next)),
    }))
}

/// Between which moments.
#[derive(Debug, Deserialize, IntoParams)]
struct DifferenceQuery {
    /// A position, or a time (RFC 3339).
    from: String,
    /// A position, or a time; if nothing is said, how it is now.
    to: Option<String>,
}

/// A row that is not as it was.
#[derive(Debug, Serialize, ToSchema)]
struct ChangeView {
    /// As it was; nothing when there was none.
    before: Option<Map<String, Value>>,
    /// As it is; nothing when there is none any more.
    after: Option<Map<String, Value>>,
}

/// What is different between two moments.
#[derive(Debug, Serialize, ToSchema)]
struct DifferenceView {
    from: u64,
    to: u64,
    changes: Vec<ChangeView>,
}

/// What became of a projection's rows between two moments
#[utoipa::path(get, path = "/v1/projections/{projection}/difference", params(("projection" = String, Path), DifferenceQuery), responses((status = 200, body = DifferenceView)))]
async fn difference(
    State(app): State<App>,
    Path(projection): Path<String>,
    Query(query): Query<DifferenceQuery>,
) -> Result<Json<DifferenceView>, Problem> {
    let handle = handle(&app)?;
    let to = match query.to.as_deref() {
        Some(to) => moment(to)?,
        None => Moment::Position(handle.info(&projection).await.map_err(NodeError::from)?.position),
    };
    let difference = handle.difference(&projection, moment(&query.from)?, to).await;
    let (from, to, changes) = difference.map_err(NodeError::from)?;
    let view = |Change { before, after }| ChangeView { before, after };
    let changes = changes.into_iter().map(view).collect();
    Ok(Json(DifferenceView { from, to, changes }))
}

/// How a projection is built anew.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Rebuild {
    /// By another statement.
    sql: Option<String>,
}

/// Build a projection anew beside the old one, which is served until the new one has caught up
#[utoipa::path(post, path = "/v1/projections/{projection}/rebuild", params(("projection" = String, Path)), request_body = Rebuild, responses((status = 202, body = ProjectionView)))]
async fn rebuild(
    State(app): State<App>,
    Path(projection): Path<String>,
    Json(rebuild): Json<Rebuild>,
) -> Result<(StatusCode, Json<ProjectionView>), Problem> {
    handle(&app)?
        .rebuild(&projection, rebuild.sql)
        .await
        .map_err(NodeError::from)?;
    Ok((StatusCode::ACCEPTED, view(&app, &projection).await?))
}

/// A snapshot of a projection.
#[derive(Debug, Serialize, ToSchema)]
struct SnapshotView {
    /// Of which position.
    position: u64,
    groups: u64,
    bytes: u64,
    taken: String,
    /// Whether somebody asked for it; otherwise it makes room for newer ones.
    asked_for: bool,
}

impl From<SnapshotInfo> for SnapshotView {
    fn from(info: SnapshotInfo) -> Self {
        SnapshotView {
            position: info.position,
            groups: info.groups,
            bytes: info.bytes,
            taken: rfc3339(info.taken_ms),
            asked_for: info.is_asked_for,
        }
    }
}

/// List the snapshots of a projection, the oldest first
#[utoipa::path(get, path = "/v1/projections/{projection}/snapshots", params(("projection" = String, Path)), responses((status = 200, body = [SnapshotView])))]
async fn snapshots(State(app): State<App>, Path(projection): Path<String>) -> Result<Json<Vec<SnapshotView>>, Problem> {
    let all = handle(&app)?.snapshots(&projection).await.map_err(NodeError::from)?;
    Ok(Json(all.into_iter().map(SnapshotView::from).collect()))
}

/// Keep a snapshot of a projection as it is now
#[utoipa::path(post, path = "/v1/projections/{projection}/snapshots", params(("projection" = String, Path)), responses((status = 201, body = SnapshotView)))]
async fn snapshot(
    State(app): State<App>,
    Path(projection): Path<String>,
) -> Result<(StatusCode, Json<SnapshotView>), Problem> {
    let info = handle(&app)?.snapshot(&projection).await.map_err(NodeError::from)?;
    Ok((StatusCode::CREATED, Json(info.into())))
}

/// Remove a snapshot
#[utoipa::path(delete, path = "/v1/projections/{projection}/snapshots/{position}", params(("projection" = String, Path), ("position" = u64, Path)), responses((status = 204)))]
async fn remove_snapshot(
    State(app): State<App>,
    Path((projection, position)): Path<(String, u64)>,
) -> Result<StatusCode, Problem> {
    let removed: Result<(), ProjectionError> = handle(&app)?.remove_snapshot(&projection, position).await;
    removed.map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}
