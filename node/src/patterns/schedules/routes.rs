//! The same handle over the local API.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{Subject, patterns::event_sourcing::Event};

use super::{ScheduleOptions, SchedulesHandle, Standing, When};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
        rfc3339,
    },
    patterns::{
        cloud_event::parse_time,
        event_sourcing::{Recorded, event_from_json, event_json, routes::events_of},
    },
};

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, delay))
        .routes(routes!(info, define, remove))
}

fn handle(app: &App) -> Result<&SchedulesHandle, NodeError> {
    let missing = || NodeError::internal("the node was built without schedules");
    app.schedules.as_ref().ok_or_else(missing)
}

/// How a schedule is defined: with one of `at`, `every_ms` and `cron`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScheduleDefinition {
    /// The stream that is appended to.
    stream: String,
    /// Once, at this time (RFC 3339).
    at: Option<String>,
    /// Again and again: so many milliseconds after each other.
    every_ms: Option<u64>,
    /// As a cron expression says, in UTC.
    cron: Option<String>,
    /// What is appended: a CloudEvent in JSON. Without an id each occurrence gets one, without a time the time at which it was due.
    event: Value,
}

/// A schedule, and how it is.
#[derive(Debug, Serialize, ToSchema)]
struct ScheduleView {
    name: String,
    /// The stream that is appended to.
    stream: String,
    /// Once, at this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    /// Again and again: so many milliseconds after each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    every_ms: Option<u64>,
    /// As this cron expression says, in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    /// What is appended.
    event: Value,
    /// When it is due next; nothing when never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    /// Occurrences that were appended.
    done: u64,
    /// Occurrences that were left out, because a later one was due as well.
    left_out: u64,
    /// Occurrences that could not be appended, and never will be.
    failed: u64,
    /// What went wrong last, if nothing has gone well since.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

impl From<Standing> for ScheduleView {
    fn from(standing: Standing) -> Self {
        let (at, every_ms, cron) = match standing.options.when {
            When::Once(at_ms) => (Some(rfc3339(at_ms)), None, None),
            When::Every(every_ms) => (None, Some(every_ms), None),
            When::Cron(expression) => (None, None, Some(expression)),
        };
        ScheduleView {
            name: standing.name,
            event: shown(&standing.options.stream, standing.options.event),
            stream: standing.options.stream.to_string(),
            at,
            every_ms,
            cron,
            due: standing.due_ms.map(rfc3339),
            done: standing.done,
            left_out: standing.left_out,
            failed: standing.failed,
            trouble: standing.trouble,
        }
    }
}

/// An event that has no place in its stream yet: without what it gets there.
fn shown(stream: &Subject, event: Event) -> Value {
    let (has_id, has_time) = (event.id.is_some(), event.time_ms.is_some());
    let mut json = event_json(stream, &Recorded::unplaced(event));
    if let Value::Object(members) = &mut json {
        for (name, stays) in [
            ("sequence", false),
            ("recordedtime", false),
            ("id", has_id),
            ("time", has_time),
        ] {
            if !stays {
                members.remove(name);
            }
        }
    }
    json
}

/// Behind which schedule.
#[derive(Debug, Deserialize, IntoParams)]
struct ListQuery {
    /// Behind the schedule of this name.
    after: Option<String>,
}

/// List the schedules of this node, by name; at most 500, and none when there are no more
#[utoipa::path(get, path = "/v1/schedules", params(ListQuery), responses((status = 200, body = [ScheduleView])))]
async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Result<Json<Vec<ScheduleView>>, Problem> {
    let page = handle(&app)?
        .page(query.after.as_deref())
        .await
        .map_err(NodeError::from)?;
    Ok(Json(page.into_iter().map(ScheduleView::from).collect()))
}

/// What is appended later, and when.
#[derive(Debug, Deserialize, IntoParams)]
struct DelayQuery {
    /// The stream that is appended to.
    stream: String,
    /// At this time (RFC 3339).
    due: Option<String>,
    /// Or in so many milliseconds.
    delay_ms: Option<u64>,
}

/// Append an event later, once: a CloudEvent in binary (`ce-` headers) or structured form, as for an append. The answer says which schedule waits for it
#[utoipa::path(post, path = "/v1/schedules", params(DelayQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 201, body = ScheduleView)))]
async fn delay(
    State(app): State<App>,
    Query(query): Query<DelayQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<(StatusCode, Json<ScheduleView>), Problem> {
    let handle = handle(&app)?;
    let at_ms = match (query.due, query.delay_ms) {
        (Some(due), None) => {
            parse_time(&due).ok_or_else(|| NodeError::invalid(format!("{due:?} is no time (RFC 3339)")))?
        }
        (None, Some(delay_ms)) => handle.now_ms().saturating_add(delay_ms),
        _ => return Err(NodeError::invalid("what is appended later says one of due and delay_ms").into()),
    };
    let mut events = events_of(&headers, &body, false)?;
    let Some(event) = events.pop().filter(|_| events.is_empty()) else {
        return Err(NodeError::invalid("one event is appended later, not several").into());
    };
    let options = ScheduleOptions {
        stream: query.stream.parse().map_err(NodeError::from)?,
        when: When::Once(at_ms),
        event,
    };
    let name = handle.define_nameless(options).await.map_err(NodeError::from)?;
    Ok((StatusCode::CREATED, view(&app, &name).await?))
}

async fn view(app: &App, schedule: &str) -> Result<Json<ScheduleView>, NodeError> {
    Ok(Json(handle(app)?.info(schedule).await?.into()))
}

/// One schedule
#[utoipa::path(get, path = "/v1/schedules/{schedule}", params(("schedule" = String, Path)), responses((status = 200, body = ScheduleView)))]
async fn info(State(app): State<App>, Path(schedule): Path<String>) -> Result<Json<ScheduleView>, Problem> {
    Ok(view(&app, &schedule).await?)
}

fn options_of(definition: ScheduleDefinition) -> Result<ScheduleOptions, NodeError> {
    let when = match (definition.at, definition.every_ms, definition.cron) {
        (Some(at), None, None) => {
            let at_ms = parse_time(&at).ok_or_else(|| NodeError::invalid(format!("{at:?} is no time (RFC 3339)")))?;
            When::Once(at_ms)
        }
        (None, Some(every_ms), None) => When::Every(every_ms),
        (None, None, Some(cron)) => When::Cron(cron),
        _ => return Err(NodeError::invalid("a schedule says one of at, every_ms and cron")),
    };
    Ok(ScheduleOptions {
        stream: definition.stream.parse()?,
        when,
        event: event_from_json(definition.event)?,
    })
}

/// Define a schedule; the same definition again is no mistake
#[utoipa::path(put, path = "/v1/schedules/{schedule}", params(("schedule" = String, Path)), request_body = ScheduleDefinition, responses((status = 200, body = ScheduleView), (status = 201, body = ScheduleView)))]
async fn define(
    State(app): State<App>,
    Path(schedule): Path<String>,
    Json(definition): Json<ScheduleDefinition>,
) -> Result<(StatusCode, Json<ScheduleView>), Problem> {
    let options = options_of(definition)?;
    let is_new = handle(&app)?
        .define(&schedule, options)
        .await
        .map_err(NodeError::from)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, view(&app, &schedule).await?))
}

/// Remove a schedule
#[utoipa::path(delete, path = "/v1/schedules/{schedule}", params(("schedule" = String, Path)), responses((status = 204)))]
async fn remove(State(app): State<App>, Path(schedule): Path<String>) -> Result<StatusCode, Problem> {
    handle(&app)?.remove(&schedule).await.map_err(NodeError::from)?;
    Ok(StatusCode::NO_CONTENT)
}
