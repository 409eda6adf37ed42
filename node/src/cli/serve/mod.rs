//! `weft serve`: a service of the mesh that is a shell command, a local HTTP server, or an echo.
//!
//! It promises that a call ends at its deadline with its process killed, that no more calls run at once than `--concurrency`,
//! that it comes back by itself when the node restarts, and that Ctrl-C lets running calls finish. It does not keep calls over a
//! lost node: whoever called learns of the loss and calls again.

use std::{collections::BTreeMap, time::Duration};

use super::{
    CliError, Session,
    backoff::Backoff,
    input,
    output::{Tone, escape},
    parse,
    signals::Signals,
    view,
};
use crate::patterns::request_response::DEFAULT_ENDPOINT;
use clap::Args;
use handler::Handler;
use weft_protocol::limits::SCHEMA_BYTES_MAX;

mod exec;
mod frame;
mod handler;
mod pool;
mod session;
mod streamed;
mod upstream;

#[cfg(test)]
mod tests;

/// Offer a service to the mesh
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("how").required(true),
    after_help = "Examples:
  weft serve greet --exec './hello.sh'          a command for every call: request on its standard input, answer on its output
  weft serve greet --exec 'sed \"s/^/hello /\"'
  weft serve score --exec './model.py' --pool 4  four processes that stay, for each call a line in and a line out
  weft serve orders --http http://127.0.0.1:8080/orders
  weft serve ping --echo
  weft serve orders --endpoint create --endpoint list --schema create=create.json --http http://127.0.0.1:8080/orders

A command that exits with anything but 0 makes the call fail; the end of its standard error is the reason. It finds
WEFT_CALLER, WEFT_SERVICE, WEFT_ENDPOINT, WEFT_DEADLINE_MS, TRACEPARENT and WEFT_HEADER_… in its environment.
With --pool it must not buffer its output beyond a line (python -u). A call that ends early kills its process; the next starts one.
With --http every call is a POST with the caller's headers; status and headers of the answer pass too, but an answer that is not 2xx
makes the call fail with that code.

Ctrl-C, SIGTERM and `weft service drain` let running calls finish; a second Ctrl-C does not."
)]
pub(crate) struct ServeArgs {
    /// Name of the service: letters, digits, `_` and `-`
    #[arg(value_name = "NAME", value_parser = parse::service_name)]
    name: String,
    /// Run a shell command for every call
    #[arg(long, value_name = "COMMAND", group = "how")]
    exec: Option<String>,
    /// Keep up to so many processes of the command, and give each one call at a time: a line on its standard input, a line on
    /// its output
    #[arg(long, value_name = "N", requires = "exec", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pool: Option<u16>,
    /// What a line of the pool holds
    #[arg(long, value_name = "KIND", requires = "pool", value_enum, default_value_t)]
    pool_lines: pool::Lines,
    /// POST every call to a URL
    #[arg(long, value_name = "URL", group = "how")]
    http: Option<String>,
    /// Answer with the request
    #[arg(long, group = "how")]
    echo: bool,
    /// Endpoint of the service, `default` without any; may be given several times. Dots make groups: admin.reset
    #[arg(long = "endpoint", value_name = "NAME", value_parser = parse::endpoint_name)]
    endpoints: Vec<String>,
    /// Calling it twice is as good as calling it once: callers may try again, and ask two instances
    #[arg(long)]
    idempotent: bool,
    /// JSON Schema of the requests and answers, of one endpoint or of all; may be given several times
    #[arg(long = "schema", value_name = "[ENDPOINT=]FILE", value_parser = parse::schema)]
    schemas: Vec<(Option<String>, std::path::PathBuf)>,
    /// Version of the service
    #[arg(long, value_name = "SEMVER", default_value = "1.0.0")]
    service_version: String,
    /// How many calls run at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    concurrency: u16,
    /// Longest time for one call
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse::duration_positive)]
    timeout: Duration,
    /// What callers can see about this instance; may be given several times
    #[arg(long = "metadata", value_name = "KEY=VALUE", value_parser = parse::key_value)]
    metadata: Vec<(String, String)>,
}

/// How a connection to the node ended.
enum End {
    /// The user stopped it.
    Stopped,
    /// The node went away.
    Lost(CliError),
}

/// Serves until it is told to stop, over as many connections to the node as that takes.
pub(crate) async fn execute(session: &Session, args: ServeArgs) -> Result<(), CliError> {
    serve(session, &args, Signals::of_process()?).await
}

async fn serve(session: &Session, args: &ServeArgs, mut signals: Signals) -> Result<(), CliError> {
    let handler = Handler::new(args)?;
    let schemas = schemas(args).await?;
    let path = path(args);
    let mut backoff = Backoff::new();
    let mut has_served = false;
    let mut is_told = false;
    loop {
        let lost = match connect(session, &path, &mut signals).await {
            None => return Ok(()),
            Some(Ok((socket, node))) => {
                announce(session, args, &node, has_served);
                (has_served, is_told) = (true, false);
                backoff.reset();
                match session::run(session, socket, &handler, (args, &schemas), &mut signals).await? {
                    End::Stopped => return Ok(()),
                    End::Lost(error) => error,
                }
            }
            Some(Err(error)) => error,
        };
        if !has_served || !lost.is_worth_waiting() {
            return Err(lost);
        }
        if !std::mem::replace(&mut is_told, true) {
            session.out.say(
                &session
                    .out
                    .paint_talk(Tone::Warn, &format!("{lost}; waiting for the node")),
            );
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.step()) => {}
            () = signals.next() => return Ok(()),
        }
    }
}

type Connected = Result<(super::client::Socket, String), CliError>;

/// A connection on which the node has said `ready`, with the node's name; `None` when the user gave up first.
async fn connect(session: &Session, path: &str, signals: &mut Signals) -> Option<Connected> {
    let connecting = async {
        let client = session.client()?;
        let mut socket = client.websocket(path).await?;
        session::await_ready(&mut socket).await?;
        // Only for the greeting: a service that runs does not fail over its node's name.
        let status = client.get("/v1/status").await.unwrap_or_default();
        Ok((socket, view::who(&status)))
    };
    tokio::select! {
        connected = connecting => Some(connected),
        () = signals.next() => None,
    }
}

/// The schemas by endpoint, read.
async fn schemas(args: &ServeArgs) -> Result<Vec<(String, String)>, CliError> {
    let all = match args.endpoints.is_empty() {
        true => vec![DEFAULT_ENDPOINT.to_owned()],
        false => args.endpoints.clone(),
    };
    let mut schemas = Vec::new();
    for (endpoint, file) in &args.schemas {
        let fail = |error| CliError::io(format!("cannot read the schema {}", file.display()), error);
        let opened = tokio::fs::File::open(file).await.map_err(fail)?;
        let bytes = input::bounded(opened, SCHEMA_BYTES_MAX as u64).await.map_err(fail)?;
        let wrong = |why: String| CliError::Usage(format!("the schema {}: {why}", file.display()));
        let text = String::from_utf8(bytes.into()).map_err(|_| wrong("it is no text".to_owned()))?;
        serde_json::from_str::<serde_json::Value>(&text).map_err(|error| wrong(format!("it is no JSON: {error}")))?;
        match endpoint {
            Some(endpoint) if all.contains(endpoint) => schemas.push((endpoint.clone(), text)),
            Some(endpoint) => return Err(wrong(format!("there is no endpoint {endpoint}"))),
            None => schemas.extend(all.iter().map(|endpoint| (endpoint.clone(), text.clone()))),
        }
    }
    Ok(schemas)
}

fn path(args: &ServeArgs) -> String {
    let mut path = format!(
        "/v1/services/{}/serve?streams=true&version={}&concurrency={}",
        parse::percent(&args.name),
        parse::percent(&args.service_version),
        args.concurrency
    );
    if !args.endpoints.is_empty() {
        path.push_str(&format!("&endpoint={}", parse::percent(&args.endpoints.join(","))));
    }
    if args.idempotent {
        path.push_str("&idempotent=*");
    }
    if !args.metadata.is_empty() {
        let metadata: BTreeMap<_, _> = args.metadata.iter().cloned().collect();
        let text = serde_json::json!(metadata).to_string();
        path.push_str(&format!("&metadata={}", parse::percent(&text)));
    }
    path
}

fn announce(session: &Session, args: &ServeArgs, node: &str, again: bool) {
    let node = if node.is_empty() { "this node" } else { node };
    let what = match args.endpoints.first() {
        Some(endpoint) => format!("{}/{endpoint}", args.name),
        None => args.name.clone(),
    };
    if again {
        session.out.say(&format!("serving {what} on {} again", escape(node)));
    } else {
        session.out.say(&format!(
            "serving {what} on {}; try: weft call {what} hello",
            escape(node)
        ));
    }
}
