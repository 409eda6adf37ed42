//! What was published lately as a few numbers, so that two members see with every probe whether one of them lacks
//! something: decisions without I/O, told the time.
//!
//! Promises: two members that have the same frames of a stretch of time have the same sums of it, whatever the order in which
//! they came; who has others has others, but for one case in 2^64. A stretch ends [`SETTLED_S`] ago, so that what is on its way is not taken
//! for missing. Who began to follow within a stretch does not judge it: the other side does.
//!
//! Does not promise that what differs can be had: only that it is asked for.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use weft_protocol::patterns::pub_sub::{
    Line, SHARDS,
    repair::{Digest, digest_of},
};

/// How far back frames are compared. As long as they are kept: what is older cannot be had.
pub(super) const WINDOW_S: u64 = super::cache::CACHE_AGE.as_secs();
/// Frames younger than this may still be on their way.
pub(super) const SETTLED_S: u64 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Digests {
    /// From this second on nothing that was published should have escaped this run of the node.
    since_s: u64,
    /// By second and shard; seconds in which nothing was published take no room.
    sums: BTreeMap<(u64, u16), u64>,
}

impl Digests {
    /// For a run of a node that begins now.
    pub(super) fn new(now_ms: u64) -> Self {
        Digests {
            since_s: now_ms / 1000 + 1,
            sums: BTreeMap::new(),
        }
    }

    /// Counts a frame that was not here before.
    pub(super) fn add(&mut self, line: &Line, seqs: (u64, u64), made_ms: u64, now_ms: u64) {
        // A run speaks for whole seconds: what it published in the one in which it began counts in the next.
        let (made_s, now_s) = ((made_ms / 1000).max(line.epoch / 1000 + 1), now_ms / 1000);
        let oldest_s = now_s.saturating_sub(WINDOW_S);
        self.sums = self.sums.split_off(&(oldest_s, 0));
        // What claims to be of a far future is not waited for.
        if (oldest_s..=now_s + WINDOW_S).contains(&made_s) {
            let sum = self.sums.entry((made_s, line.shard)).or_default();
            *sum = sum.wrapping_add(digest_of(line, seqs.0, seqs.1));
        }
    }

    /// What to say to others.
    pub(super) fn digest(&self, now_ms: u64) -> Digest {
        let now_s = now_ms / 1000;
        let from_s = self.since_s.max(now_s.saturating_sub(WINDOW_S));
        let until_s = now_s.saturating_sub(SETTLED_S);
        Digest {
            from_s,
            until_s,
            sums: self.sums(from_s, until_s),
        }
    }

    /// Whether a member has not the same, or something else, as far as this node can tell.
    pub(super) fn differs(&self, theirs: &Digest) -> bool {
        theirs.from_s >= self.since_s && self.sums(theirs.from_s, theirs.until_s) != theirs.sums
    }

    fn sums(&self, from_s: u64, until_s: u64) -> Vec<u64> {
        let mut sums = [0_u64; SHARDS as usize];
        if from_s <= until_s {
            for ((_, shard), sum) in self.sums.range((from_s, 0)..=(until_s, u16::MAX)) {
                if let Some(of_shard) = sums.get_mut(usize::from(*shard)) {
                    *of_shard = of_shard.wrapping_add(*sum);
                }
            }
        }
        let said = sums.iter().rposition(|sum| *sum != 0).map_or(0, |last| last + 1);
        sums[..said].to_vec()
    }
}
