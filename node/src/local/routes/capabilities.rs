//! Capabilities: granted, kept, explained.

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weft_protocol::{Audience, Grant, Membership, PublicKey, Subject, Verb, Verbs};

use super::{Answer, members::millis, resolve, rfc3339};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json as JsonBody, Query},
    },
    trust::{
        Promise, Rule, Trust,
        guard::{GrantRequest, HeldToken, token_id},
        promotion::needs_certificate,
    },
};

#[derive(Debug, Serialize, ToSchema)]
struct GrantView {
    verbs: Vec<String>,
    resource: String,
    depth: u8,
}

/// What somebody was granted, by a capability or in a certificate.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Capability {
    /// `capability`, or `certificate` for rights that only a certificate carries.
    carried_by: &'static str,
    /// Of a certificate: whether the member has yet to fetch it.
    pending: bool,
    /// Of a capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    audience: String,
    grants: Vec<GrantView>,
    expires_at: String,
    issuer: String,
    /// Of a capability: the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

fn grant_view(grant: &Grant) -> GrantView {
    GrantView {
        verbs: grant.verbs.iter().map(|v| v.as_str().to_owned()).collect(),
        resource: grant.resource.to_string(),
        depth: grant.depth,
    }
}

fn of_token(held: &HeldToken) -> Capability {
    Capability {
        carried_by: "capability",
        pending: false,
        token_id: Some(data_encoding::HEXLOWER.encode(&token_id(&held.token))),
        audience: match &held.effective.audience {
            Audience::Key(key) => key.peer_id().to_string(),
            Audience::Role(role) => format!("role:{role}"),
        },
        grants: held.effective.grants.iter().map(grant_view).collect(),
        expires_at: rfc3339(held.effective.not_after_ms),
        issuer: held.effective.issuer.peer_id().to_string(),
        text: Some(held.token.to_string()),
    }
}

fn of_promise(trust: &Trust, promise: &Promise) -> Capability {
    Capability {
        carried_by: "certificate",
        pending: true,
        token_id: None,
        audience: promise.peer.to_string(),
        grants: promise.grants.iter().map(grant_view).collect(),
        expires_at: rfc3339(promise.not_after_ms),
        issuer: trust.local_peer().to_string(),
        text: None,
    }
}

fn of_member(member: &Membership) -> Capability {
    Capability {
        carried_by: "certificate",
        pending: false,
        token_id: None,
        audience: member.peer_id.to_string(),
        grants: member.grants.iter().map(grant_view).collect(),
        expires_at: rfc3339(member.not_after_ms),
        issuer: member.issuer.peer_id().to_string(),
        text: None,
    }
}

/// What this node knows to be granted: the capabilities it keeps, the grants in the members' certificates, and those that are
/// promised
#[utoipa::path(get, path = "/v1/capabilities", responses((status = 200, body = [Capability])))]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Capability>> {
    let trust = app.node.trust();
    let members = trust.known_members().into_iter().filter_map(|known| known.membership);
    let certified: Vec<Membership> = members.filter(|member| !member.grants.is_empty()).collect();
    let mut all: Vec<Capability> = trust.tokens().iter().map(of_token).collect();
    all.extend(certified.iter().map(of_member));
    all.extend(trust.promises().iter().map(|promise| of_promise(trust, promise)));
    Json(all)
}

/// What to grant to whom.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// A member, or `role:NAME`.
    audience: String,
    /// With `invite`, `grant`, `admin` or `all`, it goes into the certificate of the member.
    verbs: Vec<String>,
    /// A subject pattern: `orders.>`.
    resource: String,
    #[serde(default)]
    depth: u8,
    /// Without it 90 days; a grant in a certificate lasts as long as the membership.
    ttl_s: Option<f64>,
}

const TTL_S_DEFAULT: f64 = 90.0 * 86_400.0;

/// Grant a right; it is delivered to its audience over the mesh
#[utoipa::path(post, path = "/v1/capabilities", request_body = GrantBody, responses((status = 201, body = Capability)))]
pub(super) async fn grant(
    State(app): State<App>,
    JsonBody(body): JsonBody<GrantBody>,
) -> Answer<(StatusCode, Json<Capability>)> {
    let trust = app.node.trust();
    let verbs: Verbs = body.verbs.join(",").parse().map_err(NodeError::from)?;
    let resource = body.resource.parse().map_err(NodeError::from)?;
    if needs_certificate(verbs) {
        if body.audience.starts_with("role:") {
            let error = NodeError::invalid(format!("{verbs} is a right of single members and not of a role"));
            return Err(error
                .with_hint("name the member; a newcomer gets it by `weft member approve ID --grant …`")
                .into());
        }
        if body.ttl_s.is_some() {
            let error = NodeError::invalid(format!(
                "{verbs} goes into the member's certificate and has no time of its own"
            ));
            return Err(error
                .with_hint("leave the time out; `weft member revoke` ends the right, and the membership")
                .into());
        }
        let peer = resolve(&app, &body.audience)?;
        let promise = trust.promise(&peer, Grant::new(verbs, resource, body.depth)).await?;
        return Ok((StatusCode::CREATED, Json(of_promise(trust, &promise))));
    }
    let audience = match body.audience.strip_prefix("role:") {
        Some(role) => Audience::Role(role.to_owned()),
        None => {
            let peer = resolve(&app, &body.audience)?;
            let key = PublicKey::from_peer_id(&peer);
            Audience::Key(key.ok_or_else(|| NodeError::invalid("only Ed25519 keys can hold capabilities"))?)
        }
    };
    let request = GrantRequest {
        resource,
        depth: body.depth,
        ttl_ms: millis(body.ttl_s.unwrap_or(TTL_S_DEFAULT))?,
    };
    let held = trust.grant(audience, verbs, request).await?;
    Ok((StatusCode::CREATED, Json(of_token(&held))))
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
    let verb: Verb = query.verb.parse().map_err(NodeError::from)?;
    let what = Subject::reserved(&query.what).map_err(NodeError::from)?;
    let trust = app.node.trust();
    let (who, decision) = match query.who.strip_prefix("role:") {
        Some(role) => (query.who.clone(), trust.explain_role(role, verb, &what)),
        None => {
            let peer = resolve(&app, &query.who)?;
            (peer.to_string(), trust.explain(&peer, verb, &what))
        }
    };
    Ok(Json(Explained {
        allowed: decision.allowed,
        who,
        verb: query.verb,
        what: query.what,
        because: decision.because,
        rule: decision.rule,
    }))
}
