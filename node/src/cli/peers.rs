//! `weft peers`: who is connected, how, and how far away.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{CliError, Session, client::Client, parse, view};

/// Moves the cursor home and clears what follows.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J\x1b[3J";

/// List the connected nodes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft peers
  weft peers --watch                  again every two seconds
  weft peers --json | jq -r .peer_id")]
pub(crate) struct PeersArgs {
    /// Show the list again and again
    #[arg(long)]
    watch: bool,
    /// Time between two looks of --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse::duration_positive)]
    interval: Duration,
}

/// Lists the peers once or for ever.
pub(crate) async fn execute(session: &Session, args: &PeersArgs) -> Result<(), CliError> {
    let client = session.client()?;
    show(session, &client, args.watch).await?;
    if !args.watch {
        return Ok(());
    }
    loop {
        tokio::time::sleep(args.interval).await;
        match show(session, &client, true).await {
            Err(error) if error.is_worth_waiting() => session.out.say(&error.to_string()),
            other => other?,
        }
    }
}

async fn show(session: &Session, client: &Client, watch: bool) -> Result<(), CliError> {
    let peers = client.get("/v1/peers").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&peers).iter().try_for_each(|peer| out.json_line(peer));
    }
    if watch && out.terminal {
        out.bytes(CLEAR)?;
    }
    let rows: Vec<_> = view::elements(&peers)
        .iter()
        .map(|peer| row(peer, out.terminal))
        .collect();
    let headers = ["NAME", "PEER", "RTT", "VIA", "ADDRESS", "ROLES", "AGENT", "VERSION"];
    out.table(
        &headers,
        &rows,
        "no peers; another machine joins with a ticket from `weft invite`",
    )
}

fn row(peer: &Value, terminal: bool) -> Vec<String> {
    let id = view::text(peer, "peer_id");
    let connections = view::list(peer, "connections");
    let preferred = connections
        .iter()
        .find(|connection| view::flag(connection, "preferred"));
    let connection = preferred.or(connections.first());
    let transport = connection
        .map(|connection| view::text(connection, "transport"))
        .unwrap_or_default();
    let via = if view::flag(peer, "relayed") {
        "relay".to_owned()
    } else {
        transport
    };
    let address = connection
        .map(|connection| view::text(connection, "address"))
        .filter(|address| !address.is_empty());
    let listed = || {
        view::list(peer, "addresses")
            .first()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    vec![
        view::text(peer, "name"),
        if terminal { view::short_id(&id) } else { id },
        // Without a blank inside, a column's number stays the same for `awk`.
        if terminal {
            view::millis(peer, "rtt_ms")
        } else {
            view::text(peer, "rtt_ms")
        },
        via,
        // The id stands in a column of its own.
        address
            .unwrap_or_else(listed)
            .trim_end_matches(&format!("/p2p/{}", view::text(peer, "peer_id")))
            .to_owned(),
        if terminal {
            view::text(peer, "roles")
        } else {
            view::text(peer, "roles").replace(' ', ",")
        },
        view::text(peer, "agent"),
        view::text(peer, "version"),
    ]
}
