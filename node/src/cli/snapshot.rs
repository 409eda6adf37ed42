//! `weft snapshot …`: how projections were, kept.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Call, Client},
    output::escape,
    projection::path,
    view,
};

/// Keep how a projection is now, and look at it later
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft snapshot take totals
  weft snapshot ls totals
  weft projection show totals --at 1000      begins with the snapshot before it
  weft snapshot rm totals 1000

With a snapshot the past can be looked at when the stream does not keep its events any more, and faster. A snapshot goes with its projection, and
when that is built anew.")]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    /// Keep a snapshot of now
    Take(NameArg),
    #[command(visible_alias = "list")]
    /// List a projection's snapshots
    Ls(NameArg),
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

// Which projection; the command says what for.
#[derive(Debug, Args)]
struct NameArg {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
}

/// Remove a snapshot
#[derive(Debug, Args)]
struct RemoveArgs {
    /// Projection
    #[arg(value_name = "PROJECTION")]
    projection: String,
    /// Of which position
    #[arg(value_name = "POSITION")]
    position: u64,
}

/// Dispatches `weft snapshot …`.
pub(crate) async fn execute(session: &Session, args: SnapshotArgs) -> Result<(), CliError> {
    let client = session.client()?;
    match args.command {
        SnapshotCommand::Take(args) => take(session, &client, &args.projection).await,
        SnapshotCommand::Ls(args) => list(session, &client, &args.projection).await,
        SnapshotCommand::Rm(args) => remove(session, &client, &args).await,
    }
}

async fn take(session: &Session, client: &Client, projection: &str) -> Result<(), CliError> {
    let one = client
        .send(Call::new(Method::POST, path(projection, "/snapshots")))
        .await?
        .json()?;
    if session.out.json {
        return session.out.json_line(&one);
    }
    session.out.say(&format!(
        "{} groups of {} as they are behind the event {}",
        view::text(&one, "groups"),
        escape(projection),
        view::text(&one, "position")
    ));
    Ok(())
}

async fn list(session: &Session, client: &Client, projection: &str) -> Result<(), CliError> {
    let all = client.get(&path(projection, "/snapshots")).await?;
    let out = &session.out;
    if out.json {
        return view::elements(&all).iter().try_for_each(|one| out.json_line(one));
    }
    let row = |one: &Value| {
        let bytes = one.get("bytes").and_then(Value::as_u64).unwrap_or_default();
        let by = if view::flag(one, "asked_for") {
            "somebody"
        } else {
            "itself"
        };
        vec![
            view::text(one, "position"),
            view::text(one, "groups"),
            view::bytes(bytes),
            view::text(one, "taken"),
            by.to_owned(),
        ]
    };
    let rows: Vec<_> = view::elements(&all).iter().map(row).collect();
    out.table(
        &["POSITION", "GROUPS", "SIZE", "TAKEN", "BY"],
        &rows,
        "no snapshots; `weft snapshot take PROJECTION` takes one",
    )
}

async fn remove(session: &Session, client: &Client, args: &RemoveArgs) -> Result<(), CliError> {
    client
        .delete(&path(&args.projection, &format!("/snapshots/{}", args.position)))
        .await?;
    if session.out.json {
        return session
            .out
            .json_line(&json!({ "projection": args.projection, "position": args.position }));
    }
    session
        .out
        .say(&format!("the snapshot at {} is removed", args.position));
    Ok(())
}
