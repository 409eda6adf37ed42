//! `weft stream read`.

use bytes::BytesMut;
use clap::Args;
use data_encoding::BASE64;
use http::{HeaderValue, Method, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::path;
use crate::cli::{
    CliError, Session,
    backoff::Backoff,
    client::{Call, Client, Problem},
    input,
    output::{Tone, escape},
    parse, subscribe, view,
};

/// A line of an answer: the largest event in base64, and its attributes.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Read events, and follow what comes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream read orders                            everything that is kept
  weft stream read orders --from 100 --limit 10
  weft stream read orders --at 2026-11-29T12:00:00Z  what was recorded from then on
  weft stream read orders --last 10 --follow         the last ten, and what comes
  weft stream read orders --type order.paid,order.refunded --tag customer=17
  weft stream read orders --upcast                   data as the newest schema has them
  weft stream read orders --json                     one CloudEvent a line
  weft stream read orders --raw                      the data alone, a newline after each")]
pub(super) struct ReadArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// From this position on
    #[arg(long, value_name = "POSITION", conflicts_with_all = ["at", "last"])]
    from: Option<u64>,
    /// From what was recorded at this time on: RFC 3339, or Unix milliseconds
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    at: Option<String>,
    /// The last so many
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Only these types; may be given several times, or with commas
    #[arg(short, long = "type", value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only with all of these tags
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    tag: Vec<String>,
    /// So many at most
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// With data as the newest schema has them, where the stream knows how (weft schema)
    #[arg(long)]
    upcast: bool,
    /// Go on with what is appended later, through restarts
    #[arg(long)]
    follow: bool,
    /// Print the data alone, unescaped
    #[arg(long, conflicts_with = "json")]
    raw: bool,
}

/// Where something begins, as a query.
pub(in crate::cli) fn place(from: Option<u64>, at: Option<&str>, last: Option<u64>) -> String {
    match (from, at, last) {
        (Some(position), ..) => format!("from={position}"),
        (_, Some(at), _) => format!("at={}", parse::percent(at)),
        (.., Some(count)) => format!("last={count}"),
        _ => "from=1".to_owned(),
    }
}

impl ReadArgs {
    fn path(&self, place: &str, limit: Option<u64>) -> String {
        let mut query = format!("/records?{place}");
        for (name, list) in [("type", &self.kind), ("tag", &self.tag)] {
            if !list.is_empty() {
                query.push_str(&format!("&{name}={}", parse::percent(&list.join(","))));
            }
        }
        if let Some(limit) = limit {
            query.push_str(&format!("&limit={limit}"));
        }
        if self.upcast {
            query.push_str("&upcast=true");
        }
        path(&self.stream, &query)
    }
}

/// Reads.
pub(super) async fn execute(session: &Session, client: &Client, args: &ReadArgs) -> Result<(), CliError> {
    let place = place(args.from, args.at.as_deref(), args.last);
    match args.follow {
        true => follow(session, args, &place).await,
        false => read(session, client, args, &place).await,
    }
}

async fn read(session: &Session, client: &Client, args: &ReadArgs, place: &str) -> Result<(), CliError> {
    let lines = HeaderValue::from_static("application/x-ndjson");
    let call = Call::new(Method::GET, args.path(place, args.limit)).header(header::ACCEPT, lines);
    let response = client.stream(&call, input::whole(bytes::Bytes::new())).await?;
    let (mut body, mut buffer, mut looked) = (response.into_body(), BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CliError::Lost(format!("the events broke off: {error}")))?;
        let Some(bytes) = frame.data_ref() else { continue };
        buffer.extend_from_slice(bytes);
        while let Some(at) = buffer[looked..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(looked + at + 1);
            looked = 0;
            print(session, args, &line)?;
        }
        looked = buffer.len();
        if looked > LINE_BYTES_MAX {
            return Err(CliError::Protocol("the node sent a line that is too long".to_owned()));
        }
    }
    match buffer.is_empty() {
        true => Ok(()),
        false => Err(CliError::Lost("the events broke off".to_owned())),
    }
}

async fn follow(session: &Session, args: &ReadArgs, place: &str) -> Result<(), CliError> {
    let (mut last_id, mut shown, mut is_accepted): (Option<String>, u64, bool) = (None, 0, false);
    let (mut backoff, mut is_told) = (Backoff::new(), false);
    loop {
        let left = args.limit.map(|limit| limit - shown);
        let path = args.path(place, left);
        let opened = async { session.client()?.events(&path, last_id.as_deref()).await }.await;
        let ended = match opened {
            Ok(mut events) => {
                (is_accepted, is_told) = (true, false);
                backoff.reset();
                loop {
                    match events.next().await {
                        Ok(Some(event)) if event.name == "record" => {
                            print(session, args, event.data.as_bytes())?;
                            last_id = event.id;
                            shown += 1;
                            if args.limit == Some(shown) {
                                return Ok(());
                            }
                        }
                        Ok(Some(event)) if event.name == "error" => break told_failure(&event.data),
                        Ok(Some(event)) if event.name == "caught-up" => {
                            session.detail(&format!("read up to {}", event.data))
                        }
                        Ok(Some(_)) => {}
                        Ok(None) => break CliError::Lost("the node ended the stream".to_owned()),
                        Err(error) => break error,
                    }
                }
            }
            Err(error) => error,
        };
        if !is_accepted || !ended.is_worth_waiting() {
            return Err(ended);
        }
        if !std::mem::replace(&mut is_told, true) {
            let words = format!("{ended}; waiting for it");
            session.out.say(&session.out.paint_talk(Tone::Warn, &words));
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

/// What the node said of why it goes no further.
fn told_failure(data: &str) -> CliError {
    match serde_json::from_str::<Value>(data) {
        Ok(value) => CliError::Api(Box::new(Problem::from_json(500, &value))),
        Err(_) => CliError::Lost(data.to_owned()),
    }
}

fn print(session: &Session, args: &ReadArgs, line: &[u8]) -> Result<(), CliError> {
    let event: Value =
        serde_json::from_slice(line).map_err(|error| CliError::Protocol(format!("an event is not JSON: {error}")))?;
    if session.out.json {
        return session.out.json_line(&event);
    }
    if args.raw {
        let mut data = subscribe::data(&event);
        data.push(b'\n');
        return session.out.bytes(&data);
    }
    print_event(session, &event)
}

/// An event for people: its place, when it was recorded, what it is and what it says.
pub(in crate::cli) fn print_event(session: &Session, event: &Value) -> Result<(), CliError> {
    let out = &session.out;
    let data = subscribe::data(event);
    let text = match std::str::from_utf8(&data) {
        Ok(text) => escape(text).into_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(&data)),
    };
    let about: Vec<String> = ["subject", "tags"]
        .iter()
        .map(|key| view::text(event, key))
        .filter(|text| !text.is_empty())
        .collect();
    let about = match about.is_empty() {
        true => String::new(),
        false => out.paint(Tone::Dim, &format!(" [{}]", escape(&about.join(" ")))),
    };
    let when = out.paint(Tone::Dim, &view::text(event, "recordedtime"));
    let (position, kind) = (view::text(event, "sequence"), view::text(event, "type"));
    out.line(&format!("{position} {when} {}{about} {text}", escape(&kind)))
}
