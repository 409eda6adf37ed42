//! The directory: what every member says of itself, signed by itself, known to every member.
//!
//! Promises: a record is taken in only with its own node's signature, a valid membership and a higher sequence than the
//! known one; the directory is bounded; two nodes with equal digests know the same. It spreads by being pushed to
//! neighbours and repaired by comparing digests (`mesh::control`), and is no authority for anything but what a node says
//! of itself.

use std::{
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use weft_protocol::{
    Chain, Membership, Multiaddr, NodeRecord, PeerId, PublicKey, Signed, Wire as _, control::Have, record::Announcement,
};

use super::{MeshKind, PREFIX_RECORD, State, Trust, by_key::Keyed, keyed};
use crate::{error::NodeError, platform::share, store::Batch};

/// Members a node remembers when nothing else is said.
pub const DIRECTORY_MAX: usize = 10_000;
/// How long a record is believed after it was made. It is renewed in a third of that.
pub const RECORD_TTL_MS: u64 = 12 * 3600 * 1000;
/// Members whose records are written down, and, while fewer than twice as many are, members that were neighbours: enough to find
/// the mesh again. The others change while a node is away, and its first neighbour has them all.
const STORED_MAX: usize = 64;
/// Neighbours that are asked for records at once: one may be slow.
pub(super) const PULLS_MAX: usize = 2;
/// Our own record is made anew after this long.
pub const RECORD_RENEW_MS: u64 = RECORD_TTL_MS / 3;

/// A record as its node signed it, the same at every member.
#[derive(PartialEq, Eq)]
pub(super) struct Known {
    signed: Signed<NodeRecord>,
    /// What it says. The certificates are in `members`, verified, and, of another node, not here once more.
    record: NodeRecord,
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Of one node's records no two have the same number, unless it lies.
        self.signed.signer().hash(state);
        self.record.seq.hash(state);
    }
}

/// A record's place here. Small: there are as many as there are members.
pub(super) struct Entry {
    known: Arc<Known>,
    /// The directory's version at which it came.
    version: u64,
    /// The neighbour it came from, which need not be told.
    from: Option<Bringer>,
    dirty: bool,
}

impl Keyed for Entry {
    fn key(&self) -> PublicKey {
        self.known.signed.signer()
    }
}

impl Entry {
    fn record(&self) -> &NodeRecord {
        &self.known.record
    }
}

/// A neighbour that brought records: the beginning of its key. Should two be alike, one is told later, when digests are
/// compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bringer([u8; 8]);

impl From<&PublicKey> for Bringer {
    fn from(key: &PublicKey) -> Self {
        let mut start = [0; 8];
        start.copy_from_slice(&key.as_bytes()[..8]);
        Bringer(start)
    }
}

/// A member as the directory knows it.
#[derive(Debug, Clone)]
pub struct KnownMember {
    /// Its id.
    pub peer: PeerId,
    /// What it says of itself. The certificates of another node are left out: `membership` has what they say.
    pub record: NodeRecord,
    /// What its certificates say; in an open mesh, the membership everyone has.
    pub membership: Option<Membership>,
}

/// What our own record is to say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct OwnRecord {
    pub(crate) name: String,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) agent: String,
    pub(crate) announcements: Vec<(String, Vec<u8>)>,
}

impl Trust {
    /// Signs and publishes our own record, unless the current one says the same and is fresh.
    ///
    /// # Errors
    /// `Invalid` when it exceeds a limit of the protocol.
    pub(crate) fn publish_own(&self, own: &OwnRecord) -> Result<bool, NodeError> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let Some(mesh) = state.mesh.clone() else {
            return Ok(false);
        };
        let known = state.records.get(&self.0.public).map(Entry::record);
        let record = NodeRecord {
            mesh: mesh.id,
            chain: state.chain.clone(),
            name: own.name.clone(),
            addresses: own.addresses.clone(),
            agent: own.agent.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seq: known.map_or(now_ms, |k| now_ms.max(k.seq + 1)),
            issued_at_ms: now_ms,
            ttl_ms: RECORD_TTL_MS,
            announcements: own
                .announcements
                .iter()
                .map(|(key, value)| Announcement {
                    key: key.clone(),
                    value: value.clone(),
                })
                .collect(),
        };
        if let Some(known) = known {
            let same = NodeRecord {
                seq: known.seq,
                issued_at_ms: known.issued_at_ms,
                ..record.clone()
            } == *known;
            if same && now_ms < known.issued_at_ms.saturating_add(RECORD_RENEW_MS) && now_ms >= known.issued_at_ms {
                return Ok(false);
            }
        }
        record.check()?;
        let signed = Signed::sign(&record, &self.0.key)?;
        state.put(self.known(signed, record), None);
        drop(state);
        self.touch();
        Ok(true)
    }

    /// Takes in records from elsewhere; each is verified. Returns how many were new.
    pub(crate) fn learn_records(&self, records: Vec<Signed<NodeRecord>>, from: Option<PeerId>) -> usize {
        let mut new = 0;
        for signed in records {
            let key = signed.signer();
            // The cheap test first: most of what comes is known.
            let Ok(claimed) = signed.peek() else { continue };
            if key == self.0.public
                || self
                    .state()
                    .records
                    .get(&key)
                    .is_some_and(|e| e.record().seq >= claimed.seq)
            {
                continue;
            }
            if !self.has_room_for(&key, from.as_ref()) {
                continue;
            }
            match self.verify_record(&signed) {
                Ok((mut record, membership)) => {
                    let mut state = self.state();
                    if !state.records.contains_key(&key) && state.records.len() >= self.0.directory_max {
                        // A neighbour's own record is worth more than that of somebody far away.
                        if from != Some(key.peer_id()) || !state.drop_distant() {
                            continue;
                        }
                    }
                    let member = membership.unwrap_or_else(|| super::authority::open_membership(&record, key));
                    state.members.insert(self.kept(member));
                    record.chain = Chain::default();
                    let from = from.as_ref().and_then(PublicKey::from_peer_id);
                    state.put(self.known(signed, record), from.as_ref().map(Bringer::from));
                    new += 1;
                }
                Err(error) => tracing::debug!(peer = %key.peer_id(), %error, "a record was not accepted"),
            }
        }
        if new > 0 {
            self.touch();
        }
        new
    }

    /// Whether a record would be kept. Asked before it is verified, too: in a large mesh most are not.
    fn has_room_for(&self, key: &PublicKey, from: Option<&PeerId>) -> bool {
        let state = self.state();
        // A neighbour's own record is worth more than that of somebody far away.
        state.records.contains_key(key) || state.records.len() < self.0.directory_max || from == Some(&key.peer_id())
    }

    /// A record as it is kept.
    fn known(&self, signed: Signed<NodeRecord>, record: NodeRecord) -> Arc<Known> {
        share(&*self.0.sharing, Known { signed, record })
    }

    fn verify_record(&self, signed: &Signed<NodeRecord>) -> Result<(NodeRecord, Option<Membership>), NodeError> {
        let mesh = self.mesh().ok_or_else(|| NodeError::denied("no mesh"))?;
        let is_open = mesh.kind == MeshKind::Open;
        Ok(NodeRecord::open(
            signed,
            &mesh.root,
            &mesh.id,
            is_open,
            self.now_ms(),
            &|k| self.is_revoked(k),
        )?)
    }

    /// A record from our own store: our own is kept for its sequence, others must still verify.
    pub(super) fn restore_record(&self, bytes: &[u8]) {
        let Ok(signed) = Signed::<NodeRecord>::from_bytes(bytes) else {
            return;
        };
        let key = signed.signer();
        if key == self.0.public {
            if let Ok(record) = signed.open() {
                let known = self.known(signed, record);
                self.state().put(known, None);
            }
        } else {
            self.learn_records(vec![signed], None);
        }
        let mut state = self.state();
        state.stored.insert(key);
        if let Some(entry) = state.records.get_mut(&key) {
            entry.dirty = false;
        }
    }

    /// Writes the records that came since the last time, of so many members as are worth it. They are hints, so they need
    /// not be durable at once.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn persist_records(&self) -> Result<(), NodeError> {
        let (batch, changed) = self.state().write_down(&self.0.public);
        if changed.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.0.keyspace.commit(batch).await {
            let mut state = self.state();
            for key in changed {
                if let Some(entry) = state.records.get_mut(&key) {
                    entry.dirty = true;
                }
                // Perhaps it is there. If it should not be, it is deleted next time.
                state.stored.insert(key);
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// The turn to ask a neighbour for a page of records; over with what is returned. Turns are given in the order of asking, few at once: what
    /// one neighbour has, the next need not send. A turn saves memory and is no condition: when no page came from anybody for so long,
    /// it is waited for no more.
    pub(crate) async fn turn_to_pull(&self, patience: Duration) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let mut turn = std::pin::pin!(self.0.pulls.acquire());
        loop {
            let before = self.0.pages_pulled.load(Ordering::Relaxed);
            match tokio::time::timeout(patience, &mut turn).await {
                // Never closed.
                Ok(turn) => return turn.ok(),
                Err(_) if self.0.pages_pulled.load(Ordering::Relaxed) == before => return None,
                Err(_) => {}
            }
        }
    }

    /// A neighbour sent a page that had something new in it.
    pub(crate) fn note_page_pulled(&self) {
        self.0.pages_pulled.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets records that have run out.
    pub(crate) fn expire_records(&self) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let before = state.records.len();
        let own = self.0.public;
        state
            .records
            .retain(|e| e.key() == own || now_ms < e.record().expires_at_ms());
        if state.records.len() != before {
            state.records_digest = None;
        }
    }

    /// Every member the directory knows, this node included.
    pub fn known_members(&self) -> Vec<KnownMember> {
        let state = self.state();
        state
            .records
            .iter()
            .map(|e| KnownMember {
                peer: e.key().peer_id(),
                record: e.record().clone(),
                membership: state.members.get(&e.key()).map(|member| Membership::clone(member)),
            })
            .collect()
    }

    /// How many members the directory knows, this node included.
    pub fn known_count(&self) -> usize {
        self.state().records.len().max(1)
    }

    /// What one member says of itself, without its certificates.
    pub fn record(&self, peer: &PeerId) -> Option<NodeRecord> {
        let key = PublicKey::from_peer_id(peer)?;
        self.state().records.get(&key).map(|e| e.record().clone())
    }

    /// The announcements all members make under one key.
    pub fn announcements(&self, key: &str) -> Vec<(PeerId, Vec<u8>)> {
        let state = self.state();
        let all = state.records.iter();
        all.filter_map(|e| Some((e.key().peer_id(), e.record().announcement(key)?.to_vec())))
            .collect()
    }

    /// The same for two nodes that know the same records.
    pub(crate) fn records_digest(&self) -> [u8; 32] {
        let mut state = self.state();
        if let Some(digest) = state.records_digest {
            return digest;
        }
        let mut hash = Sha256::new_with_prefix(b"weft-records-v1");
        for e in state.records.iter() {
            hash.update(e.key().as_bytes());
            hash.update(e.record().seq.to_be_bytes());
        }
        let digest = hash.finalize().into();
        state.records_digest = Some(digest);
        digest
    }

    /// Whether there is no room for further members: then the directories of two nodes differ for good, and comparing them
    /// leads nowhere. What changes is still pushed.
    pub(crate) fn is_directory_full(&self) -> bool {
        self.state().records.len() >= self.0.directory_max
    }

    /// Where the members are whose records came after `version`, and the version this reaches.
    pub(crate) fn addresses_after(&self, version: u64) -> (Vec<(PeerId, Vec<Multiaddr>)>, u64) {
        let state = self.state();
        if state.version == version {
            return (Vec::new(), version);
        }
        let newer = state.records.iter().filter(|e| e.version > version);
        let addresses = newer.map(|e| (e.key().peer_id(), e.record().addresses.clone()));
        (addresses.collect(), state.version)
    }

    /// What we have, in the form a neighbour compares with.
    pub(crate) fn have(&self) -> Have {
        let salt = self.random();
        let state = self.state();
        Have::new(salt, state.records.iter().map(|e| (e.key(), e.record().seq)))
    }

    /// The same for a neighbour of an earlier version, which knows no marks.
    pub(crate) fn have_by_key(&self, limit: usize) -> Vec<(PublicKey, u64)> {
        let state = self.state();
        let records = state.records.iter().take(limit);
        records.map(|e| (e.key(), e.record().seq)).collect()
    }

    /// What a neighbour lacks that has what it says it `covers`, at most `bytes_max` of it; and whether there is more.
    pub(crate) fn lacking(
        &self,
        covers: impl Fn(&PublicKey, u64) -> bool,
        bytes_max: usize,
    ) -> (Vec<Signed<NodeRecord>>, bool) {
        let state = self.state();
        let lacking = state.records.iter().filter(|e| !covers(&e.key(), e.record().seq));
        page(lacking.map(|e| &e.known.signed), bytes_max)
    }

    /// What came after `version` and not from `peer`, at most `bytes_max` of it, and the version it reaches.
    pub(crate) fn records_after(
        &self,
        version: u64,
        peer: &PeerId,
        bytes_max: usize,
    ) -> (Vec<Signed<NodeRecord>>, u64) {
        let peer = PublicKey::from_peer_id(peer).as_ref().map(Bringer::from);
        let state = self.state();
        let mut newer: Vec<&Entry> = state
            .records
            .iter()
            .filter(|e| e.version > version && (e.from.is_none() || e.from != peer))
            .collect();
        newer.sort_by_key(|e| e.version);
        let (records, more) = page(newer.iter().map(|e| &e.known.signed), bytes_max);
        let last = if more {
            newer.get(records.len().wrapping_sub(1))
        } else {
            None
        };
        (records, last.map_or(state.version, |e| e.version))
    }

    /// Tells the listeners that the directory changed.
    pub(super) fn touch(&self) {
        let version = self.state().version;
        self.0.changed.send_replace(version);
    }
}

impl State {
    /// Makes room by dropping a record that no neighbour brought of itself; says whether there was one.
    fn drop_distant(&mut self) -> bool {
        let is_distant = |e: &&Entry| e.from.is_some_and(|from| from != Bringer::from(&e.key()));
        let Some(key) = self.records.iter().find(is_distant).map(Keyed::key) else {
            return false;
        };
        self.records.remove(&key);
        self.records_digest = None;
        true
    }

    /// What is to be written and what deleted, and of whom.
    fn write_down(&mut self, own: &PublicKey) -> (Batch, Vec<PublicKey>) {
        let (mut batch, mut changed) = (Batch::new(), Vec::new());
        // Those whose keys are like our own first: so not all nodes choose the same ones.
        let distance = |key: &PublicKey| -> [u8; 32] { std::array::from_fn(|n| key.as_bytes()[n] ^ own.as_bytes()[n]) };
        let mut stored: Vec<PublicKey> = self.stored.iter().copied().collect();
        stored.sort_by_cached_key(distance);
        for (n, key) in stored.iter().enumerate() {
            if !self.records.contains_key(key) || n >= STORED_MAX * 2 {
                batch = batch.delete(keyed(PREFIX_RECORD, key.as_bytes()));
                changed.push(*key);
            }
        }
        for key in &changed {
            self.stored.remove(key);
        }
        let dirty = self.records.iter_mut().filter(|e| e.dirty);
        let mut dirty: Vec<&mut Entry> = dirty.collect();
        dirty.sort_by_cached_key(|e| distance(&e.key()));
        for entry in dirty {
            entry.dirty = false;
            let key = entry.key();
            let was_neighbour = entry.from == Some(Bringer::from(&key));
            let room = if was_neighbour { STORED_MAX * 2 } else { STORED_MAX };
            if key == *own || self.stored.contains(&key) || self.stored.len() < room {
                batch = batch.put(keyed(PREFIX_RECORD, key.as_bytes()), entry.known.signed.to_bytes());
                self.stored.insert(key);
                changed.push(key);
            }
        }
        (batch, changed)
    }

    fn put(&mut self, known: Arc<Known>, from: Option<Bringer>) {
        self.version += 1;
        let entry = Entry {
            known,
            version: self.version,
            from,
            dirty: true,
        };
        self.records.insert(entry);
        self.records_digest = None;
    }
}

fn page<'a>(
    records: impl Iterator<Item = &'a Signed<NodeRecord>>,
    bytes_max: usize,
) -> (Vec<Signed<NodeRecord>>, bool) {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for record in records {
        bytes += record.payload().len() + 128;
        if bytes > bytes_max && !taken.is_empty() {
            return (taken, true);
        }
        taken.push(record.clone());
        if taken.len() >= weft_protocol::limits::RECORDS_PER_MESSAGE_MAX {
            return (taken, true);
        }
    }
    (taken, false)
}
