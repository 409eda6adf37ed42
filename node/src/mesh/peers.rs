//! The table of connections: what the driver writes and everybody reads.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::ConnectionId};
use tokio::{sync::watch, time::Instant};

/// What a connection's throughput is weighed by against its round trip: the time that so much takes.
const BULK_BYTES: f64 = (256 << 10) as f64;
/// Another connection is clearly better when it is by a quarter and by half a millisecond.
const CLEARLY: f64 = 1.25;
const CLEARLY_S: f64 = 0.0005;
/// A connection whose round trip is not known yet.
const UNMEASURED: Duration = Duration::from_secs(60);

/// How a connection is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Carrier {
    /// QUIC over UDP.
    Quic,
    /// TCP with Noise and Yamux.
    Tcp,
    /// WebSocket with Noise and Yamux.
    Ws,
    /// Through another member.
    Relay,
    /// Something else: a simulated network.
    Other,
}

impl Carrier {
    /// What an address is carried by.
    pub fn of(address: &Multiaddr) -> Carrier {
        let mut carrier = Carrier::Other;
        for part in address {
            match part {
                Protocol::P2pCircuit => return Carrier::Relay,
                Protocol::QuicV1 => carrier = Carrier::Quic,
                Protocol::Ws(_) | Protocol::Wss(_) => carrier = Carrier::Ws,
                Protocol::Tcp(_) => carrier = Carrier::Tcp,
                _ => {}
            }
        }
        carrier
    }
}

/// One connection.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The remote's address.
    pub address: Multiaddr,
    /// How it is carried.
    pub carrier: Carrier,
    /// Whether the remote dialled.
    pub inbound: bool,
    /// The last measured round trip, smoothed.
    pub rtt: Option<Duration>,
    /// How fast it carried a burst, bytes per second, if that was measured.
    pub goodput_bytes_per_s: Option<f64>,
    /// When it was admitted, Unix milliseconds.
    pub since_ms: u64,
    /// Whether an answer is overdue: it may be dead, which is not certain yet.
    pub doubted: bool,
    /// When the remote probed it last, and neither knew what the other did not.
    pub(crate) probed: Option<Instant>,
}

/// One connected member.
#[derive(Debug, Clone, Default)]
pub struct PeerInfo {
    /// Its connections, oldest first. Boxed, because a map keeps room for eleven and nearly all have one.
    pub connections: BTreeMap<ConnectionId, Box<ConnectionInfo>>,
    /// The one that measured best.
    pub preferred: Option<ConnectionId>,
    /// The software it says it runs.
    pub agent: String,
    /// How far its calendar is ahead of ours, milliseconds.
    pub clock_skew_ms: Option<i64>,
}

impl PeerInfo {
    /// The best of its connections' round trips.
    pub fn rtt(&self) -> Option<Duration> {
        self.connections.values().filter_map(|c| c.rtt).min()
    }

    /// The connection that measures best; a direct one before any relayed one. The one that was best so far stays it until
    /// another is clearly better: what flows is not moved for nothing.
    fn best(&self) -> Option<ConnectionId> {
        let rank = |c: &ConnectionInfo| (c.doubted, c.carrier == Carrier::Relay);
        let top = self.connections.values().map(|c| rank(c)).min()?;
        let candidates: Vec<(&ConnectionId, &ConnectionInfo)> = self
            .connections
            .iter()
            .map(|(id, c)| (id, &**c))
            .filter(|(_, c)| rank(c) == top)
            .collect();
        // What one connection carries, another over the same carrier does too.
        let goodput = |c: &ConnectionInfo| {
            let same = candidates.iter().filter(|(_, other)| other.carrier == c.carrier);
            c.goodput_bytes_per_s
                .or_else(|| same.filter_map(|(_, other)| other.goodput_bytes_per_s).reduce(f64::max))
        };
        let all_measured = candidates.iter().all(|(_, c)| goodput(c).is_some());
        let cost_s = |c: &ConnectionInfo| {
            let carrying = goodput(c).filter(|_| all_measured).map_or(0.0, |g| BULK_BYTES / g);
            c.rtt.unwrap_or(UNMEASURED).as_secs_f64() + carrying
        };
        let (best, info) = candidates
            .iter()
            .min_by(|(_, a), (_, b)| cost_s(a).total_cmp(&cost_s(b)))?;
        let current = self.preferred.and_then(|id| candidates.iter().find(|(c, _)| **c == id));
        match current {
            Some((id, c)) if cost_s(c) <= cost_s(info) * CLEARLY + CLEARLY_S => Some(**id),
            _ => Some(**best),
        }
    }

    /// Whether every connection goes through a relay.
    pub fn is_relayed(&self) -> bool {
        !self.connections.is_empty() && self.connections.values().all(|c| c.carrier == Carrier::Relay)
    }
}

/// A cloneable view of the connected members.
#[derive(Debug, Clone)]
pub struct PeerTable {
    peers: Arc<RwLock<BTreeMap<PeerId, PeerInfo>>>,
    changed: watch::Sender<u64>,
}

impl PeerTable {
    pub(crate) fn new() -> Self {
        PeerTable {
            peers: Arc::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// How many members are connected.
    pub fn len(&self) -> usize {
        self.read(BTreeMap::len)
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a member is connected.
    pub fn contains(&self, peer: &PeerId) -> bool {
        self.read(|p| p.contains_key(peer))
    }

    /// The connected members, in order.
    pub fn ids(&self) -> Vec<PeerId> {
        self.read(|p| p.keys().copied().collect())
    }

    /// Everything known of the connected members.
    pub fn all(&self) -> BTreeMap<PeerId, PeerInfo> {
        self.read(Clone::clone)
    }

    /// One member.
    pub fn get(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.look(peer, PeerInfo::clone)
    }

    /// Something of one, without a copy of the rest.
    pub fn look<T>(&self, peer: &PeerId, look: impl FnOnce(&PeerInfo) -> T) -> Option<T> {
        self.read(|peers| peers.get(peer).map(look))
    }

    /// Changes whenever somebody comes or goes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn opened(&self, peer: PeerId, connection: ConnectionId, info: ConnectionInfo, agent: &str) {
        self.write(|p| {
            let entry = p.entry(peer).or_default();
            entry.connections.insert(connection, Box::new(info));
            if !agent.is_empty() {
                entry.agent = agent.to_owned();
            }
        });
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn closed(&self, peer: &PeerId, connection: ConnectionId) {
        let gone = self.write(|p| {
            let Some(entry) = p.get_mut(peer) else { return false };
            entry.connections.remove(&connection);
            entry.preferred.take_if(|preferred| *preferred == connection);
            let gone = entry.connections.is_empty();
            if gone {
                p.remove(peer);
            }
            gone
        });
        if gone {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    pub(crate) fn identified(&self, peer: &PeerId, agent: &str) {
        self.write(|p| {
            if let Some(entry) = p.get_mut(peer) {
                entry.agent = agent.to_owned();
            }
        });
    }

    pub(crate) fn measured(&self, peer: &PeerId, connection: ConnectionId, rtt: Duration, clock_skew_ms: i64) {
        self.write(|p| {
            let Some(entry) = p.get_mut(peer) else { return };
            entry.clock_skew_ms = Some(clock_skew_ms);
            if let Some(connection) = entry.connections.get_mut(&connection) {
                // Smoothed as TCP does (RFC 6298): an eighth of the new one.
                connection.doubted = false;
                connection.rtt = Some(
                    connection
                        .rtt
                        .map_or(rtt, |old| old.mul_f64(0.875) + rtt.mul_f64(0.125)),
                );
            }
        });
    }

    /// Whether a member is among the `count` connected ones whose ids are nearest to `local`'s: a small set that is
    /// another one for every node.
    pub(crate) fn is_near(&self, local: &PeerId, peer: &PeerId, count: usize) -> bool {
        let distance = |other: &PeerId| {
            let (a, b) = (local.to_bytes(), other.to_bytes());
            // The last bytes are the key's own; the first are the same for all.
            a.iter()
                .rev()
                .zip(b.iter().rev())
                .map(|(x, y)| x ^ y)
                .collect::<Vec<u8>>()
        };
        self.read(|p| {
            let own = distance(peer);
            p.len() <= count || p.keys().filter(|other| distance(other) < own).take(count).count() < count
        })
    }

    /// The remote has probed a connection, and neither knows what the other does not.
    pub(crate) fn probed(&self, peer: &PeerId, connection: ConnectionId) {
        self.write(|p| {
            if let Some(connection) = p.get_mut(peer).and_then(|entry| entry.connections.get_mut(&connection)) {
                connection.probed = Some(Instant::now());
            }
        });
    }

    /// When that was last.
    pub(crate) fn last_probed(&self, peer: &PeerId, connection: ConnectionId) -> Option<Instant> {
        self.read(|p| p.get(peer)?.connections.get(&connection)?.probed)
    }

    /// An answer on a connection is overdue.
    pub(crate) fn doubt(&self, peer: &PeerId, connection: ConnectionId) {
        self.write(|p| {
            if let Some(connection) = p.get_mut(peer).and_then(|entry| entry.connections.get_mut(&connection)) {
                connection.doubted = true;
            }
        });
    }

    /// Whether a member is connected and no answer is overdue on one of its connections at least.
    pub(crate) fn is_alive(&self, peer: &PeerId) -> bool {
        self.read(|p| {
            p.get(peer)
                .is_some_and(|entry| entry.connections.values().any(|c| !c.doubted))
        })
    }

    /// The members of whom every connection is doubted.
    pub(crate) fn doubted(&self) -> Vec<PeerId> {
        self.read(|p| {
            let doubted = p
                .iter()
                .filter(|(_, entry)| entry.connections.values().all(|c| c.doubted));
            doubted.map(|(peer, _)| *peer).collect()
        })
    }

    /// A burst was carried by a connection so fast.
    pub(crate) fn carried(&self, peer: &PeerId, connection: ConnectionId, bytes_per_s: f64) {
        self.write(|p| {
            if let Some(connection) = p.get_mut(peer).and_then(|entry| entry.connections.get_mut(&connection)) {
                connection.goodput_bytes_per_s = Some(bytes_per_s);
            }
        });
    }

    /// Chooses among a member's connections by what was measured, and remembers the choice.
    pub(crate) fn choose(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.write(|p| {
            let entry = p.get_mut(peer)?;
            entry.preferred = entry.best();
            entry.preferred
        })
    }

    fn read<T>(&self, f: impl FnOnce(&BTreeMap<PeerId, PeerInfo>) -> T) -> T {
        f(&self.peers.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn write<T>(&self, f: impl FnOnce(&mut BTreeMap<PeerId, PeerInfo>) -> T) -> T {
        f(&mut self.peers.write().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
