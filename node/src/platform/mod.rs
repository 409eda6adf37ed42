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

/// What QUIC keeps to, whoever carries its datagrams.
pub mod quic_limits {
    use std::time::Duration;

    /// Bytes of a stream that its reader has not taken yet. This and the next are smaller than quinn's defaults so that a
    /// hundred peers that are not read from stay within the node's memory budget.
    pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
    /// The same of all streams of a connection.
    pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
    /// Streams of a connection that the other side may open.
    pub const STREAMS_MAX: u32 = 512;
    /// A connection on which nothing comes for so long is gone.
    pub const IDLE_TIMEOUT_MS: u32 = 10_000;
    /// After so long without a packet one is sent.
    pub const KEEP_ALIVE: Duration = Duration::from_millis(4_000);
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
