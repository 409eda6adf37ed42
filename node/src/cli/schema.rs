//! `weft schema …`: what the data of a stream's events must be like.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Client, json_call},
    input,
    output::escape,
    parse, stream, view,
};

/// What `--from` is called where data were recorded without a schema.
const NONE: &str = "none";

/// Have a stream check what is appended, and bring old data to the newest schema
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft schema add orders order/v1 order.v1.json --type order.created
  weft stream append orders --type order.created --schema order/v1 '{\"total\":3}'
  weft schema add orders order/v2 order.v2.json --type order.created --from order/v1 --patch to-v2.json
  weft stream read orders --upcast                         all as order/v2 has it
  weft schema ls orders

A schema is a JSON Schema with an id, which events name (dataschema). It never changes: what has changed gets another id, and says with a JSON
Patch how data of the one before become its own. An event that is not as its schema says is refused; what was recorded is never changed.
Projections read all as the newest schema has it, and other readers where they ask for it.")]
pub(crate) struct SchemaArgs {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    Add(AddArgs),
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Print a JSON Schema
    Show(WhichArgs),
    /// Remove a schema; what was recorded with it stays as it is
    #[command(visible_alias = "remove")]
    Rm(WhichArgs),
}

/// Add a schema to a stream of this node; the same one twice is no mistake
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft schema add orders order/v1 order.v1.json --type order.created
  weft schema add orders order/v2 order.v2.json --type order.created --from order/v1 --patch to-v2.json
  weft schema add clicks click/v1 click.json --type click --from none --patch marked.json

The patch is a JSON Patch (RFC 6902): [{\"op\":\"move\",\"from\":\"/total\",\"path\":\"/amount/value\"}]. Where it does not fit the data, or what comes of it
is not as the schema says, they are given as they were recorded. With --type, events of that type must name a schema from now on.")]
struct AddArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// The JSON Schema; `-` is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,
    /// Events of this type must name this schema, or another one for the type; may be given several times
    #[arg(short, long = "type", value_name = "TYPE", value_delimiter = ',')]
    kind: Vec<String>,
    /// The schema before it, or `none`: what was recorded without any
    #[arg(long, value_name = "SCHEMA", requires = "patch")]
    from: Option<String>,
    /// How data of the schema before become data of this one: a JSON Patch
    #[arg(long, value_name = "FILE", requires = "from", value_hint = clap::ValueHint::FilePath)]
    patch: Option<PathBuf>,
}

// Which schema; the command says what for.
#[derive(Debug, Args)]
struct WhichArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
    /// The schema's id, as events name it
    #[arg(value_name = "SCHEMA")]
    schema: String,
}

impl WhichArgs {
    fn path(&self) -> String {
        stream::path(&self.stream, &format!("/schemas/{}", parse::percent(&self.schema)))
    }
}

/// List a stream's schemas
#[derive(Debug, Args)]
struct ListArgs {
    /// Stream
    #[arg(value_name = "STREAM")]
    stream: String,
}

/// Dispatches `weft schema …`.
pub(crate) async fn execute(session: &Session, args: SchemaArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        SchemaCommand::Add(args) => add(session, &client, &args).await,
        SchemaCommand::Ls(args) => list(session, &client, &args.stream).await,
        SchemaCommand::Show(which) => show(session, &client, &which).await,
        SchemaCommand::Rm(which) => {
            client.delete(&which.path()).await?;
            let gone = json!({ "stream": which.stream, "id": which.schema });
            said(session, &gone, "is removed")
        }
    }
}

fn said(session: &Session, schema: &Value, words: &str) -> Result<(), CliError> {
    if session.out.json {
        return session.out.json_line(schema);
    }
    let id = view::text(schema, "id");
    session.out.say(&format!("{} {words}", escape(&id)));
    Ok(())
}

async fn json_of(file: &std::path::Path) -> Result<Value, CliError> {
    let bytes = input::body(None, Some(file)).await?;
    serde_json::from_slice(&bytes).map_err(|error| CliError::Usage(format!("{} is no JSON: {error}", file.display())))
}

async fn add(session: &Session, client: &Client, args: &AddArgs) -> Result<(), CliError> {
    let mut definition = json!({ "id": args.which.schema, "types": args.kind, "schema": json_of(&args.file).await? });
    if let (Some(from), Some(patch)) = (&args.from, &args.patch) {
        let from = Some(from).filter(|from| *from != NONE);
        definition["upcast"] = json!({ "from": from, "patch": json_of(patch).await? });
    }
    let call = json_call(&stream::path(&args.which.stream, "/schemas"), &definition)?;
    let schema = client.send(call).await?.json()?;
    let words = match args.kind.is_empty() {
        true => "checks the events that name it".to_owned(),
        false => format!(
            "checks the events that name it; those of {} must",
            escape(&args.kind.join(", "))
        ),
    };
    said(session, &schema, &words)
}

async fn list(session: &Session, client: &Client, name: &str) -> Result<(), CliError> {
    let all = client.get(&stream::path(name, "/schemas")).await?;
    let out = &session.out;
    if out.json {
        return view::elements(&all).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let types: Vec<&str> = view::list(one, "types").iter().filter_map(Value::as_str).collect();
        let from = one.get("upcast").map(|upcast| match view::text(upcast, "from") {
            from if from.is_empty() => NONE.to_owned(),
            from => from,
        });
        vec![
            view::text(one, "id"),
            types.join(", "),
            from.unwrap_or_default(),
            view::text(one, "added"),
        ]
    };
    let rows: Vec<_> = view::elements(&all).iter().map(row).collect();
    out.table(
        &["SCHEMA", "TYPES", "FROM", "ADDED"],
        &rows,
        "the stream has no schemas; `weft schema add STREAM SCHEMA FILE` adds one",
    )
}

async fn show(session: &Session, client: &Client, which: &WhichArgs) -> Result<(), CliError> {
    let schema = client.get(&which.path()).await?;
    if session.out.json {
        return session.out.json_line(&schema);
    }
    let document = schema.get("schema").unwrap_or(&Value::Null);
    let pretty = serde_json::to_string_pretty(document).unwrap_or_else(|_| document.to_string());
    pretty.lines().try_for_each(|line| session.out.line(&escape(line)))
}
