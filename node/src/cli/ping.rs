//! `weft ping`: round trips to one node, measured by the mesh's own protocol.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::Client,
    output::{Tone, escape},
    parse, view,
};
use crate::error::ErrorKind;

/// Measure the round trip to a node
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft ping beta                   by name
  weft ping 7Qm3kLw9               by the start of its short id, as `weft peers` shows it
  weft ping beta --count 100 --interval 100ms

Exit code 0 when at least one answer came, 5 when none did.")]
pub(crate) struct PingArgs {
    /// Name, peer id, or the start of a peer id
    #[arg(value_name = "NODE")]
    node: String,
    /// How many times
    #[arg(short = 'n', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Time from one to the next
    #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = parse::duration)]
    interval: Duration,
}

/// What came back so far.
#[derive(Debug, Default)]
struct Tally {
    sent: u64,
    rtts_ms: Vec<f64>,
}

/// Pings, one line each, and sums up.
pub(crate) async fn execute(session: &Session, args: &PingArgs) -> Result<(), CliError> {
    let client = session.client()?;
    let mut tally = Tally::default();
    let outcome = tokio::select! {
        outcome = run(session, &client, args, &mut tally) => outcome,
        // Ctrl-C ends the series, not the summary.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    outcome?;
    summarise(session, &args.node, &tally)?;
    if tally.rtts_ms.is_empty() {
        Err(CliError::Exit(5))
    } else {
        Ok(())
    }
}

async fn run(session: &Session, client: &Client, args: &PingArgs, tally: &mut Tally) -> Result<(), CliError> {
    for sequence in 1..=args.count {
        let started = Instant::now();
        tally.sent += 1;
        match client.post("/v1/ping", &json!({ "node": args.node })).await {
            Ok(pong) => {
                tally.rtts_ms.extend(view::number(&pong, "rtt_ms"));
                show(session, &args.node, sequence, &pong)?;
            }
            Err(error) => lost(session, sequence, error)?,
        }
        if sequence < args.count {
            tokio::time::sleep(args.interval.saturating_sub(started.elapsed())).await;
        }
    }
    Ok(())
}

fn show(session: &Session, node: &str, sequence: u64, pong: &Value) -> Result<(), CliError> {
    let out = &session.out;
    if out.json {
        let mut line = pong.clone();
        if let Some(object) = line.as_object_mut() {
            object.insert("seq".to_owned(), json!(sequence));
        }
        return out.json_line(&line);
    }
    let via = if view::flag(pong, "relayed") {
        "a relay".to_owned()
    } else {
        view::text(pong, "transport")
    };
    let skew = match view::number(pong, "clock_skew_ms") {
        Some(skew) if skew.abs() >= 1000.0 => format!("  clock off by {}", view::milliseconds(skew.abs())),
        _ => String::new(),
    };
    let id = view::short_id(&view::text(pong, "peer_id"));
    let rtt = view::millis(pong, "rtt_ms");
    out.line(&format!(
        "{} ({}): seq={sequence} rtt={rtt} via {}{skew}",
        escape(node),
        escape(&id),
        escape(&via)
    ))
}

/// Counts a ping that brought nothing back; an error that no further ping can change ends the series.
fn lost(session: &Session, sequence: u64, error: CliError) -> Result<(), CliError> {
    let passing = matches!(
        (&error, error.kind()),
        (
            CliError::Api(_),
            Some(ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::Busy)
        )
    );
    if !passing {
        return Err(error);
    }
    if session.out.json {
        let kind = error.kind().map(ErrorKind::as_str);
        return session
            .out
            .json_line(&json!({ "seq": sequence, "error": kind, "detail": error.to_string() }));
    }
    session.out.say(&format!(
        "seq={sequence} {}",
        session.out.paint_talk(Tone::Warn, &error.to_string())
    ));
    Ok(())
}

fn summarise(session: &Session, node: &str, tally: &Tally) -> Result<(), CliError> {
    let answered = tally.rtts_ms.len();
    let lost_percent = 100.0 * (1.0 - answered as f64 / tally.sent.max(1) as f64);
    let mut lines = vec![
        format!("--- {} ---", escape(node)),
        format!("{} sent, {answered} answered, {lost_percent:.0} % lost", tally.sent),
    ];
    if answered > 0 {
        let min = tally.rtts_ms.iter().copied().fold(f64::INFINITY, f64::min);
        let max = tally.rtts_ms.iter().copied().fold(0.0, f64::max);
        let mean = tally.rtts_ms.iter().sum::<f64>() / answered as f64;
        lines.push(format!("round trip min/avg/max = {min:.3}/{mean:.3}/{max:.3} ms"));
    }
    let text = lines.join("\n");
    if session.out.json {
        session.out.say(&text);
        return Ok(());
    }
    session.out.line(&text)
}
