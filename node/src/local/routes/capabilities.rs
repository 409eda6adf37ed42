//! Capabilities: granted, kept, explained.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weft_protocol::{Audience, PublicKey, Subject, Verb, Verbs};

use super::{Answer, members::millis, resolve, rfc3339};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json as JsonBody, Query},
    },
    trust::{
        Rule,
        guard::{GrantRequest, HeldToken, token_id},
    },
};

#[derive(Debug, Serialize, ToSchema)]
struct GrantView {
    verbs: Vec<String>,
    resource: String,
    depth: u8,
}

/// A capability.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Capability {
    token_id: String,
    audience: String,
    grants: Vec<GrantView>,
    expires_at: String,
    issuer: String,
    text: String,
}

fn view(held: &HeldToken) -> Capability {
    Capability {
        token_id: data_encoding::HEXLOWER.encode(&token_id(&held.token)),
        audience: match &held.effective.audience {
            Audience::Key(key) => key.peer_id().to_string(),
            Audience::Role(role) => format!("role:{role}"),
        },
        grants: held
            .effective
            .grants
            .iter()
            .map(|g| GrantView {
                verbs: g.verbs.iter().map(|v| v.as_str().to_owned()).collect(),
                resource: g.resource.to_string(),
                depth: g.depth,
            })
            .collect(),
        expires_at: rfc3339(held.effective.not_after_ms),
        issuer: held.effective.issuer.peer_id().to_string(),
        text: held.token.to_string(),
    }
}

/// The capabilities this node keeps
#[utoipa::path(get, path = "/v1/capabilities", responses((status = 200, body = [Capability])))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Capability>> {
    Json(app.node.trust().tokens().iter().map(view).collect())
}

/// What to grant to whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// A member, or `role:NAME`.
    audience: String,
    verbs: Vec<String>,
    /// A subject pattern: `orders.>`.
    resource: String,
    #[serde(default)]
    depth: u8,
    #[serde(default = "default_ttl_s")]
    ttl_s: f64,
}

fn default_ttl_s() -> f64 {
    90.0 * 86_400.0
}

/// Grant a capability; it is delivered to its audience over the mesh
#[utoipa::path(post, path = "/v1/capabilities", request_body = GrantBody, responses((status = 201, body = Capability)))]
pub(super) async fn grant(
    State(app): State<App>,
    JsonBody(body): JsonBody<GrantBody>,
) -> Answer<(StatusCode, Json<Capability>)> {
    let audience = match body.audience.strip_prefix("role:") {
        Some(role) => Audience::Role(role.to_owned()),
        None => {
            let peer = resolve(&app, &body.audience)?;
            let key = PublicKey::from_peer_id(&peer);
            Audience::Key(key.ok_or_else(|| NodeError::invalid("only Ed25519 keys can hold capabilities"))?)
        }
    };
    let verbs: Verbs = body.verbs.join(",").parse().map_err(NodeError::from)?;
    let request = GrantRequest {
        resource: body.resource.parse().map_err(NodeError::from)?,
        depth: body.depth,
        ttl_ms: millis(body.ttl_s)?,
    };
    let held = app.node.trust().grant(audience, verbs, request).await?;
    Ok((StatusCode::CREATED, Json(view(&held))))
}

/// WHO VERB WHAT.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct ExplainQuery {
    who: String,
    verb: String,
    what: String,
}

/// May it, and why.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explained {
    allowed: bool,
    who: String,
    verb: String,
    what: String,
    because: Vec<String>,
    #[schema(value_type = String)]
    rule: Rule,
}

/// May WHO do VERB on WHAT at this node, and why
#[utoipa::path(get, path = "/v1/capabilities/explain", params(ExplainQuery), responses((status = 200, body = Explained)))]
pub(super) async fn explain(State(app): State<App>, Query(query): Query<ExplainQuery>) -> Answer<Json<Explained>> {
    let peer = resolve(&app, &query.who)?;
    let verb: Verb = query.verb.parse().map_err(NodeError::from)?;
    let what = Subject::reserved(&query.what).map_err(NodeError::from)?;
    let decision = app.node.trust().explain(&peer, verb, &what);
    Ok(Json(Explained {
        allowed: decision.allowed,
        who: peer.to_string(),
        verb: query.verb,
        what: query.what,
        because: decision.because,
        rule: decision.rule,
    }))
}
