//! `weft schedule …`: events that are appended to a stream later, or again and again.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Call, Client},
    input,
    output::escape,
    parse, publish, view,
};

/// Append events to a stream later, or again and again
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft schedule add nightly --stream reports --type report.due --cron '0 3 * * *'     every night at three, UTC
  weft schedule add beat --stream health --type beat --every 30s
  weft stream append orders --type order.reminder --delay 24h '{\"id\":1}'             once
  weft schedule ls
  weft schedule rm nightly

A schedule lies on this node's disk, the stream may be anywhere. Each occurrence is appended once. Of several that came while the node was away
the last is appended.")]
pub(crate) struct ScheduleArgs {
    #[command(subcommand)]
    command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
enum ScheduleCommand {
    Add(Box<AddArgs>),
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

/// Define a schedule on this node; the same definition twice is no mistake
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft schedule add nightly --stream reports --type report.due --cron '0 3 * * MON-FRI'
  weft schedule add beat --stream health --type beat --every 30s '{\"from\":\"alpha\"}'
  weft schedule add launch --stream news --type launched --at 2027-01-01T00:00:00Z

Each event has the time at which it was due, and of what comes again and again the name of the schedule as the extension attribute schedule.")]
struct AddArgs {
    /// Schedule
    #[arg(value_name = "SCHEDULE")]
    schedule: String,
    /// Stream
    #[arg(long, value_name = "STREAM")]
    stream: String,
    #[command(flatten)]
    when: WhenArgs,
    /// What kind of event it is
    #[arg(short, long = "type", value_name = "TYPE")]
    kind: String,
    /// What it is about
    #[arg(short, long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// What it can be found by; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::label)]
    tag: Vec<String>,
    /// The event's data
    #[arg(value_name = "DATA")]
    data: Option<OsString>,
    /// Read the data from a file, `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "data", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Media type of the data
    #[arg(long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,
}

// When it is due: one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhenArgs {
    /// Minute, hour, day, month, day of the week, in UTC; six fields begin with the second
    #[arg(long, value_name = "EXPRESSION")]
    cron: Option<String>,
    /// So long after each other
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    every: Option<Duration>,
    /// Once, at this time: RFC 3339
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
}

/// List this node's schedules
#[derive(Debug, Args)]
struct ListArgs {}

/// Remove a schedule
#[derive(Debug, Args)]
struct RemoveArgs {
    /// Schedule
    #[arg(value_name = "SCHEDULE")]
    schedule: String,
}

/// Dispatches `weft schedule …`.
pub(crate) async fn execute(session: &Session, args: ScheduleArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        ScheduleCommand::Add(args) => add(session, &client, *args).await,
        ScheduleCommand::Ls(ListArgs {}) => list(session, &client).await,
        ScheduleCommand::Rm(args) => remove(session, &client, &args.schedule).await,
    }
}

fn path(schedule: &str) -> String {
    format!("/v1/schedules/{}", parse::percent(schedule))
}

async fn add(session: &Session, client: &Client, args: AddArgs) -> Result<(), CliError> {
    let data = match (&args.data, &args.file) {
        // Most have none, and nobody is to type it.
        (None, None) => Bytes::new(),
        _ => input::body(args.data.clone(), args.file.as_deref()).await?,
    };
    let media = args.content_type.clone().unwrap_or_else(|| publish::media_type(&data));
    let mut event = json!({ "specversion": "1.0", "type": args.kind, "subject": args.subject });
    if !args.tag.is_empty() {
        event["tags"] = args.tag.join(",").into();
    }
    if !data.is_empty() {
        event["datacontenttype"] = media.to_str().unwrap_or("application/octet-stream").into();
        event["data_base64"] = data_encoding::BASE64.encode(&data).into();
    }
    let definition = json!({
        "stream": args.stream, "event": event, "cron": args.when.cron, "every_ms": args.when.every.map(parse::millis), "at": args.when.at,
    });
    let body = Bytes::from(definition.to_string());
    let call = Call::new(Method::PUT, path(&args.schedule)).body(body, HeaderValue::from_static("application/json"));
    let one = client.send(call).await?.json()?;
    if session.out.json {
        return session.out.json_line(&one);
    }
    session.out.say(&format!(
        "{} is due at {}",
        escape(&args.schedule),
        view::text(&one, "due")
    ));
    Ok(())
}

async fn list(session: &Session, client: &Client) -> Result<(), CliError> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/schedules{after}")).await?;
        let Some(last) = view::elements(&page).last() else {
            break;
        };
        after = format!("?after={}", parse::percent(&view::text(last, "name")));
        all.extend(view::elements(&page).iter().cloned());
    }
    let out = &session.out;
    if out.json {
        return all.iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let when = match (view::text(one, "cron"), one.get("every_ms").and_then(Value::as_u64)) {
            (_, Some(every_ms)) => format!("every {}", view::milliseconds(every_ms as f64)),
            (cron, None) if !cron.is_empty() => cron,
            _ => "once".to_owned(),
        };
        let kind = one
            .get("event")
            .map(|event| view::text(event, "type"))
            .unwrap_or_default();
        vec![
            view::text(one, "name"),
            view::text(one, "stream"),
            kind,
            when,
            view::text(one, "due"),
            view::text(one, "done"),
            view::text(one, "left_out"),
            view::text(one, "trouble"),
        ]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    out.table(
        &[
            "SCHEDULE", "STREAM", "TYPE", "WHEN", "DUE", "DONE", "LEFT OUT", "TROUBLE",
        ],
        &rows,
        "nothing is scheduled; `weft schedule add NAME --stream STREAM --type TYPE --cron …` does",
    )
}

async fn remove(session: &Session, client: &Client, schedule: &str) -> Result<(), CliError> {
    client.delete(&path(schedule)).await?;
    if session.out.json {
        return session.out.json_line(&json!({ "schedule": schedule }));
    }
    session.out.say(&format!("{} is removed", escape(schedule)));
    Ok(())
}
