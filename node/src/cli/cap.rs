//! `weft cap`: who may do what.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    CliError, Session,
    output::{Tone, escape},
    parse, view,
};

/// Grant capabilities, show them, and explain what is allowed
#[derive(Debug, Args)]
pub(crate) struct CapArgs {
    #[command(subcommand)]
    command: CapCommand,
}

#[derive(Debug, Subcommand)]
enum CapCommand {
    Grant(GrantArgs),
    /// Show who was granted what, as far as this node knows
    #[command(visible_aliases = ["ls", "list"])]
    Show,
    Explain(ExplainArgs),
}

/// Allow someone something
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cap grant beta call 'orders.>'                 the member beta may call the services under orders
  weft cap grant role:worker pub,sub 'jobs.*' --ttl 7d
  weft cap grant beta call greet --depth 1            beta may hand it on, once
  weft cap grant beta invite role.member              beta may let nodes in, as plain members
  weft cap grant beta admin mesh.revocation           beta may revoke members

Verbs: pub sub call serve append read run invite grant admin, or all.
invite, grant, admin and all go into the member's certificate: the member gets a new one as soon as it is connected
to this node, and keeps the right as long as its membership.")]
struct GrantArgs {
    /// Peer id, name, or role:NAME
    #[arg(value_name = "AUDIENCE")]
    audience: String,
    /// Verbs, separated by commas
    #[arg(value_name = "VERBS", value_delimiter = ',', num_args = 1, required = true)]
    verbs: Vec<String>,
    /// Subject pattern: `*` is one token, `>` is the rest
    #[arg(value_name = "RESOURCE")]
    resource: String,
    /// How many times it may be handed on
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: u8,
    /// How long it is good [default: 90d]
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    ttl: Option<Duration>,
}

/// Say whether someone may do something, and why
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft cap explain beta call greet
  weft cap explain role:worker pub jobs.new

Exit code 0 when it is allowed, 4 when it is denied.")]
struct ExplainArgs {
    /// Peer id, name, or role:NAME
    #[arg(value_name = "WHO")]
    who: String,
    /// One verb
    #[arg(value_name = "VERB")]
    verb: String,
    /// Service or subject
    #[arg(value_name = "WHAT")]
    what: String,
}

/// Grants, shows or explains.
pub(crate) async fn execute(session: &Session, args: CapArgs) -> Result<(), CliError> {
    match args.command {
        CapCommand::Grant(args) => grant(session, &args).await,
        CapCommand::Show => show(session).await,
        CapCommand::Explain(args) => explain(session, &args).await,
    }
}

async fn grant(session: &Session, args: &GrantArgs) -> Result<(), CliError> {
    let mut request = json!({
        "audience": args.audience,
        "verbs": args.verbs,
        "resource": args.resource,
        "depth": args.depth,
    });
    if let Some(ttl) = args.ttl {
        request["ttl_s"] = json!(ttl.as_secs().max(1));
    }
    let capability = session.client()?.post("/v1/capabilities", &request).await?;
    if session.out.json {
        return session.out.json_line(&capability);
    }
    let verbs = args.verbs.join(", ");
    let [who, verbs, what] = [&args.audience, &verbs, &args.resource].map(|text| escape(text));
    if view::text(&capability, "carried_by") == "certificate" {
        session.out.say(&format!(
            "{who} will have {verbs} on {what} in its certificate: at once if it is connected, else when it next is"
        ));
        return Ok(());
    }
    session.out.say(&format!(
        "{who} may {verbs} on {what} until {}",
        escape(&view::text(&capability, "expires_at"))
    ));
    session.out.line(&escape(&view::text(&capability, "text")))
}

async fn show(session: &Session) -> Result<(), CliError> {
    let capabilities = session.client()?.get("/v1/capabilities").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&capabilities)
            .iter()
            .try_for_each(|capability| out.json_line(capability));
    }
    let mut rows = Vec::new();
    for capability in view::elements(&capabilities) {
        for grant in view::list(capability, "grants") {
            rows.push(row(capability, grant));
        }
    }
    let headers = ["AUDIENCE", "VERBS", "RESOURCE", "DEPTH", "EXPIRES", "ISSUER", "BY"];
    out.table(&headers, &rows, "nothing was granted; `weft cap grant` does")
}

fn row(capability: &Value, grant: &Value) -> Vec<String> {
    vec![
        view::text(capability, "audience"),
        view::text(grant, "verbs").replace(' ', ","),
        view::text(grant, "resource"),
        view::text(grant, "depth"),
        view::text(capability, "expires_at"),
        view::text(capability, "issuer"),
        match view::text(capability, "carried_by").as_str() {
            "certificate" if view::flag(capability, "pending") => "certificate, promised".to_owned(),
            "certificate" => "certificate".to_owned(),
            _ => format!("capability {:.12}", view::text(capability, "token_id")),
        },
    ]
}

async fn explain(session: &Session, args: &ExplainArgs) -> Result<(), CliError> {
    let [who, verb, what] = [&args.who, &args.verb, &args.what].map(|text| parse::percent(text));
    let path = format!("/v1/capabilities/explain?who={who}&verb={verb}&what={what}");
    let verdict = session.client()?.get(&path).await?;
    let allowed = view::flag(&verdict, "allowed");
    let out = &session.out;
    if out.json {
        out.json_line(&verdict)?;
    } else {
        let (tone, word) = if allowed {
            (Tone::Good, "allowed")
        } else {
            (Tone::Bad, "denied")
        };
        let rule = view::text(&verdict, "rule");
        out.line(&format!(
            "{}: {} {} {} (rule: {})",
            out.paint(tone, word),
            escape(&args.who),
            escape(&args.verb),
            escape(&args.what),
            escape(&rule)
        ))?;
        for line in view::list(&verdict, "because").iter().filter_map(Value::as_str) {
            out.line(&format!("  {}", escape(line)))?;
        }
    }
    if allowed { Ok(()) } else { Err(CliError::Exit(4)) }
}
