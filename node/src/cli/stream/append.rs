//! `weft stream append`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weft_protocol::patterns::event_sourcing::APPEND_EVENTS_MAX;

use super::path;
use crate::cli::{
    CliError, Session,
    client::{Call, Client},
    input, parse, publish, view,
};

/// Lines of one append, in bytes.
const APPEND_BYTES: usize = 512 << 10;

/// Append events; they are on the owner's disk when this ends, and the stream's new version is printed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream append orders --type order.created --subject order-17 '{\"total\":3}'
  weft stream append orders --type order.created @order.json --expect 41     only if the version is 41
  weft stream append orders --type seat.taken --tag seat=12A x --unless-tag seat=12A   only if no such event is there
  weft stream append orders --type order.created --id 7e3f @order.json       sent again, it is recorded once
  weft stream append clicks --type click --lines --file clicks.log           every line an event
  weft stream append orders --content-type application/cloudevents+json @event.json
  weft stream append orders --type order.reminder --delay 24h '{\"id\":1}'            tomorrow; weft schedule rm takes it back

Exit code 1 when something else is there than was expected: read what came, decide again, append then.")]
pub(super) struct AppendArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// The event's data, or @FILE; without it and without --file, standard input unless it is a terminal
    #[arg(value_name = "DATA")]
    data: Option<OsString>,
    /// Read the data from a file, `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "data", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Every line of the input is the data of an event
    #[arg(long, conflicts_with_all = ["data", "id", "expect", "producer"])]
    lines: bool,
    /// What kind of event it is
    #[arg(short, long = "type", value_name = "TYPE")]
    kind: Option<HeaderValue>,
    /// What it is about; events about the same are handed to consumers in their order
    #[arg(short, long, value_name = "SUBJECT")]
    subject: Option<HeaderValue>,
    /// What it can be found by; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<HeaderValue>,
    /// Its id: the same event sent again is recorded once
    #[arg(long, value_name = "ID")]
    id: Option<HeaderValue>,
    /// Where it comes from, a URI
    #[arg(long, value_name = "URI")]
    source: Option<HeaderValue>,
    /// When it happened (RFC 3339)
    #[arg(long, value_name = "TIME")]
    time: Option<HeaderValue>,
    /// The schema of its data, a URI
    #[arg(long, value_name = "URI")]
    schema: Option<HeaderValue>,
    /// Media type of the data
    #[arg(long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,
    /// Extension attribute; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = parse::header)]
    headers: Vec<parse::Header>,
    /// Only if the stream has this version
    #[arg(long, value_name = "VERSION")]
    expect: Option<u64>,
    /// Only if there is no event of this type; with --after, none behind that position
    #[arg(long, value_name = "TYPE")]
    unless_type: Vec<String>,
    /// Only if there is no event with all of these tags
    #[arg(long, value_name = "KEY=VALUE")]
    unless_tag: Vec<String>,
    /// The position up to which --unless-type and --unless-tag were looked at already
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// A condition of several alternatives: {"query":{"items":[{"types":[…],"tags":[…]}]},"after":N}
    #[arg(long, value_name = "JSON", conflicts_with_all = ["unless_type", "unless_tag", "after"])]
    condition: Option<HeaderValue>,
    /// Not now but after this time; the node keeps it until then, and prints the name of its schedule
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive, conflicts_with_all = ["lines", "expect", "unless_type", "unless_tag", "condition", "producer"])]
    delay: Option<Duration>,
    /// The same, at this time: RFC 3339
    #[arg(long, value_name = "TIME", conflicts_with_all = ["delay", "lines", "expect", "unless_type", "unless_tag", "condition", "producer"])]
    due: Option<String>,
    /// Who numbers what it appends: an event with a number that was recorded is not recorded again
    #[arg(long, value_name = "NAME/NUMBER")]
    producer: Option<HeaderValue>,
    /// When it is acknowledged; of a stream with copies always when most of them have it on their disks
    #[arg(long, value_enum, default_value_t)]
    ack: Ack,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Ack {
    /// When it is on its way to the disk
    Memory,
    /// When it is on the disk
    #[default]
    Disk,
}

impl AppendArgs {
    /// `looks_like` has the media type of its data, if nobody said it.
    fn call(&self, tail: &str, body: Bytes, looks_like: &[u8]) -> Result<Call, CliError> {
        let ack = match self.ack {
            Ack::Memory => "memory",
            Ack::Disk => "disk",
        };
        let expect = self
            .expect
            .map(|version| format!("&expect={version}"))
            .unwrap_or_default();
        let media = self
            .content_type
            .clone()
            .unwrap_or_else(|| publish::media_type(looks_like));
        let stream = parse::percent(&self.stream);
        let target = match (&self.due, self.delay) {
            (Some(due), _) => format!("/v1/schedules?stream={stream}&due={}", parse::percent(due)),
            (None, Some(delay)) => format!("/v1/schedules?stream={stream}&delay_ms={}", parse::millis(delay)),
            (None, None) => path(&self.stream, &format!("/records?ack={ack}{expect}{tail}")),
        };
        let mut call = Call::new(Method::POST, target).body(body, media);
        for (name, value) in [
            ("ce-type", &self.kind),
            ("ce-id", &self.id),
            ("ce-source", &self.source),
            ("ce-subject", &self.subject),
            ("ce-time", &self.time),
            ("ce-dataschema", &self.schema),
            ("weft-producer", &self.producer),
        ] {
            if let Some(value) = value {
                call = call.header(HeaderName::from_static(name), value.clone());
            }
        }
        if !self.tag.is_empty() {
            let tags: Vec<&[u8]> = self.tag.iter().map(HeaderValue::as_bytes).collect();
            let tags = HeaderValue::from_bytes(&tags.join(&b","[..]));
            let tags = tags.map_err(|_| CliError::Usage("a tag is no text".to_owned()))?;
            call = call.header(HeaderName::from_static("ce-tags"), tags);
        }
        for header in &self.headers {
            let name = header.name.as_str().trim_start_matches("weft-header-");
            let name = HeaderName::try_from(format!("ce-{name}"));
            let name = name.map_err(|_| CliError::Usage(format!("{} is no extension", header.name)))?;
            call = call.header(name, header.value.clone());
        }
        match self.condition()? {
            Some(condition) => Ok(call.header(HeaderName::from_static("weft-condition"), condition)),
            None => Ok(call),
        }
    }

    fn condition(&self) -> Result<Option<HeaderValue>, CliError> {
        if self.condition.is_some() {
            return Ok(self.condition.clone());
        }
        if self.unless_type.is_empty() && self.unless_tag.is_empty() {
            return match self.after {
                Some(_) => Err(CliError::Usage(
                    "--after belongs to --unless-type or --unless-tag".to_owned(),
                )),
                None => Ok(None),
            };
        }
        let item = json!({ "types": self.unless_type, "tags": self.unless_tag });
        let condition = json!({ "query": { "items": [item] }, "after": self.after.unwrap_or(0) });
        let value = HeaderValue::try_from(condition.to_string());
        Ok(Some(value.map_err(|_| {
            CliError::Usage("a type or a tag is no text".to_owned())
        })?))
    }
}

/// Appends.
pub(super) async fn execute(session: &Session, client: &Client, args: AppendArgs) -> Result<(), CliError> {
    let appended = match args.lines {
        true => append_lines(session, client, &args).await?,
        false => {
            let named = args
                .data
                .as_ref()
                .and_then(|data| data.as_encoded_bytes().strip_prefix(b"@"));
            let named = named.map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()));
            let data = args.data.clone().filter(|_| named.is_none());
            let body = input::body(data, named.as_deref().or(args.file.as_deref())).await?;
            client.send(args.call("", body.clone(), &body)?).await?.json()?
        }
    };
    if session.out.json {
        return session.out.json_line(&appended);
    }
    if args.delay.is_some() || args.due.is_some() {
        let (name, due) = (view::text(&appended, "name"), view::text(&appended, "due"));
        session
            .out
            .say(&format!("it is due at {due}; `weft schedule rm {name}` takes it back"));
        return session.out.line(&name);
    }
    if view::flag(&appended, "duplicate") {
        session.out.say("it was recorded before");
    }
    session.out.line(&view::text(&appended, "version"))
}

async fn append_lines(session: &Session, client: &Client, args: &AppendArgs) -> Result<Value, CliError> {
    let mut lines = input::read_ahead(args.file.as_deref(), 2 * APPEND_EVENTS_MAX).await?;
    let (mut total, mut last) = (0, json!({ "first": 0, "last": 0, "version": 0, "duplicate": false }));
    let mut first = None;
    while let Some(line) = lines.recv().await {
        let appended = async { append_some(client, args, line?, &mut lines).await }.await;
        let (count, appended) = appended.inspect_err(|_| {
            if total > 0 {
                session.out.say(&format!("the first {total} lines are recorded"));
            }
        })?;
        total += count;
        first = first.or_else(|| appended.get("first").cloned());
        last = appended;
    }
    if let (Some(first), Some(members)) = (first, last.as_object_mut()) {
        members.insert("first".to_owned(), first);
    }
    session.detail(&format!("{total} lines are recorded"));
    Ok(last)
}

/// Appends a line and those that have been read meanwhile.
async fn append_some(
    client: &Client,
    args: &AppendArgs,
    first: Bytes,
    lines: &mut mpsc::Receiver<Result<Bytes, CliError>>,
) -> Result<(usize, Value), CliError> {
    let input::Gathered { body, count, broken } = input::gather(&first, lines, APPEND_EVENTS_MAX, APPEND_BYTES);
    // Each line is an event of its own: all together look like none of them.
    let appended = client.send(args.call("&lines=true", body, &first)?).await?.json()?;
    broken.map_or(Ok((count, appended)), Err)
}
