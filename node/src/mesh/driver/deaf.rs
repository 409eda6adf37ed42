//! Members whose subscriptions gossip does not know, although they are connected.
//!
//! Gossipsub tells a peer what it subscribes to once, with the first connection. A member that was killed and comes back finds the
//! other side with a connection that is dead and not yet known to be: the new one is its second, on which nothing is told, and
//! what the returned member publishes would never be sent there. Every node subscribes to the shards of its mesh, so a member of
//! whom gossip knows no subscription after a while was not heard: its connections are closed, and the next is a first one again. A node that says
//! which run it is need not wait for that: what an earlier run left is closed before the new connection is used.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::PeerId;
use tokio::time::Instant;

use super::Driver;

/// Subscriptions come with the first message of a connection.
const DEAF_AFTER: Duration = Duration::from_secs(4);
/// A member that subscribes to nothing is let be after so many tries.
const TRIES_MAX: u32 = 4;

/// Since when each connected member has not been heard, and what was done about it.
#[derive(Debug, Default)]
pub(super) struct Deaf(HashMap<PeerId, (Instant, u32)>);

impl Deaf {
    /// The members to be reconnected with now; `silent` are those of whom gossip knows no subscription.
    fn due(&mut self, connected: &HashSet<PeerId>, silent: &HashSet<PeerId>, now: Instant) -> Vec<PeerId> {
        // Who is gone for a moment only, as after a try, is not forgotten.
        self.0
            .retain(|peer, (_, tries)| silent.contains(peer) || (!connected.contains(peer) && *tries > 0));
        let mut due = Vec::new();
        for peer in silent {
            let (since, tries) = self.0.entry(*peer).or_insert((now, 0));
            if *tries < TRIES_MAX && now.duration_since(*since) >= DEAF_AFTER {
                (*since, *tries) = (now, *tries + 1);
                due.push(*peer);
            }
        }
        due.sort();
        due
    }
}

impl Driver {
    /// Reconnects with members that were not heard.
    pub(super) fn reconnect_deaf(&mut self, now: Instant) {
        if self.topics.is_empty() {
            return;
        }
        let connected: HashSet<PeerId> = self.peers.all().into_keys().collect();
        let Some(members) = self.swarm.behaviour_mut().members.inner() else {
            return;
        };
        let silent = members.gossip.all_peers().filter(|(_, topics)| topics.is_empty());
        // Only nodes have a record; what else is connected need not subscribe to anything.
        let silent: HashSet<PeerId> = silent
            .map(|(peer, _)| *peer)
            .filter(|peer| connected.contains(peer) && self.trust.record(peer).is_some())
            .collect();
        for peer in self.deaf.due(&connected, &silent, now) {
            tracing::info!(%peer, "gossip has not heard of a member's subscriptions: connecting anew");
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_heard_is_reconnected_a_few_times() {
        let peer = PeerId::random();
        let (here, nobody) = (HashSet::from([peer]), HashSet::new());
        let mut deaf = Deaf::default();
        let mut now = Instant::now();
        assert!(deaf.due(&here, &here, now).is_empty(), "it may still be coming");
        for _ in 0..TRIES_MAX {
            now += DEAF_AFTER;
            assert_eq!(deaf.due(&here, &here, now), [peer]);
            assert!(deaf.due(&nobody, &nobody, now).is_empty(), "between two connections");
            assert!(deaf.due(&here, &here, now).is_empty());
        }
        now += DEAF_AFTER * 10;
        assert!(deaf.due(&here, &here, now).is_empty(), "it says nothing, and is let be");
        assert!(deaf.due(&here, &nobody, now).is_empty(), "it was heard");
        assert!(deaf.0.is_empty());
    }
}
