//! `weft bench`: what this machine can do. Nodes of their own in this process, on loopback, signed and encrypted as any; no running
//! node is touched.

mod call;
mod pub_sub;
mod stream;
mod streams;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, Session, view};
use crate::{
    error::NodeError,
    mesh::MeshConfig,
    node::{Node, NodeOptions},
    patterns::{event_sourcing::EventSourcing, pub_sub::PubSub, request_response::RequestResponse},
    platform::{Platform as _, RealPlatform, new_key, random},
    trust::{FoundOptions, MeshKind},
};

/// How long the nodes may take to know each other.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of the whole process, which holds all nodes and what is on its way between them.
const MEMORY_BUDGET_BYTES: usize = 64 << 30;

/// Measure what this machine can do
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft bench call
  weft bench pubsub --size 64,1KiB,64KiB
  weft bench fanout --subscribers 1,4,16
  weft bench latency --rate 1000,10000 --json
  weft bench stream --in-flight 1,64,512
  weft bench streams --streams 100000

Each figure is of nodes in this one process, which share its processors. A busy machine gives lower ones.")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Call(call::CallArgs),
    Pubsub(pub_sub::PubSubArgs),
    Fanout(pub_sub::FanoutArgs),
    Latency(pub_sub::LatencyArgs),
    Stream(stream::StreamArgs),
    Streams(streams::StreamsArgs),
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
        BenchCommand::Call(args) => Box::pin(call::calls(session, &args)).await,
        BenchCommand::Pubsub(args) => Box::pin(pub_sub::pubsub(session, &args)).await,
        BenchCommand::Fanout(args) => Box::pin(pub_sub::fanout(session, &args)).await,
        BenchCommand::Latency(args) => Box::pin(pub_sub::latency(session, &args)).await,
        BenchCommand::Stream(args) => Box::pin(stream::stream(session, &args)).await,
        BenchCommand::Streams(args) => Box::pin(streams::streams(session, &args)).await,
    }
}

/// A folder of this run's own, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, CliError> {
        Self::in_dir(None)
    }

    /// In a folder that was named, or that of temporary files.
    fn in_dir(dir: Option<&std::path::Path>) -> Result<Self, CliError> {
        let name: [u8; 8] = random(&*RealPlatform.entropy());
        let dir = dir.map_or_else(std::env::temp_dir, PathBuf::from);
        let path = dir.join(format!("weft-bench-{}", data_encoding::HEXLOWER.encode(&name)));
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

fn missing() -> NodeError {
    NodeError::internal("the node was built without the pattern that is measured")
}

/// How much was done, and how long each took.
struct Figure {
    per_second: f64,
    p50_us: u32,
    p99_us: u32,
}

impl Figure {
    /// Of the times of all, each of which did so many at once.
    fn of(mut times_us: Vec<u32>, at_once: usize, elapsed: Duration) -> Self {
        times_us.sort_unstable();
        let at = |share: f64| {
            let index = (times_us.len().saturating_sub(1) as f64 * share) as usize;
            times_us.get(index).copied().unwrap_or(0)
        };
        Figure {
            per_second: (times_us.len() * at_once) as f64 / elapsed.as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
        }
    }
}

/// Microseconds as people read them.
fn time(us: u32) -> String {
    view::milliseconds(f64::from(us) / 1000.0)
}

/// So many nodes of one mesh, ready, all connected with the first.
async fn nodes(folder: &Folder, carrier: Carrier, count: usize) -> Result<Vec<Node>, NodeError> {
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..count {
        let bootstrap = nodes.first().map(Node::addresses).unwrap_or_default();
        let node = node(folder, &format!("n{n}"), carrier, bootstrap).await?;
        if n == 0 {
            let root = new_key(&*RealPlatform.entropy());
            let founds = FoundOptions {
                kind: MeshKind::Open,
                name: "n0".into(),
            };
            node.trust().found(&root, founds).await?;
        }
        node.wait_ready().await;
        nodes.push(node);
    }
    Ok(nodes)
}

async fn stop(nodes: &[Node]) {
    for node in nodes.iter().rev() {
        node.stop().await;
    }
}

async fn node(
    folder: &Folder,
    name: &str,
    carrier: Carrier,
    bootstrap: Vec<weft_protocol::Multiaddr>,
) -> Result<Node, NodeError> {
    node_of(folder, name, carrier, bootstrap, new_key(&*RealPlatform.entropy())).await
}

/// The same with a key that it has had before, or will have again.
async fn node_of(
    folder: &Folder,
    name: &str,
    carrier: Carrier,
    bootstrap: Vec<weft_protocol::Multiaddr>,
    key: weft_protocol::SecretKey,
) -> Result<Node, NodeError> {
    let listen: Result<weft_protocol::Multiaddr, _> = carrier.listen().parse();
    let mesh = MeshConfig {
        listen: vec![listen.map_err(|_| NodeError::internal("the bench's address is malformed"))?],
        bootstrap,
        memory_budget_bytes: MEMORY_BUDGET_BYTES,
        ..MeshConfig::on_loopback(name)
    };
    let options = NodeOptions::new(key, folder.0.join(name), mesh);
    Node::builder()
        .pattern(RequestResponse)
        .pattern(PubSub)
        .pattern(EventSourcing)
        .start(Arc::new(RealPlatform), options)
        .await
}
