//! The set of revocations; its rule is in the module above.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::{Revocation, RevocationNotice};
use crate::error::TrustError;
use crate::ident::{MeshId, PublicKey};
use crate::limits::{CHAIN_LEN_MAX, REVOCATIONS_MAX};

/// Where a notice stands: rank, time, identity. Only what is smaller in the first two can void it.
type Place = (u8, u64, [u8; 32]);

/// What became of a notice that was offered to the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is new and kept.
    Added,
    /// It was there already.
    Known,
    /// The set is full of notices that come before it.
    BeyondBound,
}

/// Every authentic revocation of one mesh, bounded, the same whatever the order of arrival.
#[derive(Debug, Clone)]
pub struct RevocationSet {
    root: PublicKey,
    mesh: MeshId,
    limit: usize,
    entries: BTreeMap<Place, Entry>,
    ids: BTreeSet<[u8; 32]>,
    /// How many notices rest on each key.
    authorities: BTreeMap<PublicKey, usize>,
    /// For each revoked key the earliest time at which a notice of each rank that counts revokes it.
    revoked: BTreeMap<PublicKey, [Option<u64>; CHAIN_LEN_MAX + 1]>,
    digest: OnceLock<[u8; 32]>,
}

/// Where a notice was put, or why it was not; nothing is decided yet.
enum Put {
    At { place: Place, evicted: bool },
    Not(Inserted),
}

#[derive(Debug, Clone)]
struct Entry {
    notice: RevocationNotice,
    revocation: Revocation,
    path: Vec<PublicKey>,
    counts: bool,
}

impl RevocationSet {
    /// The empty set of the mesh with this root key.
    pub fn new(root: PublicKey) -> Self {
        Self::with_limit(root, REVOCATIONS_MAX)
    }

    pub(super) fn with_limit(root: PublicKey, limit: usize) -> Self {
        let mesh = MeshId::from_root(&root);
        Self {
            root,
            mesh,
            limit,
            entries: BTreeMap::new(),
            ids: BTreeSet::new(),
            authorities: BTreeMap::new(),
            revoked: BTreeMap::new(),
            digest: OnceLock::new(),
        }
    }

    /// Verifies a notice and adds it. One that is void by the rule is kept as well: what comes later may change that.
    pub fn insert(&mut self, notice: RevocationNotice) -> Result<Inserted, TrustError> {
        match self.put(notice)? {
            Put::Not(inserted) => Ok(inserted),
            Put::At { place, evicted } => {
                // A new notice changes only later ones whose authority rests on the key it revokes; mostly there is none.
                let subject = &self.entries[&place].revocation.subject;
                let last = self.entries.keys().next_back() == Some(&place);
                if !evicted && (last || !self.authorities.contains_key(subject)) {
                    self.decide(&place);
                } else {
                    self.decide_all();
                }
                Ok(Inserted::Added)
            }
        }
    }

    /// Adds many at once, for instance those from disk, deciding once at the end; returns how many were added and the notices refused.
    pub fn extend(&mut self, notices: impl IntoIterator<Item = RevocationNotice>) -> (usize, Vec<TrustError>) {
        let (mut added, mut refused) = (0, Vec::new());
        for notice in notices {
            match self.put(notice) {
                Ok(Put::At { .. }) => added += 1,
                Ok(Put::Not(_)) => {}
                Err(error) => refused.push(error),
            }
        }
        self.decide_all();
        (added, refused)
    }

    /// Whether the key is revoked.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.revoked.contains_key(key)
    }

    /// The revocation of this key that counts and comes first.
    pub fn get(&self, key: &PublicKey) -> Option<&Revocation> {
        let mut counting = self.entries.values().filter(|entry| entry.counts);
        counting
            .find(|entry| entry.revocation.subject == *key)
            .map(|entry| &entry.revocation)
    }

    /// A digest of all notices kept; equal sets have equal digests, whatever the order of arrival.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let mut hash = Sha256::new_with_prefix(b"weft-revocations-v1");
            self.entries.keys().for_each(|(_, _, id)| hash.update(id));
            hash.finalize().into()
        })
    }

    /// Every notice kept, void ones too, because other nodes need them to decide alike.
    pub fn iter(&self) -> impl Iterator<Item = &RevocationNotice> {
        self.entries.values().map(|entry| &entry.notice)
    }

    /// The revocations that count, with who signed them.
    pub fn counting(&self) -> impl Iterator<Item = (&Revocation, PublicKey)> {
        let counting = self.entries.values().filter(|entry| entry.counts);
        counting.map(|entry| (&entry.revocation, entry.notice.notice.signer()))
    }

    /// The keys that are revoked.
    pub fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.revoked.keys()
    }

    /// How many notices are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn put(&mut self, notice: RevocationNotice) -> Result<Put, TrustError> {
        let id = notice.id();
        // Anti-entropy offers the same notices again and again: do not verify them again.
        if self.ids.contains(&id) {
            return Ok(Put::Not(Inserted::Known));
        }
        let (revocation, path) = notice.authenticate(&self.root, &self.mesh, &|_| false)?;
        let rank = u8::try_from(path.len()).expect("invariant: a chain has at most eight links");
        let place = (rank, revocation.revoked_at_ms, id);
        let full = self.entries.len() >= self.limit;
        if full && self.entries.last_key_value().is_none_or(|(last, _)| *last < place) {
            return Ok(Put::Not(Inserted::BeyondBound));
        }
        if full && let Some(((_, _, dropped), entry)) = self.entries.pop_last() {
            self.ids.remove(&dropped);
            for key in entry.path {
                if let Some(count) = self.authorities.get_mut(&key) {
                    *count -= 1;
                }
            }
            self.authorities.retain(|_, count| *count > 0);
        }
        for key in &path {
            *self.authorities.entry(*key).or_default() += 1;
        }
        self.ids.insert(id);
        self.entries.insert(
            place,
            Entry {
                notice,
                revocation,
                path,
                counts: false,
            },
        );
        self.digest = OnceLock::new();
        Ok(Put::At { place, evicted: full })
    }

    fn decide_all(&mut self) {
        self.revoked.clear();
        for (place, entry) in &mut self.entries {
            decide(&mut self.revoked, place, entry);
        }
    }

    fn decide(&mut self, place: &Place) {
        if let Some(entry) = self.entries.get_mut(place) {
            decide(&mut self.revoked, place, entry);
        }
    }
}

/// Decides one notice, given all that come before it. That `revoked` may know later ones as well does no harm: no later one is
/// nearer to the root and not later in time, nor of the same rank and earlier.
fn decide(revoked: &mut BTreeMap<PublicKey, [Option<u64>; CHAIN_LEN_MAX + 1]>, place: &Place, entry: &mut Entry) {
    let (rank, time_ms, _) = *place;
    let rank = usize::from(rank);
    let voided = entry.path.iter().filter_map(|key| revoked.get(key)).any(|times| {
        let nearer = times[..rank].iter().flatten().any(|earliest| *earliest <= time_ms);
        nearer || times[rank].is_some_and(|earliest| earliest < time_ms)
    });
    entry.counts = !voided;
    if entry.counts {
        let earliest = &mut revoked.entry(entry.revocation.subject).or_default()[rank];
        *earliest = Some(earliest.map_or(time_ms, |known| known.min(time_ms)));
    }
}
