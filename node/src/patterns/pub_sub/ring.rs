//! What goes directly to members: one ring of items for all of them, and how far each has come.
//!
//! Promises: a member is given the items that are for it in their order, and what it has not taken in again after its stream broke;
//! what makes room before it was taken in is told to it as lost, in its place. A member that is slow holds nobody's memory but
//! this ring's, which is bounded in bytes and age.
//!
//! Decisions without I/O, told the time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use weft_protocol::{PeerId, Wire as _, codec::frame, patterns::pub_sub::direct::DirectItem};

use super::cache::Bytes;

/// Bytes of items that are kept.
pub(super) const RING_BYTES_MAX: usize = 8 << 20;
/// How long.
const RING_AGE: Duration = Duration::from_secs(600);
/// What an item costs besides its bytes.
const ENTRY_BYTES: usize = 256;
/// So there are never more items than this.
pub(super) const ITEMS_MAX: usize = RING_BYTES_MAX / ENTRY_BYTES;
/// Stretches of lost publications that are told one by one; beyond them they are told together.
const LOST_MAX: usize = 64;

#[derive(Debug)]
struct Entry {
    /// The encoded item with its length in front, as it travels: what comes before the frame, and the frame.
    head: Arc<[u8]>,
    data: Bytes,
    shard: u16,
    seqs: (u64, u64),
    at: Instant,
    audience: Arc<[PeerId]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lost {
    ordinal: u64,
    shard: u16,
    seqs: (u64, u64),
}

/// How far a member has come.
#[derive(Debug)]
struct Reader {
    /// The next item to look at.
    next: u64,
    /// The last item it said to have taken in.
    taken: u64,
    /// The last item that is for it.
    last: u64,
    lost: VecDeque<Lost>,
    /// The last items that were lost to it, from the first of them to the last one in a row.
    lost_items: (u64, u64),
    is_open: bool,
    /// When it was taken up, or its stream ended.
    closed_at: Instant,
    /// It was waited for in vain, and is not again before it has caught up.
    is_slow: bool,
    used: Instant,
    /// Something may be there for it.
    wake: Arc<Notify>,
}

impl Reader {
    fn is_behind(&self) -> bool {
        self.taken < self.last
    }

    /// Whether it has a stream, or has had none for so short a time that it may have one again.
    fn is_expected(&self, within: Duration, now: Instant) -> bool {
        self.is_open || now.saturating_duration_since(self.closed_at) < within
    }
}

/// A frame that is to go to these members.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) data: Bytes,
    pub(super) shard: u16,
    pub(super) seqs: (u64, u64),
    pub(super) audience: Arc<[PeerId]>,
}

/// An item that was put in lately: its number, its frame, whom it is for.
pub(super) type Recent = (u64, Bytes, Arc<[PeerId]>);

/// A part of what a member is to be written.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    head: Arc<[u8]>,
    data: Option<Bytes>,
}

impl Piece {
    /// Its bytes, in their order.
    pub(super) fn bytes(&self) -> impl Iterator<Item = &[u8]> {
        let data = self.data.iter().map(|data| &data[..]);
        std::iter::once(&self.head[..]).chain(data)
    }
}

/// What became of a message for a member, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was handed to the subscribers there.
    Confirmed,
    /// There is no way to the member now.
    Unreachable,
    /// The member is there, and behind with what it takes in.
    Slow,
    /// The member has not answered in time.
    Silent,
    /// The member was too slow, or away for too long: the message is lost to it, and it is told so.
    Lost,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ring {
    entries: VecDeque<Entry>,
    /// The number of the last item that was put in.
    last: u64,
    bytes: usize,
    readers: BTreeMap<PeerId, Reader>,
}

impl Ring {
    /// Takes a member up, from here on. Whether it is new.
    pub(super) fn take_up(&mut self, peer: PeerId, now: Instant) -> bool {
        let last = self.last;
        let mut is_new = false;
        let reader = self.readers.entry(peer).or_insert_with(|| {
            is_new = true;
            Reader {
                next: last + 1,
                taken: last,
                last,
                lost: VecDeque::new(),
                lost_items: (0, 0),
                is_open: false,
                closed_at: now,
                is_slow: false,
                used: now,
                wake: Arc::default(),
            }
        });
        reader.used = now;
        is_new
    }

    /// How many members are taken up.
    pub(super) fn readers(&self) -> usize {
        self.readers.len()
    }

    /// Lets go of a member that was not used for so long, and has nothing to come. Whether it is gone.
    pub(super) fn let_go(&mut self, peer: &PeerId, unused: Duration, now: Instant) -> bool {
        self.trim(0, now);
        let idle =
            |r: &mut Reader| !r.is_behind() && r.lost.is_empty() && now.saturating_duration_since(r.used) >= unused;
        let gone = self.readers.get_mut(peer).is_none_or(idle);
        if gone {
            self.readers.remove(peer);
        }
        gone
    }

    /// Whether nothing went to a member for so long, and nothing is to come.
    pub(super) fn is_idle(&self, peer: &PeerId, unused: Duration, now: Instant) -> bool {
        let idle = |r: &Reader| !r.is_behind() && now.saturating_duration_since(r.used) >= unused;
        self.readers.get(peer).is_none_or(idle)
    }

    /// Lets go of a member for good.
    pub(super) fn forget(&mut self, peer: &PeerId) {
        self.readers.remove(peer);
    }

    /// Its stream is open: what it has not taken in comes again.
    pub(super) fn opened(&mut self, peer: &PeerId) -> Option<Arc<Notify>> {
        let reader = self.readers.get_mut(peer)?;
        (reader.is_open, reader.next) = (true, reader.taken + 1);
        Some(Arc::clone(&reader.wake))
    }

    /// Its stream has ended.
    pub(super) fn closed(&mut self, peer: &PeerId, now: Instant) {
        if let Some(reader) = self.readers.get_mut(peer) {
            (reader.is_open, reader.closed_at) = (false, now);
        }
    }

    /// Whether all of these have streams.
    pub(super) fn are_open(&self, peers: &[PeerId]) -> bool {
        peers
            .iter()
            .all(|peer| self.readers.get(peer).is_some_and(|r| r.is_open))
    }

    /// Whether all of these have streams, or have had none for so short a time that they may have one again.
    pub(super) fn are_expected(&self, peers: &[PeerId], within: Duration, now: Instant) -> bool {
        let mut readers = peers.iter().map(|peer| self.readers.get(peer));
        readers.all(|r| r.is_some_and(|r| r.is_expected(within, now)))
    }

    /// Puts a frame in. Its number.
    pub(super) fn push(&mut self, parcel: Parcel, now: Instant) -> u64 {
        let ordinal = self.last + 1;
        let bytes = parcel.data.len() + ENTRY_BYTES;
        self.trim(bytes, now);
        self.last = ordinal;
        for peer in parcel.audience.iter() {
            if let Some(reader) = self.readers.get_mut(peer) {
                (reader.last, reader.used) = (self.last, now);
                reader.wake.notify_one();
            }
        }
        self.bytes += bytes;
        self.entries.push_back(Entry {
            head: DirectItem::head_of_frame(ordinal, parcel.data.len()).into(),
            data: parcel.data,
            shard: parcel.shard,
            seqs: parcel.seqs,
            at: now,
            audience: parcel.audience,
        });
        ordinal
    }

    /// What became of an item that is for a member.
    pub(super) fn outcome(&self, peer: &PeerId, ordinal: u64) -> Outcome {
        match self.readers.get(peer) {
            None => Outcome::Unreachable,
            Some(r) if (r.lost_items.0..=r.lost_items.1).contains(&ordinal) => Outcome::Lost,
            Some(r) if r.taken >= ordinal => Outcome::Confirmed,
            Some(r) if !r.is_open => Outcome::Unreachable,
            Some(r) if r.is_slow => Outcome::Slow,
            Some(_) => Outcome::Silent,
        }
    }

    /// Those who would lose something if so many bytes more were put in, though they are there and worth waiting for.
    pub(super) fn held_up_by(&self, bytes: usize) -> Vec<PeerId> {
        let mut over = (self.bytes + bytes + ENTRY_BYTES).saturating_sub(RING_BYTES_MAX);
        let mut held: Vec<PeerId> = Vec::new();
        for (entry, ordinal) in self.entries.iter().zip(self.first()..) {
            if over == 0 {
                break;
            }
            over = over.saturating_sub(entry.data.len() + ENTRY_BYTES);
            let waits = |peer: &&PeerId| {
                let reader = self.readers.get(peer);
                reader.is_some_and(|r| r.is_open && !r.is_slow && r.taken < ordinal)
            };
            held.extend(entry.audience.iter().filter(waits));
        }
        held.sort_unstable();
        held.dedup();
        held
    }

    /// These were waited for long enough.
    pub(super) fn give_up_on(&mut self, peers: &[PeerId]) {
        for peer in peers {
            if let Some(reader) = self.readers.get_mut(peer) {
                reader.is_slow = true;
            }
        }
    }

    /// Whether those of these have taken in everything who have streams, or may have one in a moment: who was taken up just now, or had
    /// one so short a time ago.
    pub(super) fn have_all(&self, peers: &[PeerId], within: Duration, now: Instant) -> bool {
        let mut readers = peers.iter().filter_map(|peer| self.readers.get(peer));
        readers.all(|r| !r.is_behind() || !r.is_expected(within, now))
    }

    /// What is next for a member, at most so many bytes unless the first item is larger.
    pub(super) fn next_for(&mut self, peer: &PeerId, bytes_max: usize) -> Vec<Piece> {
        let first = self.first();
        let Some(reader) = self.readers.get_mut(peer) else {
            return Vec::new();
        };
        let mut found: Vec<Piece> = reader.lost.drain(..).map(|lost| encoded(&lost)).collect();
        reader.next = reader.next.max(first);
        let mut bytes = 0;
        let skip = usize::try_from(reader.next - first).unwrap_or(usize::MAX);
        for entry in self.entries.iter().skip(skip) {
            if entry.audience.contains(peer) {
                bytes += entry.data.len();
                if bytes > bytes_max && !found.is_empty() {
                    break;
                }
                found.push(Piece {
                    head: Arc::clone(&entry.head),
                    data: Some(Arc::clone(&entry.data)),
                });
            }
            reader.next += 1;
        }
        found
    }

    /// A member says how far it has taken in. Whether it could have.
    pub(super) fn taken(&mut self, peer: &PeerId, ordinal: u64) -> bool {
        let Some(reader) = self.readers.get_mut(peer) else {
            return false;
        };
        if ordinal >= reader.next {
            return false;
        }
        reader.taken = reader.taken.max(ordinal);
        reader.is_slow &= reader.is_behind();
        true
    }

    /// Items that were put in lately, with their numbers and members.
    pub(super) fn recent(&self, within: Duration, now: Instant) -> Vec<Recent> {
        let is_recent = |entry: &&Entry| now.saturating_duration_since(entry.at) < within;
        let count = self.entries.iter().rev().take_while(is_recent).count();
        let numbered = self.entries.iter().zip(self.first()..).skip(self.entries.len() - count);
        numbered
            .map(|(entry, ordinal)| (ordinal, Arc::clone(&entry.data), Arc::clone(&entry.audience)))
            .collect()
    }

    /// These items are for another member too, which was not known to want them.
    pub(super) fn add(&mut self, peer: PeerId, ordinals: &[u64]) {
        let first = self.first();
        let Some(reader) = self.readers.get_mut(&peer) else {
            return;
        };
        // Items for the same members share the list of them, and go on to: else each would hold one of its own, for each who comes late.
        let mut longer: BTreeMap<Arc<[PeerId]>, Arc<[PeerId]>> = BTreeMap::new();
        for ordinal in ordinals {
            let place = ordinal.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) else {
                continue;
            };
            let with_it = longer
                .entry(Arc::clone(&entry.audience))
                .or_insert_with_key(|audience| audience.iter().copied().chain([peer]).collect());
            entry.audience = Arc::clone(with_it);
            reader.taken = reader.taken.min(ordinal - 1);
            reader.next = reader.next.min(*ordinal);
            reader.last = reader.last.max(*ordinal);
        }
        reader.wake.notify_one();
    }

    /// Members that have streams, are slow, have something to come.
    pub(super) fn standing(&self) -> Vec<(PeerId, bool, bool, bool)> {
        let of = |(peer, r): (&PeerId, &Reader)| (*peer, r.is_open, r.is_slow, r.is_behind());
        self.readers.iter().map(of).collect()
    }

    /// The number of the first item that is there.
    fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    /// Makes room, and lets go of what is too old.
    fn trim(&mut self, bytes: usize, now: Instant) {
        while let Some(entry) = self.entries.front() {
            let is_old = now.saturating_duration_since(entry.at) >= RING_AGE;
            if !is_old && self.bytes + bytes <= RING_BYTES_MAX {
                return;
            }
            let ordinal = self.first();
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.data.len() + ENTRY_BYTES;
            for peer in entry.audience.iter() {
                let reader = self.readers.get_mut(peer).filter(|r| r.taken < ordinal);
                if let Some(reader) = reader {
                    note_lost(reader, ordinal, &entry);
                }
            }
        }
    }
}

/// Notes a loss, with the one before it if they are neighbours.
fn note_lost(reader: &mut Reader, ordinal: u64, entry: &Entry) {
    if reader.taken != reader.lost_items.1 || reader.lost_items.1 == 0 {
        reader.lost_items.0 = ordinal;
    }
    reader.lost_items.1 = ordinal;
    reader.taken = ordinal;
    // What was written to it may still arrive; it then knows the numbers.
    let is_full = reader.lost.len() >= LOST_MAX;
    match reader.lost.iter_mut().rev().find(|lost| lost.shard == entry.shard) {
        Some(lost) if is_full || lost.seqs.1 + 1 == entry.seqs.0 => {
            (lost.ordinal, lost.seqs.1) = (ordinal, entry.seqs.1)
        }
        _ => reader.lost.push_back(Lost {
            ordinal,
            shard: entry.shard,
            seqs: entry.seqs,
        }),
    }
}

fn encoded(lost: &Lost) -> Piece {
    let item = DirectItem::Lost {
        ordinal: lost.ordinal,
        shard: lost.shard,
        first_seq: lost.seqs.0,
        last_seq: lost.seqs.1,
    };
    Piece {
        head: frame::encode(&item.to_bytes()).into(),
        data: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(seq: u64, bytes: usize, audience: &[PeerId]) -> Parcel {
        Parcel {
            data: Arc::new(vec![7; bytes].into()),
            shard: 8,
            seqs: (seq, seq),
            audience: audience.into(),
        }
    }

    fn items(found: &[Piece]) -> Vec<DirectItem> {
        let item = |piece: &Piece| {
            let bytes = piece.bytes().collect::<Vec<_>>().concat();
            let (_, prefix) = frame::decode_prefix(&bytes, 2 << 20).unwrap().unwrap();
            DirectItem::from_bytes(&bytes[prefix..]).unwrap()
        };
        found.iter().map(item).collect()
    }

    fn ordinals(found: &[Piece]) -> Vec<u64> {
        let ordinal = |item: &DirectItem| match item {
            DirectItem::Frame { ordinal, .. } | DirectItem::Lost { ordinal, .. } => *ordinal,
        };
        items(found).iter().map(ordinal).collect()
    }

    #[test]
    fn each_gets_its_own_and_what_it_did_not_take_comes_again() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        let (a, b) = (PeerId::random(), PeerId::random());
        ring.push(parcel(1, 10, &[]), now);
        assert!(ring.take_up(a, now) && ring.take_up(b, now) && !ring.take_up(a, now));
        assert!(!ring.are_open(&[a]));
        ring.opened(&a);
        ring.opened(&b);
        let moment = Duration::from_secs(1);
        assert!(ring.are_open(&[a, b]) && ring.have_all(&[a, b], moment, now));
        for (seq, audience) in [(2, vec![a]), (3, vec![a, b]), (4, vec![b]), (5, vec![a])] {
            ring.push(parcel(seq, 10, &audience), now);
        }
        assert_eq!(ordinals(&ring.next_for(&a, 1 << 20)), [2, 3, 5]);
        assert_eq!(ordinals(&ring.next_for(&b, 0)), [3]);
        assert_eq!(ordinals(&ring.next_for(&b, 0)), [4]);
        assert!(ring.next_for(&b, 0).is_empty());
        assert!(ring.taken(&a, 3) && ring.taken(&b, 4) && !ring.taken(&b, 9));
        assert!(ring.have_all(&[b], moment, now) && !ring.have_all(&[a], moment, now));
        ring.closed(&a, now);
        assert!(!ring.have_all(&[a], moment, now), "it may have a stream again");
        assert!(ring.have_all(&[a], moment, now + moment), "nobody waits for it");
        assert!(ring.are_expected(&[a, b], Duration::from_secs(1), now) && !ring.are_open(&[a, b]));
        assert!(!ring.are_expected(&[a, b], Duration::from_secs(1), now + Duration::from_secs(1)));
        assert!(!ring.let_go(&a, Duration::ZERO, now), "something is to come for it");
        ring.opened(&a);
        assert_eq!(ordinals(&ring.next_for(&a, 1 << 20)), [5]);
        ring.add(a, &[4, 9]);
        assert_eq!(
            ordinals(&ring.next_for(&a, 1 << 20)),
            [4, 5],
            "what it turned out to want, in its place"
        );
        assert!(ring.taken(&a, 5) && ring.let_go(&a, Duration::ZERO, now));
    }

    #[test]
    fn items_for_the_same_members_share_the_list_of_them_also_when_others_come_late() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        let [a, b, late] = std::array::from_fn(|_| PeerId::random());
        assert!([a, b, late].into_iter().all(|peer| ring.take_up(peer, now)));
        let audience: Arc<[PeerId]> = [a, b].into();
        for seq in 1..=3 {
            let audience = Arc::clone(&audience);
            let parcel = Parcel {
                audience,
                ..parcel(seq, 10, &[])
            };
            ring.push(parcel, now);
        }
        ring.add(late, &[1, 2, 3]);
        let audiences: Vec<&Arc<[PeerId]>> = ring.entries.iter().map(|entry| &entry.audience).collect();
        assert_eq!(audiences[0][..], [a, b, late]);
        assert!(audiences.iter().all(|one| Arc::ptr_eq(one, audiences[0])));
    }

    #[test]
    fn who_is_there_is_waited_for_and_who_is_slow_is_told_its_loss() {
        let (mut ring, now) = (Ring::default(), Instant::now());
        let (quick, slow) = (PeerId::random(), PeerId::random());
        for peer in [quick, slow] {
            ring.take_up(peer, now);
            ring.opened(&peer);
        }
        for seq in 1..=8 {
            assert!(ring.held_up_by(1 << 19).is_empty());
            ring.push(parcel(seq, 1 << 20, &[quick, slow]), now);
            ring.next_for(&quick, 1 << 20);
            ring.taken(&quick, seq);
            if seq == 7 {
                break;
            }
        }
        assert_eq!(ring.held_up_by(1 << 20), [slow]);
        ring.give_up_on(&[slow]);
        assert!(ring.held_up_by(1 << 20).is_empty());
        for seq in 8..=10 {
            ring.push(parcel(seq, 1 << 20, &[quick, slow]), now);
        }
        let found = ring.next_for(&slow, usize::MAX);
        let lost = DirectItem::Lost {
            ordinal: 3,
            shard: 8,
            first_seq: 1,
            last_seq: 3,
        };
        assert_eq!(items(&found)[0], lost);
        let outcomes = [3, 4].map(|ordinal| ring.outcome(&slow, ordinal));
        assert_eq!(outcomes, [Outcome::Lost, Outcome::Slow]);
        assert_eq!(ring.outcome(&quick, 7), Outcome::Confirmed);
        assert_eq!(ring.outcome(&quick, 10), Outcome::Silent);
        assert_eq!(ring.outcome(&PeerId::random(), 1), Outcome::Unreachable);
        assert_eq!(ordinals(&found), [3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(ring.taken(&slow, 10));
        assert!(ring.bytes <= RING_BYTES_MAX);
        ring.push(parcel(11, 1, &[slow]), now + RING_AGE);
        assert_eq!(ring.entries.len(), 1, "what is old is let go");
    }
}
