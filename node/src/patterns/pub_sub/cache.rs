//! The last frames as their publishers signed them, for members that lack them. Bounded in bytes and age.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeSet, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::{
    PeerId, PublicKey,
    patterns::pub_sub::{Frame, Line},
};

/// Bytes kept, of others' frames and of this node's own, each.
pub(super) const CACHE_BYTES_MAX: usize = 8 << 20;
/// How long.
pub(super) const CACHE_AGE: Duration = Duration::from_secs(600);
/// What an entry costs besides its data.
const ENTRY_BYTES: usize = 256;

/// Bytes that other members hold as well.
pub(super) type Bytes = Arc<Box<[u8]>>;

/// What of a frame is known without reading it again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
    pub(super) made_ms: u64,
}

impl Facts {
    pub(super) fn of(frame: &Frame<'_>) -> Self {
        Facts {
            first_seq: frame.first_seq,
            last_seq: frame.last_seq(),
            made_ms: frame.made_ms(),
        }
    }
}

/// A frame as it travelled, and where it has its place.
#[derive(Debug)]
pub(super) struct Kept {
    /// Its line, and the number of its first publication.
    place: (Line, u64),
    /// The number of its last publication.
    pub(super) last_seq: u64,
    /// When that one was made.
    pub(super) made_ms: u64,
    /// The neighbour that handed it over. One is a member, and so has such a key; half as long as its id.
    from: Option<PublicKey>,
    /// The encoded frame.
    pub(super) data: Bytes,
    /// Gossip's number of it, which is signed too.
    pub(super) gossip_seq: u64,
    /// The publisher's signature. Of this node's own frames it is made when somebody asks.
    pub(super) signature: OnceLock<Bytes>,
}

impl Kept {
    /// A frame without its signature: of this node, or handed over by its publisher.
    pub(super) fn new(line: Line, facts: &Facts, data: Bytes) -> Self {
        Kept {
            place: (line, facts.first_seq),
            last_seq: facts.last_seq,
            made_ms: facts.made_ms,
            from: None,
            data,
            gossip_seq: 0,
            signature: OnceLock::new(),
        }
    }

    /// That a neighbour handed it over.
    pub(super) fn handed_by(self, from: &PeerId) -> Self {
        let from = PublicKey::from_peer_id(from);
        Kept { from, ..self }
    }

    /// That it went through gossip, as which number; with its signature, if it is another's.
    pub(super) fn gossiped(self, gossip_seq: u64, signature: Option<Bytes>) -> Self {
        Kept {
            gossip_seq,
            signature: signature.map_or_else(OnceLock::new, OnceLock::from),
            ..self
        }
    }

    pub(super) fn line(&self) -> &Line {
        &self.place.0
    }

    pub(super) fn first_seq(&self) -> u64 {
        self.place.1
    }

    /// The neighbour that handed it over, or its publisher.
    pub(super) fn from(&self) -> PeerId {
        self.from.map_or_else(|| self.line().publisher(), |key| key.peer_id())
    }

    fn bytes(&self) -> usize {
        self.data.len() + ENTRY_BYTES
    }
}

/// Frames have the order of their places.
#[derive(Debug)]
struct InPlace(Arc<Kept>);

impl Borrow<(Line, u64)> for InPlace {
    fn borrow(&self) -> &(Line, u64) {
        &self.0.place
    }
}

impl Ord for InPlace {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.place.cmp(&other.0.place)
    }
}

impl PartialOrd for InPlace {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for InPlace {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for InPlace {}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FrameCache {
    frames: BTreeSet<InPlace>,
    /// Oldest first.
    ages: VecDeque<(Instant, Arc<Kept>)>,
    bytes: usize,
}

impl FrameCache {
    /// Keeps a frame; whether it was not here yet.
    pub(super) fn insert(&mut self, kept: Arc<Kept>, now: Instant) -> bool {
        if self.frames.contains(&kept.place) {
            return false;
        }
        self.bytes += kept.bytes();
        self.frames.insert(InPlace(Arc::clone(&kept)));
        self.ages.push_back((now, kept));
        self.trim(now);
        true
    }

    /// Lets go of what is too old or too much.
    pub(super) fn trim(&mut self, now: Instant) {
        while let Some((at, oldest)) = self.ages.front() {
            let is_old = now.saturating_duration_since(*at) >= CACHE_AGE;
            if !is_old && self.bytes <= CACHE_BYTES_MAX {
                break;
            }
            self.frames.remove(&oldest.place);
            self.bytes -= oldest.bytes();
            self.ages.pop_front();
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
        let before = self.frames.range((line, 0)..(line, from_seq)).next_back();
        let start = before
            .filter(|before| before.0.last_seq >= from_seq)
            .map_or(from_seq, |before| before.0.first_seq());
        let (mut found, mut bytes) = (Vec::new(), 0);
        for InPlace(kept) in self.frames.range((line, start)..=(line, to_seq)).take(most) {
            bytes += kept.bytes();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push(Arc::clone(kept));
        }
        found
    }

    /// All of them, in the order of their places.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.frames.iter().map(|frame| &frame.0)
    }

    /// The number of the first publication of a line, of those kept, in a frame that was made at this time or later.
    pub(super) fn first_since(&self, line: Line, since_ms: u64) -> Option<u64> {
        let mut of_line = self.frames.range((line, 0)..=(line, u64::MAX));
        of_line
            .find(|frame| frame.0.made_ms >= since_ms)
            .map(|frame| frame.0.first_seq())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(line: Line, (first_seq, last_seq): (u64, u64), bytes: usize) -> Arc<Kept> {
        Arc::new(Kept {
            place: (line, first_seq),
            last_seq,
            made_ms: first_seq,
            from: None,
            data: Arc::new(vec![0; bytes].into()),
            gossip_seq: 0,
            signature: OnceLock::new(),
        })
    }

    fn line() -> Line {
        let key = libp2p::identity::Keypair::generate_ed25519();
        Line::new(&PeerId::from(key.public()), 1, 0).unwrap()
    }

    #[test]
    fn what_overlaps_is_found_and_bounded() {
        let (mut cache, line, now) = (FrameCache::default(), line(), Instant::now());
        for (first, last) in [(1, 4), (5, 5), (6, 20)] {
            cache.insert(kept(line, (first, last), 1000), now);
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
            cache.insert(kept(line, (seq, seq), 1 << 20), now);
        }
        assert!(
            cache.bytes <= CACHE_BYTES_MAX && cache.frames.len() == 7,
            "{}",
            cache.bytes
        );
        assert_eq!(cache.first_since(line, 0), Some(94));
        cache.trim(now + CACHE_AGE);
        assert_eq!((cache.bytes, cache.frames.len()), (0, 0));
    }
}
