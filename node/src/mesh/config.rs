//! What the mesh is told.

use std::time::Duration;

use libp2p::Multiaddr;
use weft_protocol::Ticket;

use super::sources::SourceLimits;
use crate::trust::MeshKind;

/// The mesh's settings, checked and without units.
///
/// Begin with [`MeshConfig::new`] and change what should differ:
///
/// ```
/// use weft_node::mesh::MeshConfig;
/// let quiet = MeshConfig { mdns: false, upnp: false, ..MeshConfig::new("alpha") };
/// assert!(quiet.bootstrap.is_empty());
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {
    /// This node's name.
    pub name: String,
    /// Where this node is, in words of whoever runs it: what is in the same zone is near.
    pub zone: Option<String>,
    /// The software's name and version, as others see it.
    pub agent: String,
    /// Where to listen.
    pub listen: Vec<Multiaddr>,
    /// Whether the user chose `listen`; if not, a port in use is replaced by a free one.
    pub listen_explicit: bool,
    /// Addresses of members to begin with, each ending in `/p2p/ID`.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses under which we are reachable though we cannot see it.
    pub external: Vec<Multiaddr>,
    /// An invitation to redeem.
    pub ticket: Option<Ticket>,
    /// Find members on the local network.
    pub mdns: bool,
    /// Ask the router for a port.
    pub upnp: bool,
    /// Turn relayed connections into direct ones.
    pub hole_punching: bool,
    /// Relaying, given and taken.
    pub relay: RelayConfig,
    /// Connections at most.
    pub connections_max: u32,
    /// Members are dialled until so many are connected.
    pub connection_target: usize,
    /// Caps per source address.
    pub sources: SourceLimits,
    /// New connections are refused while the process uses more.
    pub memory_budget_bytes: usize,
    /// Take part in the DHT. Its table takes more than a megabyte, filled or not.
    pub dht: bool,
    /// Score the gossip neighbours by what they deliver, and leave those who do harm. Not said: in a mesh that anyone may
    /// join.
    pub peer_scoring: Option<bool>,
}

impl MeshConfig {
    /// Whether gossip neighbours are scored. Members answer for what they do with their certificates; where there are none,
    /// only what a neighbour does counts.
    pub(crate) fn scores_peers(&self, kind: MeshKind) -> bool {
        self.peer_scoring.unwrap_or(kind == MeshKind::Open)
    }

    /// What `weft run` does when nothing is configured: QUIC, TCP and WebSocket on the usual ports, or on free ones where
    /// those are in use; found on the local network; reachable through the router where that lets itself be asked.
    pub fn new(name: impl Into<String>) -> Self {
        MeshConfig {
            name: name.into(),
            zone: None,
            agent: concat!("weft/", env!("CARGO_PKG_VERSION")).to_owned(),
            listen: crate::config::MeshConfig::default().listen,
            listen_explicit: false,
            bootstrap: Vec::new(),
            external: Vec::new(),
            ticket: None,
            mdns: true,
            upnp: true,
            hole_punching: true,
            relay: RelayConfig::default(),
            connections_max: 1024,
            connection_target: 64,
            sources: SourceLimits::default(),
            memory_budget_bytes: 256 << 20,
            dht: true,
            peer_scoring: None,
        }
    }

    /// The same on one free port of the loopback interface, unseen by the local network and the router: for several nodes
    /// in one process, and for tests.
    pub fn on_loopback(name: impl Into<String>) -> Self {
        let address = Multiaddr::from(std::net::Ipv4Addr::LOCALHOST).with(libp2p::multiaddr::Protocol::Tcp(0));
        MeshConfig {
            listen: vec![address],
            listen_explicit: true,
            mdns: false,
            upnp: false,
            ..MeshConfig::new(name)
        }
    }
}

/// Relaying, given and taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayConfig {
    /// Carry other members' connections.
    pub server: bool,
    /// Also while not known to be reachable from outside.
    pub server_always: bool,
    /// Reserve places at relays: never, when needed, always.
    pub client: RelayUse,
    /// Reservations to hold.
    pub reservations: usize,
    /// Reservations to give.
    pub reservations_max: usize,
    /// Circuits carried at once.
    pub circuits_max: usize,
    /// Of one peer.
    pub circuits_per_peer_max: usize,
    /// A circuit's life.
    pub circuit_duration: Duration,
    /// A circuit's bytes, both directions together; 0: no limit.
    pub circuit_bytes_max: u64,
}

/// Relay when reachable, be relayed when not; a circuit may live a day and carry 16 GiB.
impl Default for RelayConfig {
    fn default() -> Self {
        RelayConfig {
            server: true,
            server_always: false,
            client: RelayUse::Auto,
            reservations: 2,
            reservations_max: 256,
            circuits_max: 256,
            circuits_per_peer_max: 16,
            circuit_duration: Duration::from_secs(24 * 3600),
            circuit_bytes_max: 16 << 30,
        }
    }
}

/// When to be reachable through relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayUse {
    /// Never.
    Off,
    /// When this node is found unreachable from outside.
    Auto,
    /// Always.
    On,
}
