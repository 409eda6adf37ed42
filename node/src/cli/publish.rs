//! `weft pub`: messages to whoever subscribes.

use std::{ffi::OsString, path::PathBuf, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::Value;
use weft_protocol::limits::PUBLISH_BODY_BYTES_MAX;

use super::{
    CliError, Session,
    client::{Call, Client},
    input::{self, Source},
    output::escape,
    parse,
    progress::{self, Progress},
    view,
};
use crate::error::ErrorKind;

/// Publish messages
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft pub orders.eu.created '{\"id\":1}'
  weft pub logs.web --file access.log
  tail -f access.log | weft pub logs.web --lines       every line a message
  weft pub test.tick hello --count 10
  weft pub alarms.fire now --report=5s                 who has it, and who has not
  weft pub prices.gold 71.20 --expires 10s             of no use to who would get it later
  weft pub alarms.fire now --priority high             before everything else that waits here
  tail -f sensor | weft pub sensors.7 --lines --every 100ms --when-full drop
  weft pub doors.front open --retain                   the last value, for who asks tomorrow: `weft sub 'doors.*' --last`
  weft pub cameras.7 --file film.mp4                   of any size: beyond 1008 KiB subscribers fetch the data, see `weft blob`

The media type is application/json for a JSON object or list, text/plain for other text, unless --content-type says otherwise.")]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    message: MessageArgs,
    /// Publish every line of the input as a message of its own
    #[arg(long, conflicts_with = "data")]
    lines: bool,
    /// Wait for those who want it to confirm it, and say who did; exit code 5 if somebody did not. Without a time, 2 s
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, default_missing_value = "2s", value_parser = parse::duration_positive)]
    report: Option<Duration>,
    /// Nobody is handed it later than this
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    expires: Option<Duration>,
    /// Keep it as the last value of its subject for `weft sub --last`, durably; an empty message takes it back
    #[arg(long)]
    retain: bool,
    /// What leaves this node first when much waits, and what a subscriber that is too slow loses last
    #[arg(long, value_enum, default_value_t = Urgency::Normal)]
    priority: Urgency,
    /// When more is published than goes out: wait, and after 5 s fail; or drop what has no room, and go on
    #[arg(long, value_enum, default_value_t = WhenFull::Wait)]
    when_full: WhenFull,
    /// At most one message of a subject in this time; what comes sooner is left out
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    every: Option<Duration>,
    /// How many times
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "lines", value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
}

/// How urgent messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Urgency {
    /// Before everything else
    High,
    /// As it comes
    Normal,
    /// When nothing else waits
    Low,
}

/// What to do when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhenFull {
    /// Wait for it
    Wait,
    /// Leave the message out
    Drop,
}

/// A message to publish.
#[derive(Debug, Args)]
pub(crate) struct MessageArgs {
    /// Subject, for example orders.eu.created
    #[arg(value_name = "SUBJECT")]
    pub(crate) subject: String,
    /// The message; without it and without --file, standard input is the message unless it is a terminal
    #[arg(value_name = "DATA")]
    data: Option<OsString>,
    /// Read the message from a file, `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "data", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Media type of the data
    #[arg(long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,
    /// Extension attribute of the message; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = parse::header)]
    headers: Vec<parse::Header>,
}

impl MessageArgs {
    /// Its data.
    pub(crate) async fn body(&self) -> Result<Bytes, CliError> {
        input::body(self.data.clone(), self.file.as_deref()).await
    }

    /// The request that hands it in.
    pub(crate) fn request(&self, path: String, body: Bytes) -> Call {
        let media = self.content_type.clone().unwrap_or_else(|| media_type(&body));
        let call = Call::new(Method::POST, path).body(body, media);
        let headers = self.headers.iter();
        headers.fold(call, |call, header| {
            call.header(header.name.clone(), header.value.clone())
        })
    }
}

/// Publishes and says to how many peers.
pub(crate) async fn execute(session: &Session, args: PublishArgs) -> Result<(), CliError> {
    let client = session.client()?;
    if args.lines {
        return lines(session, &client, &args).await;
    }
    let message = &args.message;
    let source = input::source(message.data.clone(), message.file.as_deref(), PUBLISH_BODY_BYTES_MAX).await?;
    let body = match source {
        Source::Whole(body) => body,
        Source::Large(_) if args.count > 1 => {
            return Err(CliError::Usage(format!(
                "--count is for what fits into a message, which is {PUBLISH_BODY_BYTES_MAX} bytes"
            )));
        }
        Source::Large(large) => {
            let mut tally = Tally::default();
            tally.note(publish_large(session, &client, &args, large).await?);
            return tally.tell(session, message);
        }
    };
    let mut tally = Tally::default();
    for _ in 0..args.count {
        tally.note(publish(session, &client, &args, body.clone()).await?);
    }
    tally.tell(session, message)
}

async fn lines(session: &Session, client: &Client, args: &PublishArgs) -> Result<(), CliError> {
    let fail = |error| CliError::io("cannot read the lines", error);
    let mut reader = input::lines(args.message.file.as_deref()).await?;
    let mut tally = Tally::default();
    while let Some(line) = input::next_line(&mut reader).await.map_err(fail)? {
        tally.note(publish(session, client, args, line).await?);
    }
    tally.tell(session, &args.message)
}

/// What became of a message.
enum Outcome {
    /// It is on its way; what is known of it.
    Sent(Value),
    /// It came sooner after another one than was wanted.
    TooSoon,
    /// There was no room for it.
    Dropped,
}

/// What became of several.
#[derive(Default)]
struct Tally {
    sent: u64,
    too_soon: u64,
    dropped: u64,
    last: Value,
}

impl Tally {
    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Sent(receipt) => (self.sent, self.last) = (self.sent + 1, receipt),
            Outcome::TooSoon => self.too_soon += 1,
            Outcome::Dropped => self.dropped += 1,
        }
    }

    fn tell(&self, session: &Session, message: &MessageArgs) -> Result<(), CliError> {
        for (count, why) in [
            (self.too_soon, "left out: too soon after another"),
            (self.dropped, "dropped: there was no room"),
        ] {
            match count {
                0 => {}
                1 => session.out.say(&format!("1 message was {why}")),
                _ => session.out.say(&format!("{count} messages were {why}")),
            }
        }
        if self.sent == 0 && self.too_soon + self.dropped > 0 {
            return Ok(());
        }
        told(session, &message.subject, self.sent, &self.last);
        reported(session, &self.last)
    }
}

/// Publishes what is sent as it is read.
async fn publish_large(
    session: &Session,
    client: &Client,
    args: &PublishArgs,
    large: input::Large,
) -> Result<Outcome, CliError> {
    let input::Large {
        body,
        read_bytes,
        total_bytes,
    } = large;
    let mut progress = Progress::new(&session.out, "sent", total_bytes);
    let mut call = args.message.request(path(args, "/v1/stream/messages"), Bytes::new());
    if args.message.content_type.is_none() {
        call = call.body(Bytes::new(), HeaderValue::from_static("application/octet-stream"));
    }
    let answering = async {
        client
            .stream(&call, body)
            .await?
            .into_body()
            .collect()
            .await
            .map_err(lost)
    };
    let mut answering = std::pin::pin!(answering);
    let mut tick = tokio::time::interval(progress::EVERY);
    let answer = loop {
        tokio::select! {
            answer = &mut answering => break answer?.to_bytes(),
            _ = tick.tick() => progress.show(read_bytes.load(Ordering::Relaxed)),
        }
    };
    drop(progress);
    if answer.is_empty() {
        return Ok(Outcome::TooSoon);
    }
    let receipt: Value = serde_json::from_slice(&answer).map_err(|error| CliError::Protocol(error.to_string()))?;
    if session.out.json {
        session.out.json_line(&receipt)?;
    }
    Ok(Outcome::Sent(receipt))
}

fn lost(error: hyper::Error) -> CliError {
    CliError::Lost(error.to_string())
}

async fn publish(session: &Session, client: &Client, args: &PublishArgs, body: Bytes) -> Result<Outcome, CliError> {
    let answer = match client
        .send(args.message.request(path(args, "/v1/messages"), body))
        .await
    {
        Err(CliError::Api(problem)) if args.when_full == WhenFull::Drop && problem.kind == ErrorKind::Busy => {
            return Ok(Outcome::Dropped);
        }
        answer => answer?,
    };
    if answer.body.is_empty() {
        return Ok(Outcome::TooSoon);
    }
    let receipt = answer.json()?;
    if session.out.json {
        session.out.json_line(&receipt)?;
    }
    Ok(Outcome::Sent(receipt))
}

fn path(args: &PublishArgs, root: &str) -> String {
    let mut path = format!("{root}/{}", parse::percent(&args.message.subject));
    let time = |name: &str, time: Option<Duration>| Some(format!("{name}={}", time?.as_millis()));
    let asked = [
        time("report_ms", args.report),
        time("expires_ms", args.expires),
        time("every_ms", args.every),
        args.retain.then(|| "retain=true".to_owned()),
        (args.when_full == WhenFull::Drop).then(|| "wait_ms=0".to_owned()),
        match args.priority {
            Urgency::High => Some("priority=high".to_owned()),
            Urgency::Normal => None,
            Urgency::Low => Some("priority=low".to_owned()),
        },
    ];
    for (asked, mark) in asked
        .into_iter()
        .flatten()
        .zip(std::iter::once('?').chain(std::iter::repeat('&')))
    {
        path.push(mark);
        path.push_str(&asked);
    }
    path
}

/// What the data look like. A bare number or word is text: only objects and lists are taken for JSON.
pub(crate) fn media_type(data: &[u8]) -> HeaderValue {
    let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_json = matches!(first, Some(b'{' | b'[')) && serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    HeaderValue::from_static(match (is_json, std::str::from_utf8(data)) {
        (true, _) => "application/json",
        (false, Ok(_)) => "text/plain; charset=utf-8",
        (false, Err(_)) => "application/octet-stream",
    })
}

/// Says who has the last message, if that was asked.
fn reported(session: &Session, last: &Value) -> Result<(), CliError> {
    let Some(report) = last.get("report") else {
        return Ok(());
    };
    let members = report
        .get("members")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let mut missing = 0;
    for member in members {
        let (who, outcome) = (view::text(member, "member"), view::text(member, "outcome"));
        missing += usize::from(outcome != "confirmed");
        if !session.out.json {
            session.out.line(&format!("{} {}", escape(&who), escape(&outcome)))?;
        }
    }
    if missing > 0 {
        let known = members.len();
        return Err(CliError::Timeout(format!(
            "{missing} of {known} members that want it have not confirmed it"
        )));
    }
    if !session.out.json {
        let here = report.get("here").and_then(Value::as_u64).unwrap_or_default();
        session.out.say(&format!(
            "confirmed by all {} members that want it; {here} subscriptions here",
            members.len()
        ));
    }
    Ok(())
}

fn told(session: &Session, subject: &str, count: u64, last: &Value) {
    if session.out.json {
        return;
    }
    let peers = last.get("peers").and_then(Value::as_u64);
    let reach = peers
        .map(|n| match (n, last.get("direct").and_then(Value::as_bool)) {
            (1, Some(true)) => " (to 1 member that wants it)".to_owned(),
            (n, Some(true)) => format!(" (to {n} members that want it)"),
            (1, _) => " (1 peer connected)".to_owned(),
            (n, _) => format!(" ({n} peers connected)"),
        })
        .unwrap_or_default();
    let what = match count {
        1 => view::text(last, "id"),
        n => format!("{n} messages"),
    };
    session
        .out
        .say(&format!("published {} to {}{reach}", escape(&what), escape(subject)));
    if let Some(dataref) = last.get("dataref").and_then(Value::as_str) {
        session.out.say(&format!(
            "its data stay here until they are fetched: {}",
            escape(dataref)
        ));
    }
}
