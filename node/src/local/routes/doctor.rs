//! What is wrong, and what to do about it.

use std::{collections::BTreeMap, time::Instant};

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::rfc3339;
use crate::{
    local::App,
    mesh::{Carrier, Reachability},
    trust::{MeshKind, Standing},
};

const DAY_MS: u64 = 86_400_000;
/// Clocks that differ more are worth a look; certificates stop working at two minutes.
const SKEW_WARN_MS: i64 = 10_000;
const SKEW_FAIL_MS: i64 = weft_protocol::limits::CLOCK_SKEW_MS_MAX as i64;
const FD_LIMIT_WANTED: u64 = 4096;
const UDP_BUFFER_WANTED_BYTES: u64 = 2 << 20;
const FSYNC_WARN_MS: f64 = 50.0;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
    Skip,
}

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Check {
    name: &'static str,
    status: Verdict,
    summary: String,
    detail: Option<String>,
    advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, status: Verdict, summary: impl Into<String>) -> Self {
        Check {
            name,
            status,
            summary: summary.into(),
            detail: None,
            advice: None,
        }
    }

    fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// All checks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Diagnosis {
    healthy: bool,
    checks: Vec<Check>,
}

/// Look for what is wrong
#[utoipa::path(get, path = "/v1/doctor", responses((status = 200, body = Diagnosis)))]
pub(super) async fn doctor(State(app): State<App>) -> Json<Diagnosis> {
    let checks = vec![
        files(&app),
        membership(&app),
        certificate(&app),
        listening(&app),
        reachability(&app),
        udp(&app),
        relays(&app),
        hole_punches(&app),
        bootstrap(&app),
        clock(&app),
        store_latency(&app).await,
        store_integrity(&app).await,
        descriptors(),
        udp_buffers(),
        versions(&app),
        tasks(&app),
        nats(&app),
    ];
    let healthy = checks.iter().all(|c| c.status != Verdict::Fail);
    Json(Diagnosis { healthy, checks })
}

fn nats(app: &App) -> Check {
    let Some(door) = &app.info.nats else {
        return Check::new("nats", Verdict::Skip, "the NATS door is closed: nats.listen is not set");
    };
    let slow = door.slow_consumers();
    let summary = format!("{} serves {} clients", door.url(), door.clients());
    if slow > 0 {
        return Check::new("nats", Verdict::Warn, summary)
            .detail(format!(
                "{slow} clients were cut off since the start because they did not read"
            ))
            .advice("let them read faster or subscribe to less; nats.pending_bytes_max lets them fall further behind");
    }
    if !door.address().ip().is_loopback() && !door.is_encrypted() {
        return Check::new("nats", Verdict::Warn, summary)
            .detail("other machines' clients send their messages and passwords unencrypted")
            .advice("set nats.tls_certificate and nats.tls_key");
    }
    if !door.is_guarded() {
        return Check::new("nats", Verdict::Ok, summary)
            .detail("every program of this machine may come in; nats.credentials would ask for more");
    }
    Check::new("nats", Verdict::Ok, summary)
}

fn files(app: &App) -> Check {
    match crate::data_dir::check(&app.info.data_dir) {
        Ok(()) => Check::new("files", Verdict::Ok, "the data directory is private to its owner"),
        Err(error) => Check::new("files", Verdict::Fail, error.to_string())
            .advice(format!("chmod -R go-rwx {}", app.info.data_dir.display())),
    }
}

fn membership(app: &App) -> Check {
    let standing = app.node.trust().watch_standing().borrow().clone();
    match standing {
        Standing::Member(mesh) if mesh.kind == MeshKind::Open => Check::new(
            "membership",
            Verdict::Warn,
            format!("a member of the open mesh {}", mesh.id),
        )
        .advice("anyone with an address may join; `weft init` on a new data directory makes a private mesh"),
        Standing::Member(mesh) => Check::new("membership", Verdict::Ok, format!("a member of {}", mesh.id)),
        Standing::Pending(mesh) => Check::new("membership", Verdict::Warn, format!("waits to be let into {mesh}"))
            .advice(format!(
                "on a member: weft member approve {}",
                app.node.trust().local_peer()
            )),
        Standing::Outside => Check::new(
            "membership",
            Verdict::Fail,
            "belongs to no mesh and has reached nobody to ask",
        )
        .advice("check the --bootstrap addresses, or join with a ticket: weft join TICKET"),
    }
}

fn certificate(app: &App) -> Check {
    let trust = app.node.trust();
    let (Some(mesh), own) = (trust.mesh(), trust.own_membership()) else {
        return Check::new("certificate", Verdict::Skip, "no mesh yet");
    };
    let Some(own) = own else {
        return Check::new(
            "certificate",
            Verdict::Fail,
            "this node's certificate is not valid any more",
        )
        .advice("join again: `weft invite` on a member, `weft join TICKET` here after removing nothing");
    };
    if mesh.kind == MeshKind::Open && own.not_after_ms == u64::MAX {
        return Check::new("certificate", Verdict::Skip, "an open mesh needs none");
    }
    let left_days = own.not_after_ms.saturating_sub(trust.now_ms()) / DAY_MS;
    let summary = format!("valid until {}, {left_days} days", rfc3339(own.not_after_ms));
    let late = trust.now_ms() > own.renew_at_ms();
    let renews = format!("renews itself from {}", rfc3339(own.renew_at_ms()));
    match left_days {
        _ if !late => Check::new("certificate", Verdict::Ok, summary).detail(renews),
        0..=1 => Check::new("certificate", Verdict::Fail, summary)
            .advice("renewal does not succeed: connect to a member that may invite"),
        2..=30 => Check::new("certificate", Verdict::Warn, summary)
            .advice("renewal is due: connect to a member that may invite"),
        _ => Check::new("certificate", Verdict::Ok, summary).detail("renewal is under way"),
    }
}

fn listening(app: &App) -> Check {
    let state = app.node.mesh().state();
    let all: Vec<String> = state.listen.iter().map(ToString::to_string).collect();
    if all.is_empty() {
        Check::new("listening", Verdict::Fail, "no listener is up")
            .advice("see --listen; another process may hold the ports")
    } else {
        Check::new("listening", Verdict::Ok, format!("{} addresses", all.len())).detail(all.join(" "))
    }
}

fn reachability(app: &App) -> Check {
    let state = app.node.mesh().state();
    let external: Vec<String> = state.external.iter().map(ToString::to_string).collect();
    match state.reachability {
        Reachability::Public => Check::new("reachability", Verdict::Ok, "reachable from outside").detail(external.join(" ")),
        Reachability::Private if state.relays.is_empty() => {
            Check::new("reachability", Verdict::Warn, "not reachable from outside, and no relay carries connections here")
                .advice("forward the UDP and TCP ports of `weft status`, or let a reachable member run with mesh.relay_server = \"on\"")
        }
        Reachability::Private => Check::new("reachability", Verdict::Ok, "not reachable from outside, but through relays"),
        Reachability::Unknown => Check::new("reachability", Verdict::Skip, "not known yet: no other member has tested it"),
    }
}

fn udp(app: &App) -> Check {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for connection in app
        .node
        .mesh()
        .peers()
        .all()
        .values()
        .flat_map(|p| p.connections.values())
    {
        let name = match connection.carrier {
            Carrier::Quic => "quic",
            Carrier::Tcp => "tcp",
            Carrier::Ws => "websocket",
            Carrier::Relay => "relayed",
            Carrier::Other => "other",
        };
        *counts.entry(name).or_default() += 1;
    }
    let summary = counts
        .iter()
        .map(|(k, v)| format!("{v} {k}"))
        .collect::<Vec<_>>()
        .join(", ");
    if counts.is_empty() {
        Check::new("transports", Verdict::Skip, "no connections")
    } else if !counts.contains_key("quic") && counts.values().sum::<usize>() >= 3 {
        Check::new("transports", Verdict::Warn, summary)
            .advice("no connection uses QUIC: UDP may be blocked between this node and the others")
    } else {
        Check::new("transports", Verdict::Ok, summary)
    }
}

fn relays(app: &App) -> Check {
    let mesh = app.node.mesh();
    let relayed: Vec<String> = mesh
        .peers()
        .all()
        .into_iter()
        .filter(|(_, p)| p.is_relayed())
        .map(|(peer, _)| peer.to_string())
        .collect();
    let config = app
        .info
        .config
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let limits = format!(
        "a circuit here lives {} and carries {} in both directions",
        crate::config::format_duration(config.mesh.relay_circuit_duration_max),
        config.mesh.relay_circuit_bytes_max
    );
    let held = mesh.state().relays.len();
    let summary = format!("{held} places at relays, {} members reached through one", relayed.len());
    let check = Check::new(
        "relays",
        if relayed.is_empty() { Verdict::Ok } else { Verdict::Warn },
        summary,
    )
    .detail(limits);
    if relayed.is_empty() {
        check
    } else {
        check.advice(format!("relayed: {}; a direct path was not found", relayed.join(" ")))
    }
}

fn hole_punches(app: &App) -> Check {
    let (tried, succeeded) = app.node.mesh().state().hole_punches;
    match tried {
        0 => Check::new(
            "hole_punching",
            Verdict::Skip,
            "not tried: nobody was reached through a relay",
        ),
        _ => Check::new(
            "hole_punching",
            Verdict::Ok,
            format!("{succeeded} of {tried} tries led to a direct connection"),
        ),
    }
}

fn bootstrap(app: &App) -> Check {
    let config = app
        .info
        .config
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let wanted = &config.mesh.bootstrap;
    if wanted.is_empty() {
        return Check::new("bootstrap", Verdict::Skip, "no bootstrap addresses are configured");
    }
    let peers = app.node.mesh().peers();
    let reached = wanted
        .iter()
        .filter(|a| crate::mesh::peer_of(a).is_some_and(|p| peers.contains(&p)))
        .count();
    let summary = format!("{reached} of {} bootstrap members are connected", wanted.len());
    if reached > 0 {
        Check::new("bootstrap", Verdict::Ok, summary)
    } else if !peers.is_empty() {
        Check::new("bootstrap", Verdict::Warn, summary).advice("other members are: the addresses may be out of date")
    } else {
        Check::new("bootstrap", Verdict::Fail, summary)
            .advice("are they running, and does a firewall let this node reach them?")
    }
}

fn clock(app: &App) -> Check {
    let all = app.node.mesh().peers().all();
    let skews: Vec<i64> = all.values().filter_map(|p| p.clock_skew_ms).collect();
    let Some(worst) = skews.iter().copied().max_by_key(|s| s.abs()) else {
        return Check::new("clock", Verdict::Skip, "nobody to compare with");
    };
    let ahead = skews.iter().filter(|s| s.abs() > SKEW_WARN_MS).count();
    let others = if skews.len() == 1 {
        "other member"
    } else {
        "other members"
    };
    let summary = format!("at most {worst} ms from {} {others}", skews.len());
    let here = ahead * 2 > skews.len();
    let advice = if here {
        "this machine's clock is off: set it by NTP"
    } else {
        "another member's clock is off"
    };
    match worst.abs() {
        w if w > SKEW_FAIL_MS => Check::new("clock", Verdict::Fail, summary).advice(advice),
        w if w > SKEW_WARN_MS => Check::new("clock", Verdict::Warn, summary).advice(advice),
        _ => Check::new("clock", Verdict::Ok, summary),
    }
}

async fn store_latency(app: &App) -> Check {
    let keyspace = app.node.store().keyspace("doctor");
    let mut worst_ms: f64 = 0.0;
    for n in 0..5u8 {
        let started = Instant::now();
        if let Err(error) = keyspace.put(b"probe".to_vec(), vec![n]).await {
            return Check::new(
                "store_latency",
                Verdict::Fail,
                format!("the store cannot be written: {error}"),
            );
        }
        worst_ms = worst_ms.max(started.elapsed().as_secs_f64() * 1e3);
    }
    let summary = format!("a durable write takes up to {worst_ms:.1} ms");
    if worst_ms > FSYNC_WARN_MS {
        Check::new("store_latency", Verdict::Warn, summary)
            .advice("the disk is slow or busy: durable operations will be too")
    } else {
        Check::new("store_latency", Verdict::Ok, summary)
    }
}

async fn store_integrity(app: &App) -> Check {
    match app.node.store().verify().await {
        Ok(report) if report.is_ok() => Check::new("store_integrity", Verdict::Ok, "every file of the store is whole"),
        Ok(report) => Check::new("store_integrity", Verdict::Fail, "the store is damaged")
            .detail(
                report
                    .findings()
                    .map(|f| format!("{}: {}; lost: {}", f.file.display(), f.reason, f.lost))
                    .collect::<Vec<_>>()
                    .join("; "),
            )
            .advice("stop the node, keep a copy of the data directory, and restore a backup"),
        Err(error) => Check::new("store_integrity", Verdict::Fail, error.to_string()),
    }
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    let used = std::fs::read_dir("/proc/self/fd").map(Iterator::count).unwrap_or(0);
    let summary = format!("{used} of {limit} file descriptors are in use");
    if limit < FD_LIMIT_WANTED {
        Check::new("file_descriptors", Verdict::Warn, summary)
            .advice(format!("ulimit -n {FD_LIMIT_WANTED}, or LimitNOFILE= in the unit"))
    } else {
        Check::new("file_descriptors", Verdict::Ok, summary)
    }
}

fn udp_buffers() -> Check {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/sys/net/core/{name}"))
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let (Some(receive), Some(send)) = (read("rmem_max"), read("wmem_max")) else {
        return Check::new("udp_buffers", Verdict::Skip, "this system does not tell");
    };
    let summary = format!("UDP buffers of up to {} KiB in, {} KiB out", receive >> 10, send >> 10);
    if receive.min(send) < UDP_BUFFER_WANTED_BYTES {
        Check::new("udp_buffers", Verdict::Warn, summary)
            .advice("for fast QUIC: sysctl -w net.core.rmem_max=7500000 net.core.wmem_max=7500000")
    } else {
        Check::new("udp_buffers", Verdict::Ok, summary)
    }
}

fn versions(app: &App) -> Check {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for member in app.node.trust().known_members() {
        *counts.entry(member.record.version).or_default() += 1;
    }
    let summary = counts
        .iter()
        .map(|(v, n)| format!("{n} × {v}"))
        .collect::<Vec<_>>()
        .join(", ");
    Check::new(
        "versions",
        Verdict::Ok,
        if summary.is_empty() {
            "only this node".to_owned()
        } else {
            summary
        },
    )
}

fn tasks(app: &App) -> Check {
    match app.node.tasks().panics() {
        0 => Check::new("tasks", Verdict::Ok, "no task has panicked"),
        n => Check::new("tasks", Verdict::Fail, format!("{n} tasks have panicked"))
            .advice("the log has their names and messages: please report them"),
    }
}
