//! TCP and QUIC side by side: to a member with which much is exchanged a second connection is made over the other carrier,
//! both are measured, and what comes next takes the better one.
//!
//! Which is better depends on the path. QUIC saves round trips and does not let one lost packet hold up other streams; on a
//! lossy path its congestion control, which cannot be chosen, may carry a tenth of what the kernel's TCP does. A round trip
//! tells nothing of that, so a burst is sent over each and timed. Members with which little is exchanged keep the one
//! connection they have: for them the round trip is what counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use libp2p::{
    PeerId, StreamProtocol,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{sync::oneshot, time::Instant};
use weft_protocol::control::CONTROL_PROTOCOL;

use super::{Command, Driver};
use crate::mesh::{control, peers::Carrier};

/// A member is busy when so much was exchanged with it between two looks, two seconds apart.
const BUSY_BYTES: u64 = 512 << 10;
/// How long it counts as busy after that.
const BUSY_FOR: Duration = Duration::from_secs(30);
/// Both sides see that they are busy; the one with the larger id leaves the second dial to the other for so long.
const COURTESY: Duration = Duration::from_secs(10);
/// Between two tries to get a second connection.
const SECOND_EVERY: Duration = Duration::from_secs(300);
/// Between two measurements of a busy member's connections.
const MEASURE_EVERY: Duration = Duration::from_secs(120);
/// Between two dials of a member whose connections are all doubted.
const DOUBTED_EVERY: Duration = Duration::from_secs(5);
/// A burst that takes longer is as slow as this says.
const BURST_TIMEOUT: Duration = Duration::from_secs(10);

/// What is known of the traffic with one member.
#[derive(Debug, Default)]
struct Traffic {
    bytes: u64,
    busy_since: Option<Instant>,
    busy_until: Option<Instant>,
    second_tried: Option<Instant>,
    measured: Option<Instant>,
}

impl Traffic {
    /// Takes note of all bytes exchanged so far; returns since when the member is busy, if it is.
    fn look(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if bytes.saturating_sub(self.bytes) >= BUSY_BYTES {
            self.busy_since.get_or_insert(now);
            self.busy_until = Some(now + BUSY_FOR);
        }
        self.bytes = bytes;
        if self.busy_until.is_none_or(|until| until <= now) {
            self.busy_since = None;
        }
        self.busy_since
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    traffic: BTreeMap<PeerId, Traffic>,
    /// When members whose connections are all doubted were last dialled.
    doubted_dialled: BTreeMap<PeerId, Instant>,
}

fn is_past(at: Option<Instant>, pause: Duration, now: Instant) -> bool {
    at.is_none_or(|at| now.duration_since(at) >= pause)
}

/// What a direct connection may be doubled by.
fn other(carrier: Carrier) -> Option<Carrier> {
    match carrier {
        Carrier::Quic => Some(Carrier::Tcp),
        Carrier::Tcp | Carrier::Ws => Some(Carrier::Quic),
        Carrier::Relay | Carrier::Other => None,
    }
}

impl Driver {
    /// Looks at the traffic with each member, and makes and measures second connections where it pays.
    pub(super) fn carriers_tick(&mut self, now: Instant) {
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            return;
        };
        let exchanged = members.others.streams.exchanged();
        self.carriers.traffic.retain(|peer, _| exchanged.contains_key(peer));
        let mut busy = Vec::new();
        for (peer, bytes) in exchanged {
            let traffic = self.carriers.traffic.entry(peer).or_default();
            if let Some(since) = traffic.look(bytes, now) {
                busy.push((peer, since));
            }
        }
        for (peer, since) in busy {
            self.double(peer, since, now);
        }
    }

    /// Members of whom every connection is doubted are dialled anew, by whatever way is known: the way may be dead, a relay
    /// on it for instance, while they live.
    pub(super) fn dial_doubted(&mut self, now: Instant) {
        for peer in self.peers.doubted() {
            let last = self.carriers.doubted_dialled.get(&peer).copied();
            if is_past(last, DOUBTED_EVERY, now) {
                self.carriers.doubted_dialled.insert(peer, now);
                let carriers = BTreeSet::from([Carrier::Quic, Carrier::Tcp, Carrier::Ws, Carrier::Relay]);
                self.dial_by(peer, &carriers, now);
            }
        }
        self.carriers
            .doubted_dialled
            .retain(|_, at| now.duration_since(*at) < DOUBTED_EVERY);
    }

    /// A second connection to a busy member, or a measurement of both.
    fn double(&mut self, peer: PeerId, busy_since: Instant, now: Instant) {
        let Some(info) = self.peers.get(&peer) else { return };
        // The oldest of each carrier stands for it.
        let mut direct: BTreeMap<Carrier, ConnectionId> = BTreeMap::new();
        for (id, c) in info.connections.iter().filter(|(_, c)| !c.doubted) {
            direct.entry(c.carrier).or_insert(*id);
        }
        let missing: BTreeSet<Carrier> = direct.keys().filter_map(|carrier| other(*carrier)).collect();
        let Some(traffic) = self.carriers.traffic.get_mut(&peer) else {
            return;
        };
        if missing.len() == 1 {
            let courtesy = if peer < *self.swarm.local_peer_id() {
                COURTESY
            } else {
                Duration::ZERO
            };
            if is_past(Some(busy_since), courtesy, now) && is_past(traffic.second_tried, SECOND_EVERY, now) {
                traffic.second_tried = Some(now);
                self.dial_by(peer, &missing, now);
            }
        } else if missing.len() > 1 && is_past(traffic.measured, MEASURE_EVERY, now) {
            traffic.measured = Some(now);
            direct.retain(|carrier, _| other(*carrier).is_some());
            self.measure(peer, direct.into_values().collect());
        }
    }

    fn dial_by(&mut self, peer: PeerId, carriers: &BTreeSet<Carrier>, now: Instant) {
        let known = self.trust.record(&peer).map(|r| r.addresses).unwrap_or_default();
        let mut addresses = self.connector.addresses(&peer, now).unwrap_or_default();
        addresses.extend(known.into_iter().filter(|a| !addresses.contains(a)).collect::<Vec<_>>());
        addresses.retain(|address| carriers.contains(&Carrier::of(address)));
        if addresses.is_empty() {
            return;
        }
        tracing::debug!(%peer, ?carriers, "trying another way");
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Always)
            .addresses(addresses)
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%peer, %error, "no other way");
        }
    }

    /// Sends a burst over each connection in turn, and notes how fast it was taken.
    fn measure(&self, peer: PeerId, connections: Vec<ConnectionId>) {
        let Some(sender) = self.sender.upgrade() else { return };
        let peers = self.peers.clone();
        self.tasks.spawn("measure", async move {
            for connection in connections {
                let (reply, answer) = oneshot::channel();
                let open = Command::OpenOn {
                    peer,
                    connection,
                    protocol: StreamProtocol::new(CONTROL_PROTOCOL),
                    reply,
                };
                if sender.send(open).await.is_err() {
                    return;
                }
                let Ok(Ok(mut stream)) = answer.await else { continue };
                match control::burst(&mut stream, BURST_TIMEOUT).await {
                    Ok(bytes_per_s) => {
                        tracing::debug!(%peer, %connection, bytes_per_s, "measured");
                        peers.carried(&peer, connection, bytes_per_s);
                    }
                    Err(error) => tracing::debug!(%peer, %connection, %error, "not measured"),
                }
            }
            let _ = sender.send(Command::Measured).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_exchanges_much_is_busy_for_a_while() {
        let start = Instant::now();
        let mut traffic = Traffic::default();
        assert_eq!(traffic.look(1000, start), None);
        let then = start + Duration::from_secs(2);
        assert_eq!(traffic.look(1000 + BUSY_BYTES, then), Some(then));
        // Little since, but not long ago.
        let later = then + BUSY_FOR / 2;
        assert_eq!(traffic.look(1001 + BUSY_BYTES, later), Some(then));
        assert_eq!(traffic.look(1002 + BUSY_BYTES, then + BUSY_FOR), None);
        // A connection went, and its bytes with it.
        assert_eq!(traffic.look(0, then + BUSY_FOR * 2), None);
    }

    #[test]
    fn only_direct_connections_are_doubled() {
        assert_eq!(other(Carrier::Quic), Some(Carrier::Tcp));
        assert_eq!(other(Carrier::Ws), Some(Carrier::Quic));
        assert_eq!(other(Carrier::Relay), None);
    }
}
