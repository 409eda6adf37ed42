//! `weft presence`: what is there in the mesh, and what comes and goes.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::{
    CliError, Session,
    backoff::Backoff,
    client::{Call, Client, EventStream},
    input,
    output::{Tone, escape},
    parse,
    publish::media_type,
    signals::Signals,
    view,
};

/// Say what is there, and see what comes and goes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft presence declare sensors.7                       there until Ctrl-C
  weft presence declare sensors.7 --will '{\"up\":false}'   said on sensors.7 if it goes without a word
  weft presence ls 'sensors.*'
  weft presence watch 'sensors.>' --json

Ctrl-C and SIGTERM take leave: the will is not said. When the process is killed, its node says the will; when the node is gone too, every
other node says it to its own subscribers, mostly within a quarter of a minute.")]
pub(crate) struct PresenceArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say that something is there, until this command ends
    Declare(DeclareArgs),
    /// List what is there
    Ls(ListArgs),
    /// Print what is there, then what comes and goes
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
struct DeclareArgs {
    /// What it is called, for example sensors.7
    #[arg(value_name = "SUBJECT")]
    subject: String,
    /// What is said when it goes without a word; at most 1 KiB
    #[arg(long, value_name = "DATA")]
    will: Option<OsString>,
    /// The same from a file, `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "will", value_hint = clap::ValueHint::FilePath)]
    will_file: Option<PathBuf>,
    /// On which subject it is said; the same one, unless this is given
    #[arg(long, value_name = "SUBJECT")]
    will_subject: Option<String>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Which subjects: `*` is one token, `>` is the rest
    #[arg(value_name = "PATTERN", default_value = ">")]
    pattern: String,
}

#[derive(Debug, Args)]
struct WatchArgs {
    /// Which subjects: `*` is one token, `>` is the rest
    #[arg(value_name = "PATTERN", default_value = ">")]
    pattern: String,
    /// End after this many changes; what is there already counts
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after this time; exit code 5 if --count was not reached
    #[arg(short, long, value_name = "DURATION", value_parser = parse::duration_positive)]
    timeout: Option<Duration>,
}

/// Does one of them.
pub(crate) async fn execute(session: &Session, args: PresenceArgs) -> Result<(), CliError> {
    match args.action {
        Action::Declare(args) => declare(session, args).await,
        Action::Ls(args) => list(session, &args).await,
        Action::Watch(args) => watch(session, &args).await,
    }
}

async fn list(session: &Session, args: &ListArgs) -> Result<(), CliError> {
    let path = format!("/v1/presences?pattern={}", parse::percent(&args.pattern));
    let present = session.client()?.get(&path).await?;
    let out = &session.out;
    if out.json {
        return view::elements(&present).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        vec![
            escape(&view::text(one, "subject")).into_owned(),
            escape(&view::text(one, "name")).into_owned(),
            view::text(one, "node"),
            view::text(one, "since"),
            if view::flag(one, "will") { "yes" } else { "" }.to_owned(),
        ]
    };
    let rows: Vec<_> = view::elements(&present).iter().map(row).collect();
    out.table(
        &["SUBJECT", "NODE", "PEER", "SINCE", "WILL"],
        &rows,
        "nothing is there; `weft presence declare SUBJECT` says that something is",
    )
}

async fn declare(session: &Session, args: DeclareArgs) -> Result<(), CliError> {
    let body = match (&args.will, &args.will_file) {
        (None, None) => Bytes::new(),
        _ => input::body(args.will.clone(), args.will_file.as_deref()).await?,
    };
    let mut path = format!("/v1/presences/{}", parse::percent(&args.subject));
    let has_will = args.will.is_some() || args.will_file.is_some();
    if let Some(subject) = args.will_subject.as_ref().or(has_will.then_some(&args.subject)) {
        path.push_str(&format!("?will_subject={}", parse::percent(subject)));
    }
    let mut signals = Signals::of_process()?;
    let (mut backoff, mut was_there, mut is_told) = (Backoff::new(), false, false);
    loop {
        let held = tokio::select! {
            biased;
            () = signals.next() => return Ok(()),
            held = hold(session, &args.subject, &path, &body) => held,
        };
        let ended = match held {
            Ok((client, mut stream, number)) => {
                let again = if was_there { " again" } else { "" };
                session.out.say(&format!("{} is there{again}", escape(&args.subject)));
                (was_there, is_told) = (true, false);
                backoff.reset();
                tokio::select! {
                    biased;
                    () = signals.next() => return leave(&client, &args.subject, number, stream).await,
                    ended = last(&mut stream) => match ended {
                        Ok(true) => {
                            session.out.say(&format!("{} was withdrawn by another command", escape(&args.subject)));
                            return Ok(());
                        }
                        Ok(false) => CliError::Lost("the node ended the stream".to_owned()),
                        Err(error) => error,
                    },
                }
            }
            Err(error) => error,
        };
        if !was_there || !ended.is_worth_waiting() {
            return Err(ended);
        }
        if !std::mem::replace(&mut is_told, true) {
            let words = format!("{ended}; waiting for the node");
            session.out.say(&session.out.paint_talk(Tone::Warn, &words));
        }
        tokio::select! {
            () = signals.next() => return Ok(()),
            () = tokio::time::sleep(backoff.step()) => {}
        }
    }
}

/// Declares it; it is there as long as the stream is.
async fn hold(
    session: &Session,
    subject: &str,
    path: &str,
    body: &Bytes,
) -> Result<(Client, EventStream, u64), CliError> {
    let client = session.client()?;
    let call = Call::new(Method::POST, path).body(body.clone(), media_type(body));
    let response = client.stream(&call, input::whole(body.clone())).await?;
    let mut stream = EventStream::new(response.into_body());
    while let Some(event) = stream.next().await? {
        if event.name == "declared" {
            let said: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            let number = said.get("number").and_then(Value::as_u64).unwrap_or_default();
            return Ok((client, stream, number));
        }
    }
    Err(CliError::Lost(format!("the node did not say that {subject} is there")))
}

/// Waits for the end; whether it was withdrawn.
async fn last(stream: &mut EventStream) -> Result<bool, CliError> {
    while let Some(event) = stream.next().await? {
        if event.name == "withdrawn" {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes leave, so that no will is said.
async fn leave(client: &Client, subject: &str, number: u64, mut stream: EventStream) -> Result<(), CliError> {
    let path = format!("/v1/presences/{}?number={number}", parse::percent(subject));
    client.send(Call::new(Method::DELETE, path)).await?;
    last(&mut stream).await.map(|_| ())
}

async fn watch(session: &Session, args: &WatchArgs) -> Result<(), CliError> {
    let mut seen = 0;
    let Some(limit) = args.timeout else {
        return follow(session, args, &mut seen).await;
    };
    match tokio::time::timeout(limit, follow(session, args, &mut seen)).await {
        Ok(outcome) => outcome,
        Err(_) => match args.count {
            Some(count) => Err(CliError::Timeout(format!(
                "{seen} of {count} changes came in {} s",
                limit.as_secs_f64()
            ))),
            None => Ok(()),
        },
    }
}

async fn follow(session: &Session, args: &WatchArgs, seen: &mut u64) -> Result<(), CliError> {
    let path = format!("/v1/presence-changes?pattern={}", parse::percent(&args.pattern));
    let mut stream = session.client()?.events(&path, None).await?;
    session.out.say(&format!("watching {}", escape(&args.pattern)));
    while let Some(event) = stream.next().await? {
        let change: Value = serde_json::from_str(&event.data)
            .map_err(|error| CliError::Protocol(format!("a change is not JSON: {error}")))?;
        let out = &session.out;
        if out.json {
            out.json_line(&change)?;
        } else {
            let tone = match event.name.as_str() {
                "present" => Tone::Good,
                "gone" => Tone::Warn,
                _ => Tone::Dim,
            };
            let word = out.paint(tone, &format!("{:<9}", escape(&event.name)));
            let subject = view::text(&change, "subject");
            let node = view::short_id(&view::text(&change, "node"));
            let name = view::text(&change, "name");
            out.line(&format!("{word} {} at {} ({node})", escape(&subject), escape(&name)))?;
        }
        *seen += 1;
        if args.count.is_some_and(|count| *seen >= count) {
            return Ok(());
        }
    }
    Err(CliError::Lost(
        "the node ended the watch: it stops, or more came than was read".to_owned(),
    ))
}
