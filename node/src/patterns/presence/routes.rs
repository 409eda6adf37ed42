//! The same handle over the local API.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{Pattern, PeerId, Subject, patterns::presence::Will};

use super::{Change, Declared, PresenceHandle, Present};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Body, Json, Path, Problem, Query},
        rfc3339,
    },
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// What selects everything.
const ALL: &str = ">";

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(declare, withdraw))
        .routes(routes!(watch))
}

fn handle(app: &App) -> Result<PresenceHandle, NodeError> {
    let missing = || NodeError::internal("the node was built without presence");
    app.presence.clone().ok_or_else(missing)
}

/// What is asked about.
#[derive(Debug, Deserialize, IntoParams)]
struct Asked {
    /// Which subjects; all, if not given.
    pattern: Option<String>,
}

impl Asked {
    fn pattern(&self) -> Result<Pattern, NodeError> {
        Ok(self.pattern.as_deref().unwrap_or(ALL).parse()?)
    }
}

/// Something that is there.
#[derive(Debug, Serialize, ToSchema)]
struct PresentView {
    subject: String,
    /// At which node.
    node: String,
    /// That node's name, if it has said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Since when, by that node's calendar.
    since: String,
    /// Whether something is said when it is gone without a word.
    will: bool,
}

fn name_of(app: &App, node: &PeerId) -> Option<String> {
    app.node.mesh().trust().record(node).map(|record| record.name)
}

/// What is there now
#[utoipa::path(get, path = "/v1/presences", params(Asked), responses((status = 200, body = [PresentView])))]
async fn list(State(app): State<App>, Query(asked): Query<Asked>) -> Result<Json<Vec<PresentView>>, Problem> {
    let pattern = asked.pattern()?;
    let present = handle(&app)?.present(&pattern).await;
    let view = |present: Present| PresentView {
        subject: present.subject.to_string(),
        name: name_of(&app, &present.node),
        node: present.node.to_string(),
        since: rfc3339(present.since_ms),
        will: present.has_will,
    };
    Ok(Json(present.into_iter().map(view).collect()))
}

/// What is there, and from then on what comes and goes: server-sent events `present`, `withdrawn` and `gone`
#[utoipa::path(get, path = "/v1/presence-changes", params(Asked), responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn watch(State(app): State<App>, Query(asked): Query<Asked>) -> Result<impl IntoResponse, Problem> {
    let watching = handle(&app)?.watch(asked.pattern()?);
    let stream = futures::stream::unfold((watching, app), |(mut watching, app)| async move {
        let change = watching.next().await?;
        let event = Event::default()
            .event(change.fate.as_str())
            .data(told(&app, &change).to_string());
        Some((Ok::<_, Infallible>(event), (watching, app)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn told(app: &App, change: &Change) -> serde_json::Value {
    let mut told = json!({
        "change": change.fate.as_str(),
        "subject": change.subject.as_str(),
        "node": change.node.to_string(),
        "since": rfc3339(change.since_ms),
    });
    if let Some(name) = name_of(app, &change.node) {
        told["name"] = name.into();
    }
    told
}

/// How something is declared.
#[derive(Debug, Deserialize, IntoParams)]
struct DeclareQuery {
    /// On which subject the body is said when the connection ends without a word; the same subject, if there is a body and this is not given.
    will_subject: Option<String>,
}

/// Which one.
#[derive(Debug, Deserialize, IntoParams)]
struct WithdrawQuery {
    /// Its number, as the event `declared` said it.
    number: u64,
}

/// A presence that lasts as long as its connection.
struct Live {
    declared: Option<Declared>,
    /// What is said first.
    first: Option<Event>,
    handle: PresenceHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(declared) = self.declared.take() {
            self.handle.let_go(declared);
        }
    }
}

/// Declare that something is there, for as long as this connection lasts: server-sent events, the first is `declared` with its number
#[utoipa::path(post, path = "/v1/presences/{subject}", params(("subject" = String, Path), DeclareQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = String, content_type = "text/event-stream")))]
async fn declare(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<DeclareQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<impl IntoResponse, Problem> {
    let subject: Subject = subject.parse().map_err(NodeError::from)?;
    let will_subject = match query.will_subject {
        Some(text) => Some(text.parse().map_err(NodeError::from)?),
        None if body.is_empty() => None,
        None => Some(subject.clone()),
    };
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let will = will_subject.map(|subject| Will {
        subject,
        datacontenttype: media.map(ToOwned::to_owned),
        data: body.to_vec(),
    });
    let handle = handle(&app)?;
    let declared = handle.declare(subject, will).map_err(NodeError::from)?;
    let number = json!({ "number": declared.number() });
    let live = Live {
        declared: Some(declared),
        first: Some(Event::default().event("declared").data(number.to_string())),
        handle,
    };
    let stream = futures::stream::unfold(Some(live), |live| async move {
        let mut live = live?;
        if let Some(first) = live.first.take() {
            return Some((Ok::<_, Infallible>(first), Some(live)));
        }
        live.declared.as_ref()?.withdrawn().await;
        live.declared = None;
        Some((Ok(Event::default().event("withdrawn").data("{}")), None))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// Withdraw something: its will is not said, and its connection ends
#[utoipa::path(delete, path = "/v1/presences/{subject}", params(("subject" = String, Path), WithdrawQuery), responses((status = 204)))]
async fn withdraw(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<WithdrawQuery>,
) -> Result<StatusCode, Problem> {
    let subject: Subject = subject.parse().map_err(NodeError::from)?;
    let number = query.number;
    if handle(&app)?.withdraw(&subject, number) {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(NodeError::not_found(format!(
        "no {subject} with the number {number} is declared at this node"
    ))
    .into())
}
