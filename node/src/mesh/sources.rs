//! Caps per source address and expiring bans.
//!
//! Promises: one address, or one subnet, cannot take all places among the connections that have not proven anything
//! yet, so that an honest peer still gets in during a flood; a banned peer or address is refused until its ban ends.
//! Loopback is exempt from the caps, not from bans: everyone on this machine shares that one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};
use tokio::time::Instant;

/// Bans kept at once; the one that ends first makes room.
const BANS_MAX: usize = 10_000;

/// The caps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLimits {
    /// Inbound connections of one address, handshakes included.
    pub connections_per_ip_max: usize,
    /// Inbound connections of one IPv4 /24 or IPv6 /64.
    pub connections_per_subnet_max: usize,
}

impl Default for SourceLimits {
    fn default() -> Self {
        SourceLimits {
            connections_per_ip_max: 256,
            connections_per_subnet_max: 512,
        }
    }
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceDenied {
    #[error("{0} has too many connections")]
    TooMany(IpAddr),
    #[error("the subnet of {0} has too many connections")]
    SubnetTooMany(IpAddr),
    #[error("{0} is banned for {1:?} more")]
    Banned(String, Duration),
}

/// See the module.
pub(crate) struct Sources {
    limits: SourceLimits,
    connections: HashMap<ConnectionId, IpAddr>,
    per_ip: HashMap<IpAddr, usize>,
    per_subnet: HashMap<IpAddr, usize>,
    banned_peers: HashMap<PeerId, Instant>,
}

impl Sources {
    pub(crate) fn new(limits: SourceLimits) -> Self {
        Sources {
            limits,
            connections: HashMap::new(),
            per_ip: HashMap::new(),
            per_subnet: HashMap::new(),
            banned_peers: HashMap::new(),
        }
    }

    /// Refuses `peer` for `duration`, in both directions.
    pub(crate) fn ban(&mut self, peer: PeerId, duration: Duration) {
        let now = Instant::now();
        if self.banned_peers.len() >= BANS_MAX {
            self.banned_peers.retain(|_, until| *until > now);
        }
        if self.banned_peers.len() < BANS_MAX {
            self.banned_peers.insert(peer, now + duration);
        }
    }

    fn check_peer(&mut self, peer: &PeerId) -> Result<(), SourceDenied> {
        let now = Instant::now();
        match self.banned_peers.get(peer) {
            Some(until) if *until > now => Err(SourceDenied::Banned(peer.to_string(), *until - now)),
            Some(_) => {
                self.banned_peers.remove(peer);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn admit(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), SourceDenied> {
        let Some(ip) = ip_of(remote).filter(|ip| !ip.is_loopback()) else {
            return Ok(());
        };
        if self
            .per_ip
            .get(&ip)
            .is_some_and(|n| *n >= self.limits.connections_per_ip_max)
        {
            return Err(SourceDenied::TooMany(ip));
        }
        let subnet = subnet_of(ip);
        if self
            .per_subnet
            .get(&subnet)
            .is_some_and(|n| *n >= self.limits.connections_per_subnet_max)
        {
            return Err(SourceDenied::SubnetTooMany(ip));
        }
        self.connections.insert(id, ip);
        *self.per_ip.entry(ip).or_default() += 1;
        *self.per_subnet.entry(subnet).or_default() += 1;
        Ok(())
    }

    fn release(&mut self, id: ConnectionId) {
        let Some(ip) = self.connections.remove(&id) else { return };
        for (counts, key) in [(&mut self.per_ip, ip), (&mut self.per_subnet, subnet_of(ip))] {
            if let Some(count) = counts.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&key);
                }
            }
        }
    }
}

/// The IP address a multiaddr starts with, unless it goes through a relay.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    if is_relayed(address) {
        return None;
    }
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.to_canonical()),
        _ => None,
    }
}

/// Whether the address goes through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|p| matches!(p, Protocol::P2pCircuit))
}

fn subnet_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let s = ip.segments();
            Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0).into()
        }
    }
}

impl NetworkBehaviour for Sources {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.admit(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer)
            .map(|()| dummy::ConnectionHandler)
            .map_err(ConnectionDenied::new)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(&peer)
            .map(|()| dummy::ConnectionHandler)
            .map_err(ConnectionDenied::new)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(e) => self.release(e.connection_id),
            FromSwarm::ListenFailure(e) => self.release(e.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(per_ip: usize, per_subnet: usize) -> Sources {
        Sources::new(SourceLimits {
            connections_per_ip_max: per_ip,
            connections_per_subnet_max: per_subnet,
        })
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let mut s = sources(2, 3);
        for id in 0..2 {
            s.admit(ConnectionId::new_unchecked(id), &address("/ip4/192.0.2.1/tcp/1"))
                .unwrap();
        }
        assert!(matches!(
            s.admit(ConnectionId::new_unchecked(2), &address("/ip4/192.0.2.1/tcp/2")),
            Err(SourceDenied::TooMany(_))
        ));
        s.admit(ConnectionId::new_unchecked(3), &address("/ip4/192.0.2.2/tcp/2"))
            .unwrap();
        assert!(matches!(
            s.admit(ConnectionId::new_unchecked(4), &address("/ip4/192.0.2.3/tcp/2")),
            Err(SourceDenied::SubnetTooMany(_))
        ));
        s.admit(ConnectionId::new_unchecked(5), &address("/ip4/192.0.3.3/tcp/2"))
            .unwrap();
        s.release(ConnectionId::new_unchecked(0));
        s.admit(ConnectionId::new_unchecked(6), &address("/ip4/192.0.2.1/tcp/2"))
            .unwrap();
        assert_eq!(s.per_ip.values().sum::<usize>(), s.connections.len());
    }

    #[test]
    fn loopback_is_not_counted() {
        let mut s = sources(1, 1);
        for id in 0..100 {
            s.admit(ConnectionId::new_unchecked(id), &address("/ip4/127.0.0.1/tcp/1"))
                .unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ban_ends() {
        let mut s = sources(1, 1);
        let peer = PeerId::random();
        s.ban(peer, Duration::from_secs(10));
        assert!(s.check_peer(&peer).is_err());
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(s.check_peer(&peer).is_ok());
        assert!(s.banned_peers.is_empty());
    }
}
