//! A look at the whole mesh.

use std::collections::HashMap;

use weft_protocol::{
    PeerId, Subject,
    patterns::pub_sub::{SHARDS, topic},
};

use crate::{
    fleet::Fleet,
    network::{HostId, Network},
    report::Sample,
};

/// Looks, and remembers what it saw last.
pub(super) struct Sampler {
    hosts: HashMap<PeerId, HostId>,
    /// Honest nodes: the first ones.
    honest: usize,
    shard: u16,
    sent: u64,
    delivered: u64,
}

/// What was seen.
pub(super) struct Look {
    pub(super) sample: Sample,
    /// The share of honest nodes' gossip neighbours that attack.
    pub(super) attacker_share: f64,
}

impl Sampler {
    /// Of the hosts with these ids. Gossip neighbours are those of `subject`'s topic.
    pub(super) fn new(peers: &[PeerId], honest: usize, subject: Option<&Subject>) -> Self {
        Sampler {
            hosts: peers
                .iter()
                .enumerate()
                .map(|(host, peer)| (*peer, host as HostId))
                .collect(),
            honest,
            shard: subject.map_or(0, |subject| subject.shard(SHARDS)),
            sent: 0,
            delivered: 0,
        }
    }

    /// Looks at everybody who runs.
    pub(super) async fn look(
        &mut self,
        fleet: &Fleet,
        network: &Network,
        now_ns: u64,
        sent: u64,
        delivered: u64,
    ) -> Look {
        let mut parts = Parts::new(fleet.len());
        let (mut connections, mut degrees) = (Vec::new(), Vec::new());
        let (mut neighbours_all, mut neighbours_hostile) = (0_usize, 0_usize);
        let mut up = Vec::new();
        for (host, running) in fleet.all_running().filter(|(host, _)| (*host as usize) < self.honest) {
            up.push(host);
            let mut count = 0;
            for peer in running.node.mesh().peers().ids() {
                let Some(other) = self.hosts.get(&peer) else { continue };
                let is_there = fleet.is_awake(*other) && network.passes(host, *other) && network.passes(*other, host);
                if is_there && fleet.is_awake(host) {
                    count += 1;
                    if (*other as usize) < self.honest {
                        parts.join(host, *other);
                    }
                }
            }
            connections.push(count);
            if !fleet.is_awake(host) {
                // It would not answer.
                continue;
            }
            let Some(mesh) = running.node.trust().mesh() else {
                continue;
            };
            let topic = topic(&mesh.id, self.shard);
            let neighbours = running.node.mesh().gossip_neighbours(topic).await.unwrap_or_default();
            degrees.push(neighbours.len() as u32);
            neighbours_all += neighbours.len();
            let hostile = |peer: &&PeerId| self.hosts.get(peer).is_some_and(|host| *host as usize >= self.honest);
            neighbours_hostile += neighbours.iter().filter(hostile).count();
        }
        let sample = Sample {
            at: now_ns as f64 / 1e9,
            nodes_up: up.len() as u32,
            connections: spread(&connections),
            mesh_degree: spread(&degrees),
            components: parts.count(&up),
            sent: sent - self.sent,
            delivered: delivered - self.delivered,
        };
        (self.sent, self.delivered) = (sent, delivered);
        let attacker_share = neighbours_hostile as f64 / neighbours_all.max(1) as f64;
        Look { sample, attacker_share }
    }
}

/// The fewest, the average, the most.
fn spread(values: &[u32]) -> (u32, f64, u32) {
    let (Some(min), Some(max)) = (values.iter().min(), values.iter().max()) else {
        return (0, 0.0, 0);
    };
    let sum: u64 = values.iter().map(|value| u64::from(*value)).sum();
    (*min, sum as f64 / values.len() as f64, *max)
}

/// Who reaches whom (union and find).
struct Parts(Vec<HostId>);

impl Parts {
    fn new(hosts: usize) -> Self {
        Parts((0..hosts as HostId).collect())
    }

    fn root(&mut self, mut host: HostId) -> HostId {
        while self.0[host as usize] != host {
            let above = self.0[self.0[host as usize] as usize];
            self.0[host as usize] = above;
            host = above;
        }
        host
    }

    fn join(&mut self, a: HostId, b: HostId) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b) as usize] = a.min(b);
    }

    fn count(&mut self, hosts: &[HostId]) -> u32 {
        let mut roots: Vec<HostId> = hosts.iter().map(|host| self.root(*host)).collect();
        roots.sort_unstable();
        roots.dedup();
        roots.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_among_those_who_run() {
        let mut parts = Parts::new(6);
        parts.join(0, 1);
        parts.join(2, 3);
        parts.join(1, 3);
        assert_eq!(parts.count(&[0, 1, 2, 3]), 1);
        assert_eq!(parts.count(&[0, 4, 5]), 3);
        assert_eq!(parts.count(&[]), 0);
        assert_eq!(spread(&[3, 1, 2]), (1, 2.0, 3));
    }
}
