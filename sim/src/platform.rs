//! What a simulated node gets instead of the machine: a host of the unreal network, a calendar that may be wrong, entropy
//! from the seed, a disk that may fail. The node's one seam, and all of it.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use libp2p::{
    Multiaddr, Transport as _,
    core::{muxing::StreamMuxerBox, transport::OrTransport, upgrade::Version},
    identity::Keypair,
    noise, relay, yamux,
};
use rand::{Rng as _, SeedableRng as _, rngs::ChaCha12Rng};
use weft_node::{
    platform::{Clock, Entropy, Network as NodeNetwork, NetworkLimits, Platform, Sharing, disk::Disk},
    tasks::{Brake, Tasks},
};

use crate::{
    attack::{Behaviour, TamperedMuxer},
    disk::SimDisk,
    network::{HostId, Network, QuicTransport, SimTransport},
    sharing::Shelf,
    virtual_os::{calendar_ms, split_mix},
};

/// The platform of one start of one node.
pub struct SimPlatform {
    network: Arc<Network>,
    host: HostId,
    clock: Arc<SkewedClock>,
    entropy: Arc<SeededEntropy>,
    disk: SimDisk,
    tasks: Tasks,
    shelf: Arc<Shelf>,
    /// Of an attacker: its wire is another one.
    attacks: Option<Arc<Behaviour>>,
}

/// What a [`SimPlatform`] is made of.
pub struct SimParts {
    /// The unreal network.
    pub network: Arc<Network>,
    /// Which of its hosts the node is.
    pub host: HostId,
    /// Which start of it this is: each has entropy of its own.
    pub boot: u32,
    /// The run's.
    pub seed: u64,
    /// Its calendar.
    pub clock: Arc<SkewedClock>,
    /// Its disk.
    pub disk: SimDisk,
    /// What the nodes of the run share.
    pub shelf: Arc<Shelf>,
    /// Makes it stand still.
    pub brake: Arc<Brake>,
    /// Of an attacker: its wire is another one.
    pub attacks: Option<Arc<Behaviour>>,
}

impl SimPlatform {
    /// The platform of one start of one host.
    pub fn new(parts: SimParts) -> Arc<SimPlatform> {
        let SimParts {
            network,
            host,
            boot,
            seed,
            clock,
            disk,
            shelf,
            brake,
            attacks,
        } = parts;
        Arc::new(SimPlatform {
            network,
            host,
            clock,
            entropy: Arc::new(SeededEntropy::new(seed, u64::from(host) << 32 | u64::from(boot))),
            disk,
            tasks: Tasks::with_brake(brake),
            shelf,
            attacks,
        })
    }
}

impl Platform for SimPlatform {
    fn network(&self, key: &Keypair, limits: &NetworkLimits) -> io::Result<NodeNetwork> {
        let (relay_transport, relay_client) = relay::client::new(key.public().to_peer_id());
        let noise = noise::Config::new(key).map_err(io::Error::other)?;
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(limits.muxer_streams_max);
        let transport = SimTransport::new(Arc::clone(&self.network), self.host);
        let attacks = self.attacks.clone();
        let mut dice = self.network.seed() ^ u64::from(self.host) << 32;
        let streams = OrTransport::new(transport, relay_transport)
            .upgrade(Version::V1)
            .authenticate(noise)
            .multiplex(muxer)
            .timeout(limits.handshake_timeout)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        let all = if self.network.speaks_quic() {
            let (network, tasks) = (Arc::clone(&self.network), self.tasks.clone());
            let datagrams = QuicTransport::new(network, self.host, key, limits, &*self.entropy, tasks)?;
            datagrams
                .or_transport(streams)
                .map(|either, _| either.into_inner())
                .boxed()
        } else {
            streams
        };
        let transport = all
            .map(move |(peer, muxer), _| {
                let muxer = match &attacks {
                    None => muxer,
                    Some(attacks) => {
                        StreamMuxerBox::new(TamperedMuxer::new(muxer, Arc::clone(attacks), split_mix(&mut dice)))
                    }
                };
                (peer, muxer)
            })
            .boxed();
        Ok(NodeNetwork {
            transport,
            relay_client,
            local_discovery: false,
            process_is_shared: true,
        })
    }

    fn can_listen(&self, address: &Multiaddr) -> io::Result<()> {
        if *address == self.network.listen_address(self.host) {
            Ok(())
        } else {
            Err(io::ErrorKind::AddrNotAvailable.into())
        }
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        self.entropy.clone()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn sharing(&self) -> Arc<dyn Sharing> {
        self.shelf.clone()
    }

    fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }
}

/// The virtual calendar, wrong by some milliseconds.
#[derive(Debug, Default)]
pub struct SkewedClock {
    skew_ms: AtomicI64,
}

impl SkewedClock {
    /// A clock that is so much ahead; negative: behind.
    pub fn new(skew_ms: i64) -> Arc<SkewedClock> {
        Arc::new(SkewedClock {
            skew_ms: AtomicI64::new(skew_ms),
        })
    }

    /// Makes it jump.
    pub fn jump(&self, by_ms: i64) {
        self.skew_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

impl Clock for SkewedClock {
    fn now_unix_ms(&self) -> u64 {
        calendar_ms().saturating_add_signed(self.skew_ms.load(Ordering::Relaxed))
    }
}

/// A stream of random bytes that follows from a seed.
pub struct SeededEntropy(Mutex<ChaCha12Rng>);

impl SeededEntropy {
    /// The stream of this number below `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut state = seed;
        let mut key = [0; 32];
        for chunk in key.chunks_mut(8) {
            chunk.copy_from_slice(&split_mix(&mut state).to_le_bytes());
        }
        key[..8].copy_from_slice(&(split_mix(&mut state) ^ stream).to_le_bytes());
        SeededEntropy(Mutex::new(ChaCha12Rng::from_seed(key)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_follows_from_seed_and_stream() {
        let bytes = |seed, stream| {
            let entropy = SeededEntropy::new(seed, stream);
            weft_node::platform::random::<32>(&entropy)
        };
        assert_eq!(bytes(1, 2), bytes(1, 2));
        assert_ne!(bytes(1, 2), bytes(1, 3));
        assert_ne!(bytes(1, 2), bytes(2, 2));
    }

    #[test]
    fn a_clock_can_be_wrong_and_jump() {
        let _guard = crate::virtual_os::enter(1);
        let (right, wrong) = (SkewedClock::new(0), SkewedClock::new(-1500));
        assert_eq!(right.now_unix_ms() - wrong.now_unix_ms(), 1500);
        wrong.jump(2500);
        assert_eq!(wrong.now_unix_ms() - right.now_unix_ms(), 1000);
    }
}
