//! `weft batch …`: queues that gather records and hand them over together.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    CliError, Session,
    client::{Call, Client},
    input,
    output::{Tone, escape},
    parse, publish, view,
};
use crate::patterns::batching::{Compression, Form, PUT_RECORDS_MAX};

/// Lines that are read ahead while the node writes earlier ones down.
const LINES_AHEAD: usize = 2 * PUT_RECORDS_MAX;
const PUT_BYTES_MAX: usize = 1 << 20;

/// Queues that gather records and hand them over together
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft batch create mails --to-service mailer --count 100 --age 2s
  weft batch put mails 'anna@example.org'
  tail -f clicks.log | weft batch put clicks --lines
  weft batch ls                                what waits, what is under way, what went wrong
  weft batch dead mails                        records that were given up, and why

A record that was put is on this node's disk until its destination has answered for it. What a service cannot take is found by halving the
batch, is tried some more times alone, and is then kept among the dead and published on dead.QUEUE.")]
pub(crate) struct BatchArgs {
    #[command(subcommand)]
    command: BatchCommand,
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    Create(Box<CreateArgs>),
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    Put(PutArgs),
    /// Hand over what is there, without waiting for batches to be full
    Flush(QueueArg),
    Dead(DeadArgs),
    /// Try all dead records once more
    Retry(QueueArg),
    /// Let go of all dead records
    Purge(QueueArg),
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

/// Define a queue on this node, or define it anew
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("to").required(true), after_help = "Examples:
  weft batch create mails --to-service mailer@^1/send --count 100 --age 2s
  weft batch create clicks --to-subject warehouse.clicks --form events --adaptive
  weft batch create logs --to-service lake/put --compress gzip
  weft batch create orders --to-stream orders --type order.placed

A service gets each batch as one call; what it answers is the receipt, and an error means that the batch failed. One that could take some
records only answers {\"batch_failed\":[{\"index\":3,\"reason\":\"…\"}]}. Its errors 429 and 503 mean later. A stream gets each record
as an event, once, however often it is tried.")]
struct CreateArgs {
    /// Queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Each batch is a call of this service
    #[arg(long, value_name = "NAME[@VERSION][/ENDPOINT]", value_parser = parse::target, group = "to")]
    to_service: Option<parse::Target>,
    /// Each batch is a message on this subject
    #[arg(long, value_name = "SUBJECT", group = "to")]
    to_subject: Option<String>,
    /// Each batch is appended to this stream, every record as an event
    #[arg(long, value_name = "STREAM", group = "to")]
    to_stream: Option<String>,
    /// The type of the events [default: weft.record]
    #[arg(long = "type", value_name = "TYPE", conflicts_with_all = ["to_service", "to_subject"])]
    kind: Option<String>,
    /// The schema that their data adhere to
    #[arg(long, value_name = "URI", conflicts_with_all = ["to_service", "to_subject"])]
    schema: Option<String>,
    /// What a batch looks like: records and newlines, or a JSON array of CloudEvents
    #[arg(long, value_enum, default_value_t)]
    form: Form,
    /// Compress batches; the header content-encoding says so, of a message the extension contentencoding
    #[arg(long, value_enum, default_value_t)]
    compress: Compression,
    /// Records of a batch
    #[arg(long, value_name = "N", default_value_t = 100)]
    count: usize,
    /// Bytes of a batch
    #[arg(long, value_name = "SIZE", default_value = "256KiB", value_parser = parse::size_bytes)]
    bytes: u64,
    /// How long a record waits for others
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse::duration_positive)]
    age: Duration,
    /// Wait only if another record can be expected meanwhile
    #[arg(long)]
    adaptive: bool,
    /// Keys for which batches are filled at once; one more closes the oldest
    #[arg(long, value_name = "N", default_value_t = 1000)]
    keys: usize,
    /// Batches under way at once, at most; fewer while the destination is slow
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// How long the destination may take for a batch
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration_positive)]
    timeout: Duration,
    /// How often a record that fails alone is tried
    #[arg(long, value_name = "N", default_value_t = 5)]
    attempts: u32,
    /// Records that the queue holds, the dead among them; then it is full
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    records: usize,
    /// Where dead records are published [default: dead.QUEUE]
    #[arg(long, value_name = "SUBJECT")]
    dead_letter: Option<String>,
}

/// List this node's queues
#[derive(Debug, Args)]
struct ListArgs {}

/// Put records into a queue; they are on the disk when this ends
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft batch put mails 'anna@example.org'
  weft batch put orders '{\"id\":1}' --key customer-7      in the order of this key
  weft batch put clicks --lines --file clicks.log        every line a record")]
struct PutArgs {
    /// Queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// The record; without it and without --file, standard input is the record unless it is a terminal
    #[arg(value_name = "DATA")]
    data: Option<OsString>,
    /// Read the record from a file, `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "data", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Every line of the input is a record
    #[arg(long, conflicts_with = "data")]
    lines: bool,
    /// Records with the same key share batches, and arrive in their order
    #[arg(short, long, value_name = "KEY")]
    key: Option<HeaderValue>,
    /// Media type of the data
    #[arg(long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,
}

// Which queue; the command says what for.
#[derive(Debug, Args)]
struct QueueArg {
    /// Queue
    #[arg(value_name = "QUEUE")]
    queue: String,
}

/// List records that were given up, the oldest first
#[derive(Debug, Args)]
struct DeadArgs {
    /// Queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// So many, at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Remove a queue
#[derive(Debug, Args)]
struct RemoveArgs {
    /// Queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Also if it holds records, which are then gone
    #[arg(long)]
    force: bool,
}

/// Dispatches `weft batch …`.
pub(crate) async fn execute(session: &Session, args: BatchArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        BatchCommand::Create(args) => create(session, &client, &args).await,
        BatchCommand::Ls(ListArgs {}) => list(session, &client).await,
        BatchCommand::Put(args) => put(session, &client, &args).await,
        BatchCommand::Dead(args) => dead(session, &client, &args).await,
        BatchCommand::Flush(args) => {
            client
                .send(Call::new(Method::POST, path(&args.queue, "/flush")))
                .await?;
            done(
                session,
                &args.queue,
                "is handed over as it is",
                &json!({ "queue": args.queue }),
            )
        }
        BatchCommand::Retry(args) => {
            let answer = client
                .send(Call::new(Method::POST, path(&args.queue, "/retry")))
                .await?
                .json()?;
            counted(session, &answer, "dead records are tried again")
        }
        BatchCommand::Purge(args) => {
            let answer = client
                .send(Call::new(Method::DELETE, path(&args.queue, "/dead")))
                .await?
                .json()?;
            counted(session, &answer, "dead records are gone")
        }
        BatchCommand::Rm(args) => {
            let tail = if args.force { "?force=true" } else { "" };
            client.delete(&path(&args.queue, tail)).await?;
            done(session, &args.queue, "is removed", &json!({ "queue": args.queue }))
        }
    }
}

fn path(queue: &str, tail: &str) -> String {
    format!("/v1/batches/{}{tail}", parse::percent(queue))
}

fn done(session: &Session, queue: &str, words: &str, answer: &Value) -> Result<(), CliError> {
    if session.out.json {
        return session.out.json_line(answer);
    }
    session.out.say(&format!("{} {words}", escape(queue)));
    Ok(())
}

fn counted(session: &Session, answer: &Value, words: &str) -> Result<(), CliError> {
    if session.out.json {
        return session.out.json_line(answer);
    }
    session.out.say(&format!("{} {words}", view::text(answer, "records")));
    Ok(())
}

async fn create(session: &Session, client: &Client, args: &CreateArgs) -> Result<(), CliError> {
    let to = match (&args.to_service, &args.to_stream) {
        (Some(target), _) => {
            json!({ "service": { "name": target.service, "version": target.version, "endpoint": target.endpoint } })
        }
        (None, Some(stream)) => json!({ "stream": { "name": stream, "type": args.kind, "dataschema": args.schema } }),
        (None, None) => json!({ "subject": { "name": args.to_subject } }),
    };
    let options = json!({
        "to": to, "form": args.form, "compress": args.compress, "count_max": args.count, "bytes_max": args.bytes, "age_ms_max": parse::millis(args.age),
        "adaptive": args.adaptive, "keys_max": args.keys, "concurrency": args.concurrency,
        "timeout_ms": parse::millis(args.timeout), "attempts": args.attempts, "records_max": args.records,
        "dead_letter": args.dead_letter,
    });
    let body = Bytes::from(options.to_string());
    let call = Call::new(Method::PUT, path(&args.queue, "")).body(body, HeaderValue::from_static("application/json"));
    let queue = client.send(call).await?.json()?;
    done(
        session,
        &args.queue,
        &format!("hands over to {}", destination(&queue)),
        &queue,
    )
}

/// Where a queue's batches go, in a word.
fn destination(queue: &Value) -> String {
    let to = queue.get("to").unwrap_or(&Value::Null);
    if let Some(stream) = to.get("stream") {
        return format!("stream {}", escape(&view::text(stream, "name")));
    }
    if let Some(subject) = to.get("subject") {
        return escape(&view::text(subject, "name")).into_owned();
    }
    let service = to.get("service").unwrap_or(&Value::Null);
    let mut words = view::text(service, "name");
    for (mark, key) in [('@', "version"), ('/', "endpoint")] {
        if let Some(part) = service.get(key).and_then(Value::as_str) {
            words.push(mark);
            words.push_str(part);
        }
    }
    escape(&words).into_owned()
}

async fn list(session: &Session, client: &Client) -> Result<(), CliError> {
    let queues = client.get("/v1/batches").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&queues)
            .iter()
            .try_for_each(|queue| out.json_line(queue));
    }
    let row = |queue: &Value| {
        vec![
            view::text(queue, "name"),
            destination(queue),
            view::text(queue, "records"),
            view::number(queue, "oldest_ms")
                .map(view::milliseconds)
                .unwrap_or_default(),
            format!("{}/{}", view::text(queue, "under_way"), view::text(queue, "window")),
            view::text(queue, "delivered"),
            view::text(queue, "dead"),
            view::text(queue, "trouble"),
        ]
    };
    let rows: Vec<_> = view::elements(&queues).iter().map(row).collect();
    let headers = [
        "QUEUE",
        "TO",
        "WAITING",
        "OLDEST",
        "UNDER WAY",
        "DELIVERED",
        "DEAD",
        "TROUBLE",
    ];
    out.table(
        &headers,
        &rows,
        "no queues; `weft batch create NAME --to-service SERVICE` makes one",
    )
}

async fn put(session: &Session, client: &Client, args: &PutArgs) -> Result<(), CliError> {
    let mut total = 0;
    if args.lines {
        let mut lines = input::read_ahead(args.file.as_deref(), LINES_AHEAD).await?;
        while let Some(first) = lines.recv().await {
            let put = async { put_lines(client, args, first?, &mut lines).await }.await;
            total += put.inspect_err(|_| {
                if total > 0 {
                    session.out.say(&format!("the first {total} lines are on the disk"));
                }
            })?;
        }
    } else {
        let body = input::body(args.data.clone(), args.file.as_deref()).await?;
        total += put_body(client, args, body, "/records").await?;
    }
    counted(session, &json!({ "records": total }), "records are on the disk")
}

/// Puts a line and those that have been read meanwhile.
async fn put_lines(
    client: &Client,
    args: &PutArgs,
    first: Bytes,
    lines: &mut mpsc::Receiver<Result<Bytes, CliError>>,
) -> Result<u64, CliError> {
    let input::Gathered { body, broken, .. } = input::gather(&first, lines, PUT_RECORDS_MAX, PUT_BYTES_MAX);
    let media = args.content_type.clone().unwrap_or_else(|| publish::media_type(&first));
    let put = put_as(client, args, body, "/records?lines=true", media).await?;
    broken.map_or(Ok(put), Err)
}

async fn put_body(client: &Client, args: &PutArgs, body: Bytes, tail: &str) -> Result<u64, CliError> {
    let media = args.content_type.clone().unwrap_or_else(|| publish::media_type(&body));
    put_as(client, args, body, tail, media).await
}

async fn put_as(client: &Client, args: &PutArgs, body: Bytes, tail: &str, media: HeaderValue) -> Result<u64, CliError> {
    let mut call = Call::new(Method::POST, path(&args.queue, tail));
    if let Some(key) = &args.key {
        call = call.header(HeaderName::from_static("weft-batch-key"), key.clone());
    }
    let answer = client.send(call.body(body, media)).await?.json()?;
    Ok(answer.get("records").and_then(Value::as_u64).unwrap_or_default())
}

async fn dead(session: &Session, client: &Client, args: &DeadArgs) -> Result<(), CliError> {
    let (mut after, mut left, mut shown) = (None, args.limit, Vec::new());
    while left > 0 {
        let more = after.map(|after: u64| format!("&after={after}")).unwrap_or_default();
        let page = client
            .get(&path(&args.queue, &format!("/dead?limit={}{more}", left.min(500))))
            .await?;
        let page = view::elements(&page);
        let Some(last) = page.last() else { break };
        after = last.get("number").and_then(Value::as_u64);
        left = left.saturating_sub(page.len() as u64);
        shown.extend_from_slice(page);
    }
    let out = &session.out;
    if out.json {
        return shown.iter().try_for_each(|dead| out.json_line(dead));
    }
    if shown.is_empty() {
        out.say("no record of this queue is dead");
        return Ok(());
    }
    for dead in &shown {
        let data = match dead.get("data").and_then(Value::as_str) {
            Some(text) => escape(text).into_owned(),
            None => format!("base64:{}", view::text(dead, "data_base64")),
        };
        let key = view::text(dead, "key");
        let key = if key.is_empty() {
            key
        } else {
            format!(" [{}]", escape(&key))
        };
        let why = format!(
            "{} {}",
            view::text(dead, "dead_since"),
            escape(&view::text(dead, "reason"))
        );
        out.line(&format!("{data}{key}  {}", out.paint(Tone::Dim, &why)))?;
    }
    Ok(())
}
