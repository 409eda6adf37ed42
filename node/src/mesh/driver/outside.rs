//! What others see of us, and what follows from it: decisions without I/O.
//!
//! A member that sees us under an address that is none of ours tells that something between translates (NAT): then an
//! address of our own, though others on our network reach us at it, says nothing about the rest of the world. A member
//! that dialled us at an address of our own shows that this one works.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use libp2p::{Multiaddr, swarm::ConnectionId};

use crate::mesh::{
    handle::Reachability,
    sources::{ip_of, is_relayed},
};

/// Candidates kept until somebody can test them, and failed tests remembered; then the oldest make room.
const CANDIDATES_MAX: usize = 32;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outside {
    /// The address under which the other end of a connection sees us.
    observed: HashMap<ConnectionId, Multiaddr>,
    /// Perhaps ours; not tested yet, because what tests them is not there yet.
    candidates: VecDeque<Multiaddr>,
    failed: BTreeSet<Multiaddr>,
    /// Connections that only stand because both sides dialled at once.
    punched: BTreeSet<ConnectionId>,
}

impl Outside {
    /// The other end of a connection says under which address it sees us.
    pub(super) fn observed(&mut self, id: ConnectionId, address: Multiaddr) {
        self.observed.insert(id, address);
    }

    /// A connection is gone, and what was learned on it.
    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.observed.remove(&id);
        self.punched.remove(&id);
    }

    /// A connection came about by hole punching: it says nothing about who else can reach us.
    pub(super) fn punched(&mut self, id: ConnectionId) {
        self.punched.insert(id);
    }

    /// Remembers a candidate for those who are not there yet to hear of it.
    pub(super) fn candidate(&mut self, address: Multiaddr) {
        if !self.candidates.contains(&address) {
            if self.candidates.len() >= CANDIDATES_MAX {
                self.candidates.pop_front();
            }
            self.candidates.push_back(address);
        }
    }

    /// The candidates nobody has heard of yet.
    pub(super) fn take_candidates(&mut self) -> VecDeque<Multiaddr> {
        std::mem::take(&mut self.candidates)
    }

    /// A test of one of our addresses has ended.
    pub(super) fn tested(&mut self, address: &Multiaddr, reached: bool) {
        if reached {
            self.failed.remove(address);
        } else if ip_of(address).is_some() && self.failed.len() < CANDIDATES_MAX {
            self.failed.insert(address.clone());
        }
    }

    /// Whether a member sees us under an address that is none of ours.
    pub(super) fn is_translated(&self, own: &BTreeSet<IpAddr>, is_member: impl Fn(ConnectionId) -> bool) -> bool {
        self.observed.iter().any(|(id, address)| {
            ip_of(address).is_some_and(|ip| !ip.is_loopback() && !own.contains(&ip)) && is_member(*id)
        })
    }

    /// Whether we can be reached from outside, given the confirmed addresses.
    pub(super) fn reachability<'a>(
        &self,
        external: impl Iterator<Item = &'a Multiaddr>,
        own: &BTreeSet<IpAddr>,
        translated: bool,
    ) -> Reachability {
        let counts = |address: &Multiaddr| {
            let behind = translated && ip_of(address).is_some_and(|ip| own.contains(&ip));
            !is_relayed(address) && !behind
        };
        if external.into_iter().any(counts) {
            Reachability::Public
        } else if translated || !self.failed.is_empty() {
            Reachability::Private
        } else {
            Reachability::Unknown
        }
    }

    /// The address, one of ours, at which the other end of an inbound connection has found us.
    pub(super) fn found_at(&self, id: ConnectionId, listen: &BTreeSet<Multiaddr>) -> Option<&Multiaddr> {
        if self.punched.contains(&id) {
            return None;
        }
        let address = self.observed.get(&id)?;
        (listen.contains(address) && ip_of(address).is_some_and(|ip| !ip.is_loopback())).then_some(address)
    }

    /// Whether a connection came about by hole punching.
    pub(super) fn is_punched(&self, id: ConnectionId) -> bool {
        self.punched.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn own() -> BTreeSet<IpAddr> {
        ["127.0.0.1", "10.1.0.2"].iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn one() -> ConnectionId {
        ConnectionId::new_unchecked(1)
    }

    fn two() -> ConnectionId {
        ConnectionId::new_unchecked(2)
    }

    #[test]
    fn an_address_of_the_local_network_is_no_proof_behind_a_router() {
        let mut outside = Outside::default();
        let lan = [address("/ip4/10.1.0.2/tcp/7400")];
        outside.observed(one(), address("/ip4/10.1.0.2/tcp/7400"));
        assert!(!outside.is_translated(&own(), |_| true));
        assert_eq!(outside.reachability(lan.iter(), &own(), false), Reachability::Public);
        outside.observed(two(), address("/ip4/192.0.2.1/tcp/7400"));
        assert!(
            !outside.is_translated(&own(), |id| id != two()),
            "a stranger's word does not count"
        );
        assert!(outside.is_translated(&own(), |_| true));
        assert_eq!(outside.reachability(lan.iter(), &own(), true), Reachability::Private);
        let forwarded = [address("/ip4/192.0.2.1/tcp/7400")];
        assert_eq!(
            outside.reachability(forwarded.iter(), &own(), true),
            Reachability::Public
        );
        outside.closed(two());
        assert!(!outside.is_translated(&own(), |_| true));
    }

    #[test]
    fn one_failed_test_is_believed_until_an_address_is_confirmed() {
        let mut outside = Outside::default();
        assert_eq!(outside.reachability([].iter(), &own(), false), Reachability::Unknown);
        outside.tested(&address("/ip4/10.1.0.2/tcp/7400"), false);
        assert_eq!(outside.reachability([].iter(), &own(), false), Reachability::Private);
        let relayed = [address("/ip4/192.0.2.1/tcp/1/p2p-circuit")];
        assert_eq!(
            outside.reachability(relayed.iter(), &own(), false),
            Reachability::Private
        );
        outside.tested(&address("/ip4/10.1.0.2/tcp/7400"), true);
        assert_eq!(outside.reachability([].iter(), &own(), false), Reachability::Unknown);
    }

    #[test]
    fn who_dialled_us_confirms_the_address_unless_a_hole_was_punched() {
        let mut outside = Outside::default();
        let listen = BTreeSet::from([address("/ip4/10.1.0.2/tcp/7400")]);
        outside.observed(one(), address("/ip4/10.1.0.2/tcp/7400"));
        assert_eq!(outside.found_at(one(), &listen), listen.first());
        assert_eq!(outside.found_at(two(), &listen), None);
        outside.punched(one());
        assert_eq!(outside.found_at(one(), &listen), None);
        outside.observed(two(), address("/ip4/192.0.2.9/tcp/7400"));
        assert_eq!(outside.found_at(two(), &listen), None);
    }

    #[test]
    fn candidates_wait_once_and_are_bounded() {
        let mut outside = Outside::default();
        for port in 0..100 {
            outside.candidate(address(&format!("/ip4/192.0.2.1/tcp/{port}")));
            outside.candidate(address(&format!("/ip4/192.0.2.1/tcp/{port}")));
        }
        assert_eq!(outside.take_candidates().len(), CANDIDATES_MAX);
        assert!(outside.take_candidates().is_empty());
    }
}
