//! The mesh: one task owns the libp2p swarm, everything else talks to it through a cloneable [`Mesh`].
//!
//! Promises: a peer meets nothing but identify, ping and admission until its membership is proven; every command is
//! answered; nothing that waits has no bound; what is dropped is counted. The driver's handlers never await, so no
//! pattern can stall the network.
//!
//! Does not promise delivery of a gossip message: that is `pub_sub`'s to add.
//!
//! A map: `driver` owns the swarm; `behaviour` composes it, `boxed` keeps it small on each connection, `doze` lets sleep what has
//! nothing to do; `gate` hides members' protocols; `admission` proves membership, `redeem` exchanges tickets for it; `inbound` is the
//! door-keeper of streams and requests; `gossip` is libp2p's gossipsub with less work; `lanes` carry requests; `control` measures and
//! reconciles; `connector`
//! decides whom to dial; `peers` is the table everybody reads.

mod admission;
mod behaviour;
mod boxed;
mod budget;
mod config;
mod connector;
mod control;
mod doze;
mod driver;
mod frames;
mod gate;
mod gossip;
mod handle;
mod inbound;
mod intake;
mod lanes;
mod lean;
mod notes;
mod peers;
mod redeem;
mod relay_client;
mod relay_server;
mod scales;
mod sources;
pub mod streams;
#[cfg(test)]
mod tests;

pub use config::{MeshConfig, RelayConfig, RelayUse};

pub(crate) use driver::{DriverParts, peer_of, start};
pub use frames::{FrameError, expect, read, read_bytes, write, write_bytes};
pub use gossip::Original;
pub use handle::{
    Gossip, Mesh, MeshError, MeshState, PatternDoors, Probe, Published, Reachability, RelayInfo, Validation,
};
pub(crate) use inbound::Door;
pub use inbound::{Answers, InboundRequest, InboundStream, RequestDoor};
pub use notes::Noted;
pub use peers::{Carrier, ConnectionInfo, PeerInfo, PeerTable};
pub use sources::SourceLimits;
