//! `weft call`: ask a service of the mesh; its answer's bytes, and nothing else, go to standard output.

use std::{
    ffi::OsString,
    path::PathBuf,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use data_encoding::BASE64;
use http::{HeaderName, HeaderValue, Method};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{
    CliError, Session,
    client::{Answer, Call, Client},
    input,
    output::{Tone, escape},
    parse, view,
};

use crate::error::NodeError;

/// The node answers by itself when a call's time is over; this much later it is taken for stuck.
const GRACE: Duration = Duration::from_secs(5);
/// How long an answer may take, and a streamed one until it begins.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer of one of many: what a call carries, as JSON.
const LINE_BYTES_MAX: usize = 16 << 20;
const STREAM_TIMEOUT: Duration = Duration::from_secs(3600);

/// Call a service
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft call greet world
  echo world | weft call greet
  weft call orders/create --file order.json --timeout 30s
  weft call orders@^1.2/create --file order.json
  weft call resize @film.mkv --stream > small.mkv
  weft call greet hi --node beta                 the instance on one node, not any
  weft call pay --file order.json --key order-17 whatever happens, it is paid once
  weft call search fish --hedge 50ms             ask a second instance when the first is slow
  weft call disk free --all --stall 300ms        every instance; a line for each answer
  weft call greet hi --repeat 100 >/dev/null     times on standard error

Exit codes: 1 the service failed or is overloaded, 3 nobody offers it, 4 not allowed, 5 unreachable or out of time.")]
pub(crate) struct CallArgs {
    /// Service, which versions of it, which of its endpoints
    #[arg(value_name = "NAME[@VERSION][/ENDPOINT]", value_parser = parse::target)]
    target: parse::Target,
    /// The request; without it and without --file, standard input is the request unless it is a terminal
    #[arg(value_name = "DATA")]
    data: Option<OsString>,
    /// Read the request from a file, `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "data", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// How long the answer may take, 5s; with --stream, until it begins, 1h
    #[arg(short, long, value_name = "DURATION", value_parser = parse::duration_positive)]
    timeout: Option<Duration>,
    /// Have the callee's node sign what was asked and answered, and write its receipt here; see `weft receipt verify`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "stream", "repeat"], value_hint = clap::ValueHint::FilePath)]
    receipt: Option<PathBuf>,
    /// Ask every instance, not one, and print each answer as it comes
    #[arg(long, conflicts_with_all = ["stream", "repeat", "hedge"])]
    all: bool,
    /// With --all: stop when nothing more came for so long after an answer
    #[arg(long, value_name = "DURATION", requires = "all", value_parser = parse::duration_positive)]
    stall: Option<Duration>,
    /// With --all: stop after so many answers
    #[arg(long, value_name = "N", requires = "all", value_parser = clap::value_parser!(u16).range(1..))]
    max: Option<u16>,
    /// With --all: stop at an empty answer
    #[arg(long, requires = "all")]
    sentinel: bool,
    /// Send and receive bodies of any size as they come; DATA may be @FILE
    #[arg(long, conflicts_with_all = ["repeat", "key", "hedge"])]
    stream: bool,
    /// The node whose instance is to answer: name, peer id or its start
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The id of the instance that is to answer, as `weft services` shows it
    #[arg(long, value_name = "ID", value_parser = parse::service_name)]
    instance: Option<String>,
    /// Names the call: sent again with the same key, it is served once, as long as its instance's node remembers it
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Further tries, where they do no harm: the endpoint is idempotent, or there is a --key
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=16))]
    retries: u32,
    /// Ask a second instance when the first has not answered for so long; only for an idempotent endpoint
    #[arg(long, value_name = "DURATION", value_parser = parse::duration_positive)]
    hedge: Option<Duration>,
    /// Header of the call; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = parse::header)]
    headers: Vec<parse::Header>,
    /// How many times, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
}

/// Calls, writes the answer, and with `--repeat` sums up the times on standard error.
pub(crate) async fn execute(session: &Session, args: CallArgs) -> Result<(), CliError> {
    let client = session.client()?;
    if args.stream {
        return stream(session, &client, &args).await;
    }
    let call = request(&args, input::body(args.data.clone(), args.file.as_deref()).await?)?;
    if args.all {
        return all(session, &client, call, &args).await;
    }
    let mut times_ms = Vec::new();
    for _ in 0..args.repeat {
        let started = Instant::now();
        let answer = ask(&client, call.clone(), &args).await?;
        times_ms.push(started.elapsed().as_secs_f64() * 1000.0);
        write(session, &answer, args.repeat > 1)?;
        if let Some(file) = &args.receipt {
            keep_receipt(file, &answer)?;
        }
    }
    if args.repeat > 1 {
        summarise(session, &mut times_ms);
    }
    Ok(())
}

/// Every instance's answer, a line each, as it comes.
async fn all(session: &Session, client: &Client, call: Call, args: &CallArgs) -> Result<(), CliError> {
    let response = advised(client.stream(&call, input::whole(call.whole_body())).await, args)?;
    let mut answers = response.into_body();
    let (mut unread, mut answered) = (Vec::new(), 0);
    while let Some(frame) = answers.frame().await {
        let frame = frame.map_err(|error| CliError::Lost(format!("the answers broke off: {error}")))?;
        unread.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| &bytes[..]));
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let answer: Value = serde_json::from_slice(&line).map_err(|e| CliError::Protocol(e.to_string()))?;
            answered += usize::from(one_of_all(session, &answer)?);
        }
        if unread.len() > LINE_BYTES_MAX {
            return Err(CliError::Protocol("an answer that has no end".to_owned()));
        }
    }
    match answered {
        0 => Err(CliError::Timeout(format!(
            "no instance of {} answered",
            args.target.service
        ))),
        _ => Ok(()),
    }
}

/// Whether it is an answer.
fn one_of_all(session: &Session, answer: &Value) -> Result<bool, CliError> {
    let error = view::text(answer, "error");
    if session.out.json {
        session.out.json_line(answer)?;
        return Ok(error.is_empty());
    }
    if !error.is_empty() {
        let words = format!("{}: {error}", view::who(answer));
        session.out.say(&session.out.paint_talk(Tone::Warn, &escape(&words)));
        return Ok(false);
    }
    match BASE64.decode(view::text(answer, "data_base64").as_bytes()) {
        Ok(bytes) if !bytes.is_empty() => session.out.bytes(&bytes)?,
        _ => session.out.bytes(view::text(answer, "data").as_bytes())?,
    }
    session.out.bytes(b"\n")?;
    Ok(true)
}

/// What comes goes out, and what comes back goes on, a part at a time.
async fn stream(session: &Session, client: &Client, args: &CallArgs) -> Result<(), CliError> {
    if session.out.json {
        return Err(CliError::Usage(
            "--json cannot show an answer of any size; leave out one of --json and --stream".to_owned(),
        ));
    }
    let call = request(args, Bytes::new())?;
    let body = input::stream(args.data.clone(), args.file.as_deref()).await?;
    let response = advised(client.stream(&call, body).await, args)?;
    let mut answer = response.into_body();
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|error| CliError::Lost(format!("the answer broke off: {error}")))?;
        if let Some(bytes) = frame.data_ref() {
            session.out.bytes(bytes)?;
        }
    }
    Ok(())
}

fn request(args: &CallArgs, body: Bytes) -> Result<Call, CliError> {
    let root = if args.stream {
        "/v1/stream/services"
    } else {
        "/v1/services"
    };
    let mut path = format!("{root}/{}", parse::percent(&args.target.service));
    if args.all {
        let query = [
            args.target
                .endpoint
                .as_ref()
                .map(|endpoint| format!("endpoint={endpoint}")),
            args.stall
                .map(|stall| format!("stall_ms={}", parse::millis(stall).max(1))),
            args.max.map(|most| format!("max={most}")),
            args.sentinel.then(|| "sentinel=true".to_owned()),
        ];
        let query: Vec<String> = query.into_iter().flatten().collect();
        path.push_str(&format!("/all?{}", query.join("&")));
    } else if let Some(endpoint) = &args.target.endpoint {
        path.push_str("/endpoints/");
        path.push_str(&parse::percent(endpoint));
    }
    let timeout = args
        .timeout
        .unwrap_or(if args.stream { STREAM_TIMEOUT } else { TIMEOUT });
    let mut call = Call::new(Method::POST, path)
        .body(body, HeaderValue::from_static("application/octet-stream"))
        .header(
            HeaderName::from_static("weft-timeout-ms"),
            HeaderValue::from(parse::millis(timeout).max(1)),
        )
        .time_max(timeout + GRACE);
    if args.receipt.is_some() {
        call = call.header(
            HeaderName::from_static("weft-receipt"),
            HeaderValue::from_static("true"),
        );
    }
    call = call.header(HeaderName::from_static("weft-retries"), HeaderValue::from(args.retries));
    if let Some(hedge) = args.hedge {
        let ms = HeaderValue::from(parse::millis(hedge).max(1));
        call = call.header(HeaderName::from_static("weft-hedge-ms"), ms);
    }
    let texts = [
        ("weft-node", "--node is not the name of a node", &args.node),
        ("weft-instance", "--instance is not an id", &args.instance),
        ("weft-version", "the version is not text", &args.target.version),
        ("idempotency-key", "--key is not plain text", &args.key),
    ];
    for (name, wrong, text) in texts {
        if let Some(text) = text {
            let value = HeaderValue::from_str(text).map_err(|_| CliError::Usage(wrong.to_owned()))?;
            call = call.header(HeaderName::from_static(name), value);
        }
    }
    for header in &args.headers {
        call = call.header(header.name.clone(), header.value.clone());
    }
    Ok(call)
}

async fn ask(client: &Client, call: Call, args: &CallArgs) -> Result<Answer, CliError> {
    advised(client.send(call).await, args)
}

/// What the node says of a failure, and what to do about it.
fn advised<T>(outcome: Result<T, CliError>, args: &CallArgs) -> Result<T, CliError> {
    match outcome {
        Err(CliError::Api(mut problem)) => {
            // The node's words stand; what is missing is what to do next.
            if problem.hint.is_none() {
                problem.hint = advice(problem.kind, &args.target.service);
            }
            Err(CliError::Api(problem))
        }
        other => other,
    }
}

fn advice(kind: crate::error::ErrorKind, service: &str) -> Option<String> {
    use crate::error::ErrorKind;
    match kind {
        ErrorKind::NotFound => Some(format!(
            "`weft services` lists what is offered; offer it with `weft serve {service} --echo` or `--exec`"
        )),
        ErrorKind::Denied => Some(format!("`weft cap explain WHO call {service}` says why")),
        ErrorKind::Timeout => Some("give it more time with --timeout".to_owned()),
        ErrorKind::Unreachable => Some("`weft peers` shows who is connected, `weft doctor` what is wrong".to_owned()),
        ErrorKind::Busy => Some("it is overloaded; try again in a moment".to_owned()),
        _ => None,
    }
}

fn keep_receipt(file: &std::path::Path, answer: &Answer) -> Result<(), CliError> {
    let missing = || NodeError::unreachable("the call was answered, but without a receipt that holds");
    let receipt = answer.header("weft-receipt").ok_or_else(missing)?;
    std::fs::write(file, format!("{receipt}\n"))
        .map_err(|error| CliError::io(format!("cannot write the receipt to {}", file.display()), error))
}

fn write(session: &Session, answer: &Answer, one_of_many: bool) -> Result<(), CliError> {
    if session.out.json {
        return session.out.json_line(&described(answer));
    }
    session.out.bytes(&answer.body)?;
    if one_of_many && !answer.body.ends_with(b"\n") {
        session.out.bytes(b"\n")?;
    }
    Ok(())
}

/// The answer as an object: text as `data`, anything else as `data_base64`.
fn described(answer: &Answer) -> Value {
    let rtt_ms = answer.header("weft-rtt-ms").and_then(|text| text.parse::<f64>().ok());
    let mut headers = serde_json::Map::new();
    for (name, value) in &answer.headers {
        if let Some(name) = name.as_str().strip_prefix("weft-header-") {
            headers.insert(name.to_owned(), json!(String::from_utf8_lossy(value.as_bytes())));
        }
    }
    let attempts = answer.header("weft-attempts").and_then(|text| text.parse::<u32>().ok());
    let mut object = json!({
        "node": answer.header("weft-node"), "rtt_ms": rtt_ms, "attempts": attempts, "headers": headers,
    });
    match std::str::from_utf8(&answer.body) {
        Ok(text) => object["data"] = json!(text),
        Err(_) => object["data_base64"] = json!(BASE64.encode(&answer.body)),
    }
    object
}

fn summarise(session: &Session, times_ms: &mut [f64]) {
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((times_ms.len() - 1) as f64 * share).round() as usize;
        times_ms.get(index).copied().map(view::milliseconds).unwrap_or_default()
    };
    let line = format!(
        "{} calls: min {}, median {}, 99 % {}, max {}",
        times_ms.len(),
        at(0.0),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    session.out.say(&line);
}
