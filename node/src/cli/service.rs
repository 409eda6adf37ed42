//! `weft services` and `weft service …`: what the mesh offers, how it is, and how it ends.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    CliError, Session,
    client::Call,
    output::{Tone, escape},
    parse, view,
};
use crate::error::NodeError;

/// Instances answer within their time or not at all; so much later the node is taken for stuck.
const GRACE: Duration = Duration::from_secs(5);

/// List the services of the mesh
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft services
  weft services --json | jq -r .name | sort -u")]
pub(crate) struct ListArgs {}

/// Look at the services of the mesh
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    Info(InfoArgs),
    Stats(AskArgs),
    Ping(AskArgs),
    Describe(DescribeArgs),
    Drain(DrainArgs),
}

/// Show the instances of a service, as their records say
#[derive(Debug, Args)]
struct InfoArgs {
    /// Service
    #[arg(value_name = "NAME", value_parser = parse::service_name)]
    name: String,
}

/// Ask every instance of a service: `ping` whether it is there, `stats` what it has done
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft service ping greet
  weft service stats orders --json | jq '.stats.endpoints[] | {name, requests, p99_us}'

Exit code 5 when no instance answers.")]
struct AskArgs {
    /// Service
    #[arg(value_name = "NAME", value_parser = parse::service_name)]
    name: String,
    /// How long an instance may take
    #[arg(short, long, value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    timeout: Duration,
}

/// Print the JSON Schemas of a service's endpoints
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft service describe orders
  weft service describe orders@^2/create > create.schema.json")]
struct DescribeArgs {
    /// Service, which versions of it, which of its endpoints
    #[arg(value_name = "NAME[@VERSION][/ENDPOINT]", value_parser = parse::target)]
    target: parse::Target,
    /// How long an instance may take
    #[arg(short, long, value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    timeout: Duration,
}

/// Have this node's instances of a service take nothing new; what they have they finish, and `weft serve` ends
#[derive(Debug, Args)]
struct DrainArgs {
    /// Service
    #[arg(value_name = "NAME", value_parser = parse::service_name)]
    name: String,
    /// One instance and no other
    #[arg(long, value_name = "ID", value_parser = parse::service_name)]
    instance: Option<String>,
}

/// Dispatches `weft service …`.
pub(crate) async fn execute(session: &Session, args: &ServiceArgs) -> Result<(), CliError> {
    match &args.command {
        ServiceCommand::Ls(args) => list(session, args).await,
        ServiceCommand::Info(args) => info(session, args).await,
        ServiceCommand::Stats(args) => stats(session, args).await,
        ServiceCommand::Ping(args) => ping(session, args).await,
        ServiceCommand::Describe(args) => describe(session, args).await,
        ServiceCommand::Drain(args) => drain(session, args).await,
    }
}

/// Lists every instance of every service.
pub(crate) async fn list(session: &Session, _args: &ListArgs) -> Result<(), CliError> {
    let services = session.client()?.get("/v1/services").await?;
    let out = &session.out;
    if out.json {
        return json_lines(session, &services);
    }
    let rows: Vec<_> = view::elements(&services)
        .iter()
        .map(|service| row(service, out.terminal))
        .collect();
    let headers = ["SERVICE", "VERSION", "NODE", "PEER", "ENDPOINTS", "STATE", "METADATA"];
    out.table(&headers, &rows, "no services; offer one with `weft serve NAME --echo`")
}

fn json_lines(session: &Session, list: &Value) -> Result<(), CliError> {
    let mut elements = view::elements(list).iter();
    elements.try_for_each(|element| session.out.json_line(element))
}

fn row(service: &Value, terminal: bool) -> Vec<String> {
    let id = view::text(service, "peer_id");
    vec![
        view::text(service, "name"),
        view::text(service, "version"),
        view::text(service, "node"),
        if terminal { view::short_id(&id) } else { id },
        endpoints(service),
        state(service).to_owned(),
        view::pairs(service, "metadata").replace(' ', ","),
    ]
}

fn state(service: &Value) -> &'static str {
    let reachable = service.get("reachable").and_then(Value::as_bool).unwrap_or(true);
    let broken = view::number(service, "broken_for_ms").is_some();
    match (view::flag(service, "local"), reachable) {
        _ if view::flag(service, "draining") => "draining",
        _ if broken => "failing",
        (true, _) => "local",
        (false, true) => "reachable",
        (false, false) => "unreachable",
    }
}

/// The endpoints' names, whether the node lists names or objects.
fn endpoints(service: &Value) -> String {
    let name = |endpoint: &Value| match endpoint {
        Value::Object(_) => view::text(endpoint, "name"),
        Value::String(name) => name.clone(),
        _ => String::new(),
    };
    let names: Vec<_> = view::list(service, "endpoints")
        .iter()
        .map(name)
        .filter(|name| !name.is_empty())
        .collect();
    names.join(",")
}

async fn info(session: &Session, args: &InfoArgs) -> Result<(), CliError> {
    let path = format!("/v1/services/{}", parse::percent(&args.name));
    let instances = session.client()?.get(&path).await?;
    if session.out.json {
        return json_lines(session, &instances);
    }
    let mut rows = Vec::new();
    for instance in view::elements(&instances) {
        for endpoint in view::list(instance, "endpoints") {
            rows.push(vec![
                view::text(instance, "id"),
                view::text(instance, "node"),
                view::text(instance, "version"),
                view::text(instance, "zone"),
                state(instance).to_owned(),
                view::number(instance, "load").map(share).unwrap_or_default(),
                view::text(endpoint, "name"),
                if view::flag(endpoint, "idempotent") {
                    "yes"
                } else {
                    "no"
                }
                .to_owned(),
                view::text(endpoint, "schema_sha256").chars().take(12).collect(),
            ]);
        }
    }
    let headers = [
        "INSTANCE",
        "NODE",
        "VERSION",
        "ZONE",
        "STATE",
        "LOAD",
        "ENDPOINT",
        "IDEMPOTENT",
        "SCHEMA",
    ];
    session.out.table(&headers, &rows, "no instance")
}

fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// What the instances say to one question; those that say nothing are told about on standard error.
async fn ask(session: &Session, name: &str, what: &str, timeout: Duration) -> Result<Value, CliError> {
    let timeout_ms = parse::millis(timeout).max(1);
    let path = format!("/v1/services/{}/{what}?timeout_ms={timeout_ms}", parse::percent(name));
    let call = Call::new(http::Method::GET, path).time_max(timeout + GRACE);
    let said = session.client()?.send(call).await?.json()?;
    for silent in view::elements(&said) {
        let error = view::text(silent, "error");
        if !error.is_empty() && !session.out.json {
            let words = format!(
                "{} on {}: {error}",
                view::text(silent, "id"),
                view::text(silent, "node")
            );
            session.out.say(&session.out.paint_talk(Tone::Warn, &escape(&words)));
        }
    }
    Ok(said)
}

/// Exit code 5 when nobody answered.
fn somebody(said: &Value, name: &str) -> Result<(), CliError> {
    match view::elements(said)
        .iter()
        .any(|said| view::text(said, "error").is_empty())
    {
        true => Ok(()),
        false => Err(CliError::Timeout(format!("no instance of {name} answered"))),
    }
}

async fn ping(session: &Session, args: &AskArgs) -> Result<(), CliError> {
    let said = ask(session, &args.name, "ping", args.timeout).await?;
    if session.out.json {
        json_lines(session, &said)?;
        return somebody(&said, &args.name);
    }
    let answered = view::elements(&said)
        .iter()
        .filter(|said| view::text(said, "error").is_empty());
    let rows: Vec<_> = answered
        .map(|said| {
            vec![
                view::text(said, "id"),
                view::text(said, "node"),
                view::text(said, "version"),
                view::millis(said, "rtt_ms"),
            ]
        })
        .collect();
    session
        .out
        .table(&["INSTANCE", "NODE", "VERSION", "TIME"], &rows, "no answer")?;
    somebody(&said, &args.name)
}

async fn stats(session: &Session, args: &AskArgs) -> Result<(), CliError> {
    let said = ask(session, &args.name, "stats", args.timeout).await?;
    if session.out.json {
        json_lines(session, &said)?;
        return somebody(&said, &args.name);
    }
    let mut rows = Vec::new();
    for instance in view::elements(&said) {
        let Some(stats) = instance.get("stats") else { continue };
        for endpoint in view::list(stats, "endpoints") {
            let time = |key: &str| match view::number(endpoint, key) {
                Some(us) if us > 0.0 => view::milliseconds(us / 1000.0),
                _ => String::new(),
            };
            let text = |key: &str| view::text(endpoint, key);
            rows.push(vec![
                view::text(instance, "id"),
                view::text(instance, "node"),
                text("name"),
                text("requests"),
                text("errors"),
                text("abandoned"),
                text("rejected"),
                text("in_flight"),
                time("p50_us"),
                time("p99_us"),
                text("last_error"),
            ]);
        }
    }
    let headers = [
        "INSTANCE",
        "NODE",
        "ENDPOINT",
        "CALLS",
        "ERRORS",
        "ABANDONED",
        "REJECTED",
        "IN FLIGHT",
        "P50",
        "P99",
        "LAST ERROR",
    ];
    session.out.table(&headers, &rows, "no answer")?;
    somebody(&said, &args.name)
}

async fn describe(session: &Session, args: &DescribeArgs) -> Result<(), CliError> {
    let name = &args.target.service;
    let wanted = args
        .target
        .version
        .as_deref()
        .map(semver::VersionReq::parse)
        .transpose();
    let wanted = wanted.map_err(|error| CliError::Usage(error.to_string()))?;
    let said = ask(session, name, "schemas", args.timeout).await?;
    somebody(&said, name)?;
    let fits = |said: &&Value| {
        let version = semver::Version::parse(&view::text(said, "version"));
        wanted
            .as_ref()
            .is_none_or(|wanted| version.is_ok_and(|version| wanted.matches(&version)))
    };
    let mut schemas = view::elements(&said)
        .iter()
        .filter(fits)
        .filter_map(|said| said.get("schemas"));
    // Instances of one version say the same; of several, the last one is as good as any.
    let Some(schemas) = schemas.next_back().and_then(Value::as_object) else {
        return Err(CliError::Node(NodeError::not_found(format!(
            "no instance of {name} with such a version answered"
        ))));
    };
    match &args.target.endpoint {
        Some(endpoint) => match schemas.get(endpoint) {
            Some(schema) => session.out.json_line(schema),
            None => Err(CliError::Node(NodeError::not_found(format!(
                "{name}/{endpoint} has no JSON Schema"
            )))),
        },
        None => session.out.json_line(&Value::Object(schemas.clone())),
    }
}

async fn drain(session: &Session, args: &DrainArgs) -> Result<(), CliError> {
    let mut path = format!("/v1/services/{}/drain", parse::percent(&args.name));
    if let Some(instance) = &args.instance {
        path.push_str(&format!("?instance={}", parse::percent(instance)));
    }
    let drained = session.client()?.post(&path, &serde_json::json!({})).await?;
    if session.out.json {
        return session.out.json_line(&drained);
    }
    let count = view::list(&drained, "instances").len();
    session
        .out
        .say(&format!("{count} instances of {} take nothing new", args.name));
    Ok(())
}
