//! `weft services` and `weft service ls`: what the mesh offers.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{CliError, Session, view};

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
}

/// Dispatches `weft service …`.
pub(crate) async fn execute(session: &Session, args: &ServiceArgs) -> Result<(), CliError> {
    match &args.command {
        ServiceCommand::Ls(args) => list(session, args).await,
    }
}

/// Lists every instance of every service.
pub(crate) async fn list(session: &Session, _args: &ListArgs) -> Result<(), CliError> {
    let services = session.client()?.get("/v1/services").await?;
    let out = &session.out;
    if out.json {
        return view::elements(&services)
            .iter()
            .try_for_each(|service| out.json_line(service));
    }
    let rows: Vec<_> = view::elements(&services)
        .iter()
        .map(|service| row(service, out.terminal))
        .collect();
    let headers = ["SERVICE", "VERSION", "NODE", "PEER", "ENDPOINTS", "STATE", "METADATA"];
    out.table(&headers, &rows, "no services; offer one with `weft serve NAME --echo`")
}

fn row(service: &Value, terminal: bool) -> Vec<String> {
    let id = view::text(service, "peer_id");
    let reachable = service.get("reachable").and_then(Value::as_bool).unwrap_or(true);
    let state = match (view::flag(service, "local"), reachable) {
        (true, _) => "local",
        (false, true) => "reachable",
        (false, false) => "unreachable",
    };
    vec![
        view::text(service, "name"),
        view::text(service, "version"),
        view::text(service, "node"),
        if terminal { view::short_id(&id) } else { id },
        endpoints(service),
        state.to_owned(),
        view::pairs(service, "metadata").replace(' ', ","),
    ]
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
