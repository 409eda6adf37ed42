//! `weft sub`: messages as they arrive, through restarts of the node.
//!
//! It promises that a message the node still remembers is neither lost nor shown twice over a reconnect, and that a loss is
//! said: on standard error, or with `--json` as an object `{"gap":…}` among the messages. What was published before the subscription is
//! shown if that is asked, as far as members still have it: for minutes.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use data_encoding::BASE64;
use serde_json::Value;
use tokio::time::Instant;
use weft_protocol::patterns::blobs::{DATAREF, Reference};

use super::{
    CliError, Session,
    backoff::Backoff,
    blob,
    client::{Event, EventStream},
    output::{Tone, escape, json_text},
    parse, view,
};

/// Subscribe to messages
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft sub 'orders.>'                       everything under orders
  weft sub 'orders.*.created' --json        one CloudEvent a line
  weft sub greetings --count 1 --timeout 10s
  weft sub logs.web --raw >>access.log      the data alone, a newline after each
  weft sub 'jobs.>' --group workers         share them with the other members of the group
  weft sub 'jobs.>' --group workers --by-key customer
  weft sub 'sensors.>' --last               first the last message on each subject
  weft sub 'sensors.>' --every 1s           at most one message a second of each subject
  weft sub 'orders.>' --since 5m            first what was published in the last five minutes
  weft sub 'cameras.*' --save films         the data of each into a file, however large they are

What was published before is told by this node and the members it is connected to: as far as they still have it, which is ten minutes
at most, and not more than 4096 messages. What was published with --retain is the last one on its subject until there is a later one.
Data too large for a message are fetched with --raw and --save; otherwise the `dataref` of the message is shown, for `weft blob get`.
What was lost and cannot be had any more is said on standard error; with --json it is an object {\"gap\":…} among the messages.
Standard error says `subscribed to …` once messages can arrive. With --count, exit code 5 when --timeout comes first.")]
pub(crate) struct SubscribeArgs {
    /// Subject pattern: `*` is one token, `>` is the rest
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Take part in a queue group: each message goes to one of its members, on whichever node they are
    #[arg(short, long, value_name = "NAME")]
    group: Option<String>,
    /// Messages with the same value of this extension attribute go to the same member of the group
    #[arg(long, value_name = "ATTRIBUTE", requires = "group")]
    by_key: Option<String>,
    /// First the last message on each subject that was published before
    #[arg(long, conflicts_with_all = ["last_n", "since", "group"])]
    last: bool,
    /// First the last messages that were published before, so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096), conflicts_with_all = ["since", "group"])]
    last_n: Option<u64>,
    /// First the messages that were published in this time before now
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive, conflicts_with = "group")]
    since: Option<Duration>,
    /// At most one message of each subject in this time; the others of it are left out
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive, conflicts_with = "group")]
    every: Option<Duration>,
    /// Say of each message which neighbour handed it to this node; with --json in `weftvia`
    #[arg(long)]
    via: bool,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time
    #[arg(short, long, value_name = "DURATION", value_parser = parse::duration_positive)]
    timeout: Option<Duration>,
    /// Print the data alone, unescaped
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    /// Write the data of each message into a file of its own in this folder, and print its name
    #[arg(long, value_name = "DIR", conflicts_with = "raw", value_hint = clap::ValueHint::DirPath)]
    save: Option<PathBuf>,
}

/// Where a message says which neighbour handed it over.
const VIA: &str = "weftvia";

/// What a subscription has seen, beyond one connection.
#[derive(Debug, Default)]
struct Progress {
    received: u64,
    last_id: Option<String>,
    /// Whether the node has ever accepted it.
    accepted: bool,
}

impl Progress {
    fn is_done(&self, args: &SubscribeArgs) -> bool {
        args.count.is_some_and(|count| self.received >= count)
    }
}

/// Prints messages until enough came, the time is over, or the user ends it.
pub(crate) async fn execute(session: &Session, args: &SubscribeArgs) -> Result<(), CliError> {
    let mut progress = Progress::default();
    let Some(limit) = args.timeout else {
        return follow(session, args, &mut progress).await;
    };
    let deadline = Instant::now() + limit;
    match tokio::time::timeout_at(deadline, follow(session, args, &mut progress)).await {
        Ok(outcome) => outcome,
        Err(_) => time_over(args, &progress, limit),
    }
}

fn time_over(args: &SubscribeArgs, progress: &Progress, limit: Duration) -> Result<(), CliError> {
    let limit_s = limit.as_secs_f64();
    match args.count {
        _ if !progress.accepted => Err(CliError::Timeout(format!(
            "the node did not accept the subscription in {limit_s} s"
        ))),
        Some(count) => Err(CliError::Timeout(format!(
            "{} of {count} messages came in {limit_s} s",
            progress.received
        ))),
        None => Ok(()),
    }
}

async fn follow(session: &Session, args: &SubscribeArgs, progress: &mut Progress) -> Result<(), CliError> {
    let mut path = format!("/v1/messages?subject={}", parse::percent(&args.pattern));
    for (name, value) in [("group", &args.group), ("key", &args.by_key)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", parse::percent(value)));
        }
    }
    if let Some(every) = args.every {
        path.push_str(&format!("&every_ms={}", parse::millis(every)));
    }
    if args.via {
        path.push_str("&via=true");
    }
    let first = format!("{path}{}", before(args));
    let mut backoff = Backoff::new();
    let mut is_told = false;
    loop {
        // What was before is told once, and not again when the node comes back.
        let path = if progress.accepted { &path } else { &first };
        let opened = async { session.client()?.events(path, progress.last_id.as_deref()).await }.await;
        let ended = match opened {
            Ok(stream) => {
                let again = if progress.accepted { " again" } else { "" };
                session
                    .out
                    .say(&format!("subscribed to {}{again}", escape(&args.pattern)));
                progress.accepted = true;
                is_told = false;
                backoff.reset();
                match pump(session, args, stream, progress).await {
                    Ok(()) if progress.is_done(args) => return Ok(()),
                    Ok(()) => CliError::Lost("the node ended the stream".to_owned()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        // A first subscription that fails is the user's to hear about at once; a lost one comes back by itself.
        if !progress.accepted || !ended.is_worth_waiting() {
            return Err(ended);
        }
        if !std::mem::replace(&mut is_told, true) {
            session.out.say(
                &session
                    .out
                    .paint_talk(Tone::Warn, &format!("{ended}; waiting for the node")),
            );
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

/// What of before is asked for.
fn before(args: &SubscribeArgs) -> String {
    match (args.last, args.last_n, args.since) {
        (true, ..) => "&last=true".to_owned(),
        (_, Some(count), _) => format!("&last_n={count}"),
        (.., Some(since)) => format!("&past_ms={}", parse::millis(since)),
        _ => String::new(),
    }
}

async fn pump(
    session: &Session,
    args: &SubscribeArgs,
    mut stream: EventStream,
    progress: &mut Progress,
) -> Result<(), CliError> {
    while let Some(event) = stream.next().await? {
        if event.id.is_some() {
            progress.last_id.clone_from(&event.id);
        }
        match event.name.as_str() {
            "message" => {
                show(session, args, &event).await?;
                progress.received += 1;
                if progress.is_done(args) {
                    return Ok(());
                }
            }
            "gap" => tell_gap(session, &event)?,
            // What a newer node may send.
            other => session.detail(&format!("an event of the unknown type `{}` was skipped", escape(other))),
        }
    }
    Ok(())
}

async fn show(session: &Session, args: &SubscribeArgs, event: &Event) -> Result<(), CliError> {
    let message: Value = serde_json::from_str(&event.data)
        .map_err(|error| CliError::Protocol(format!("a message is not JSON: {error}")))?;
    let out = &session.out;
    // An application may use `dataref` for places of its own; those are none that a node can follow.
    let reference = message.get(DATAREF).and_then(Value::as_str);
    let reference = reference.and_then(|text| text.parse::<Reference>().ok());
    if let Some(folder) = &args.save {
        return save(session, folder, message, reference).await;
    }
    if out.json {
        return out.json_line(&message);
    }
    if args.raw {
        if let Some(reference) = reference {
            let (client, path, mut stdout) = (session.client()?, reference.to_string(), tokio::io::stdout());
            let outcome = blob::copy(session, &client, &path, &mut stdout).await.map(drop);
            return unless_missing(session, outcome).and_then(|()| out.bytes(b"\n"));
        }
        let mut line = data(&message);
        line.push(b'\n');
        return out.bytes(&line);
    }
    let subject = view::text(&message, "subject");
    let subject = escape(&subject);
    let subject = match message.get(VIA).and_then(Value::as_str) {
        Some(neighbour) if args.via => format!("[{subject} via {}]", escape(&view::short_id(neighbour))),
        _ => format!("[{subject}]"),
    };
    let subject = out.paint(Tone::Dim, &subject);
    if let Some(reference) = reference {
        let size = view::bytes(reference.bytes);
        return out.line(&format!("{subject} {size}: weft blob get '{reference}'"));
    }
    let data = data(&message);
    let text = match std::str::from_utf8(&data) {
        Ok(text) => escape(text).into_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(&data)),
    };
    out.line(&format!("{subject} {text}"))
}

/// Data that cannot be had are said, and not the end of the subscription.
fn unless_missing(session: &Session, outcome: Result<(), CliError>) -> Result<(), CliError> {
    match outcome {
        Err(error @ (CliError::Api(_) | CliError::Lost(_))) => {
            let words = format!("the data of a message are missing: {error}");
            session.out.say(&session.out.paint_talk(Tone::Warn, &words));
            Ok(())
        }
        other => other,
    }
}

/// Writes the data of a message into a file.
async fn save(
    session: &Session,
    folder: &Path,
    mut message: Value,
    reference: Option<Reference>,
) -> Result<(), CliError> {
    let name = format!(
        "{}-{}",
        view::short_id(&view::text(&message, "weftpublisher")),
        view::text(&message, "id")
    );
    let plain = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let file = folder.join(name.chars().filter(plain).collect::<String>());
    let fail = |error| CliError::io(format!("cannot write {}", file.display()), error);
    tokio::fs::create_dir_all(folder).await.map_err(fail)?;
    let saved = match reference {
        Some(reference) => blob::save(session, &session.client()?, &reference.to_string(), &file)
            .await
            .map(drop),
        None => tokio::fs::write(&file, data(&message)).await.map_err(fail),
    };
    if saved.is_err() {
        return unless_missing(session, saved);
    }
    if session.out.json {
        message["file"] = file.display().to_string().into();
        return session.out.json_line(&message);
    }
    session.out.line(&escape(&file.display().to_string()))
}

/// The bytes that were published, from a CloudEvent in its JSON form.
pub(crate) fn data(message: &Value) -> Vec<u8> {
    if let Some(encoded) = message.get("data_base64").and_then(Value::as_str) {
        return BASE64
            .decode(encoded.as_bytes())
            .unwrap_or_else(|_| encoded.as_bytes().to_vec());
    }
    let media = view::text(message, "datacontenttype");
    let media = media.split(';').next().unwrap_or_default().trim();
    let is_json = media.ends_with("/json") || media.ends_with("+json");
    match message.get("data") {
        None => Vec::new(),
        Some(Value::String(text)) if !is_json => text.clone().into_bytes(),
        Some(value) => json_text(value).into_bytes(),
    }
}

/// Says what was lost: to people on standard error, to programs as an object of its own.
fn tell_gap(session: &Session, event: &Event) -> Result<(), CliError> {
    let gap: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
    if session.out.json {
        return session.out.json_line(&serde_json::json!({ "gap": gap }));
    }
    let number = |key| gap.get(key).and_then(Value::as_u64).unwrap_or_default();
    let words = match gap.get("dropped").and_then(Value::as_u64) {
        Some(dropped) => format!("{dropped} messages were dropped because this reader is slower than they come"),
        None => format!(
            "{} messages of {} are lost: numbers {} to {}, on subjects that travel with these; no member has them any more",
            number("to").saturating_sub(number("from")) + 1,
            escape(&view::text(&gap, "publisher")),
            number("from"),
            number("to"),
        ),
    };
    session.out.say(&session.out.paint_talk(Tone::Warn, &words));
    Ok(())
}
