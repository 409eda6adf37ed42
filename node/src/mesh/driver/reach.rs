//! Where we listen, how we are reached, what we say of it.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, autonat,
    core::transport::{ListenerId, TransportError},
    dcutr, identify, kad,
    multiaddr::Protocol,
    relay,
    swarm::{ConnectionId, FromSwarm, NetworkBehaviour as _, behaviour::NewExternalAddrCandidate},
};
use tokio::time::Instant;

use super::{Driver, outside::Outside, with_peer};
use crate::{
    error::NodeError,
    mesh::{
        behaviour::Members,
        config::RelayUse,
        handle::{Reachability, RelayInfo},
        peers::Carrier,
        sources::{ip_of, is_relayed},
    },
    platform::Platform,
    trust::directory::OwnRecord,
};

/// What a relay offers in identify.
const RELAY_HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";
/// A relay that lost or refused us is not asked again for so long: after a lost connection, and when it does not want us.
const SHUN_LOST: Duration = Duration::from_secs(2);
const SHUN_REFUSED: Duration = Duration::from_secs(30);
/// Addresses in our record.
const RECORD_ADDRESSES_MAX: usize = weft_protocol::limits::ADDRESSES_MAX;

pub(super) struct Reach {
    listen: HashMap<ListenerId, BTreeSet<Multiaddr>>,
    outside: Outside,
    /// Members that carry others' connections.
    relays: BTreeSet<PeerId>,
    reservations: HashMap<ListenerId, PeerId>,
    /// Not asked again before then.
    shunned: HashMap<PeerId, Instant>,
    hole_punches: (u64, u64),
    seed: u64,
    kad_server: bool,
    inbound_seen: bool,
}

impl Reach {
    pub(super) fn new(seed: u64) -> Self {
        Reach {
            listen: HashMap::new(),
            outside: Outside::default(),
            relays: BTreeSet::new(),
            reservations: HashMap::new(),
            shunned: HashMap::new(),
            hole_punches: (0, 0),
            seed,
            kad_server: false,
            inbound_seen: false,
        }
    }

    pub(super) fn rng_seed(&self) -> u64 {
        self.seed
    }
}

impl Driver {
    /// Listens where the configuration says. A default port in use is replaced by a free one.
    pub(super) fn listen(&mut self, platform: &dyn Platform) -> Result<(), NodeError> {
        let mut up = 0;
        for address in self.config.listen.clone() {
            let free = platform.can_listen(&address).map_err(TransportError::Other);
            match free.and_then(|()| self.swarm.listen_on(address.clone())) {
                Ok(id) => {
                    self.listeners.insert(id, address);
                    up += 1;
                }
                Err(error) if self.config.listen_explicit => {
                    return Err(cannot_listen(&address, &error));
                }
                Err(error) => {
                    let other = any_port(&address);
                    tracing::debug!(%address, %error, %other, "the default port is taken: any free one will do");
                    match self.swarm.listen_on(other) {
                        Ok(id) => {
                            self.listeners.insert(id, address);
                            up += 1;
                        }
                        Err(error) => tracing::debug!(%address, %error, "cannot listen"),
                    }
                }
            }
        }
        if up == 0 {
            return Err(NodeError::conflict("no listen address could be used").with_hint("see --listen"));
        }
        Ok(())
    }

    pub(super) fn on_listening(&mut self, id: ListenerId, address: Multiaddr) {
        tracing::debug!(%address, "listening");
        self.reach.listen.entry(id).or_default().insert(address);
        self.publish_state();
        self.record_dirty = true;
    }

    pub(super) fn on_listen_expired(&mut self, id: ListenerId, address: &Multiaddr) {
        if let Some(addresses) = self.reach.listen.get_mut(&id) {
            addresses.remove(address);
        }
        if !self.config.external.contains(address) {
            self.swarm.remove_external_address(address);
        }
        // The network has changed.
        self.connector.hurry(Instant::now());
        self.publish_state();
        self.record_dirty = true;
    }

    pub(super) fn on_listener_closed(&mut self, id: ListenerId, addresses: &[Multiaddr], error: Option<String>) {
        self.reach.listen.remove(&id);
        if let Some(relay) = self.reach.reservations.remove(&id) {
            tracing::info!(peer = %relay, ?error, "a place at a relay is gone; looking for another");
            let now = Instant::now();
            // Not this one again at once.
            let pause = if self.peers.contains(&relay) {
                SHUN_REFUSED
            } else {
                SHUN_LOST
            };
            self.reach.shunned.insert(relay, now + pause);
            self.reach_tick(now);
        } else if let Some(address) = self.listeners.remove(&id) {
            tracing::warn!(%address, ?addresses, ?error, "a listener has closed");
            if let Ok(id) = self.swarm.listen_on(any_port(&address)) {
                self.listeners.insert(id, address);
            }
        }
        self.publish_state();
        self.record_dirty = true;
    }

    pub(super) fn on_external(&mut self, address: &Multiaddr, confirmed: bool) {
        tracing::debug!(%address, confirmed, "external address");
        if confirmed {
            self.reach.outside.tested(address, true);
        }
        self.update_roles();
        self.publish_state();
        self.record_dirty = true;
    }

    pub(super) fn on_reachability(&mut self, event: &autonat::v2::client::Event) {
        tracing::debug!(address = %event.tested_addr, ok = event.result.is_ok(), "our address was tested");
        self.reach.outside.tested(&event.tested_addr, event.result.is_ok());
        self.publish_state();
    }

    pub(super) fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: &identify::Info) {
        if info.protocols.iter().any(|p| p.as_ref() == RELAY_HOP) {
            self.reach.relays.insert(peer);
        }
        self.reach.outside.observed(id, info.observed_addr.clone());
    }

    /// Perhaps one of our addresses. What tests it hears of it from the swarm, unless it is not there yet.
    pub(super) fn on_candidate(&mut self, address: Multiaddr) {
        tracing::debug!(%address, "perhaps an address of ours");
        if self.swarm.behaviour_mut().members.inner().is_none() {
            self.reach.outside.candidate(address);
        }
    }

    /// Tells the members' behaviours, which are about to be installed, the candidates they have missed.
    pub(super) fn tell_candidates(&mut self, members: &mut Members) {
        for addr in self.reach.outside.take_candidates() {
            members.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate {
                addr: &addr,
            }));
        }
    }

    /// A connection is gone, and what was learned on it.
    pub(super) fn forget_connection(&mut self, id: ConnectionId) {
        self.reach.outside.closed(id);
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted {
            relay_peer_id,
            renewal,
            limit,
        } = event
        {
            tracing::info!(peer = %relay_peer_id, renewal, ?limit, "a place at a relay is ours");
        }
    }

    pub(super) fn on_hole_punch(&mut self, event: &dcutr::Event) {
        self.reach.hole_punches.0 += 1;
        match &event.result {
            Ok(id) => {
                self.reach.outside.punched(*id);
                self.reach.hole_punches.1 += 1;
                tracing::info!(peer = %event.remote_peer_id, "a direct connection replaces the relay");
            }
            Err(error) => {
                tracing::info!(peer = %event.remote_peer_id, %error, "no direct connection: it stays relayed")
            }
        }
        self.publish_state();
    }

    fn reachability(&self) -> Reachability {
        let own = self.own_ips();
        self.reach
            .outside
            .reachability(self.swarm.external_addresses(), &own, self.is_translated(&own))
    }

    fn is_translated(&self, own: &BTreeSet<IpAddr>) -> bool {
        self.reach
            .outside
            .is_translated(own, |id| self.connections.get(&id).is_some_and(|c| c.opened))
    }

    fn own_ips(&self) -> BTreeSet<IpAddr> {
        self.reach.listen.values().flatten().filter_map(ip_of).collect()
    }

    /// A member that dialled us at an address of ours has shown that it works.
    fn confirm_found(&mut self) {
        let listen: BTreeSet<Multiaddr> = self.reach.listen.values().flatten().cloned().collect();
        // A direct connection beside a relayed one may come from a punched hole.
        let relayed: BTreeSet<PeerId> = self
            .connections
            .values()
            .filter(|c| Carrier::of(&c.address) == Carrier::Relay)
            .map(|c| c.peer)
            .collect();
        let inbound = self
            .connections
            .iter()
            .filter(|(_, c)| c.inbound && c.opened && !relayed.contains(&c.peer));
        let found: BTreeSet<Multiaddr> = inbound
            .filter_map(|(id, _)| self.reach.outside.found_at(*id, &listen))
            .cloned()
            .collect();
        for address in found {
            if !self.swarm.external_addresses().any(|a| *a == address) {
                self.swarm.add_external_address(address);
            }
        }
    }

    /// Answers the DHT's questions, and carries others' connections, only if others can reach us.
    fn update_roles(&mut self) {
        self.reach.inbound_seen |= self.connections.iter().any(|(id, c)| {
            c.inbound && c.opened && Carrier::of(&c.address) != Carrier::Relay && !self.reach.outside.is_punched(*id)
        });
        let is_public = self.reachability() == Reachability::Public;
        let server = is_public || (self.reach.inbound_seen && !self.is_translated(&self.own_ips()));
        let relay = if is_public || self.config.relay.server_always {
            relay::Status::Enable
        } else {
            relay::Status::Disable
        };
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            return;
        };
        if let Some(server) = members.others.relay_server.as_mut() {
            server.0.set_status(Some(relay));
        }
        if server != self.reach.kad_server {
            if let Some(kad) = members.others.kad.as_mut() {
                kad.set_mode(Some(if server { kad::Mode::Server } else { kad::Mode::Client }));
            }
            self.reach.kad_server = server;
            self.publish_state();
        }
    }

    /// Keeps places at relays while we need them.
    pub(super) fn reach_tick(&mut self, now: Instant) {
        self.confirm_found();
        self.update_roles();
        let needed = match self.config.relay.client {
            RelayUse::Off => false,
            RelayUse::On => true,
            RelayUse::Auto => self.reachability() == Reachability::Private,
        };
        if !needed {
            // One that is still being asked for is left alone until it is granted or refused (see `relay_client`).
            let held = self.reach.reservations.keys().copied();
            let held: Vec<ListenerId> = held.filter(|id| self.reach.listen.contains_key(id)).collect();
            for id in held {
                self.swarm.remove_listener(id);
            }
            return;
        }
        self.reach.shunned.retain(|_, until| *until > now);
        let held: BTreeSet<PeerId> = self.reach.reservations.values().copied().collect();
        // A place at a relay that does not answer may be lost: another is taken before that is certain.
        let sure = held.iter().filter(|relay| self.peers.is_alive(relay)).count();
        let mut wanted = self.config.relay.reservations.saturating_sub(sure);
        let candidates: Vec<PeerId> = self.reach.relays.iter().copied().collect();
        for peer in candidates {
            if wanted == 0 {
                return;
            }
            if held.contains(&peer) || self.reach.shunned.contains_key(&peer) || !self.peers.is_alive(&peer) {
                continue;
            }
            let Some(address) = self.direct_address(&peer) else {
                continue;
            };
            let circuit = with_peer(address, peer).with(Protocol::P2pCircuit);
            tracing::debug!(%peer, %circuit, "asking for a place at a relay");
            match self.swarm.listen_on(circuit) {
                Ok(id) => {
                    self.reach.reservations.insert(id, peer);
                    wanted -= 1;
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "no place at this relay");
                    self.reach.shunned.insert(peer, now + SHUN_REFUSED);
                }
            }
        }
    }

    /// An address of a connected peer that does not itself need a relay.
    fn direct_address(&self, peer: &PeerId) -> Option<Multiaddr> {
        let own = self
            .connections
            .values()
            .filter(|c| c.peer == *peer && c.opened && !c.inbound);
        let dialled = own.map(|c| c.address.clone()).find(|a| !is_relayed(a));
        dialled
            .or_else(|| self.trust.record(peer)?.addresses.into_iter().find(|a| !is_relayed(a)))
            .map(|a| a.into_iter().filter(|p| !matches!(p, Protocol::P2p(_))).collect())
    }

    /// Chooses among several connections to one peer by what was measured.
    pub(super) fn prefer_best(&mut self) {
        let several: BTreeSet<PeerId> = {
            let mut seen = BTreeSet::new();
            self.connections
                .values()
                .filter(|c| c.opened && !seen.insert(c.peer))
                .map(|c| c.peer)
                .collect()
        };
        for peer in several {
            let Some(best) = self.peers.choose(&peer) else { continue };
            if let Some(members) = self.swarm.behaviour_mut().members.inner() {
                members.others.streams.prefer(peer, best);
            }
            if self.lanes.connection(&peer).is_some_and(|current| current != best) {
                self.open_lane(peer, best);
            }
        }
    }

    pub(super) fn publish_state(&mut self) {
        let listen: Vec<Multiaddr> = self.reach.listen.values().flatten().cloned().collect();
        let relays = self.relay_infos();
        let external: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        let reachability = self.reachability();
        let listening = self.listeners.keys().all(|id| self.reach.listen.contains_key(id));
        let (kad_server, hole_punches) = (self.reach.kad_server, self.reach.hole_punches);
        self.state.send_modify(|state| {
            state.listen = listen.into_iter().filter(|a| !is_relayed(a)).collect();
            state.external = external;
            state.reachability = reachability;
            state.relays = relays;
            state.kad_server = kad_server;
            state.listening |= listening;
            state.hole_punches = hole_punches;
        });
    }

    fn relay_infos(&self) -> Vec<RelayInfo> {
        let held = self.reach.reservations.iter();
        held.filter_map(|(id, peer)| {
            let address = self.reach.listen.get(id)?.iter().next()?.clone();
            Some(RelayInfo { peer: *peer, address })
        })
        .collect()
    }

    /// Says to the members where we are and what our patterns announce.
    pub(super) fn publish_record(&mut self) {
        let own = OwnRecord {
            name: self.config.name.clone(),
            addresses: self.record_addresses(),
            agent: self.config.agent.clone(),
            announcements: self
                .announcements
                .iter()
                .map(|(k, v)| ((*k).to_owned(), v.clone()))
                .collect(),
        };
        if let Err(error) = self.trust.publish_own(&own) {
            tracing::warn!(%error, "this node's record could not be published");
        }
    }

    /// External addresses first, then the local network's, then relays; loopback only where there is nothing else.
    fn record_addresses(&self) -> Vec<Multiaddr> {
        let external: Vec<Multiaddr> = self
            .swarm
            .external_addresses()
            .filter(|a| !is_relayed(a))
            .cloned()
            .collect();
        // A link-local address means nothing without the interface it belongs to.
        let listen: Vec<Multiaddr> = self
            .reach
            .listen
            .values()
            .flatten()
            .filter(|a| !is_link_local(a))
            .cloned()
            .collect();
        let (relayed, direct): (Vec<_>, Vec<_>) = listen.into_iter().partition(is_relayed);
        let (loopback, lan): (Vec<_>, Vec<_>) = direct
            .into_iter()
            .partition(|a| ip_of(a).is_some_and(|ip: IpAddr| ip.is_loopback()));
        let mut all = Vec::new();
        for address in external.into_iter().chain(lan).chain(relayed) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        if all.is_empty() {
            all = loopback;
        }
        all.truncate(RECORD_ADDRESSES_MAX);
        all
    }
}

fn is_link_local(address: &Multiaddr) -> bool {
    matches!(ip_of(address), Some(IpAddr::V6(ip)) if ip.is_unicast_link_local())
}

/// Says why, which a transport's error leaves to its source.
fn cannot_listen(address: &Multiaddr, error: &TransportError<io::Error>) -> NodeError {
    match error {
        TransportError::MultiaddrNotSupported(_) => NodeError::invalid(format!(
            "cannot listen on {address}: no transport of this node has such addresses"
        ))
        .with_hint("for instance /ip4/0.0.0.0/udp/7400/quic-v1 or /ip4/0.0.0.0/tcp/7400"),
        TransportError::Other(error) if error.kind() == io::ErrorKind::AddrInUse => NodeError::conflict(format!(
            "cannot listen on {address}: the port is in use by another program"
        ))
        .with_hint("choose another with --listen, or let the node choose: end it in /tcp/0"),
        TransportError::Other(error) => NodeError::conflict(format!("cannot listen on {address}: {error}"))
            .with_hint("is it an address of this machine? `ip address` lists them"),
    }
}

/// The same address with a port of the system's choice.
fn any_port(address: &Multiaddr) -> Multiaddr {
    address
        .iter()
        .map(|part| match part {
            Protocol::Tcp(_) => Protocol::Tcp(0),
            Protocol::Udp(_) => Protocol::Udp(0),
            other => other,
        })
        .collect()
}
