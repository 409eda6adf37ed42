//! Status, peers, ping, join, configuration, health.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_protocol::Ticket;

use super::{Answer, resolve, rfc3339};
use crate::{
    error::NodeError,
    local::{App, problem::Json as JsonBody},
    mesh::{Carrier, PeerInfo, Reachability},
    trust::{MeshKind, Standing},
};

/// How long one ping may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a ticket's exchange may take.
const JOIN_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the node has come.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum NodeState {
    Starting,
    Pending,
    Ready,
}

#[derive(Debug, Serialize, ToSchema)]
struct CertificateView {
    issued_at: String,
    expires_at: String,
    renews_at: String,
    issuer: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct RelayView {
    peer_id: String,
    address: String,
}

#[derive(Debug, Serialize, ToSchema)]
struct PendingView {
    mesh_id: String,
    reason: String,
}

/// Who the node is, where it listens, how far it has come.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    peer_id: String,
    name: String,
    version: String,
    agent: String,
    state: NodeState,
    ready: bool,
    mesh_id: Option<String>,
    mesh_kind: Option<String>,
    listen: Vec<String>,
    external: Vec<String>,
    api: String,
    socket: String,
    nats: Option<String>,
    peers: usize,
    members: usize,
    uptime_s: f64,
    started_at: String,
    data_dir: String,
    roles: Vec<String>,
    certificate: Option<CertificateView>,
    pending: Option<PendingView>,
    warnings: Vec<String>,
    reachability: String,
    relays: Vec<RelayView>,
    kad_mode: String,
}

/// Who this node is, where it listens, how far it has come
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    Json(status_of(&app))
}

pub(super) fn status_of(app: &App) -> Status {
    let (node, trust) = (&app.node, app.node.trust());
    let mesh_state = node.mesh().state();
    let standing = trust.watch_standing().borrow().clone();
    let mesh = trust.mesh();
    let ready = node.is_ready();
    let own = trust.own_membership();
    let state = match (&standing, ready) {
        (Standing::Pending(_), _) => NodeState::Pending,
        (_, true) => NodeState::Ready,
        _ => NodeState::Starting,
    };
    let local = trust.local_peer();
    let full = |address: &weft_protocol::Multiaddr| format!("{address}/p2p/{local}");
    let certificate = own
        .as_ref()
        .filter(|m| m.not_after_ms != u64::MAX)
        .map(|m| CertificateView {
            issued_at: rfc3339(m.issued_at_ms),
            expires_at: rfc3339(m.not_after_ms),
            renews_at: rfc3339(m.renew_at_ms()),
            issuer: m.issuer.peer_id().to_string(),
        });
    let kind = mesh.as_ref().map(|m| m.kind);
    Status {
        peer_id: local.to_string(),
        name: own
            .as_ref()
            .map(|m| m.name.clone())
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| app.info.name.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        agent: app.info.agent.clone(),
        state,
        ready,
        mesh_id: mesh.as_ref().map(|m| m.id.to_string()),
        mesh_kind: kind.map(|k| if k == MeshKind::Open { "open" } else { "private" }.to_owned()),
        listen: mesh_state.listen.iter().map(full).collect(),
        external: mesh_state.external.iter().map(full).collect(),
        api: app.info.api.clone(),
        socket: app.info.socket.display().to_string(),
        nats: app.info.nats.as_ref().map(|nats| nats.url()),
        peers: node.mesh().peers().len(),
        members: trust.known_count(),
        uptime_s: node.uptime().as_secs_f64(),
        started_at: rfc3339(node.started_at_ms()),
        data_dir: app.info.data_dir.display().to_string(),
        roles: own.map(|m| m.roles.clone()).unwrap_or_default(),
        certificate,
        pending: match standing {
            Standing::Pending(mesh) => Some(PendingView {
                mesh_id: mesh.to_string(),
                reason: format!("a member has to let this node in: `weft member approve {local}` there"),
            }),
            _ => None,
        },
        warnings: warnings(app, kind, mesh_state.refusal.as_deref()),
        reachability: match mesh_state.reachability {
            Reachability::Unknown => "unknown",
            Reachability::Private => "private",
            Reachability::Public => "public",
        }
        .to_owned(),
        relays: mesh_state
            .relays
            .iter()
            .map(|r| RelayView {
                peer_id: r.peer.to_string(),
                address: r.address.to_string(),
            })
            .collect(),
        kad_mode: if mesh_state.kad_server { "server" } else { "client" }.to_owned(),
    }
}

fn warnings(app: &App, kind: Option<MeshKind>, refusal: Option<&str>) -> Vec<String> {
    let mut all = Vec::new();
    if let Some(refusal) = refusal.filter(|_| kind.is_none()) {
        all.push(refusal.to_owned());
    }
    if kind == Some(MeshKind::Open) {
        all.push("this mesh is open: anyone with an address may join".to_owned());
    }
    let trust = app.node.trust();
    if trust.mesh().is_some() && trust.own_membership().is_none() {
        all.push("this node's certificate is not valid any more: join again with a ticket".to_owned());
    }
    if app.node.tasks().panics() > 0 {
        all.push(format!(
            "{} tasks have panicked: see the log",
            app.node.tasks().panics()
        ));
    }
    all
}

#[derive(Debug, Serialize, ToSchema)]
struct ConnectionView {
    address: String,
    #[schema(value_type = String)]
    transport: Carrier,
    direction: &'static str,
    rtt_ms: Option<f64>,
    /// How fast it carried a burst; measured where much is exchanged.
    goodput_bytes_per_s: Option<f64>,
    relayed: bool,
    /// Whether new streams and requests take this one.
    preferred: bool,
}

/// A connected member.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Peer {
    peer_id: String,
    name: String,
    addresses: Vec<String>,
    rtt_ms: Option<f64>,
    relayed: bool,
    agent: String,
    version: String,
    roles: Vec<String>,
    connected_at: String,
    connections: Vec<ConnectionView>,
    clock_skew_ms: Option<i64>,
}

/// The members this node is connected to
#[utoipa::path(get, path = "/v1/peers", responses((status = 200, body = [Peer])))]
pub(super) async fn peers(State(app): State<App>) -> Json<Vec<Peer>> {
    let all = app.node.mesh().peers().all();
    Json(
        all.into_iter()
            .map(|(peer, info)| peer_view(&app, peer, &info))
            .collect(),
    )
}

fn peer_view(app: &App, peer: weft_protocol::PeerId, info: &PeerInfo) -> Peer {
    let trust = app.node.trust();
    let record = trust.record(&peer);
    let member = trust.member(&peer);
    let mut addresses: Vec<String> = info.connections.values().map(|c| c.address.to_string()).collect();
    addresses.extend(record.iter().flat_map(|r| r.addresses.iter().map(ToString::to_string)));
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|a| seen.insert(a.clone()));
    let ms = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e3;
    Peer {
        peer_id: peer.to_string(),
        name: member
            .as_ref()
            .map(|m| m.name.clone())
            .filter(|n| !n.is_empty())
            .or_else(|| record.as_ref().map(|r| r.name.clone()))
            .unwrap_or_default(),
        addresses,
        rtt_ms: info.rtt().map(ms),
        relayed: info.is_relayed(),
        agent: info.agent.clone(),
        version: record.map(|r| r.version).unwrap_or_default(),
        roles: member.map(|m| m.roles).unwrap_or_default(),
        connected_at: rfc3339(info.connections.values().map(|c| c.since_ms).min().unwrap_or(0)),
        connections: info
            .connections
            .iter()
            .map(|(id, c)| ConnectionView {
                preferred: info.preferred.is_none_or(|best| best == *id),
                goodput_bytes_per_s: c.goodput_bytes_per_s.map(f64::round),
                address: c.address.to_string(),
                transport: c.carrier,
                direction: if c.inbound { "inbound" } else { "outbound" },
                rtt_ms: c.rtt.map(ms),
                relayed: c.carrier == Carrier::Relay,
            })
            .collect(),
        clock_skew_ms: info.clock_skew_ms,
    }
}

/// Whom to ping.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct PingRequest {
    /// A peer id, a name, or a part of an id.
    node: String,
}

/// One round trip.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PingReply {
    peer_id: String,
    rtt_ms: f64,
    #[schema(value_type = String)]
    transport: Carrier,
    relayed: bool,
    clock_skew_ms: i64,
}

/// Measure one round trip to a member
#[utoipa::path(post, path = "/v1/ping", request_body = PingRequest, responses((status = 200, body = PingReply)))]
pub(super) async fn ping(State(app): State<App>, JsonBody(request): JsonBody<PingRequest>) -> Answer<Json<PingReply>> {
    let peer = resolve(&app, &request.node)?;
    let mesh = app.node.mesh();
    if peer == mesh.local_peer() {
        let own = PingReply {
            peer_id: peer.to_string(),
            rtt_ms: 0.0,
            transport: Carrier::Other,
            relayed: false,
            clock_skew_ms: 0,
        };
        return Ok(Json(own));
    }
    let probe = mesh.ping(peer, PING_TIMEOUT).await.map_err(NodeError::from)?;
    let best = mesh.peers().get(&peer);
    let relayed = best.as_ref().is_some_and(PeerInfo::is_relayed);
    let transport = best
        .and_then(|p| {
            let preferred = p.preferred.and_then(|id| p.connections.get(&id));
            preferred.or(p.connections.values().next()).map(|c| c.carrier)
        })
        .unwrap_or(Carrier::Other);
    let rtt_ms = (probe.rtt.as_secs_f64() * 1e6).round() / 1e3;
    Ok(Json(PingReply {
        peer_id: peer.to_string(),
        rtt_ms,
        transport,
        relayed,
        clock_skew_ms: probe.clock_skew_ms,
    }))
}

/// A ticket to use.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct JoinRequest {
    ticket: String,
}

/// What the node has become.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Joined {
    peer_id: String,
    mesh_id: String,
    roles: Vec<String>,
}

/// Join a mesh with a ticket
#[utoipa::path(post, path = "/v1/join", request_body = JoinRequest, responses((status = 200, body = Joined)))]
pub(super) async fn join(State(app): State<App>, JsonBody(request): JsonBody<JoinRequest>) -> Answer<Json<Joined>> {
    let ticket = Ticket::from_text(&request.ticket).map_err(|e| {
        NodeError::from(e).with_hint("copy the whole ticket, from weft1 to its end, as `weft invite` printed it")
    })?;
    let trust = app.node.trust();
    ticket
        .check_time(trust.now_ms())
        .map_err(|_| NodeError::denied("the ticket has run out; ask for a new one"))?;
    if let Some(mesh) = trust.mesh() {
        let words = if mesh.id == ticket.mesh {
            "is a member of this mesh already"
        } else {
            "belongs to another mesh"
        };
        return Err(NodeError::conflict(format!("this node {words}"))
            .with_hint("another mesh needs another --data-dir")
            .into());
    }
    let mut standing = trust.watch_standing();
    app.node.mesh().use_ticket(ticket).await.map_err(NodeError::from)?;
    let joined = tokio::time::timeout(JOIN_TIMEOUT, standing.wait_for(|s| matches!(s, Standing::Member(_)))).await;
    if joined.is_err() {
        return Err(
            NodeError::timeout("the member that issued the ticket did not let this node in")
                .with_hint("is it running and reachable at the ticket's addresses? `weft doctor` tells more")
                .into(),
        );
    }
    Ok(Json(Joined {
        peer_id: trust.local_peer().to_string(),
        mesh_id: trust.mesh().map(|m| m.id.to_string()).unwrap_or_default(),
        roles: trust.own_membership().map(|m| m.roles.clone()).unwrap_or_default(),
    }))
}

/// The effective configuration, as TOML
#[utoipa::path(get, path = "/v1/config", responses((status = 200, body = String, content_type = "application/toml")))]
pub(super) async fn config(State(app): State<App>) -> impl IntoResponse {
    let config = app
        .info
        .config
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    ([(header::CONTENT_TYPE, "application/toml")], config.to_toml())
}

/// What a reload changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reloaded {
    reloaded: Vec<String>,
    needs_restart: Vec<String>,
}

/// Read the configuration again
#[utoipa::path(post, path = "/v1/config/reload", responses((status = 200, body = Reloaded)))]
pub(super) async fn reload(State(app): State<App>) -> Answer<Json<Reloaded>> {
    let changes = (app.info.reload)()?;
    let text = |keys: Vec<String>| keys;
    Ok(Json(Reloaded {
        reloaded: text(changes.reloadable),
        needs_restart: text(changes.needs_restart),
    }))
}

/// Alive
#[utoipa::path(get, path = "/healthz", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// A member of a mesh, and listening
#[utoipa::path(get, path = "/readyz", responses((status = 200, body = String), (status = 503, body = String)))]
pub(super) async fn readyz(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.node.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// Metrics, OpenMetrics text
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, crate::telemetry::metrics::CONTENT_TYPE)],
        app.node.metrics().encode(),
    )
}
