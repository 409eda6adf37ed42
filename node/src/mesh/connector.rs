//! Whom to dial, and when: decisions without I/O, told the time.
//!
//! Promises: a bootstrap address or a known member that is not connected is tried again and again, with exponential and
//! jittered pauses; while the node is alone the pauses stay short; when somebody comes back after a cut, the others
//! behind the same cut are tried soon, and not all in the same instant. No more than [`DIALS_MAX`] dials are under way.
//!
//! Of a large mesh [`MEMBERS_MAX`] members are candidates at a time, picked at random; while more connections are wanted, those
//! that do not answer give their places to others.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::time::Instant;
use weft_protocol::PublicKey;

/// Peers remembered as worth a dial.
const CANDIDATES_MAX: usize = 20_000;
/// Of these, members that are candidates only because they are members. The directory knows the others.
const MEMBERS_MAX: usize = 128;
/// Between two exchanges of members that do not answer for others.
const EXCHANGE_EVERY: Duration = Duration::from_secs(10);
/// Dials under way at once.
pub(crate) const DIALS_MAX: usize = 8;
/// Addresses tried in one dial.
const ADDRESSES_MAX: usize = 16;
/// How long the dial of a member is left to that member.
const COURTESY: Duration = Duration::from_millis(1500);
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest pause while no peer is connected, and for bootstrap addresses always.
const PAUSE_MAX_ALONE: Duration = Duration::from_secs(4);
/// An address at which somebody else answers is left out for so long. Private addresses mean another machine on every
/// network, and a dial ends with the first one that answers, whoever that is.
const MISTAKEN_PAUSE: Duration = Duration::from_secs(60);
/// One peer that does not answer is tried at least this often, whatever the pauses say, so that two halves of a mesh
/// find each other soon after a cut of any length.
const PROBE_EVERY: Duration = Duration::from_secs(3);

/// Why a peer is worth a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Only when somebody wants it.
    Wanted,
    /// Seen on the local network, or named by somebody.
    Hint,
    /// A member of the mesh.
    Member,
    /// Given by the user.
    Bootstrap,
}

/// A peer's id in little room: there are as many as there are members, and nearly all are keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    Key(PublicKey),
    Other(Box<PeerId>),
}

impl Name {
    fn peer(&self) -> PeerId {
        match self {
            Name::Key(key) => key.peer_id(),
            Name::Other(peer) => **peer,
        }
    }
}

impl From<&PeerId> for Name {
    fn from(peer: &PeerId) -> Self {
        PublicKey::from_peer_id(peer).map_or_else(|| Name::Other(Box::new(*peer)), Name::Key)
    }
}

#[derive(Debug)]
struct Candidate {
    addresses: Box<[Multiaddr]>,
    /// Where somebody else answered, and until when that is believed.
    mistaken: Box<[(Multiaddr, Instant)]>,
    next: Instant,
    failures: u16,
    reason: Reason,
    dialing: bool,
}

impl Candidate {
    fn plausible(&self, now: Instant) -> Vec<Multiaddr> {
        let mistaken = |address: &Multiaddr| {
            self.mistaken
                .iter()
                .any(|(known, until)| *until > now && *known == without_peer(address))
        };
        self.addresses
            .iter()
            .filter(|address| !mistaken(address))
            .cloned()
            .collect()
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    match address.iter().last() {
        Some(Protocol::P2p(_)) => address.iter().take(address.iter().count() - 1).collect(),
        _ => address.clone(),
    }
}

/// A dial to make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Connector {
    local: PeerId,
    /// Ordered, so that the same history makes the same dials.
    candidates: BTreeMap<Name, Candidate>,
    connected: HashSet<Name>,
    /// Members beyond this many connections are not dialled (they may dial us).
    target: usize,
    jitter: u64,
    next_probe: Option<Instant>,
    /// Members that were told of while there was no place for them; the same one may count twice.
    left_out: u64,
    next_exchange: Option<Instant>,
    /// Until then nobody is due, unless something changes before.
    quiet_until: Option<Instant>,
}

impl Connector {
    /// `seed` varies the jitter between nodes.
    pub(crate) fn new(local: PeerId, target: usize, seed: u64) -> Self {
        Connector {
            local,
            candidates: BTreeMap::new(),
            connected: HashSet::new(),
            target,
            jitter: seed | 1,
            next_probe: None,
            left_out: 0,
            next_exchange: None,
            quiet_until: None,
        }
    }

    /// Adds or refreshes a peer. New addresses come first; a reason only ever rises.
    pub(crate) fn add(&mut self, peer: PeerId, addresses: &[Multiaddr], reason: Reason, now: Instant) {
        if peer == self.local {
            return;
        }
        self.quiet_until = None;
        // Two members that hear of each other at the same moment would both dial: the one with the larger id leaves it
        // to the other at first.
        let next = if reason == Reason::Member && peer < self.local {
            now + COURTESY
        } else {
            now
        };
        // Whom the user named there is always room for.
        let name = Name::from(&peer);
        let is_full = self.candidates.len() >= CANDIDATES_MAX && reason != Reason::Bootstrap;
        if is_full && !self.candidates.contains_key(&name) {
            return;
        }
        if reason == Reason::Member && !self.has_place(&name) {
            return;
        }
        let candidate = self.candidates.entry(name).or_insert_with(|| Candidate {
            addresses: Box::default(),
            mistaken: Box::default(),
            next,
            failures: 0,
            reason,
            dialing: false,
        });
        if reason > candidate.reason {
            candidate.reason = reason;
            candidate.next = candidate.next.min(next);
        }
        if candidate.addresses.starts_with(addresses) {
            return;
        }
        let mut known = std::mem::take(&mut candidate.addresses).into_vec();
        for address in addresses.iter().rev() {
            if known.first() != Some(address) {
                known.retain(|a| a != address);
                known.insert(0, address.clone());
            }
        }
        known.truncate(ADDRESSES_MAX);
        candidate.addresses = known.into();
    }

    /// Whether there is a place for this member. When there are more than places, each one has the same chance.
    fn has_place(&mut self, name: &Name) -> bool {
        if self.candidates.len() < MEMBERS_MAX || self.candidates.contains_key(name) {
            return true;
        }
        let members = self.candidates.iter().filter(|(_, c)| c.reason == Reason::Member);
        if members.clone().count() < MEMBERS_MAX {
            return true;
        }
        self.left_out += 1;
        let all = MEMBERS_MAX as u64 + self.left_out;
        let nth = random(&mut self.jitter) % all;
        let idle = members.filter(|(name, c)| !c.dialing && !self.connected.contains(*name));
        let Some(victim) = idle.map(|(name, _)| name).nth(nth as usize).cloned() else {
            return false;
        };
        self.candidates.remove(&victim);
        true
    }

    /// Whether members that do not answer have given up their places, so that others are to be added. Only while more connections
    /// are wanted, everybody was tried, and there are others.
    pub(crate) fn exchange(&mut self, now: Instant) -> bool {
        let is_due = self.left_out > 0
            && self.connected.len() < self.target
            && self.next_exchange.is_none_or(|at| at <= now)
            && self.candidates.iter().all(|(name, c)| {
                c.reason != Reason::Member || c.failures > 0 || c.addresses.is_empty() || self.connected.contains(name)
            });
        if is_due {
            self.next_exchange = Some(now + EXCHANGE_EVERY);
            self.left_out = 0;
            let connected = &self.connected;
            self.candidates
                .retain(|name, c| c.reason != Reason::Member || c.dialing || connected.contains(name));
        }
        is_due
    }

    /// Remembers where a peer may be found without dialling it for its own sake.
    pub(crate) fn note(&mut self, peer: PeerId, addresses: &[Multiaddr], now: Instant) {
        self.add(peer, addresses, Reason::Wanted, now);
    }

    /// Forgets a peer that must not be dialled again.
    pub(crate) fn remove(&mut self, peer: &PeerId) {
        self.candidates.remove(&peer.into());
        self.quiet_until = None;
    }

    /// Whether a dial to `peer` is under way.
    pub(crate) fn is_dialing(&self, peer: &PeerId) -> bool {
        self.candidates.get(&peer.into()).is_some_and(|c| c.dialing)
    }

    /// Where a peer may be found, without the addresses at which somebody else was found lately; `None` if it is no candidate.
    pub(crate) fn addresses(&self, peer: &PeerId, now: Instant) -> Option<Vec<Multiaddr>> {
        Some(self.candidates.get(&peer.into())?.plausible(now))
    }

    /// Somebody else answers at `address`. Returns whether that is news, so that the others are worth a dial at once.
    pub(crate) fn mistaken(&mut self, peer: &PeerId, address: &Multiaddr, now: Instant) -> bool {
        let Some(candidate) = self.candidates.get_mut(&peer.into()) else {
            return false;
        };
        let address = without_peer(address);
        let mut mistaken = std::mem::take(&mut candidate.mistaken).into_vec();
        mistaken.retain(|(_, until)| *until > now);
        let is_news = mistaken.len() < ADDRESSES_MAX && mistaken.iter().all(|(a, _)| *a != address);
        if is_news {
            mistaken.push((address, now + MISTAKEN_PAUSE));
        }
        candidate.mistaken = mistaken.into();
        if !is_news {
            return false;
        }
        !candidate.plausible(now).is_empty()
    }

    /// A connection to `peer` stands.
    pub(crate) fn on_connected(&mut self, peer: PeerId, now: Instant) {
        self.quiet_until = None;
        let name = Name::from(&peer);
        let mut came_back = false;
        if let Some(candidate) = self.candidates.get_mut(&name) {
            came_back = candidate.failures > 2;
            candidate.failures = 0;
            candidate.dialing = false;
        }
        self.connected.insert(name);
        if came_back {
            self.hurry(now);
        }
    }

    /// The last connection to `peer` is gone.
    pub(crate) fn on_disconnected(&mut self, peer: &PeerId, now: Instant) {
        self.quiet_until = None;
        let name = Name::from(peer);
        self.connected.remove(&name);
        let pause = self.jittered(PAUSE_FIRST);
        if let Some(candidate) = self.candidates.get_mut(&name) {
            candidate.dialing = false;
            candidate.next = now + pause;
        }
    }

    /// A dial to `peer` came to nothing.
    pub(crate) fn on_failed(&mut self, peer: &PeerId, now: Instant) {
        self.quiet_until = None;
        let alone = self.connected.is_empty();
        let name = Name::from(peer);
        let Some(candidate) = self.candidates.get_mut(&name) else {
            return;
        };
        candidate.dialing = false;
        candidate.failures = candidate.failures.saturating_add(1);
        let max = if alone || candidate.reason == Reason::Bootstrap {
            PAUSE_MAX_ALONE
        } else {
            PAUSE_MAX
        };
        let pause = PAUSE_FIRST.saturating_mul(1 << candidate.failures.min(10)).min(max);
        if candidate.reason == Reason::Hint && candidate.failures > 3 {
            self.candidates.remove(&name);
            return;
        }
        let pause = self.jittered(pause);
        if let Some(candidate) = self.candidates.get_mut(&name) {
            candidate.next = now + pause;
        }
    }

    /// The network has changed or somebody is back: try everybody soon.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.quiet_until = None;
        let jitter = &mut self.jitter;
        for candidate in self.candidates.values_mut() {
            let pause = jittered(jitter, Duration::from_secs(2));
            candidate.next = candidate.next.min(now + pause);
        }
    }

    /// The dials that are due.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Dial> {
        self.probe(now);
        if self.quiet_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let members_wanted = self.connected.len() < self.target;
        let connected = &self.connected;
        if !members_wanted && !connected.is_empty() {
            return Vec::new();
        }
        let under_way = self.candidates.values().filter(|c| c.dialing).count();
        let mut due: Vec<(Reason, Instant, Name)> = self
            .candidates
            .iter()
            .filter(|(peer, c)| {
                c.reason != Reason::Wanted
                    && !c.dialing
                    && c.next <= now
                    && !c.addresses.is_empty()
                    && !connected.contains(*peer)
            })
            .filter(|(_, c)| members_wanted || (c.reason == Reason::Bootstrap && connected.is_empty()))
            .map(|(peer, c)| (c.reason, c.next, peer.clone()))
            .collect();
        if due.is_empty() {
            self.quiet_until = self.next_turn(now);
        }
        due.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        due.truncate(DIALS_MAX.saturating_sub(under_way));
        due.into_iter()
            .filter_map(|(_, _, name)| {
                let candidate = self.candidates.get_mut(&name)?;
                candidate.dialing = true;
                Some(Dial {
                    peer: name.peer(),
                    addresses: candidate.plausible(now),
                })
            })
            .collect()
    }

    /// When the next candidate's turn comes, as things are.
    fn next_turn(&self, now: Instant) -> Option<Instant> {
        let later = self.candidates.values().map(|c| c.next).filter(|next| *next > now);
        Some(later.min().unwrap_or(now + PAUSE_MAX))
    }

    /// Whether everybody has been tried at least once, or is one of `heard`: then it is known who can be reached.
    pub(crate) fn tried_all(&self, heard: &HashSet<PeerId>) -> bool {
        let mut candidates = self.candidates.iter();
        self.left_out == 0
            && candidates.all(|(peer, c)| {
                c.addresses.is_empty()
                    || c.reason == Reason::Wanted
                    || c.failures > 0
                    || self.connected.contains(peer)
                    || heard.contains(&peer.peer())
            })
    }

    /// Now and then brings one peer's turn forward.
    fn probe(&mut self, now: Instant) {
        if self.next_probe.is_some_and(|at| at > now) {
            return;
        }
        let pause = self.jittered(PROBE_EVERY);
        self.next_probe = Some(now + pause);
        let silent: Vec<Name> = self
            .candidates
            .iter()
            .filter(|(peer, c)| {
                c.reason != Reason::Wanted
                    && !c.dialing
                    && c.next > now
                    && c.failures > 0
                    && !self.connected.contains(*peer)
            })
            .map(|(peer, _)| peer.clone())
            .collect();
        if silent.is_empty() {
            return;
        }
        let index = random(&mut self.jitter) as usize % silent.len();
        if let Some(candidate) = self.candidates.get_mut(&silent[index]) {
            candidate.next = now;
            self.quiet_until = None;
        }
    }

    fn jittered(&mut self, pause: Duration) -> Duration {
        jittered(&mut self.jitter, pause)
    }
}

/// Between half and one and a half times `pause`.
fn jittered(jitter: &mut u64, pause: Duration) -> Duration {
    let permille = 500 + random(jitter) % 1000;
    pause.mul_f64(permille as f64 / 1000.0)
}

fn random(jitter: &mut u64) -> u64 {
    // xorshift64*: spreads retries; nothing secret depends on it.
    *jitter ^= *jitter >> 12;
    *jitter ^= *jitter << 25;
    *jitter ^= *jitter >> 27;
    jitter.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33
}

#[cfg(test)]
mod tests;
