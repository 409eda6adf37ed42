//! The weight of requests and answers in hand: for all peers together and for each of them.
//!
//! A request weighs from when it has been read until its answer is written, or nobody wants it any more, and as much as the larger
//! of the two. So a peer that sends much, or that leaves its answers unread, fills its own share and is told `Busy`; what the node
//! holds for all of them stays within a part of its memory budget. Small ones are let through, for their number is bounded elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;

/// Of the memory budget.
const BUDGET_PART: usize = 4;
/// Of all that may be held, what one peer may.
const PEER_PART: usize = 2;
/// What weighs no more is always let through.
pub(crate) const SMALL_BYTES: usize = 4 << 10;

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_peer: HashMap<PeerId, usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scales {
    bytes_max: usize,
    held: Mutex<Held>,
}

/// Bytes that are held for a peer; given back on drop.
#[derive(Debug)]
pub(crate) struct Weight {
    scales: Arc<Scales>,
    peer: PeerId,
    bytes: usize,
}

impl Scales {
    pub(crate) fn new(memory_budget_bytes: usize) -> Arc<Self> {
        Arc::new(Scales {
            bytes_max: memory_budget_bytes / BUDGET_PART,
            held: Mutex::default(),
        })
    }

    /// Takes so many bytes in hand for a peer, if that fits.
    pub(crate) fn weigh(self: &Arc<Self>, peer: PeerId, bytes: usize) -> Option<Weight> {
        self.add(&peer, bytes, bytes <= SMALL_BYTES).then(|| Weight {
            scales: Arc::clone(self),
            peer,
            bytes,
        })
    }

    fn add(&self, peer: &PeerId, bytes: usize, always: bool) -> bool {
        let mut held = self.lock();
        let own = held.by_peer.get(peer).copied().unwrap_or(0);
        let fits = held.all + bytes <= self.bytes_max && own + bytes <= self.bytes_max / PEER_PART;
        if fits || always {
            held.all += bytes;
            held.by_peer.insert(*peer, own + bytes);
        }
        fits || always
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Weight {
    /// The same hand now holds something of another size as well. What does not fit is not taken.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let fits = more == 0 || self.scales.add(&self.peer, more, bytes <= SMALL_BYTES);
        if fits {
            self.bytes += more;
        }
        fits
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let mut held = self.scales.lock();
        held.all -= self.bytes;
        if let Some(own) = held.by_peer.get_mut(&self.peer) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_peer.remove(&self.peer);
            }
        }
    }
}

/// An answer, and its weight until it is written. On the asking side nothing is weighed.
#[derive(Debug)]
pub(crate) struct Weighed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) weight: Option<Weight>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn one_peer_fills_its_share_and_all_fill_the_whole() {
        let scales = Scales::new(16 * MIB);
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let mut held: Vec<Weight> = Vec::new();
        for peer in &peers {
            held.extend((0..4).map_while(|_| scales.weigh(*peer, MIB)));
        }
        assert_eq!(held.len(), 4, "two of the first peer, two of the second");
        assert!(scales.weigh(peers[3], MIB).is_none());
        let small = scales.weigh(peers[3], SMALL_BYTES);
        assert!(small.is_some());
        held.remove(0);
        drop(small);
        assert!(scales.weigh(peers[3], MIB).is_some());
        drop(held);
        assert_eq!(scales.lock().all, 0);
        assert!(scales.lock().by_peer.is_empty());
    }

    #[test]
    fn an_answer_weighs_as_much_as_it_is_large() {
        let scales = Scales::new(16 * MIB);
        let mut weight = scales.weigh(PeerId::random(), 10).unwrap();
        assert!(weight.grow_to(MIB) && weight.grow_to(5));
        assert!(!weight.grow_to(3 * MIB), "more than one peer's share");
        assert_eq!(scales.lock().all, MIB);
        drop(weight);
        assert_eq!(scales.lock().all, 0);
    }
}
