//! `weft consumer …`: who works off a stream, and how far they are.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Call, Client, json_call},
    output::escape,
    parse, stream, view,
};

/// Work off a stream: each record is handed out until it is settled
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft consumer add orders billing --group --max-deliver 5 --backoff 1s,10s,1m
  weft consumer next orders billing                      the next event, as a worker gets it
  weft consumer ack orders billing 17:1                  it is done
  weft consumer nack orders billing 17:1 --reason 'no such customer'
  weft consumer info orders                              how far each is, and what it has open
  weft consumer dead-letters orders billing
  weft consumer redrive orders billing                   they are handed out again

A record that was handed out and is not settled in time is handed out again, to whoever asks. With --group several workers share the
records: those of one key (the extension partitionkey, or the subject) come one after the other, others beside each other.")]
pub(crate) struct ConsumerArgs {
    #[command(subcommand)]
    command: ConsumerCommand,
}

#[derive(Debug, Subcommand)]
enum ConsumerCommand {
    Add(Box<AddArgs>),
    #[command(visible_alias = "ls")]
    Info(InfoArgs),
    Next(NextArgs),
    Ack(AckArgs),
    Nack(NackArgs),
    Reset(ResetArgs),
    DeadLetters(DeadArgs),
    Redrive(RedriveArgs),
    /// Remove a consumer, with its dead letters
    #[command(visible_alias = "remove")]
    Rm(WhichArgs),
}

// Which consumer; the command says what for.
#[derive(Debug, Args)]
struct WhichArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Consumer
    #[arg(value_name = "CONSUMER")]
    consumer: String,
}

impl WhichArgs {
    fn path(&self, tail: &str) -> String {
        let consumer = parse::percent(&self.consumer);
        stream::path(&self.stream, &format!("/consumers/{consumer}{tail}"))
    }
}

/// Define a consumer; the same definition twice is no mistake
#[derive(Debug, Args)]
struct AddArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Several workers share the records, in the order of each key; without it, all come in the stream's order
    #[arg(long)]
    group: bool,
    /// With --group: do not keep the order of keys
    #[arg(long, requires = "group")]
    any_order: bool,
    /// Whether workers settle what they are handed; with `none` it is done when it is handed out
    #[arg(long, value_enum, default_value_t)]
    ack: Ack,
    /// How long a worker has to settle a record
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration_positive)]
    ack_wait: Duration,
    /// How often a record is handed out until it is a dead letter [default: for ever]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_deliver: Option<u32>,
    /// Pauses before a record is handed out again: after the first time, the second, …; the last one goes on
    #[arg(long, value_name = "DURATION", value_delimiter = ',', value_parser = parse::duration)]
    backoff: Vec<Duration>,
    /// Records that are handed out and not settled, at most
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_pending: u32,
    /// Remove the consumer when nobody has asked for records or settled one for so long [default: it stays]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    idle: Option<Duration>,
    /// With data as the newest schema has them, where the stream knows how (weft schema)
    #[arg(long)]
    upcast: bool,
    /// Only these types
    #[arg(short, long = "type", value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// Only with all of these tags
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    tag: Vec<String>,
    #[command(flatten)]
    begin: BeginArgs,
}

// Where it begins.
#[derive(Debug, Args)]
struct BeginArgs {
    /// Begin at this position [default: the first record]
    #[arg(long, value_name = "POSITION", conflicts_with_all = ["at", "last"])]
    from: Option<u64>,
    /// Begin with what was recorded at this time: RFC 3339, or Unix milliseconds
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    at: Option<String>,
    /// Begin with the last so many; 0: with what comes
    #[arg(long, value_name = "N")]
    last: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Ack {
    #[default]
    Explicit,
    None,
}

/// How consumers are: all of a stream, or one
#[derive(Debug, Args)]
struct InfoArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Consumer
    #[arg(value_name = "CONSUMER")]
    consumer: Option<String>,
}

/// Hand out the next records
#[derive(Debug, Args)]
#[command(
    after_help = "Before each event stands what settles it, POSITION:DELIVERY. Exit code 5 when none came in time."
)]
struct NextArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// So many at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    count: u32,
    /// How long to wait for the first
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse::duration)]
    wait: Duration,
    /// Settle them at once
    #[arg(long)]
    ack: bool,
}

/// Records are done
#[derive(Debug, Args)]
struct AckArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// What was handed out
    #[arg(value_name = "POSITION:DELIVERY", required = true, value_parser = handed)]
    handed: Vec<Value>,
}

/// Records are handed out again, or are dead letters
#[derive(Debug, Args)]
struct NackArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// What was handed out
    #[arg(value_name = "POSITION:DELIVERY", required = true, value_parser = handed)]
    handed: Vec<Value>,
    /// How long to wait until then [default: as the consumer is defined]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration, conflicts_with = "dead")]
    pause: Option<Duration>,
    /// They are dead letters at once
    #[arg(long)]
    dead: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Begin anew from somewhere
#[derive(Debug, Args)]
struct ResetArgs {
    #[command(flatten)]
    which: WhichArgs,
    #[command(flatten)]
    begin: BeginArgs,
}

/// List records that were given up
#[derive(Debug, Args)]
struct DeadArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// So many, at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Hand dead letters out again
#[derive(Debug, Args)]
struct RedriveArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Those at these positions; without any, all
    #[arg(value_name = "POSITION")]
    positions: Vec<u64>,
}

/// `17:1`.
fn handed(text: &str) -> Result<Value, String> {
    let parts = text.split_once(':');
    let parts =
        parts.and_then(|(position, delivery)| Some((position.parse::<u64>().ok()?, delivery.parse::<u32>().ok()?)));
    let (position, delivery) = parts.ok_or_else(|| format!("`{}` is not POSITION:DELIVERY", text.escape_debug()))?;
    Ok(json!({ "position": position, "delivery": delivery }))
}

/// Dispatches `weft consumer …`.
pub(crate) async fn execute(session: &Session, args: ConsumerArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        ConsumerCommand::Add(args) => add(session, &client, &args).await,
        ConsumerCommand::Info(args) => info(session, &client, &args).await,
        ConsumerCommand::Next(args) => next(session, &client, &args).await,
        ConsumerCommand::Ack(args) => {
            let body = json!({ "handed": args.handed });
            settle(
                session,
                &client,
                &args.which.path("/ack"),
                &body,
                args.handed.len(),
                "done",
            )
            .await
        }
        ConsumerCommand::Nack(args) => {
            let body = json!({
                "handed": args.handed, "pause_ms": args.pause.map(parse::millis), "dead": args.dead, "reason": args.reason,
            });
            let words = if args.dead { "dead letters" } else { "handed out again" };
            settle(
                session,
                &client,
                &args.which.path("/nack"),
                &body,
                args.handed.len(),
                words,
            )
            .await
        }
        ConsumerCommand::Reset(args) => {
            let place = stream::place(args.begin.from, args.begin.at.as_deref(), args.begin.last);
            let path = args.which.path(&format!("/reset?{place}"));
            let consumer = client.send(Call::new(Method::POST, path)).await?.json()?;
            said(
                session,
                &consumer,
                &format!("begins anew behind {}", view::text(&consumer, "reached")),
            )
        }
        ConsumerCommand::DeadLetters(args) => dead(session, &client, &args).await,
        ConsumerCommand::Redrive(args) => {
            let body = json!({ "positions": args.positions });
            let counted = client.post(&args.which.path("/redrive"), &body).await?;
            if session.out.json {
                return session.out.json_line(&counted);
            }
            let count = view::text(&counted, "records");
            session.out.say(&format!("{count} dead letters are handed out again"));
            Ok(())
        }
        ConsumerCommand::Rm(which) => {
            client.delete(&which.path("")).await?;
            let gone = json!({ "stream": which.stream, "name": which.consumer });
            said(session, &gone, "is removed")
        }
    }
}

fn said(session: &Session, consumer: &Value, words: &str) -> Result<(), CliError> {
    if session.out.json {
        return session.out.json_line(consumer);
    }
    session
        .out
        .say(&format!("{} {words}", escape(&view::text(consumer, "name"))));
    Ok(())
}

async fn add(session: &Session, client: &Client, args: &AddArgs) -> Result<(), CliError> {
    let order = match (args.group, args.any_order) {
        (true, true) => "any",
        (true, false) => "key",
        (false, _) => "stream",
    };
    let backoff: Vec<u64> = args.backoff.iter().map(|pause| parse::millis(*pause)).collect();
    let mut definition = json!({
        "from": args.begin.from, "at": args.begin.at, "last": args.begin.last, "types": args.kind, "tags": args.tag,
        "ack_wait_ms": parse::millis(args.ack_wait), "deliver_max": args.max_deliver, "backoff_ms": backoff,
        "pending_max": args.max_pending, "order": order, "acked": matches!(args.ack, Ack::Explicit),
        "idle_ms": args.idle.map(parse::millis), "upcast": args.upcast,
    });
    if args.begin.from.is_none() && args.begin.at.is_none() && args.begin.last.is_none() {
        definition["from"] = 1.into();
    }
    let body = Bytes::from(definition.to_string());
    let call = Call::new(Method::PUT, args.which.path("")).body(body, HeaderValue::from_static("application/json"));
    let consumer = client.send(call).await?.json()?;
    let behind = view::text(&consumer, "behind");
    said(
        session,
        &consumer,
        &format!("has {behind} records of {} before it", escape(&args.which.stream)),
    )
}

async fn info(session: &Session, client: &Client, args: &InfoArgs) -> Result<(), CliError> {
    let all = client.get(&stream::path(&args.stream, "/consumers")).await?;
    let is_asked = |one: &&Value| {
        args.consumer
            .as_ref()
            .is_none_or(|name| view::text(one, "name") == *name)
    };
    let list: Vec<&Value> = view::elements(&all).iter().filter(is_asked).collect();
    if let (Some(name), true) = (&args.consumer, list.is_empty()) {
        let words = format!("the stream {} has no consumer {name}", args.stream);
        return Err(CliError::Node(crate::error::NodeError::not_found(words)));
    }
    let out = &session.out;
    if out.json {
        return list.iter().try_for_each(|one| out.json_line(one));
    }
    let cells = [
        "name", "settled", "reached", "behind", "pending", "waiting", "dead", "order",
    ];
    let row = |one: &&Value| cells.iter().map(|cell| view::text(one, cell)).collect();
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    out.table(
        &[
            "CONSUMER", "SETTLED", "REACHED", "BEHIND", "PENDING", "WAITING", "DEAD", "ORDER",
        ],
        &rows,
        "no consumers; `weft consumer add STREAM NAME` makes one",
    )
}

async fn next(session: &Session, client: &Client, args: &NextArgs) -> Result<(), CliError> {
    let wait_ms = parse::millis(args.wait);
    let path = args
        .which
        .path(&format!("/next?count={}&wait_ms={wait_ms}", args.count));
    let within = args.wait + Duration::from_secs(30);
    let handed = client
        .send(Call::new(Method::POST, path).time_max(within))
        .await?
        .json()?;
    let list = view::elements(&handed);
    if list.is_empty() {
        return Err(CliError::Timeout(format!(
            "no record came in {} s",
            args.wait.as_secs_f64()
        )));
    }
    for one in list {
        if session.out.json {
            session.out.json_line(one)?;
            continue;
        }
        let token = format!("{}:{} ", view::text(one, "position"), view::text(one, "delivery"));
        session.out.bytes(token.as_bytes())?;
        stream::print_event(session, one.get("event").unwrap_or(&Value::Null))?;
    }
    if args.ack {
        let token = |one: &Value| json!({ "position": one.get("position"), "delivery": one.get("delivery") });
        let handed: Vec<Value> = list.iter().map(token).collect();
        client
            .send(json_call(&args.which.path("/ack"), &json!({ "handed": handed }))?)
            .await?;
    }
    Ok(())
}

async fn settle(
    session: &Session,
    client: &Client,
    path: &str,
    body: &Value,
    asked: usize,
    words: &str,
) -> Result<(), CliError> {
    let counted = client.post(path, body).await?;
    if session.out.json {
        session.out.json_line(&counted)?;
    }
    let count = counted.get("records").and_then(Value::as_u64).unwrap_or_default();
    if count < asked as u64 {
        return Err(CliError::Node(crate::error::NodeError::new(
            crate::error::ErrorKind::Conflict,
            format!(
                "{count} of {asked} were yours to settle: the time of the others was over, or they were settled before"
            ),
        )));
    }
    if !session.out.json {
        session.out.say(&format!("{count} {words}"));
    }
    Ok(())
}

async fn dead(session: &Session, client: &Client, args: &DeadArgs) -> Result<(), CliError> {
    let (mut after, mut left, mut shown) = (0, args.limit, Vec::new());
    while left > 0 {
        let path = args
            .which
            .path(&format!("/dead-letters?after={after}&limit={}", left.min(500)));
        let page = client.get(&path).await?;
        let page = view::elements(&page);
        let Some(last) = page.last() else { break };
        after = last.get("position").and_then(Value::as_u64).unwrap_or(u64::MAX);
        left = left.saturating_sub(page.len() as u64);
        shown.extend_from_slice(page);
    }
    let out = &session.out;
    if out.json {
        return shown.iter().try_for_each(|one| out.json_line(one));
    }
    let cells = ["position", "deliveries", "since", "reason"];
    let row = |one: &Value| cells.iter().map(|cell| view::text(one, cell)).collect();
    let rows: Vec<Vec<String>> = shown.iter().map(row).collect();
    out.table(&["POSITION", "DELIVERIES", "SINCE", "REASON"], &rows, "no dead letters")
}
