//! `weft member`: who belongs to the mesh, who waits to be let in, who is out.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    CliError, Session,
    client::Client,
    output::{Tone, escape},
    parse, view,
};

/// List, let in and cast out members of the mesh
#[derive(Debug, Args)]
pub(crate) struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// List the members
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    Approve(ApproveArgs),
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Those who wait to be let in
    #[arg(long, conflicts_with = "revoked")]
    pending: bool,
    /// Those who were cast out
    #[arg(long)]
    revoked: bool,
}

/// Let a waiting node in
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft member ls --pending
  weft member approve 12D3KooW… --role worker --label zone=eu
  weft member approve beta --grant call:orders.>")]
struct ApproveArgs {
    /// Peer id of the waiting node, its start, or its name
    #[arg(value_name = "ID")]
    id: String,
    /// Role of the new member; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Label of the new member; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    labels: Vec<(String, String)>,
    /// How long the membership lasts before it must be renewed
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    ttl: Option<Duration>,
    /// What the new member may do beyond its roles, as VERBS:RESOURCE; may be given several times
    #[arg(long = "grant", value_name = "VERBS:RESOURCE")]
    grants: Vec<String>,
}

/// Cast a member out, for good
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft member revoke beta --reason 'laptop stolen'
  weft member revoke 12D3KooW… --yes             without asking, for scripts

The member's key is banned from the mesh; its connections are cut within seconds. This cannot be undone.")]
struct RevokeArgs {
    /// Peer id of the member, its start, or its name
    #[arg(value_name = "ID")]
    id: String,
    /// Why; every member can read it
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Lists, approves or revokes.
pub(crate) async fn execute(session: &Session, args: MemberArgs) -> Result<(), CliError> {
    match args.command {
        MemberCommand::Ls(args) => list(session, &args).await,
        MemberCommand::Approve(args) => approve(session, args).await,
        MemberCommand::Revoke(args) => revoke(session, &args).await,
    }
}

async fn list(session: &Session, args: &ListArgs) -> Result<(), CliError> {
    let (path, keys, headers, empty): (_, &[&str], &[&str], _) = if args.pending {
        let keys: &[&str] = &["name", "peer_id", "agent", "address", "since"];
        (
            "/v1/members?state=pending",
            keys,
            &["NAME", "PEER", "AGENT", "ADDRESS", "SINCE"],
            "nobody waits to be let in",
        )
    } else if args.revoked {
        let keys: &[&str] = &["peer_id", "reason", "revoked_at"];
        (
            "/v1/members?state=revoked",
            keys,
            &["PEER", "REASON", "REVOKED"],
            "nobody was cast out",
        )
    } else {
        let keys: &[&str] = &[
            "name",
            "peer_id",
            "roles",
            "labels",
            "connected",
            "last_seen_at",
            "expires_at",
        ];
        let headers: &[&str] = &["NAME", "PEER", "ROLES", "LABELS", "STATE", "SEEN", "EXPIRES"];
        ("/v1/members", keys, headers, "no members")
    };
    let members = session.client()?.get(path).await?;
    let out = &session.out;
    if out.json {
        return view::elements(&members)
            .iter()
            .try_for_each(|member| out.json_line(member));
    }
    let rows: Vec<Vec<String>> = view::elements(&members)
        .iter()
        .map(|member| keys.iter().map(|key| cell(member, key)).collect())
        .collect();
    out.table(headers, &rows, empty)
}

fn cell(member: &Value, key: &str) -> String {
    match key {
        "labels" => view::pairs(member, key).replace(' ', ","),
        "roles" => view::text(member, key).replace(' ', ","),
        "connected" if view::flag(member, "self") => "self".to_owned(),
        "connected" if view::flag(member, "revoked") => "revoked".to_owned(),
        "connected" => if view::flag(member, key) { "connected" } else { "away" }.to_owned(),
        _ => view::text(member, key),
    }
}

async fn approve(session: &Session, args: ApproveArgs) -> Result<(), CliError> {
    let mut request = Map::new();
    match args.roles.as_slice() {
        [] => None,
        [role] => request.insert("role".to_owned(), json!(role)),
        roles => request.insert("roles".to_owned(), json!(roles)),
    };
    if !args.labels.is_empty() {
        let labels: BTreeMap<_, _> = args.labels.into_iter().collect();
        request.insert("labels".to_owned(), json!(labels));
    }
    if let Some(ttl) = args.ttl {
        request.insert("ttl_s".to_owned(), json!(ttl.as_secs().max(1)));
    }
    if !args.grants.is_empty() {
        request.insert("grants".to_owned(), json!(args.grants));
    }
    let path = format!("/v1/members/{}/approve", parse::percent(&args.id));
    let member = session.client()?.post(&path, &Value::Object(request)).await?;
    if session.out.json {
        return session.out.json_line(&member);
    }
    session
        .out
        .say(&format!("{} is a member now", escape(&view::who(&member))));
    Ok(())
}

async fn revoke(session: &Session, args: &RevokeArgs) -> Result<(), CliError> {
    let client = session.client()?;
    if !args.yes {
        confirm(session, &client, &args.id).await?;
    }
    let path = format!("/v1/members/{}/revoke", parse::percent(&args.id));
    let outcome = client.post(&path, &json!({ "reason": args.reason })).await?;
    if session.out.json {
        return session.out.json_line(&outcome);
    }
    let told = outcome.get("told").and_then(Value::as_u64).unwrap_or(0);
    session.out.say(&format!(
        "{} is out; {told} connected {} told, the others learn it when they meet one",
        escape(&view::text(&outcome, "peer_id")),
        if told == 1 { "node was" } else { "nodes were" },
    ));
    for adopted in view::list(&outcome, "adopted").iter().filter_map(Value::as_str) {
        session.out.say(&format!(
            "  the members it had let in now stand under this node: {}",
            escape(adopted)
        ));
    }
    Ok(())
}

async fn confirm(session: &Session, client: &Client, id: &str) -> Result<(), CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(
            "revoking cannot be undone and nobody is there to ask; add --yes".to_owned(),
        ));
    }
    let members = client.get("/v1/members").await?;
    let is_meant = |member: &&Value| {
        let peer = view::text(member, "peer_id");
        let tail = peer.strip_prefix("12D3KooW").unwrap_or(&peer);
        view::text(member, "name") == id || peer.starts_with(id) || tail.starts_with(id)
    };
    let whom = view::elements(&members)
        .iter()
        .find(is_meant)
        .map_or_else(|| id.to_owned(), view::who);
    let question = format!("Cast out {}? Its key can never come back. [y/N] ", escape(&whom));
    let _ = write!(
        std::io::stderr().lock(),
        "{}",
        session.out.paint_talk(Tone::Strong, &question)
    );
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| CliError::io("cannot read the answer", error))?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    session.out.say("nothing was changed");
    Err(CliError::Exit(1))
}
