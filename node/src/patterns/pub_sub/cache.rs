//! The last frames as their publishers signed them, for members that lack them. Bounded in bytes and age.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::patterns::pub_sub::Line;

/// Bytes kept, of others' frames and of this node's own, each.
pub(super) const CACHE_BYTES_MAX: usize = 8 << 20;
/// How long.
pub(super) const CACHE_AGE: Duration = Duration::from_secs(600);
/// What an entry costs besides its data.
const ENTRY_BYTES: usize = 256;

/// Bytes that other members hold as well.
pub(super) type Bytes = Arc<Box<[u8]>>;

/// A frame as it travelled.
#[derive(Debug)]
pub(super) struct Kept {
    /// The encoded frame.
    pub(super) data: Bytes,
    /// Gossip's number of it, which is signed too.
    pub(super) gossip_seq: u64,
    /// The publisher's signature. Of this node's own frames it is made when somebody asks.
    pub(super) signature: OnceLock<Bytes>,
}

impl Kept {
    /// A frame of another node.
    pub(super) fn new(data: Bytes, (gossip_seq, signature): (u64, Bytes)) -> Self {
        Kept {
            data,
            gossip_seq,
            signature: signature.into(),
        }
    }

    /// A frame of this node.
    pub(super) fn own(data: Bytes, gossip_seq: u64) -> Self {
        Kept {
            data,
            gossip_seq,
            signature: OnceLock::new(),
        }
    }
}

#[derive(Debug)]
struct Entry {
    last_seq: u64,
    /// When its last publication was made.
    made_ms: u64,
    kept: Arc<Kept>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FrameCache {
    entries: BTreeMap<(Line, u64), Entry>,
    /// Oldest first.
    ages: VecDeque<(Instant, Line, u64)>,
    bytes: usize,
}

impl FrameCache {
    /// Keeps a frame; whether it was not here yet.
    pub(super) fn insert(&mut self, line: Line, seqs: (u64, u64), made_ms: u64, kept: Arc<Kept>, now: Instant) -> bool {
        let bytes = kept.data.len() + ENTRY_BYTES;
        let entry = Entry {
            last_seq: seqs.1,
            made_ms,
            kept,
        };
        if self.entries.contains_key(&(line, seqs.0)) {
            return false;
        }
        self.entries.insert((line, seqs.0), entry);
        self.ages.push_back((now, line, seqs.0));
        self.bytes += bytes;
        self.trim(now);
        true
    }

    /// Lets go of what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some((at, line, first)) = self.ages.front().copied() {
            let is_old = now.saturating_duration_since(at) >= CACHE_AGE;
            if !is_old && self.bytes <= CACHE_BYTES_MAX {
                break;
            }
            self.ages.pop_front();
            if let Some(entry) = self.entries.remove(&(line, first)) {
                self.bytes -= entry.kept.data.len() + ENTRY_BYTES;
            }
        }
    }

    /// The frames that hold any of these publications, in order: at most `most`, and `bytes_max` bytes unless the first
    /// one is larger.
    pub(super) fn range(
        &self,
        line: Line,
        from_seq: u64,
        to_seq: u64,
        most: usize,
        bytes_max: usize,
    ) -> Vec<Arc<Kept>> {
        let before = self.entries.range((line, 0)..(line, from_seq)).next_back();
        let start = before
            .filter(|(_, entry)| entry.last_seq >= from_seq)
            .map_or(from_seq, |((_, first), _)| *first);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (_, entry) in self.entries.range((line, start)..=(line, to_seq)).take(most) {
            bytes += entry.kept.data.len() + ENTRY_BYTES;
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(Arc::clone(&entry.kept));
        }
        found
    }

    /// The number of the first publication of a line, of those kept, in a frame that was made at this time or later.
    pub(super) fn first_since(&self, line: Line, since_ms: u64) -> Option<u64> {
        let mut of_line = self.entries.range((line, 0)..=(line, u64::MAX));
        of_line
            .find(|(_, entry)| entry.made_ms >= since_ms)
            .map(|((_, first), _)| *first)
    }
}

#[cfg(test)]
mod tests {
    use weft_protocol::PeerId;

    use super::*;

    fn kept(bytes: usize) -> Arc<Kept> {
        Arc::new(Kept::own(Arc::new(vec![0; bytes].into()), 0))
    }

    fn line() -> Line {
        let key = libp2p::identity::Keypair::generate_ed25519();
        Line::new(&PeerId::from(key.public()), 1, 0).unwrap()
    }

    #[test]
    fn what_overlaps_is_found_and_bounded() {
        let (mut cache, line, now) = (FrameCache::default(), line(), Instant::now());
        for (first, last) in [(1, 4), (5, 5), (6, 20)] {
            cache.insert(line, (first, last), first, kept(1000), now);
        }
        assert_eq!(cache.range(line, 3, 5, 9, 1 << 20).len(), 2);
        assert_eq!(cache.range(line, 7, 9, 9, 1 << 20).len(), 1);
        assert_eq!(
            cache.range(line, 1, 20, 9, 2000).len(),
            1,
            "at least one, at most the bytes"
        );
        assert_eq!(cache.range(line, 1, 20, 2, 1 << 20).len(), 2);
        assert!(cache.range(line, 21, 30, 9, 1 << 20).is_empty());
        let mut other = line;
        other.epoch = 2;
        assert!(cache.range(other, 1, 20, 9, 1 << 20).is_empty());
        assert_eq!(cache.first_since(line, 5), Some(5));
        assert_eq!(cache.first_since(line, 7), None);
    }

    #[test]
    fn bytes_and_age_are_bounded() {
        let (mut cache, line, now) = (FrameCache::default(), line(), Instant::now());
        for seq in 1..=100 {
            cache.insert(line, (seq, seq), 0, kept(1 << 20), now);
        }
        assert!(
            cache.bytes <= CACHE_BYTES_MAX && cache.entries.len() == 7,
            "{}",
            cache.bytes
        );
        assert_eq!(cache.first_since(line, 0), Some(94));
        cache.trim(now + CACHE_AGE);
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
    }
}
