//! `weft run`: this process becomes a node.

use std::path::PathBuf;

use clap::Args;

use super::{CliError, Session, parse};

/// Start a node and stay in the foreground
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Examples:
  weft run                                        a node of its own mesh, or of the mesh it joined before
  weft run --bootstrap /ip4/10.0.0.1/udp/7400/quic-v1/p2p/12D3KooW…
  weft run --join weft1…                          join with a ticket from `weft invite`
  weft run --data-dir /tmp/b --api 127.0.0.1:0    a second node on the same machine

SIGTERM and Ctrl-C stop the node in order; a second one stops it at once. SIGHUP reloads the configuration.")]
pub struct RunArgs {
    /// Address to listen on; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub listen: Vec<String>,
    /// Address of a node of the mesh, ending in /p2p/ID; may be given several times, one that answers suffices
    #[arg(long, value_name = "MULTIADDR")]
    pub bootstrap: Vec<String>,
    /// Ticket from `weft invite`; `-` reads it from standard input
    #[arg(long, value_name = "TICKET", conflicts_with = "open")]
    pub join: Option<String>,
    /// Found an open mesh: anyone with an address may join
    #[arg(long)]
    pub open: bool,
    /// Address of the local HTTP API; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub api: Option<String>,
    /// Address on which NATS clients are served, such as 127.0.0.1:4222; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT")]
    pub nats: Option<String>,
    /// Name of the node, as others see it
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Configuration file instead of DATA_DIR/config.toml
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// What to log, for example `info` or `weft_node=debug,warn`
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Address under which others reach this node, when it cannot know it itself; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    pub external: Vec<String>,
    /// Do not look for nodes of the mesh on the local network
    #[arg(long)]
    pub no_mdns: bool,
    /// Accept bootstrap addresses without /p2p/ID, trusting whoever answers there
    #[arg(long)]
    pub insecure_bootstrap: bool,
    /// Memory the node may use for connections and queues, for example 256MiB
    #[arg(long, value_name = "SIZE", value_parser = parse::size_bytes)]
    pub memory_budget: Option<u64>,
}

/// Runs the node until it is told to stop.
pub(crate) async fn execute(session: &Session, args: RunArgs) -> Result<(), CliError> {
    Ok(crate::launch::run(&session.globals, args).await?)
}
