//! `weft bench`: what this machine can do. Two nodes of their own in this process, on loopback, signed and encrypted as any; no running
//! node is touched.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{CliError, Session, parse, view};
use crate::{
    error::NodeError,
    mesh::MeshConfig,
    node::{Node, NodeOptions},
    patterns::request_response::{CallOptions, RequestResponse, RequestResponseHandle, ServiceOptions},
    platform::{Entropy, Platform as _, RealPlatform, new_key, random},
    trust::{FoundOptions, MeshKind},
};

/// How long the two nodes may take to know each other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Calls before anything counts: the connection and its lane are there then.
const WARM_UP: usize = 50;
/// The service that is called.
const SERVICE: &str = "bench";

/// Measure what this machine can do
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Call(CallArgs),
}

/// Calls a second, and how long they take, between two nodes of this process
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench call
  weft bench call --size 64,64KiB --in-flight 1,64 --for 5s
  weft bench call --carrier quic --json | jq '{in_flight, calls_per_s, p99_us}'")]
struct CallArgs {
    /// Bytes of a request and of its answer
    #[arg(long, value_name = "SIZE", default_value = "64", value_delimiter = ',', value_parser = parse::size_bytes)]
    size: Vec<u64>,
    /// Calls under way at once
    #[arg(long, value_name = "N", default_value = "1,64", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=4096))]
    in_flight: Vec<u16>,
    /// How long each figure is measured
    #[arg(long = "for", value_name = "DURATION", default_value = "3s", value_parser = parse::duration_positive)]
    duration: Duration,
    /// What carries them
    #[arg(long, value_enum, default_value_t = Carrier::Tcp)]
    carrier: Carrier,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Carrier {
    Tcp,
    Quic,
}

impl Carrier {
    fn listen(self) -> &'static str {
        match self {
            Carrier::Tcp => "/ip4/127.0.0.1/tcp/0",
            Carrier::Quic => "/ip4/127.0.0.1/udp/0/quic-v1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Carrier::Tcp => "tcp",
            Carrier::Quic => "quic",
        }
    }
}

/// Dispatches `weft bench …`.
pub(crate) async fn execute(session: &Session, args: BenchArgs) -> Result<(), CliError> {
    match args.command {
        BenchCommand::Call(args) => Box::pin(calls(session, &args)).await,
    }
}

/// A folder of this run's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, CliError> {
        let name: [u8; 8] = random(&*RealPlatform.entropy());
        let path = std::env::temp_dir().join(format!("weft-bench-{}", data_encoding::HEXLOWER.encode(&name)));
        let made = std::fs::create_dir(&path);
        made.map_err(|error| CliError::io(format!("cannot make the folder {}", path.display()), error))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn calls(session: &Session, args: &CallArgs) -> Result<(), CliError> {
    let most = weft_protocol::limits::DIRECT_BODY_BYTES_MAX as u64;
    if let Some(size) = args.size.iter().find(|size| **size > most) {
        return Err(CliError::Usage(format!(
            "a call carries at most {most} bytes, not {size}"
        )));
    }
    let folder = Folder::new()?;
    let (alpha, beta) = pair(&folder, args.carrier).await?;
    let handle = beta.handle::<RequestResponse>().ok_or_else(missing)?;
    let mut rows = Vec::new();
    for size in &args.size {
        for in_flight in &args.in_flight {
            let figure = measure(&handle, *size as usize, usize::from(*in_flight), args.duration).await?;
            if session.out.json {
                session.out.json_line(&json!({
                    "size_bytes": size, "in_flight": in_flight, "carrier": args.carrier.name(),
                    "calls_per_s": figure.per_second, "p50_us": figure.p50_us, "p99_us": figure.p99_us,
                }))?;
            }
            let time = |us: u32| view::milliseconds(f64::from(us) / 1000.0);
            rows.push(vec![
                size.to_string(),
                in_flight.to_string(),
                args.carrier.name().to_owned(),
                format!("{:.0}", figure.per_second),
                time(figure.p50_us),
                time(figure.p99_us),
            ]);
        }
    }
    beta.stop().await;
    alpha.stop().await;
    if session.out.json {
        return Ok(());
    }
    let headers = ["BYTES", "IN FLIGHT", "CARRIER", "CALLS/S", "P50", "P99"];
    session.out.table(&headers, &rows, "nothing was measured")
}

fn missing() -> NodeError {
    NodeError::internal("the node was built without request-response")
}

/// Two nodes of one mesh; the first echoes.
async fn pair(folder: &Folder, carrier: Carrier) -> Result<(Node, Node), NodeError> {
    let alpha = node(folder, "alpha", carrier, Vec::new()).await?;
    let root = new_key(&*RealPlatform.entropy());
    let founds = FoundOptions {
        kind: MeshKind::Open,
        name: "alpha".into(),
    };
    alpha.trust().found(&root, founds).await?;
    alpha.wait_ready().await;
    let beta = node(folder, "beta", carrier, alpha.addresses()).await?;
    beta.wait_ready().await;
    let services = alpha.handle::<RequestResponse>().ok_or_else(missing)?;
    let mut echo = services.serve(ServiceOptions::new(SERVICE, "1.0.0")).await?;
    alpha.tasks().spawn("bench-echo", async move {
        while let Some(mut call) = echo.next().await {
            let body = std::mem::take(&mut call.body);
            call.answer(Vec::new(), body);
        }
    });
    let handle = beta.handle::<RequestResponse>().ok_or_else(missing)?;
    let end = Instant::now() + PATIENCE;
    let mut done = 0;
    while done < WARM_UP {
        match handle.call(SERVICE, "", vec![7; 64], CallOptions::default()).await {
            Ok(_) => done += 1,
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    Ok((alpha, beta))
}

async fn node(
    folder: &Folder,
    name: &str,
    carrier: Carrier,
    bootstrap: Vec<weft_protocol::Multiaddr>,
) -> Result<Node, NodeError> {
    let listen: Result<weft_protocol::Multiaddr, _> = carrier.listen().parse();
    let mesh = MeshConfig {
        listen: vec![listen.map_err(|_| NodeError::internal("the bench's address is malformed"))?],
        bootstrap,
        ..MeshConfig::on_loopback(name)
    };
    let entropy: Arc<dyn Entropy> = RealPlatform.entropy();
    let options = NodeOptions::new(new_key(&*entropy), folder.0.join(name), mesh);
    Node::builder()
        .pattern(RequestResponse)
        .start(Arc::new(RealPlatform), options)
        .await
}

struct Figure {
    per_second: f64,
    p50_us: u32,
    p99_us: u32,
}

/// Calls from so many tasks at once, for so long.
async fn measure(
    handle: &RequestResponseHandle,
    size: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<Figure, NodeError> {
    let started = Instant::now();
    let until = started + duration;
    let callers: Vec<_> = (0..in_flight)
        .map(|_| {
            let handle = handle.clone();
            tokio::spawn(async move {
                let mut times_us: Vec<u32> = Vec::new();
                while Instant::now() < until {
                    let began = Instant::now();
                    handle.call(SERVICE, "", vec![7; size], CallOptions::default()).await?;
                    times_us.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
                }
                Ok::<_, NodeError>(times_us)
            })
        })
        .collect();
    let mut times_us = Vec::new();
    for caller in callers {
        let own = caller.await.map_err(|error| NodeError::internal(error.to_string()))?;
        times_us.extend(own?);
    }
    let elapsed = started.elapsed();
    times_us.sort_unstable();
    let at = |share: f64| {
        let index = (times_us.len().saturating_sub(1) as f64 * share) as usize;
        times_us.get(index).copied().unwrap_or(0)
    };
    Ok(Figure {
        per_second: times_us.len() as f64 / elapsed.as_secs_f64(),
        p50_us: at(0.5),
        p99_us: at(0.99),
    })
}
