//! What the outside decides: the network, the clock, entropy, the disk; and what nodes of one process share.
//!
//! The only seam between a node and the world, and so the only thing a simulator replaces. Time that *passes* is
//! `tokio::time`, which a simulator pauses; [`Clock`] is the calendar.

pub mod disk;
mod real;
mod sharing;

use std::{io, sync::Arc};

use disk::Disk;
use libp2p::{
    Multiaddr, PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
    relay,
};
pub use real::RealPlatform;
pub use sharing::{Alike, Sharing, Unshared, share};
use weft_protocol::SecretKey;
use zeroize::Zeroizing;

use crate::tasks::Tasks;

/// The calendar.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch. May jump in either direction.
    fn now_unix_ms(&self) -> u64;
}

/// Where random bytes come from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer` with bytes nobody can guess.
    fn fill(&self, buffer: &mut [u8]);
}

/// Random bytes, as a value.
pub fn random<const N: usize>(entropy: &dyn Entropy) -> [u8; N] {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes);
    bytes
}

/// A key that nobody else has.
pub fn new_key(entropy: &dyn Entropy) -> SecretKey {
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(random(entropy));
    SecretKey::from_bytes(&seed)
}

/// The secured and multiplexed transport, and the relay client that is wired into it.
pub struct Network {
    /// Dials, listens, proves the remote's key.
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// Its other half goes behind the gate.
    pub relay_client: relay::client::Behaviour,
    /// Whether there is a real local network: multicast DNS and UPnP make sense.
    pub local_discovery: bool,
    /// Whether other nodes live in this process: then its memory says nothing about this one.
    pub process_is_shared: bool,
}

/// The limits that the transport itself keeps.
#[derive(Debug, Clone)]
pub struct NetworkLimits {
    /// A handshake that takes longer is given up.
    pub handshake_timeout: std::time::Duration,
    /// Streams of one connection in both directions.
    pub muxer_streams_max: usize,
}

/// Everything a node gets from outside.
pub trait Platform: Send + Sync + 'static {
    /// The network, for the node that owns `key`.
    ///
    /// # Errors
    /// What the operating system says when sockets cannot be had.
    fn network(&self, key: &Keypair, limits: &NetworkLimits) -> io::Result<Network>;
    /// Whether an address is free to listen on: asked first, because libp2p shares ports among processes and would take
    /// one that another node listens on without a word.
    ///
    /// # Errors
    /// What the operating system says when it is not.
    fn can_listen(&self, _: &Multiaddr) -> io::Result<()> {
        Ok(())
    }
    /// The calendar.
    fn clock(&self) -> Arc<dyn Clock>;
    /// Random bytes.
    fn entropy(&self) -> Arc<dyn Entropy>;
    /// Files.
    fn disk(&self) -> Arc<dyn Disk>;
    /// Where values are kept that other nodes of this process hold as well; on a machine there are none.
    fn sharing(&self) -> Arc<dyn Sharing> {
        Arc::new(Unshared)
    }
    /// The spawner of everything the node runs, which can make it stand still ([`crate::tasks::Brake`]).
    fn tasks(&self) -> Tasks {
        Tasks::new()
    }
}
