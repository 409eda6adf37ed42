//! How much gossip is taken in: a budget of bytes, for all neighbours together and for each of them.
//!
//! Gossipsub keeps what it receives for some heartbeats, for those who ask for it, and copies it for each neighbour that
//! should have it. So the memory it uses grows with what comes in a while, not with what waits, and only a bound on the
//! former bounds it. What exceeds the budget is dropped, which gossipsub forgets at once, and counted.
//!
//! Decisions without I/O, told the time.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::PeerId;
use tokio::time::Instant;

/// Of the node's memory budget, what may come at once after a silence.
const BUDGET_PART: usize = 8;
/// The budget is never smaller: a few of the largest messages.
const BURST_BYTES_MIN: usize = 8 << 20;
/// As much as fits at once may come again in this time: as long as gossipsub keeps what came.
const REFILL: Duration = Duration::from_secs(super::gossip::HISTORY as u64);
/// What keeping a message costs besides its data.
const MESSAGE_BYTES: usize = 512;

/// Bytes that may be taken now.
#[derive(Debug)]
struct Bucket {
    left_bytes: f64,
    at: Instant,
}

impl Bucket {
    fn full(burst_bytes: f64, now: Instant) -> Self {
        Bucket {
            left_bytes: burst_bytes,
            at: now,
        }
    }

    fn refill(&mut self, burst_bytes: f64, now: Instant) {
        let part = now.saturating_duration_since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        self.left_bytes = (self.left_bytes + part * burst_bytes).min(burst_bytes);
        self.at = now;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Intake {
    burst_bytes: f64,
    all: Bucket,
    neighbours: HashMap<PeerId, Bucket>,
}

impl Intake {
    /// A budget that is a part of the node's.
    pub(crate) fn new(memory_budget_bytes: usize, now: Instant) -> Self {
        let burst_bytes = (memory_budget_bytes / BUDGET_PART).max(BURST_BYTES_MIN) as f64;
        Intake {
            burst_bytes,
            all: Bucket::full(burst_bytes, now),
            neighbours: HashMap::new(),
        }
    }

    /// Whether a message of so many bytes from `neighbour` may be taken in; if so, it has been counted.
    pub(crate) fn take(&mut self, neighbour: PeerId, bytes: usize, now: Instant) -> bool {
        // One neighbour leaves room for the others.
        let own_burst = self.burst_bytes * 0.75;
        let cost = (bytes + MESSAGE_BYTES) as f64;
        let own = self
            .neighbours
            .entry(neighbour)
            .or_insert_with(|| Bucket::full(own_burst, now));
        own.refill(own_burst, now);
        self.all.refill(self.burst_bytes, now);
        let fits = own.left_bytes >= cost && self.all.left_bytes >= cost;
        if fits {
            own.left_bytes -= cost;
            self.all.left_bytes -= cost;
        }
        fits
    }

    /// Forgets neighbours that are gone, once their budget is full again: who comes back at once has no fresh one.
    pub(crate) fn forget_gone(&mut self, connected: &HashSet<PeerId>, now: Instant) {
        self.neighbours
            .retain(|peer, bucket| connected.contains(peer) || now.saturating_duration_since(bucket.at) < REFILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// How many bytes of messages of 64 KiB are taken.
    fn taken(intake: &mut Intake, neighbour: PeerId, offered: usize, now: Instant) -> usize {
        (0..offered / 65_536)
            .filter(|_| intake.take(neighbour, 65_536, now))
            .count()
            * 65_536
    }

    #[test]
    fn a_burst_is_bounded_and_comes_back_with_time() {
        let now = Instant::now();
        let mut intake = Intake::new(256 * MIB, now);
        let neighbour = PeerId::random();
        let first = taken(&mut intake, neighbour, 1024 * MIB, now);
        assert!((20 * MIB..=24 * MIB).contains(&first), "{first}");
        assert_eq!(taken(&mut intake, neighbour, MIB, now), 0);
        let later = taken(&mut intake, neighbour, 1024 * MIB, now + REFILL);
        assert!((20 * MIB..=24 * MIB).contains(&later), "{later}");
        // However long the silence was, no more comes at once.
        let much_later = taken(&mut intake, neighbour, 1024 * MIB, now + REFILL * 100);
        assert!(much_later <= 24 * MIB, "{much_later}");
    }

    #[test]
    fn one_neighbour_leaves_room_for_another_and_all_share_one_budget() {
        let now = Instant::now();
        let mut intake = Intake::new(256 * MIB, now);
        let mut all = taken(&mut intake, PeerId::random(), 1024 * MIB, now);
        let second = taken(&mut intake, PeerId::random(), 1024 * MIB, now);
        assert!(second >= 4 * MIB, "{second}");
        all += second;
        for _ in 0..10 {
            all += taken(&mut intake, PeerId::random(), 1024 * MIB, now);
        }
        assert!(all <= 32 * MIB, "{all}");
    }

    #[test]
    fn small_messages_cost_what_keeping_them_costs() {
        let now = Instant::now();
        let mut intake = Intake::new(256 * MIB, now);
        let neighbour = PeerId::random();
        let count = (0..1_000_000).filter(|_| intake.take(neighbour, 1, now)).count();
        assert!(count < 24 * MIB / MESSAGE_BYTES, "{count}");
    }

    #[test]
    fn who_comes_back_at_once_has_no_fresh_budget() {
        let now = Instant::now();
        let mut intake = Intake::new(256 * MIB, now);
        let neighbour = PeerId::random();
        taken(&mut intake, neighbour, 1024 * MIB, now);
        intake.forget_gone(&HashSet::new(), now);
        assert_eq!(taken(&mut intake, neighbour, MIB, now), 0);
        intake.forget_gone(&HashSet::new(), now + REFILL * 2);
        assert!(intake.neighbours.is_empty());
    }
}
