//! When a packet arrives, and whether: decided without I/O, told the time.
//!
//! A packet waits for those before it where the link has a bandwidth, at most [`QUEUE_NS_MAX`]; what would wait longer is dropped,
//! as a router would. A lost packet is gone: it is the kernels' part to notice. Packets of one directed link stay in order, but
//! for those the scenario lets overtake.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
};

use crate::{
    network::{HostId, Links, Wall},
    random::Random,
    scenario::Link,
};

/// The longest a packet waits for a link to be free.
const QUEUE_NS_MAX: u64 = 400_000_000;
/// Bytes under way between all hosts.
const BYTES_MAX: usize = 256 << 20;

/// A packet under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// When it is there.
    pub(super) due_ns: u64,
    number: u64,
    /// Where.
    pub(super) to: HostId,
    /// Itself.
    pub(super) bytes: Vec<u8>,
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.number).cmp(&(other.due_ns, other.number))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The links between all hosts, and what is under way on them.
#[derive(Debug)]
pub(super) struct Wan {
    links: Links,
    walls: BTreeMap<u64, Wall>,
    /// The pairs that have a link, the smaller first; none: all have.
    edges: Option<HashSet<(HostId, HostId)>>,
    /// Hosts that reach the founder, host 0, whether or not they have a link: until they are in.
    admitted: HashSet<HostId>,
    queue: BinaryHeap<Reverse<Packet>>,
    /// When the last packet of each directed link arrives.
    last_ns: HashMap<(HostId, HostId), u64>,
    bytes: usize,
    number: u64,
    random: Random,
    traffic: Vec<(u64, u64)>,
    dropped: u64,
    overflown: u64,
}

impl Wan {
    pub(super) fn new(seed: u64, hosts: usize, links: Links) -> Self {
        Self {
            links,
            walls: BTreeMap::new(),
            edges: None,
            admitted: HashSet::new(),
            queue: BinaryHeap::new(),
            last_ns: HashMap::new(),
            bytes: 0,
            number: 0,
            random: Random::new(seed, "wan"),
            traffic: vec![(0, 0); hosts],
            dropped: 0,
            overflown: 0,
        }
    }

    /// From now on only these pairs have a link.
    pub(super) fn restrict_to(&mut self, edges: impl Iterator<Item = (HostId, HostId)>) {
        self.edges = Some(edges.collect());
    }

    /// Lets a host reach the founder for a while, or no longer.
    pub(super) fn admit(&mut self, host: HostId, on: bool) {
        if on {
            self.admitted.insert(host);
        } else {
            self.admitted.remove(&host);
        }
    }

    pub(super) fn add_wall(&mut self, number: u64, wall: Wall) {
        self.walls.insert(number, wall);
    }

    pub(super) fn remove_wall(&mut self, number: u64) {
        self.walls.remove(&number);
    }

    pub(super) fn degrade(&mut self, number: u64, hosts: Vec<HostId>, link: Link) {
        self.links.degrade(number, hosts, link);
    }

    pub(super) fn restore(&mut self, number: u64) {
        self.links.restore(number);
    }

    /// Bytes sent and received by each host.
    pub(super) fn traffic(&self) -> Vec<(u64, u64)> {
        self.traffic.clone()
    }

    /// Packets lost as the scenario says, and those lost because a queue was full.
    pub(super) fn dropped(&self) -> (u64, u64) {
        (self.dropped, self.overflown)
    }

    fn passes(&self, from: HostId, to: HostId) -> bool {
        let (low, high) = (from.min(to), from.max(to));
        let linked = self.edges.as_ref().is_none_or(|edges| edges.contains(&(low, high)));
        let comes_in = low == 0 && self.admitted.contains(&high);
        (linked || comes_in) && !self.walls.values().any(|wall| wall.stops(from, to))
    }

    /// Takes a packet from a host.
    pub(super) fn take(&mut self, from: HostId, to: HostId, bytes: &[u8], now_ns: u64) {
        let Some(traffic) = self.traffic.get_mut(from as usize) else {
            return;
        };
        traffic.0 += bytes.len() as u64;
        let path = self.links.path(from, to);
        if !self.passes(from, to) || (path.loss > 0.0 && self.random.unit() < path.loss) {
            self.dropped += 1;
            return;
        }
        let leaves_ns = match path.bandwidth_bits {
            Some(_) if self.links.busy_ns(from, to, now_ns) > QUEUE_NS_MAX => {
                self.overflown += 1;
                return;
            }
            Some(_) => self.links.departure_ns(&path, from, to, bytes.len(), now_ns),
            None => now_ns,
        };
        if self.bytes + bytes.len() > BYTES_MAX {
            self.overflown += 1;
            return;
        }
        let jitter_ns = (self.random.unit() * path.jitter_ns as f64) as u64;
        let mut due_ns = leaves_ns + path.latency_ns + jitter_ns;
        if path.reorder == 0.0 || self.random.unit() >= path.reorder {
            let last = self.last_ns.entry((from, to)).or_default();
            due_ns = due_ns.max(*last);
            *last = due_ns;
        }
        self.bytes += bytes.len();
        self.number += 1;
        self.queue.push(Reverse(Packet {
            due_ns,
            number: self.number,
            to,
            bytes: bytes.to_vec(),
        }));
    }

    /// The next packet that has arrived by now.
    pub(super) fn arrived(&mut self, now_ns: u64) -> Option<Packet> {
        if self.next_ns()? > now_ns {
            return None;
        }
        let Reverse(packet) = self.queue.pop()?;
        self.bytes -= packet.bytes.len();
        if let Some(traffic) = self.traffic.get_mut(packet.to as usize) {
            traffic.1 += packet.bytes.len() as u64;
        }
        Some(packet)
    }

    /// When the next packet arrives.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(packet)| packet.due_ns)
    }
}
