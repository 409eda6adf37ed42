//! `weft stream …`: histories that are kept, read, followed and proved.

mod append;
mod read;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::{
    CliError, Session, blob,
    client::{Call, Client, json_call},
    input,
    output::escape,
    parse,
    progress::{self, Progress},
    view,
};

pub(super) use read::{place, print_event};

/// A member that is to be replaced is asked about again when nobody is on the way to its place for so long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// How long those that keep a stream may be silent while somebody waits for a new one.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A check of all records may take long.
const VERIFY_WITHIN: Duration = Duration::from_secs(3600);

/// Streams of events: append, read, follow, prove
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream create orders
  weft stream append orders --type order.created '{\"id\":1}'        prints the stream's new version
  weft stream read orders --follow                                 what is there, and what comes
  weft stream append orders --type order.paid '{\"id\":1}' --expect 1   only if nothing came between
  weft stream prove orders 1 -o order.proof                        weft verify-proof checks it anywhere
  weft stream ls

A stream is kept by the node it was created on, or with --replicas by three or five nodes, and used from every node of the mesh. What was
appended is on that node's disk when the command ends, or on the disks of most of those nodes; every record is a leaf of a hash tree that is signed.")]
pub(crate) struct StreamArgs {
    #[command(subcommand)]
    command: StreamCommand,
}

#[derive(Debug, Subcommand)]
enum StreamCommand {
    /// Make a stream on this node, or on several
    Create(CreateArgs),
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// How a stream is, and who keeps it
    Info(NameArg),
    Append(Box<append::AppendArgs>),
    Read(Box<read::ReadArgs>),
    /// Change how much of a stream of this node is kept
    Update(CreateArgs),
    Replace(ReplaceArgs),
    /// Read every record: whether each is what was appended, and leads to what the owner signed
    Verify(NameArg),
    Prove(ProveArgs),
    Evidence(EvidenceArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

// How much of a stream is kept; the command says what it is for.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream create orders                              kept for ever
  weft stream create orders --replicas 3                 on three nodes: one of them may go at any time
  weft stream create clicks --retain 30d
  weft stream create jobs --keep queue --retain-records 10000 --refuse-when-full   and no more than so many
  weft stream create jobs --keep queue                   until every consumer has settled them
  weft stream create orders --subjects 'orders.>'        what NATS clients publish there is appended
  weft stream update clicks --retain-records 1000000     replaces what was said before")]
struct CreateArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// How long records are kept
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    retain: Option<Duration>,
    /// Bytes that are kept at least; beyond them whole segments of 64 MiB are removed
    #[arg(long, value_name = "SIZE", value_parser = parse::size_bytes)]
    retain_bytes: Option<u64>,
    /// Records that are kept
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    retain_records: Option<u64>,
    /// Refuse appends when there are as many records or bytes, instead of letting go of the oldest
    #[arg(long)]
    refuse_when_full: bool,
    /// Let go of records that every consumer has settled; with `interest` of all of them while there is no consumer
    #[arg(long, value_enum)]
    keep: Option<Keep>,
    /// Messages of NATS clients on these subjects are appended, as `orders.>`; may be given several times
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    subjects: Vec<String>,
    /// Copies on so many nodes, this one among them where it can be: 1, 3 or 5. It cannot be changed later
    #[arg(long, value_name = "N", value_parser = parse::replicas)]
    replicas: Option<u8>,
    /// With --replicas: only members with this label keep a copy; may be given several times. It cannot be changed later
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse::label)]
    place: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Keep {
    /// What nobody has worked off yet
    Queue,
    /// What somebody wants and has not worked off yet
    Interest,
}

/// Give a member's copy to another: of the stream, and of all that the same members keep
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream info orders                        who has copies
  weft stream replace orders beta                to whom the leader chooses
  weft stream replace orders beta --by delta --wait

Who is away for ten minutes is replaced without being told to. The others go on meanwhile; the new one counts when it has everything.")]
struct ReplaceArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Whose copy: a name, an id, or a part of an id
    #[arg(value_name = "MEMBER")]
    member: String,
    /// Who gets it
    #[arg(long, value_name = "MEMBER")]
    by: Option<String>,
    /// Return when it has everything
    #[arg(long)]
    wait: bool,
}

/// List the streams of the mesh
#[derive(Debug, Args)]
struct ListArgs {}

// Which stream; the command says what for.
#[derive(Debug, Args)]
struct NameArg {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
}

/// Prove that an event is in a stream, at its place
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream prove orders 17 -o order.proof
  weft stream prove orders --id 7e3f -o order.proof
  weft verify-proof order.proof                          anywhere, without a node")]
struct ProveArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// The event's position
    #[arg(value_name = "POSITION", required_unless_present = "id")]
    position: Option<u64>,
    /// The event with this id
    #[arg(long, value_name = "ID", conflicts_with = "position")]
    id: Option<String>,
    /// Where to write the proof; without it, standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// Write the evidence that a stream has forked: two histories that its owner has signed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft stream verify orders                              compares with what this node and others have seen
  weft stream evidence orders -o orders.fork
  weft verify-proof orders.fork                          anywhere, without a node

Exit code 3 when no fork of it is known.")]
struct EvidenceArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Where to write it; without it, standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// Write out a stream of this node, with the proof that it is whole
#[derive(Debug, Args)]
struct ExportArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Where to write it; it has this name once it is whole. Without it, standard output
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    output: Option<PathBuf>,
}

/// Make a stream on this node of one that was written out, if nothing of it was changed
#[derive(Debug, Args)]
struct ImportArgs {
    /// What it is to be called
    #[arg(value_name = "STREAM")]
    stream: String,
    /// What `weft stream export` wrote; `-` is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
}

/// Delete a stream of this node, with its consumers
#[derive(Debug, Args)]
struct DeleteArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// Also if it has records, which are then gone
    #[arg(long)]
    force: bool,
}

/// Dispatches `weft stream …`.
pub(crate) async fn execute(session: &Session, args: StreamArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        StreamCommand::Create(args) => define(session, &client, &args, "").await,
        StreamCommand::Update(args) => define(session, &client, &args, "?update=true").await,
        StreamCommand::Replace(args) => replace(session, &client, &args).await,
        StreamCommand::Ls(ListArgs {}) => list(session, &client).await,
        StreamCommand::Info(args) => info(session, &client, &args.stream).await,
        StreamCommand::Append(args) => append::execute(session, &client, *args).await,
        StreamCommand::Read(args) => read::execute(session, &client, &args).await,
        StreamCommand::Verify(args) => verify(session, &client, &args.stream).await,
        StreamCommand::Prove(args) => prove(session, &client, &args).await,
        StreamCommand::Evidence(args) => evidence(session, &client, &args).await,
        StreamCommand::Export(args) => export(session, &client, &args).await,
        StreamCommand::Import(args) => import(session, &client, &args).await,
        StreamCommand::Delete(args) => delete(session, &client, &args).await,
    }
}

/// Where a stream is in the local API.
pub(super) fn path(stream: &str, tail: &str) -> String {
    format!("/v1/streams/{}{tail}", parse::percent(stream))
}

async fn define(session: &Session, client: &Client, args: &CreateArgs, tail: &str) -> Result<(), CliError> {
    let options = json!({
        "retain_ms": args.retain.map(parse::millis), "retain_bytes": args.retain_bytes, "retain_records": args.retain_records,
        "keep": args.keep.map(|keep| match keep { Keep::Queue => "queue", Keep::Interest => "interest" }),
        "refuse_when_full": args.refuse_when_full.then_some(true),
        "subjects": (!args.subjects.is_empty()).then_some(&args.subjects), "replicas": args.replicas, "place": (!args.place.is_empty()).then_some(&args.place),
    });
    let body = Bytes::from(options.to_string());
    let call =
        Call::new(Method::PUT, path(&args.stream, tail)).body(body, HeaderValue::from_static("application/json"));
    let stream = client.send(call).await?.json()?;
    if session.out.json {
        return session.out.json_line(&stream);
    }
    let by = match stream.get("copies_at").and_then(Value::as_array) {
        Some(copies) => format!("{} nodes", copies.len()),
        None => "this node".to_owned(),
    };
    let words = format!("{} is kept by {by}{}", escape(&args.stream), kept(&stream));
    session.out.say(&words);
    Ok(())
}

/// How much of a stream is kept, in words.
fn kept(stream: &Value) -> String {
    let number = |key| stream.get(key).and_then(Value::as_u64);
    let mut words = Vec::new();
    if let Some(ms) = number("retain_ms") {
        words.push(view::milliseconds(ms as f64));
    }
    if let Some(bytes) = number("retain_bytes") {
        words.push(view::bytes(bytes));
    }
    if let Some(records) = number("retain_records") {
        words.push(format!("{records} records"));
    }
    let until = match view::text(stream, "keep").as_str() {
        "queue" => ", until it is worked off",
        "interest" => ", until whoever is interested has worked it off",
        _ => "",
    };
    match words.is_empty() {
        true => until.to_owned(),
        false if view::flag(stream, "refuse_when_full") => format!(", at most {}{until}", words.join(", ")),
        false => format!(", its last {}{until}", words.join(", ")),
    }
}

async fn replace(session: &Session, client: &Client, args: &ReplaceArgs) -> Result<(), CliError> {
    let asked = json!({ "member": args.member, "by": args.by });
    let mut one = client
        .send(json_call(&path(&args.stream, "/copies/replace"), &asked)?)
        .await?
        .json()?;
    let before: Vec<String> = counted(&one);
    let mut progress = Progress::of_things(&session.out, "still lacks entries:", None);
    let (mut heard, mut seen) = (Instant::now(), Instant::now());
    while args.wait && counted(&one) == before {
        let newcomer = view::list(&one, "copies_at")
            .iter()
            .find(|copy| view::flag(copy, "is_new"));
        if newcomer.is_some() {
            seen = Instant::now();
        }
        if let Some(behind) = newcomer.and_then(|copy| copy.get("behind")?.as_u64()) {
            progress.show(behind);
        }
        tokio::time::sleep(progress::EVERY).await;
        let answer = match seen.elapsed() > FORGOTTEN_AFTER {
            // Whoever leads now has not heard of it.
            true => {
                seen = Instant::now();
                let call = json_call(&path(&args.stream, "/copies/replace"), &asked)?;
                client.send(call).await.and_then(|answer| answer.json())
            }
            false => client.get(&path(&args.stream, "")).await,
        };
        match answer {
            Ok(answer) => (one, heard) = (answer, Instant::now()),
            // For a moment nobody may lead.
            Err(_) if heard.elapsed() < SILENCE_MAX => {}
            Err(error) => return Err(error),
        }
    }
    drop(progress);
    if session.out.json {
        return session.out.json_line(&one);
    }
    session.out.say(match args.wait {
        true => "another has the copy",
        false => "another is getting the copy; `weft stream info` shows how far it is",
    });
    Ok(())
}

/// Whose copies count.
fn counted(stream: &Value) -> Vec<String> {
    let copies = view::list(stream, "copies_at")
        .iter()
        .filter(|copy| !view::flag(copy, "is_new"));
    let mut peers: Vec<String> = copies.map(|copy| view::text(copy, "peer")).collect();
    peers.sort();
    peers
}

async fn list(session: &Session, client: &Client) -> Result<(), CliError> {
    let streams = client.get("/v1/streams").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&streams).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let owner = match view::flag(one, "here") {
            true => "this node".to_owned(),
            false => view::short_id(&view::text(one, "owner")),
        };
        let bytes = one.get("bytes").and_then(Value::as_u64);
        vec![
            view::text(one, "name"),
            owner,
            view::text(one, "version"),
            view::text(one, "records"),
            bytes.map(view::bytes).unwrap_or_default(),
            view::text(one, "consumers"),
            kept(one)
                .trim_start_matches(", its last ")
                .trim_start_matches(", ")
                .to_owned(),
        ]
    };
    let rows: Vec<_> = view::elements(&streams).iter().map(row).collect();
    out.table(
        &["STREAM", "OWNER", "VERSION", "RECORDS", "SIZE", "CONSUMERS", "KEPT"],
        &rows,
        "no streams; `weft stream create NAME` makes one",
    )
}

async fn info(session: &Session, client: &Client, stream: &str) -> Result<(), CliError> {
    let one = client.get(&path(stream, "")).await?;
    let out = &session.out;
    if out.json {
        return out.json_line(&one);
    }
    let bytes = one.get("bytes").and_then(Value::as_u64).unwrap_or_default();
    let owner = match view::flag(&one, "here") {
        true => format!("{} (this node)", view::text(&one, "owner")),
        false => view::text(&one, "owner"),
    };
    let last = match view::text(&one, "last_recorded") {
        none if none.is_empty() => "nothing yet".to_owned(),
        last => last,
    };
    let mut lines = vec![
        ("version", view::text(&one, "version")),
        (
            "records",
            format!("{} from {} on", view::text(&one, "records"), view::text(&one, "first")),
        ),
        ("size", view::bytes(bytes)),
        ("kept by", owner),
        ("created", view::text(&one, "created")),
        ("last", last),
        ("consumers", view::text(&one, "consumers")),
    ];
    match one.get("copies_at").and_then(Value::as_array) {
        None => lines.push(("copies", "1: when its owner's disk is lost, it is lost".to_owned())),
        Some(copies) => lines.extend(copies.iter().map(|copy| ("copy", copy_words(copy)))),
    }
    for (what, key) in [("placed at", "place"), ("subjects", "subjects")] {
        let texts: Vec<&str> = view::list(&one, key).iter().filter_map(Value::as_str).collect();
        if !texts.is_empty() {
            lines.push((what, texts.join(", ")));
        }
    }
    let kept = kept(&one);
    if !kept.is_empty() {
        lines.push(("keeps", kept.trim_start_matches(", ").to_owned()));
    }
    let damage = view::text(&one, "damage");
    if !damage.is_empty() {
        lines.push(("damaged", damage));
    }
    lines
        .iter()
        .try_for_each(|(what, text)| out.line(&format!("{what:<10} {}", escape(text))))
}

fn copy_words(copy: &Value) -> String {
    let state = match (view::flag(copy, "leads"), copy.get("behind").and_then(Value::as_u64)) {
        (true, _) => "leads",
        (false, Some(behind)) if view::flag(copy, "is_new") => {
            return format!("{}  is new, and lacks {behind} entries", view::text(copy, "peer"));
        }
        (false, Some(0)) => "has everything",
        (false, Some(behind)) => return format!("{}  lacks {behind} entries", view::text(copy, "peer")),
        (false, None) => "",
    };
    format!("{}  {state}", view::text(copy, "peer")).trim_end().to_owned()
}

async fn verify(session: &Session, client: &Client, stream: &str) -> Result<(), CliError> {
    let call = Call::new(Method::POST, path(stream, "/verify")).time_max(VERIFY_WITHIN);
    let verified = client.send(call).await?.json()?;
    if session.out.json {
        return session.out.json_line(&verified);
    }
    session.out.say(&format!(
        "{} records from {} on are as they were appended, and lead to what was signed:",
        view::text(&verified, "records"),
        view::text(&verified, "first"),
    ));
    session.out.line(view::text(&verified, "checkpoint").trim_end())
}

async fn prove(session: &Session, client: &Client, args: &ProveArgs) -> Result<(), CliError> {
    let position = match (&args.id, args.position) {
        (Some(id), _) => {
            let found = client
                .get(&path(&args.stream, &format!("/records?id={}", parse::percent(id))))
                .await?;
            let sequence = view::elements(&found)
                .first()
                .map(|event| view::text(event, "sequence"));
            let position = sequence.and_then(|text| text.parse().ok());
            position.ok_or_else(|| CliError::Protocol("the node did not say where the event is".to_owned()))?
        }
        (None, position) => position.unwrap_or_default(),
    };
    let answer = client
        .send(Call::new(
            Method::GET,
            path(&args.stream, &format!("/proofs/{position}")),
        ))
        .await?;
    write_proof(
        session,
        args.output.as_deref(),
        &answer.body,
        json!({ "position": position }),
    )
    .await
}

async fn evidence(session: &Session, client: &Client, args: &EvidenceArgs) -> Result<(), CliError> {
    let answer = client
        .send(Call::new(Method::GET, path(&args.stream, "/evidence")))
        .await?;
    write_proof(
        session,
        args.output.as_deref(),
        &answer.body,
        json!({ "stream": args.stream }),
    )
    .await
}

/// Writes what anybody can check into a file, or shows it. `told` is said of it in JSON.
async fn write_proof(session: &Session, file: Option<&Path>, text: &[u8], mut told: Value) -> Result<(), CliError> {
    let Some(file) = file else {
        return session.out.bytes(text);
    };
    let written = tokio::fs::write(file, text).await;
    written.map_err(|error| CliError::io(format!("cannot write {}", file.display()), error))?;
    let name = file.display().to_string();
    if session.out.json {
        told["file"] = json!(name);
        return session.out.json_line(&told);
    }
    session
        .out
        .say(&format!("`weft verify-proof {}` checks it", escape(&name)));
    Ok(())
}

async fn export(session: &Session, client: &Client, args: &ExportArgs) -> Result<(), CliError> {
    let path = path(&args.stream, "/export");
    match &args.output {
        None => blob::copy(session, client, &path, &mut tokio::io::stdout())
            .await
            .map(drop),
        Some(file) => {
            let bytes = blob::save(session, client, &path, file).await?;
            if session.out.json {
                let saved = json!({ "file": file.display().to_string(), "bytes": bytes });
                return session.out.json_line(&saved);
            }
            session.out.say(&format!(
                "{} ({})",
                escape(&file.display().to_string()),
                view::bytes(bytes)
            ));
            Ok(())
        }
    }
}

async fn import(session: &Session, client: &Client, args: &ImportArgs) -> Result<(), CliError> {
    let body = input::stream(None, Some(&args.file)).await?;
    let path = format!("/v1/stream/streams/{}/import", parse::percent(&args.stream));
    let response = client.stream(&Call::new(Method::POST, path), body).await?;
    let answer = http_body_util::BodyExt::collect(response.into_body()).await;
    let answer = answer.map_err(|error| CliError::Lost(error.to_string()))?.to_bytes();
    let imported: Value = serde_json::from_slice(&answer)
        .map_err(|error| CliError::Protocol(format!("the answer is not JSON: {error}")))?;
    if session.out.json {
        return session.out.json_line(&imported);
    }
    let name = view::text(&imported, "owner_name");
    let by = match name.is_empty() {
        true => view::text(&imported, "owner"),
        false => format!("{name} ({})", view::text(&imported, "owner")),
    };
    session.out.say(&format!(
        "{} records of {}, as {} of {} signed them at {}",
        view::text(&imported, "records"),
        escape(&view::text(&imported, "stream")),
        escape(&by),
        view::text(&imported, "mesh_id"),
        view::text(&imported, "exported"),
    ));
    Ok(())
}

async fn delete(session: &Session, client: &Client, args: &DeleteArgs) -> Result<(), CliError> {
    if !args.force {
        let one = client.get(&path(&args.stream, "")).await?;
        let records = one.get("records").and_then(Value::as_u64).unwrap_or_default();
        if records > 0 {
            return Err(CliError::Usage(format!(
                "the stream {} has {records} records, which would be gone; --force deletes it",
                args.stream
            )));
        }
    }
    client.delete(&path(&args.stream, "")).await?;
    if session.out.json {
        return session.out.json_line(&json!({ "stream": args.stream }));
    }
    session.out.say(&format!("{} is deleted", escape(&args.stream)));
    Ok(())
}
