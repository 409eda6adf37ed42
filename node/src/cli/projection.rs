//! `weft projection …`: what a stream's events come to.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Call, Client, json_call},
    output::{Tone, escape, json_text},
    parse,
    progress::{self, Progress},
    view,
};
use crate::error::NodeError;

/// A look at the past reads what lies between.
const PAST_WITHIN: Duration = Duration::from_secs(600);

/// What a stream's events come to, kept up to date by SQL
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft projection add totals --sql \"SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total
      FROM orders WHERE type = 'order.created' GROUP BY data.customer\"
  weft projection show totals                            the rows as they are
  weft projection show totals --key alice                the rows of one group
  weft projection show totals --at 2026-11-29T12:00:00Z  as they were then
  weft projection diff totals 100 200                    what two moments differ in
  weft projection info totals                            how far it is, and what it waits for
  weft projection rebuild totals --sql 'SELECT …'        beside the old one, until it has caught up

A row of the table is an event of the stream as a CloudEvent: type, subject, time, data.customer, data.items[0].price. Each event counts exactly
once. A projection lies on the node on which it was defined; the stream may be anywhere in the mesh.")]
pub(crate) struct ProjectionArgs {
    #[command(subcommand)]
    command: ProjectionCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectionCommand {
    Add(AddArgs),
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// How a projection is, and how far it has come
    Info(NameArg),
    Show(Box<ShowArgs>),
    Diff(DiffArgs),
    Rebuild(RebuildArgs),
    /// Remove a projection with its snapshots; the stream stays as it is
    #[command(visible_alias = "remove")]
    Rm(NameArg),
}

// Which projection; the command says what for.
#[derive(Debug, Args)]
struct NameArg {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
}

/// Define a projection on this node; the same definition twice is no mistake
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft projection add totals --sql \"SELECT data.customer, sum(data.amount) FROM orders GROUP BY data.customer\"
  weft projection add daily --sql \"SELECT date_trunc('day', time) AS day, count(*) FROM orders GROUP BY day\"
  weft projection add status --sql \"SELECT subject, last(type) AS status, max(time) AS since FROM orders GROUP BY subject\" \\
      --snapshot-every 100000

SELECT … FROM STREAM [WHERE …] [GROUP BY …] [HAVING …], with count, sum, avg, min, max, first and last (each with FILTER, if need be) and
abs, ceil, coalesce, date_trunc, floor, length, lower, nullif, round, substr, trim, upper, CAST, CASE, LIKE, IN, BETWEEN. What has no answer, as
a text in a sum, is NULL and counted as a misfit.")]
struct AddArgs {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
    /// What is kept of the stream's events
    #[arg(long, value_name = "SELECT")]
    sql: String,
    /// Take a snapshot after so many events: looks at the past then begin there
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(100..))]
    snapshot_every: Option<u64>,
    /// So many of these snapshots are kept [default: 10]
    #[arg(long, value_name = "N", requires = "snapshot_every", value_parser = clap::value_parser!(u32).range(1..=1000))]
    snapshots_kept: Option<u32>,
}

/// List this node's projections
#[derive(Debug, Args)]
struct ListArgs {}

/// The rows of a projection, as they are or as they were
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft projection show totals
  weft projection show totals --key alice --json
  weft projection show totals --at 1000                  behind the event 1000
  weft projection show totals --at 2026-11-29T12:00:00Z
  weft projection show totals --wait-for 17              once the event 17 is in it, which an append has said")]
struct ShowArgs {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
    /// Only groups with this first key, then this second one, …: JSON, or else a text
    #[arg(short, long, value_name = "VALUE")]
    key: Vec<String>,
    /// As it was behind this position, or at this time: RFC 3339
    #[arg(long, value_name = "POSITION|TIME", conflicts_with = "wait_for")]
    at: Option<String>,
    /// Wait until everything up to this position is in it
    #[arg(long, value_name = "POSITION")]
    wait_for: Option<u64>,
    /// How long to wait; exit code 5 when it does not come so far
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse::duration_positive)]
    timeout: Duration,
    /// So many rows at most
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

/// What became of the rows between two moments
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft projection diff totals 100 200
  weft projection diff totals 2026-11-29T00:00:00Z       since then")]
struct DiffArgs {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
    /// A position, or a time: RFC 3339
    #[arg(value_name = "FROM")]
    from: String,
    /// A position, or a time [default: now]
    #[arg(value_name = "TO")]
    to: Option<String>,
}

/// Build a projection anew beside the old one, which is served until the new one has caught up
#[derive(Debug, Args)]
struct RebuildArgs {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
    /// By another statement
    #[arg(long, value_name = "SELECT")]
    sql: Option<String>,
    /// Return when the new one is served
    #[arg(long)]
    wait: bool,
}

/// Dispatches `weft projection …`.
pub(crate) async fn execute(session: &Session, args: ProjectionArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        ProjectionCommand::Add(args) => add(session, &client, &args).await,
        ProjectionCommand::Ls(ListArgs {}) => list(session, &client).await,
        ProjectionCommand::Info(args) => info(session, &client, &args.projection).await,
        ProjectionCommand::Show(args) => show(session, &client, &args).await,
        ProjectionCommand::Diff(args) => difference(session, &client, &args).await,
        ProjectionCommand::Rebuild(args) => rebuild(session, &client, &args).await,
        ProjectionCommand::Rm(args) => remove(session, &client, &args.projection).await,
    }
}

/// Where a projection is in the local API.
pub(super) fn path(projection: &str, tail: &str) -> String {
    format!("/v1/projections/{}{tail}", parse::percent(projection))
}

async fn add(session: &Session, client: &Client, args: &AddArgs) -> Result<(), CliError> {
    let mut options = json!({ "sql": args.sql });
    if let Some(every) = args.snapshot_every {
        options["snapshot_every"] = every.into();
    }
    if let Some(kept) = args.snapshots_kept {
        options["snapshots_kept"] = kept.into();
    }
    let body = Bytes::from(options.to_string());
    let call =
        Call::new(Method::PUT, path(&args.projection, "")).body(body, HeaderValue::from_static("application/json"));
    let one = client.send(call).await?.json()?;
    if session.out.json {
        return session.out.json_line(&one);
    }
    session.out.say(&format!(
        "{} reads {}: `weft projection show {}`",
        escape(&args.projection),
        escape(&view::text(&one, "stream")),
        escape(&args.projection)
    ));
    if view::text(&one, "state") == "waiting" {
        session
            .out
            .say(&format!("it waits: {}", escape(&view::text(&one, "trouble"))));
    }
    Ok(())
}

async fn list(session: &Session, client: &Client) -> Result<(), CliError> {
    let all = client.get("/v1/projections").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&all).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let state = view::text(one, "state").replace('_', " ");
        let state = match one.get("rebuilding") {
            None => state,
            Some(_) => format!("{state}, rebuilding"),
        };
        ["name", "stream"]
            .iter()
            .map(|key| view::text(one, key))
            .chain([state])
            .chain(
                ["position", "behind", "groups", "misfits", "snapshots"]
                    .iter()
                    .map(|key| view::text(one, key)),
            )
            .collect()
    };
    let rows: Vec<_> = view::elements(&all).iter().map(row).collect();
    out.table(
        &[
            "PROJECTION",
            "STREAM",
            "STATE",
            "POSITION",
            "BEHIND",
            "GROUPS",
            "MISFITS",
            "SNAPSHOTS",
        ],
        &rows,
        "no projections; `weft projection add NAME --sql 'SELECT …'` makes one",
    )
}

async fn info(session: &Session, client: &Client, projection: &str) -> Result<(), CliError> {
    let one = client.get(&path(projection, "")).await?;
    let out = &session.out;
    if out.json {
        return out.json_line(&one);
    }
    let behind = match one.get("behind").and_then(Value::as_u64) {
        None => ", and how long the stream is cannot be had".to_owned(),
        Some(0) => ", which is all there is".to_owned(),
        Some(behind) => format!(", {behind} to go"),
    };
    let mut lines = vec![
        ("stream", view::text(&one, "stream")),
        ("sql", view::text(&one, "sql")),
        ("state", view::text(&one, "state").replace('_', " ")),
        ("position", view::text(&one, "position") + &behind),
        ("taken", format!("{} events", view::text(&one, "taken"))),
        ("groups", view::text(&one, "groups")),
        ("snapshots", view::text(&one, "snapshots")),
    ];
    for (what, key) in [("trouble", "trouble"), ("last", "last_recorded")] {
        let text = view::text(&one, key);
        if !text.is_empty() {
            lines.push((what, text));
        }
    }
    if let Some(next) = one.get("rebuilding") {
        let words = [("state", ""), ("position", " at "), ("trouble", ": ")];
        let words = words
            .iter()
            .map(|(key, before)| (view::text(next, key).replace('_', " "), before));
        let words = words
            .filter(|(text, _)| !text.is_empty())
            .map(|(text, before)| format!("{before}{text}"));
        lines.push(("rebuilding", words.collect()));
    }
    for (key, words) in [
        ("misfits", "values were of no use, as a text in a sum is"),
        ("missed", "events were gone before they could be read"),
    ] {
        if let Some(count @ 1..) = one.get(key).and_then(Value::as_u64) {
            lines.push((key, format!("{count} {words}")));
        }
    }
    lines
        .iter()
        .try_for_each(|(what, text)| out.line(&format!("{what:<10} {}", escape(text))))
}

/// A key as it was meant: JSON where it is some, or else a text.
fn key_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

async fn show(session: &Session, client: &Client, args: &ShowArgs) -> Result<(), CliError> {
    let mut query = vec![format!("limit={}", args.limit.unwrap_or(1000).min(1000))];
    if !args.key.is_empty() {
        let keys: Vec<Value> = args.key.iter().map(|key| key_of(key)).collect();
        query.push(format!("keys={}", parse::percent(&Value::Array(keys).to_string())));
    }
    if let Some(at) = &args.at {
        query.push(format!("at={}", parse::percent(at)));
    }
    if let Some(position) = args.wait_for {
        query.push(format!("wait_for={position}&wait_ms={}", parse::millis(args.timeout)));
    }
    let about = client.get(&path(&args.projection, "")).await?;
    let (mut rows, mut position) = (Vec::new(), Value::Null);
    let (mut left, mut after) = (args.limit.unwrap_or(u64::MAX), String::new());
    loop {
        let path = path(&args.projection, &format!("/rows?{}{after}", query.join("&")));
        let page = client
            .send(Call::new(Method::GET, path).time_max(PAST_WITHIN))
            .await?
            .json()?;
        let shown: Vec<Value> = view::list(&page, "rows")
            .iter()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
            .cloned()
            .collect();
        left -= shown.len() as u64;
        if session.out.json {
            shown.iter().try_for_each(|row| session.out.json_line(row))?;
        } else {
            rows.extend(shown);
        }
        position = page.get("position").cloned().unwrap_or(position);
        match page.get("next").and_then(Value::as_str) {
            Some(next) if left > 0 => after = format!("&after={}", parse::percent(next)),
            _ => break,
        }
    }
    if session.out.json {
        return Ok(());
    }
    let columns: Vec<&str> = view::list(&about, "columns").iter().filter_map(Value::as_str).collect();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row.get(*column))).collect())
        .collect();
    session.out.table(&columns, &rows, "no rows")?;
    session.out.say(&format!("behind the event {position}"));
    Ok(())
}

/// A value as people read it; what is NULL is empty.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => escape(text).into_owned(),
        Some(other) => json_text(other),
    }
}

async fn difference(session: &Session, client: &Client, args: &DiffArgs) -> Result<(), CliError> {
    let mut tail = format!("/difference?from={}", parse::percent(&args.from));
    if let Some(to) = &args.to {
        tail.push_str(&format!("&to={}", parse::percent(to)));
    }
    let call = Call::new(Method::GET, path(&args.projection, &tail)).time_max(PAST_WITHIN);
    let answer = client.send(call).await?.json()?;
    let (out, changes) = (&session.out, view::list(&answer, "changes"));
    if out.json {
        return changes.iter().try_for_each(|change| out.json_line(change));
    }
    for change in changes {
        let row = |key: &str| {
            change
                .get(key)
                .filter(|row| !row.is_null())
                .map(|row| escape(&row.to_string()).into_owned())
        };
        if let Some(before) = row("before") {
            out.line(&out.paint(Tone::Bad, &format!("- {before}")))?;
        }
        if let Some(after) = row("after") {
            out.line(&out.paint(Tone::Good, &format!("+ {after}")))?;
        }
    }
    let (from, to) = (view::text(&answer, "from"), view::text(&answer, "to"));
    out.say(&match changes.len() {
        1 => format!("1 row differs between {from} and {to}"),
        count => format!("{count} rows differ between {from} and {to}"),
    });
    Ok(())
}

async fn rebuild(session: &Session, client: &Client, args: &RebuildArgs) -> Result<(), CliError> {
    let call = json_call(&path(&args.projection, "/rebuild"), &json!({ "sql": args.sql }))?;
    let mut one = client.send(call).await?.json()?;
    if args.wait {
        one = wait_until_served(session, client, &args.projection, one).await?;
    }
    if session.out.json {
        return session.out.json_line(&one);
    }
    session.out.say(match one.get("rebuilding") {
        None => "it is built anew, and served",
        Some(_) => "it is being built anew; the old one is served until the new one has caught up",
    });
    Ok(())
}

async fn wait_until_served(
    session: &Session,
    client: &Client,
    projection: &str,
    mut one: Value,
) -> Result<Value, CliError> {
    let number = |one: &Value, key: &str| one.get(key).and_then(Value::as_u64);
    let total = number(&one, "behind")
        .zip(number(&one, "position"))
        .map(|(behind, position)| behind + position);
    let mut progress = Progress::of_things(&session.out, "rebuilt", total);
    while let Some(next) = one.get("rebuilding") {
        progress.show(number(next, "position").unwrap_or_default());
        let trouble = view::text(next, "trouble");
        if view::text(next, "state") == "stopped" {
            let reason = format!("the new one cannot go on, and the old one is served: {trouble}");
            return Err(NodeError::conflict(reason).into());
        }
        if !trouble.is_empty() {
            session.detail(&escape(&trouble));
        }
        tokio::time::sleep(progress::EVERY).await;
        one = client.get(&path(projection, "")).await?;
    }
    Ok(one)
}

async fn remove(session: &Session, client: &Client, projection: &str) -> Result<(), CliError> {
    client.delete(&path(projection, "")).await?;
    if session.out.json {
        return session.out.json_line(&json!({ "projection": projection }));
    }
    session.out.say(&format!("{} is removed", escape(projection)));
    Ok(())
}
