//! `weft status`: the node on one screen, and waiting until it is ready.

use std::{path::Path, time::Duration};

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    CliError, Session,
    client::Client,
    output::{Out, Tone, escape},
    parse, view,
};

/// How often a waiting `status` looks again.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Show the node: who it is, where it listens, what it is part of
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft status
  weft status --wait 30s           until the node is ready, at most 30 s; exit code 5 when it is not by then
  weft status --json | jq -r .peer_id")]
pub(crate) struct StatusArgs {
    /// Wait until the node is ready, but no longer than this
    #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
    wait: Option<Duration>,
}

/// Shows the status, after waiting if that was asked for.
pub(crate) async fn execute(session: &Session, args: &StatusArgs) -> Result<(), CliError> {
    let status = match args.wait {
        None => session.client()?.get("/v1/status").await?,
        Some(limit) => wait(&session.data_dir()?, limit).await?,
    };
    if session.out.json {
        return session.out.json_line(&status);
    }
    show(&session.out, &status)
}

/// Asks until the node is ready; the node, its door and its data dir need not exist yet.
pub(crate) async fn wait(dir: &Path, limit: Duration) -> Result<Value, CliError> {
    let deadline = Instant::now() + limit;
    let mut seen = String::from("no node on this data dir");
    loop {
        let asked = async { Client::find(dir.to_owned())?.get("/v1/status").await };
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(Ok(status)) if view::flag(&status, "ready") => return Ok(status),
            Ok(Ok(status)) => seen = unready(&status),
            Ok(Err(error)) if error.is_worth_waiting() => seen = error.to_string(),
            // A half-written file is seen whole a moment later.
            Ok(Err(error @ CliError::Protocol(_))) => seen = error.to_string(),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        if Instant::now() + LOOK_INTERVAL >= deadline {
            tokio::time::sleep_until(deadline).await;
            return Err(CliError::Timeout(format!(
                "not ready after {} s: {seen}",
                limit.as_secs_f64()
            )));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn unready(status: &Value) -> String {
    let state = view::text(status, "state");
    let reason = status
        .get("pending")
        .map(|pending| view::text(pending, "reason"))
        .unwrap_or_default();
    let warning = view::list(status, "warnings").first().and_then(Value::as_str);
    let reason = if reason.is_empty() {
        warning.unwrap_or_default()
    } else {
        &reason
    };
    let words = if reason.is_empty() {
        format!("the node is {state}")
    } else {
        format!("the node is {state}: {reason}")
    };
    escape(&words).into_owned()
}

fn show(out: &Out, status: &Value) -> Result<(), CliError> {
    let mut lines = Vec::new();
    let mut row = |label: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{} {value}", out.paint(Tone::Dim, &format!("{label:<12}"))));
        }
    };
    let safe = |key: &str| escape(&view::text(status, key)).into_owned();
    row(
        "node",
        format!("{}  {}", out.paint(Tone::Strong, &safe("name")), safe("peer_id")),
    );
    row("state", state(out, status));
    row("mesh", mesh(status));
    row("roles", safe("roles"));
    row(
        "peers",
        format!(
            "{} connected, {} member{}",
            or_zero(&safe("peers")),
            or_zero(&safe("members")),
            if safe("members") == "1" { "" } else { "s" }
        ),
    );
    for (index, address) in view::list(status, "listen").iter().enumerate() {
        row(
            if index == 0 { "listens on" } else { "" },
            escape(address.as_str().unwrap_or_default()).into_owned(),
        );
    }
    for (index, address) in view::list(status, "external").iter().enumerate() {
        row(
            if index == 0 { "reached at" } else { "" },
            escape(address.as_str().unwrap_or_default()).into_owned(),
        );
    }
    row("network", network(status));
    row("certificate", certificate(status));
    row("api", [safe("api"), safe("socket")].join("  ").trim().to_owned());
    row("nats", safe("nats"));
    row("data dir", safe("data_dir"));
    let uptime = view::number(status, "uptime_s").map(view::seconds).unwrap_or_default();
    row("running", format!("{uptime}  (weft {})", safe("version")));
    for warning in view::list(status, "warnings") {
        row(
            "warning",
            out.paint(Tone::Warn, &escape(warning.as_str().unwrap_or_default())),
        );
    }
    out.line(&lines.join("\n"))
}

fn or_zero(text: &str) -> &str {
    if text.is_empty() { "0" } else { text }
}

fn state(out: &Out, status: &Value) -> String {
    let name = escape(&view::text(status, "state")).into_owned();
    match name.as_str() {
        "ready" => out.paint(Tone::Good, &name),
        "pending" => {
            let reason = status
                .get("pending")
                .map(|pending| view::text(pending, "reason"))
                .unwrap_or_default();
            format!("{}  {}", out.paint(Tone::Warn, &name), escape(&reason))
        }
        _ => out.paint(Tone::Warn, &name),
    }
}

fn mesh(status: &Value) -> String {
    let id = view::text(status, "mesh_id");
    if id.is_empty() {
        return String::new();
    }
    escape(&format!("{id} ({})", view::text(status, "mesh_kind"))).into_owned()
}

fn network(status: &Value) -> String {
    let reach = match view::text(status, "reachability").as_str() {
        "public" => "reachable from outside",
        "private" => "behind a NAT or firewall",
        _ => "reachability not known yet",
    };
    match view::list(status, "relays").len() {
        0 => reach.to_owned(),
        1 => format!("{reach}, by 1 relay"),
        n => format!("{reach}, by {n} relays"),
    }
}

fn certificate(status: &Value) -> String {
    let Some(certificate) = status.get("certificate").filter(|c| c.is_object()) else {
        return String::new();
    };
    let (expires, renews) = (
        view::text(certificate, "expires_at"),
        view::text(certificate, "renews_at"),
    );
    escape(&format!("good until {expires}, renewed from {renews}")).into_owned()
}
