//! Traces over HTTP.

use std::time::Duration;

use axum::{Json, extract::State, http::HeaderMap};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::{Subject, Wire as _};

use super::{HopRecord, Traced, routes::options_of};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Body, Path, Problem, Query},
        rfc3339,
    },
};

/// How long hops are waited for, if nothing is said, and at most.
const WITHIN: Duration = Duration::from_secs(2);
const WITHIN_MAX: Duration = Duration::from_secs(60);

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(trace))
}

/// How a message is traced.
#[derive(Debug, Deserialize, IntoParams)]
struct TraceQuery {
    /// It is for no subscriber: only its way is of interest.
    #[serde(default)]
    only: bool,
    /// How many milliseconds nodes have to say that it came by; 2000 unless said otherwise. What goes directly is over as soon as all have.
    within_ms: Option<u64>,
}

/// A traced message and its way.
#[derive(Debug, Serialize, ToSchema)]
struct TracedMessage {
    id: String,
    subject: String,
    /// Whether it went to those that want it alone, and not by gossip.
    direct: bool,
    /// What nodes said, in the order of their times.
    hops: Vec<HopMessage>,
}

/// What a node said.
#[derive(Debug, Serialize, ToSchema)]
struct HopMessage {
    /// Who says it.
    node: String,
    /// Its name, if it has said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Who handed the message to it; itself, if it published it.
    from: String,
    /// `published`, `direct` or `gossip`.
    way: &'static str,
    /// When it came, by that node's calendar.
    received_at: String,
    /// That, less the time at which it was published, by this node's calendar.
    after_ms: i64,
    /// Subscriptions there that it selects.
    subscriptions: u32,
    /// All of it, with the node's signature, in base64.
    signed: String,
}

/// Publish a message and say which way it went
#[utoipa::path(post, path = "/v1/traces/{subject}", params(("subject" = String, Path), TraceQuery), request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses((status = 200, body = TracedMessage)))]
async fn trace(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<TraceQuery>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Json<TracedMessage>, Problem> {
    let subject: Subject = subject.parse().map_err(NodeError::from)?;
    let within = query.within_ms.map_or(WITHIN, Duration::from_millis);
    if within > WITHIN_MAX {
        let most = WITHIN_MAX.as_secs();
        return Err(NodeError::invalid(format!("hops are waited for {most} s at most")).into());
    }
    let trust = app.node.mesh().trust();
    let published_ms = trust.now_ms();
    let asked = (query.only, within);
    let Traced { receipt, mut hops } = app.messages.trace(&subject, body, options_of(&headers), asked).await?;
    hops.sort_by_key(|hop| (hop.received_at_ms, hop.node != hop.from));
    let hop = |hop: HopRecord| HopMessage {
        name: trust.record(&hop.node).map(|record| record.name),
        way: match (hop.node == hop.from, hop.is_direct) {
            (true, _) => "published",
            (false, true) => "direct",
            (false, false) => "gossip",
        },
        node: hop.node.to_string(),
        from: hop.from.to_string(),
        received_at: rfc3339(hop.received_at_ms),
        after_ms: i64::try_from(hop.received_at_ms).unwrap_or(i64::MAX)
            - i64::try_from(published_ms).unwrap_or(i64::MAX),
        subscriptions: hop.subscriptions,
        signed: BASE64.encode(&hop.signed.to_bytes()),
    };
    Ok(Json(TracedMessage {
        id: receipt.id,
        subject: subject.to_string(),
        direct: receipt.is_direct,
        hops: hops.into_iter().map(hop).collect(),
    }))
}
