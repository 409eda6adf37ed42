//! What the mesh is told.

use std::time::Duration;

use libp2p::Multiaddr;
use weft_protocol::Ticket;

use super::sources::SourceLimits;

/// The mesh's settings, checked and without units.
#[derive(Debug, Clone)]
pub struct MeshConfig {
    /// This node's name.
    pub name: String,
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
}

/// Relaying, given and taken.
#[derive(Debug, Clone)]
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
