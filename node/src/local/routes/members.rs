//! Members, those who wait, invitations.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use weft_protocol::{Grant, PeerId};

use super::{Answer, resolve_path, rfc3339};
use crate::{
    error::NodeError,
    local::{
        App,
        problem::{Json as JsonBody, Query},
    },
    trust::{InviteOptions, IssueOptions},
};

/// Which list.
#[derive(Debug, Deserialize, IntoParams)]
pub(super) struct ListQuery {
    /// `pending` or `revoked`; without it, the members.
    state: Option<String>,
}

/// A member, one that waits, or one that was revoked: the fields that do not apply are absent.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Member {
    peer_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connected: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "self")]
    is_self: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<String>,
}

/// The members of the mesh, those who wait to be let in, or those who were revoked
#[utoipa::path(get, path = "/v1/members", params(ListQuery), responses((status = 200, body = [Member])))]
pub(super) async fn list(State(app): State<App>, Query(query): Query<ListQuery>) -> Answer<Json<Vec<Member>>> {
    let trust = app.node.trust();
    Ok(Json(match query.state.as_deref() {
        Some("pending") => trust
            .pending()
            .into_iter()
            .map(|p| Member {
                peer_id: p.peer.to_string(),
                name: Some(p.name),
                agent: Some(p.agent),
                address: Some(p.address),
                since: Some(rfc3339(p.since_ms)),
                ..Member::default()
            })
            .collect(),
        Some("revoked") => trust
            .revocations()
            .into_iter()
            .map(|r| Member {
                peer_id: r.subject.peer_id().to_string(),
                reason: Some(r.reason),
                revoked_at: Some(rfc3339(r.revoked_at_ms)),
                ..Member::default()
            })
            .collect(),
        None => trust.known_members().iter().map(|m| member(&app, m)).collect(),
        Some(other) => return Err(NodeError::invalid(format!("no list {other}: pending or revoked")).into()),
    }))
}

fn member(app: &App, known: &crate::trust::directory::KnownMember) -> Member {
    let is_self = known.peer == app.node.trust().local_peer();
    let membership = known.membership.as_ref();
    Member {
        peer_id: known.peer.to_string(),
        name: Some(
            membership
                .map(|m| m.name.clone())
                .filter(|n| !n.is_empty())
                .unwrap_or(known.record.name.clone()),
        ),
        roles: Some(membership.map(|m| m.roles.clone()).unwrap_or_default()),
        labels: Some(
            membership
                .map(|m| m.labels.iter().cloned().collect())
                .unwrap_or_default(),
        ),
        connected: Some(is_self || app.node.mesh().peers().contains(&known.peer)),
        last_seen_at: Some(rfc3339(known.record.issued_at_ms)),
        expires_at: membership
            .filter(|m| m.not_after_ms != u64::MAX)
            .map(|m| rfc3339(m.not_after_ms)),
        issuer: membership.map(|m| m.issuer.peer_id().to_string()),
        is_self: Some(is_self),
        revoked: Some(false),
        addresses: Some(known.record.addresses.iter().map(ToString::to_string).collect()),
        agent: Some(known.record.agent.clone()),
        ..Member::default()
    }
}

/// How to let a node in.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApproveRequest {
    role: Option<String>,
    roles: Vec<String>,
    labels: BTreeMap<String, String>,
    ttl_s: Option<f64>,
    /// For instance `call:orders.>`.
    grants: Vec<String>,
}

/// Let a waiting node in
#[utoipa::path(post, path = "/v1/members/{id}/approve", params(("id" = String, Path)), request_body = ApproveRequest, responses((status = 200, body = Member)))]
pub(super) async fn approve(
    State(app): State<App>,
    id: Path<String>,
    JsonBody(request): JsonBody<ApproveRequest>,
) -> Answer<Json<Member>> {
    let peer = resolve_path(&app, id)?;
    let mut roles = request.roles;
    roles.extend(request.role);
    let grants: Result<Vec<Grant>, _> = request.grants.iter().map(|g| g.parse::<Grant>()).collect();
    let options = IssueOptions {
        roles,
        labels: request.labels.into_iter().collect(),
        grants: grants.map_err(NodeError::from)?,
        ttl_ms: request.ttl_s.map(millis).transpose()?,
    };
    let approved = app.node.trust().approve(&peer, &options)?;
    let roles = if options.roles.is_empty() {
        vec!["member".to_owned()]
    } else {
        options.roles
    };
    let view = Member {
        peer_id: approved.peer.to_string(),
        name: Some(approved.name),
        agent: Some(approved.agent),
        roles: Some(roles),
        ..Member::default()
    };
    Ok(Json(view))
}

/// Why.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RevokeRequest {
    reason: String,
}

/// What the revocation did.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Revoked {
    peer_id: String,
    revoked_at: String,
    /// Connected members that are being told.
    told: usize,
    /// Members the revoked one had admitted, who have new certificates now.
    adopted: Vec<String>,
}

/// Revoke a member, for good
#[utoipa::path(post, path = "/v1/members/{id}/revoke", params(("id" = String, Path)), request_body = RevokeRequest, responses((status = 200, body = Revoked)))]
pub(super) async fn revoke(
    State(app): State<App>,
    id: Path<String>,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> Answer<Json<Revoked>> {
    let peer = resolve_path(&app, id)?;
    let told = app.node.mesh().peers().all().into_keys().filter(|p| *p != peer).count();
    let revoked = app.node.trust().revoke(&peer, &request.reason).await?;
    Ok(Json(Revoked {
        peer_id: revoked.peer.to_string(),
        revoked_at: rfc3339(revoked.revoked_at_ms),
        told,
        adopted: revoked.adopted.iter().map(PeerId::to_string).collect(),
    }))
}

/// What an invitation gives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct InviteRequest {
    ttl_s: f64,
    uses: u32,
    role: Option<String>,
    labels: BTreeMap<String, String>,
}

impl Default for InviteRequest {
    fn default() -> Self {
        InviteRequest {
            ttl_s: 3600.0,
            uses: 1,
            role: None,
            labels: BTreeMap::new(),
        }
    }
}

/// An invitation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Invite {
    id: String,
    role: String,
    uses: u32,
    used: usize,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    addresses: Option<Vec<String>>,
}

/// The invitations that can still be used
#[utoipa::path(get, path = "/v1/invites", responses((status = 200, body = [Invite])))]
pub(super) async fn invites(State(app): State<App>) -> Answer<Json<Vec<Invite>>> {
    let open = app.node.trust().invitations().await?;
    Ok(Json(open.into_iter().map(|i| view(i, None)).collect()))
}

/// Make an invitation and its ticket
#[utoipa::path(post, path = "/v1/invites", request_body = InviteRequest, responses((status = 201, body = Invite)))]
pub(super) async fn invite(
    State(app): State<App>,
    JsonBody(request): JsonBody<InviteRequest>,
) -> Answer<(StatusCode, Json<Invite>)> {
    if let Some(role) = &request.role {
        weft_protocol::name::check_role(role).map_err(NodeError::from)?;
    }
    let options = InviteOptions {
        ttl_ms: millis(request.ttl_s)?,
        uses: request.uses,
        role: request.role.unwrap_or_default(),
        labels: request.labels.into_iter().collect(),
    };
    let ticket = crate::launch::invite(&app.node, &options).await?;
    Ok((StatusCode::CREATED, Json(view(ticket.1, Some(ticket.0)))))
}

/// Withdraw an invitation
#[utoipa::path(delete, path = "/v1/invites/{id}", params(("id" = String, Path)), responses((status = 204)))]
pub(super) async fn withdraw(State(app): State<App>, Path(id): Path<String>) -> Answer<StatusCode> {
    app.node.trust().withdraw_invitation(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(invitation: crate::trust::Invitation, ticket: Option<weft_protocol::Ticket>) -> Invite {
    Invite {
        id: invitation.id,
        role: invitation.role,
        uses: invitation.uses,
        used: invitation.used_by.len(),
        expires_at: rfc3339(invitation.not_after_ms),
        mesh_id: ticket.as_ref().map(|t| t.mesh.to_string()),
        addresses: ticket
            .as_ref()
            .map(|t| t.addresses.iter().map(ToString::to_string).collect()),
        ticket: ticket.map(|t| t.to_string()),
    }
}

/// Seconds to milliseconds: positive, at most ten years.
pub(super) fn millis(seconds: f64) -> Result<u64, NodeError> {
    if seconds > 0.0 && seconds <= 10.0 * 365.0 * 86_400.0 {
        Ok((seconds * 1000.0) as u64)
    } else {
        Err(NodeError::invalid(format!(
            "{seconds} s is no duration between zero and ten years"
        )))
    }
}
