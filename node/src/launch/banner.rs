//! What the screen says once the node is up: who it is, where it listens, how others join, what to try next.

use std::io::{IsTerminal as _, Write as _};

use libp2p::multiaddr::Protocol;
use weft_protocol::Multiaddr;

use super::doors::Doors;
use crate::{
    data_dir::DataDir,
    node::Node,
    trust::{InviteOptions, MeshKind, Standing, Trust},
};

/// How long the ticket on the screen can be used.
const TICKET_TTL_MS: u64 = 3_600_000;

/// Addresses shown at most; `weft status` has all.
const ADDRESSES_SHOWN: usize = 6;

pub(super) async fn print(node: &Node, doors: &Doors, data_dir: &DataDir, has_ticket: bool) {
    say(&compose(node, doors, data_dir, has_ticket).await);
}

/// Says that the node has come into a mesh, once it has.
pub(super) async fn say_joined(trust: Trust) {
    let began = tokio::time::Instant::now();
    let mut standing = trust.watch_standing();
    let mut waits = false;
    loop {
        let now = standing.borrow_and_update().clone();
        match now {
            Standing::Member(mesh) => {
                let took = began.elapsed().as_secs_f64();
                return say(&format!(
                    "\njoined {} after {took:.1} s; `weft peers` shows with whom\n",
                    mesh.id
                ));
            }
            Standing::Pending(mesh) if !waits => {
                waits = true;
                let peer = trust.local_peer();
                say(&format!(
                    "\nwaiting to be let into {mesh}: on a member, weft member approve {peer}\n"
                ));
            }
            _ => {}
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

fn say(text: &str) {
    // A closed standard error is no reason to stop.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

async fn compose(node: &Node, doors: &Doors, data_dir: &DataDir, has_ticket: bool) -> String {
    let trust = node.trust();
    let peer = trust.local_peer();
    let dir = if std::env::var_os("WEFT_DATA_DIR").is_some() || is_default(data_dir) {
        String::new()
    } else {
        format!("--data-dir {} ", data_dir.path().display())
    };
    let mut text = format!(
        "\nweft {} · {} · {peer}\n",
        env!("CARGO_PKG_VERSION"),
        doors.app.info.name
    );
    let state = node.mesh().state();
    for (index, line) in listening(&state.listen).into_iter().enumerate() {
        let title = if index == 0 { "listening" } else { "" };
        text.push_str(&format!("  {title:<9}  {line}\n"));
    }
    text.push_str(&format!(
        "  local API  {}  (token in {}/api.token)\n",
        doors.app.info.api,
        data_dir.path().display()
    ));
    if let Some(nats) = &doors.app.info.nats {
        text.push_str(&format!("  NATS       {}\n", nats.url()));
    }
    let standing = trust.watch_standing().borrow().clone();
    let best = best_address(&state.listen, &state.external).map(|a| format!("{a}/p2p/{peer}"));
    match standing {
        Standing::Member(mesh) => {
            text.push_str(&format!("  mesh       {}\n", mesh.id));
            if mesh.kind == MeshKind::Open {
                text.push_str("  OPEN MESH: anyone with an address may join it, call its services and read its messages.\n");
            }
            text.push_str("\nAnother machine joins with\n");
            if let Some(best) = &best {
                text.push_str(&format!("  weft run --bootstrap {best}\n"));
            }
            if mesh.kind == MeshKind::Private {
                text.push_str(&format!("      and then, here:  weft {dir}member approve ID   (weft {dir}member ls --pending)\n"));
                text.push_str(&ticket_lines(node, &dir).await);
            }
        }
        Standing::Pending(mesh) => text.push_str(&format!("  waiting    to be let into {mesh}: on a member, weft member approve {peer}\n")),
        Standing::Outside if has_ticket => text.push_str("  joining    a mesh, with the ticket\n"),
        Standing::Outside => text.push_str(&format!(
            "  joining    a mesh; if it is private, a member lets this node in with\n             weft member approve {peer}\n"
        )),
    }
    text.push_str(&format!(
        "\nTry, in another terminal\n  weft {dir}serve greet --exec 'sed s/^/hello\\ /'\n  weft {dir}call greet world\n  weft {dir}sub 'orders.>'\n  weft {dir}pub orders.eu.created '{{\"id\":1}}'\n  weft {dir}peers\n  weft {dir}doctor\n\nCtrl-C stops the node.\n"
    ));
    text
}

/// A ticket lets its first user in without asking, so it is shown to a person and not written into a log.
async fn ticket_lines(node: &Node, dir: &str) -> String {
    let by_command = format!("  weft run --join \"$(weft {dir}invite)\"\n");
    if !std::io::stderr().is_terminal() {
        return by_command;
    }
    let options = InviteOptions {
        ttl_ms: TICKET_TTL_MS,
        uses: 1,
        role: String::new(),
        labels: Vec::new(),
    };
    match super::invite(node, &options).await {
        Ok((ticket, _)) => format!("or at once, one node within the next hour, with\n  weft run --join {ticket}\n"),
        Err(_) => "or with a ticket from a member that may invite: weft invite\n".to_owned(),
    }
}

/// The addresses that are of use to others, the likeliest first; where there are none, all.
fn listening(listen: &[Multiaddr]) -> Vec<String> {
    let mut useful: Vec<&Multiaddr> = listen.iter().filter(|a| rank(a) < RANK_LOCAL).collect();
    if useful.is_empty() {
        useful = listen.iter().collect();
    }
    useful.sort_by_key(|a| rank(a));
    let mut lines: Vec<String> = useful.iter().take(ADDRESSES_SHOWN).map(ToString::to_string).collect();
    if listen.len() > lines.len() {
        lines.push(format!("and {} more: weft status", listen.len() - lines.len()));
    }
    lines
}

/// From here on, only this machine or its link gets there.
const RANK_LOCAL: i32 = 100;

/// The lower, the likelier a stranger gets through there.
fn rank(address: &Multiaddr) -> i32 {
    let part = |part| match part {
        Protocol::Ip4(ip) if ip.is_loopback() => RANK_LOCAL + 10,
        Protocol::Ip6(ip) if ip.is_loopback() || ip.is_unicast_link_local() => RANK_LOCAL + 20,
        Protocol::Ip6(_) => 10,
        Protocol::QuicV1 => -2,
        Protocol::Ws(_) => 1,
        _ => 0,
    };
    address.iter().map(part).sum()
}

/// What a stranger most probably reaches: a public address, else one of the local network, QUIC first.
fn best_address<'a>(listen: &'a [Multiaddr], external: &'a [Multiaddr]) -> Option<&'a Multiaddr> {
    external
        .iter()
        .min_by_key(|a| rank(a))
        .or_else(|| listen.iter().min_by_key(|a| rank(a)))
}

fn is_default(data_dir: &DataDir) -> bool {
    crate::data_dir::resolve_for_process(None).is_ok_and(|default| default == data_dir.path())
}
