//! What lies on the disk: of each blob its facts and the hashes of its groups in the keyspace, and its content in a log of its own, in records
//! of 64 KiB.
//!
//! The facts are written last, and taken away first: a log that no facts name is what a crash left, and is removed at the next start.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use minicbor::{Decode, Encode};
use weft_protocol::{
    Subject, codec,
    patterns::blobs::{BlobId, GROUP_BYTES, GroupHash, HASH_BYTES, groups_of},
};

use super::options::{BlobError, BlobOptions};
use crate::{
    platform::{Clock, Entropy, random},
    store::{Batch, Keyspace, Log, Store, StoreError},
};

/// Bytes of a record, and records of a group.
const RECORD_BYTES: usize = 64 << 10;
const RECORDS_PER_GROUP: usize = GROUP_BYTES / RECORD_BYTES;
/// Blobs at once.
const BLOBS_MAX: usize = 16_384;
/// Subjects on which the same content was published, that are remembered.
const SUBJECTS_MAX: usize = 16;
/// What was used in this time is not removed for others: who was told of it is about to fetch it.
const FRESH: Duration = Duration::from_secs(600);
/// How often is looked for what has been kept long enough.
const SWEEP: Duration = Duration::from_secs(60);
/// How the names of our logs begin.
const LOG_PREFIX: &str = "blob-";
const FACTS_BYTES_MAX: usize = 16 << 10;
/// Facts that are read at once.
const PAGE: usize = 500;

/// What is known of a blob on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Facts {
    /// How long all of it is.
    #[n(0)]
    pub(super) bytes: u64,
    /// The log with its content.
    #[n(1)]
    pub(super) log: String,
    /// On which subjects it was published.
    #[n(2)]
    pub(super) subjects: Vec<Subject>,
    /// Since when it is here, Unix milliseconds.
    #[n(3)]
    pub(super) stored_ms: u64,
    /// Whether all of it is here.
    #[n(4)]
    pub(super) is_whole: bool,
}

/// A blob on the disk.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) facts: Facts,
    /// When it was last used, Unix milliseconds.
    pub(super) used_ms: u64,
    /// How many read it, or write it.
    users: usize,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<BlobId, Entry>,
    /// Bytes that are being taken in, of which is not known yet what they will be.
    incoming_bytes: u64,
}

impl State {
    fn bytes(&self) -> u64 {
        self.incoming_bytes + self.blobs.values().map(|entry| entry.facts.bytes).sum::<u64>()
    }
}

/// What a shelf is made of.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) keyspace: Keyspace,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) options: BlobOptions,
}

/// See the module.
pub(super) struct Shelf {
    parts: Parts,
    state: Mutex<State>,
}

/// A blob that is in use, and therefore stays.
pub(super) struct InUse {
    shelf: Arc<Shelf>,
    id: BlobId,
    log: Log,
    bytes: u64,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.shelf.end_use(&self.id, self.log.name());
    }
}

impl InUse {
    pub(super) fn id(&self) -> BlobId {
        self.id
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many groups it has.
    pub(super) fn groups_total(&self) -> usize {
        groups_of(self.bytes)
    }

    /// How many of them are on the disk.
    pub(super) fn groups(&self) -> usize {
        let records = usize::try_from(self.log.next_seq()).unwrap_or(usize::MAX);
        // The last one may have fewer records.
        records.div_ceil(RECORDS_PER_GROUP).min(self.groups_total())
    }

    /// A group that is on the disk, in parts.
    pub(super) async fn group(&self, index: usize) -> Result<Vec<Bytes>, BlobError> {
        let InUse { shelf, id, log, bytes } = self;
        let length = usize::try_from(*bytes - (index * GROUP_BYTES) as u64).unwrap_or(usize::MAX);
        let first = (index * RECORDS_PER_GROUP) as u64;
        // A little more, for what is around the records: so it is read at once.
        match log.read(first, RECORDS_PER_GROUP, GROUP_BYTES + 1024).await {
            Ok(records) => {
                let parts: Vec<Bytes> = records.into_iter().map(|record| record.data).collect();
                if parts.iter().map(Bytes::len).sum::<usize>() == length.min(GROUP_BYTES) {
                    return Ok(parts);
                }
                Err(BlobError::NotFound(id.to_string()))
            }
            Err(error) => {
                if matches!(error, StoreError::Corrupt { .. }) {
                    // It can be had anew from somebody whose disk is sound.
                    tracing::warn!(blob = %id, %error, "a blob is damaged and was let go of");
                    shelf.remove(id).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Writes the next groups.
    pub(super) async fn append(&self, groups: Vec<Bytes>) -> Result<(), BlobError> {
        append(&self.log, groups).await
    }
}

/// Writes whole groups, of which only the last one of a blob may be shorter than others.
pub(super) async fn append(log: &Log, groups: Vec<Bytes>) -> Result<(), BlobError> {
    let mut records = Vec::with_capacity(groups.len() * RECORDS_PER_GROUP);
    for mut group in groups {
        while !group.is_empty() {
            records.push(group.split_to(group.len().min(RECORD_BYTES)));
        }
    }
    log.append(records).await?;
    Ok(())
}

/// Room for what is being taken in; given back on drop.
pub(super) struct Room {
    shelf: Arc<Shelf>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shelf.lock().incoming_bytes -= self.bytes;
    }
}

impl Room {
    /// Makes it larger, if need be by letting go of what was not used for long.
    pub(super) async fn grow(&mut self, bytes: u64) -> Result<(), BlobError> {
        let shelf = Arc::clone(&self.shelf);
        let take = |state: &mut State| {
            state.incoming_bytes += bytes;
            Ok(())
        };
        shelf.make_room(bytes, take).await?;
        self.bytes += bytes;
        Ok(())
    }
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("blobs", &self.lock().blobs.len())
            .finish()
    }
}

fn facts_key(id: &BlobId) -> Vec<u8> {
    [b"blob/", &id.as_bytes()[..]].concat()
}

fn hashes_key(id: &BlobId) -> Vec<u8> {
    [b"hash/", &id.as_bytes()[..]].concat()
}

impl Shelf {
    /// Reads what is there, and removes what a crash left.
    pub(super) async fn open(parts: Parts) -> Result<Shelf, StoreError> {
        let mut blobs = BTreeMap::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = parts.keyspace.scan_prefix(b"blob/", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                let id = key.get(5..).and_then(|id| id.try_into().ok()).map(BlobId::from_bytes);
                match (id, codec::decode::<Facts>(&value, FACTS_BYTES_MAX, "facts of a blob")) {
                    (Some(id), Ok(facts)) => drop(blobs.insert(
                        id,
                        Entry {
                            used_ms: facts.stored_ms,
                            facts,
                            users: 0,
                        },
                    )),
                    // Nothing is lost that cannot be fetched or published anew.
                    (_, facts) => {
                        tracing::warn!(error = ?facts.err(), "what is stored of a blob cannot be read and is removed");
                        parts.keyspace.delete(key).await?;
                    }
                }
            }
        }
        let named: HashSet<&str> = blobs.values().map(|entry| entry.facts.log.as_str()).collect();
        for log in parts.store.logs().await? {
            if log.starts_with(LOG_PREFIX) && !named.contains(log.as_str()) {
                parts.store.remove_log(&log).await?;
            }
        }
        let state = State {
            blobs,
            incoming_bytes: 0,
        };
        Ok(Shelf {
            parts,
            state: Mutex::new(state),
        })
    }

    /// What is here: each with what is known of it.
    pub(super) fn list(&self) -> Vec<(BlobId, Entry)> {
        let state = self.lock();
        state.blobs.iter().map(|(id, entry)| (*id, entry.clone())).collect()
    }

    /// What is known of one.
    pub(super) fn facts(&self, id: &BlobId) -> Option<Facts> {
        Some(self.lock().blobs.get(id)?.facts.clone())
    }

    /// A blob of which at least something is here, for use.
    pub(super) async fn take(self: &Arc<Self>, id: &BlobId) -> Result<Option<(InUse, bool)>, BlobError> {
        let facts = {
            let (now_ms, mut state) = (self.now_ms(), self.lock());
            let Some(entry) = state.blobs.get_mut(id) else {
                return Ok(None);
            };
            entry.users += 1;
            entry.used_ms = now_ms;
            entry.facts.clone()
        };
        match self.parts.store.existing_log(&facts.log).await {
            Ok(log) => Ok(Some((self.in_use(*id, log, facts.bytes), facts.is_whole))),
            Err(error) => {
                self.end_use(id, &facts.log);
                if matches!(error, StoreError::Corrupt { .. } | StoreError::NoSuchLog { .. }) {
                    self.remove(id).await?;
                }
                Err(error.into())
            }
        }
    }

    /// Somebody needs it no more. What has another log by now is not what was used: it was removed meanwhile, and came anew.
    fn end_use(&self, id: &BlobId, log: &str) {
        let (now_ms, mut state) = (self.now_ms(), self.lock());
        if let Some(entry) = state.blobs.get_mut(id).filter(|entry| entry.facts.log == log) {
            entry.users -= 1;
            entry.used_ms = now_ms;
        }
    }

    fn in_use(self: &Arc<Self>, id: BlobId, log: Log, bytes: u64) -> InUse {
        InUse {
            shelf: Arc::clone(self),
            id,
            log,
            bytes,
        }
    }

    /// The hashes of a blob's groups.
    pub(super) async fn hashes(&self, id: &BlobId) -> Result<Option<Vec<GroupHash>>, BlobError> {
        let stored = self.parts.keyspace.get(&hashes_key(id)).await?;
        Ok(stored.map(|bytes| bytes.as_chunks::<HASH_BYTES>().0.to_vec()))
    }

    /// Room for something whose length is not known yet.
    pub(super) fn room(self: &Arc<Self>) -> Room {
        Room {
            shelf: Arc::clone(self),
            bytes: 0,
        }
    }

    /// A log for something whose hash is not known yet; nobody else knows of it.
    pub(super) async fn new_log(&self) -> Result<Log, BlobError> {
        let name = format!("{LOG_PREFIX}{}", HEXLOWER.encode(&random::<16>(&*self.parts.entropy)));
        Ok(self.parts.store.log(&name).await?)
    }

    /// Removes a log that is of no use any more.
    pub(super) async fn drop_log(&self, log: Log) -> Result<(), BlobError> {
        let name = log.name().to_owned();
        drop(log);
        Ok(self.parts.store.remove_log(&name).await?)
    }

    /// Begins a blob whose groups are still to come, and whose hashes were checked.
    pub(super) async fn begin(
        self: &Arc<Self>,
        id: BlobId,
        bytes: u64,
        subject: &Subject,
        hashes: &[GroupHash],
    ) -> Result<InUse, BlobError> {
        let log = self.new_log().await?;
        let facts = self.new_facts(bytes, &log, subject, false);
        let entry = Entry {
            used_ms: facts.stored_ms,
            facts: facts.clone(),
            users: 1,
        };
        // Somebody here may have published the same meanwhile: that one stays.
        let take = |state: &mut State| match state.blobs.contains_key(&id) {
            true => Err(BlobError::Full("it is being taken in by somebody else".to_owned())),
            false => {
                state.blobs.insert(id, entry);
                Ok(())
            }
        };
        let made = self.make_room(bytes, take).await;
        if let Err(error) = made {
            self.drop_log(log).await?;
            return Err(error);
        }
        let in_use = self.in_use(id, log, bytes);
        self.write(&id, &facts, Some(hashes)).await?;
        Ok(in_use)
    }

    /// All groups of a blob are here.
    pub(super) async fn complete(&self, id: &BlobId) -> Result<(), BlobError> {
        let facts = {
            let mut state = self.lock();
            let entry = state.blobs.get_mut(id);
            let entry = entry.ok_or_else(|| BlobError::NotFound(id.to_string()))?;
            entry.facts.is_whole = true;
            entry.facts.clone()
        };
        self.write(id, &facts, None).await
    }

    /// Gives a name to what was taken in. What is here already is here once.
    pub(super) async fn settle(
        self: &Arc<Self>,
        id: BlobId,
        log: Log,
        bytes: u64,
        subject: &Subject,
        hashes: &[GroupHash],
    ) -> Result<(), BlobError> {
        let facts = self.new_facts(bytes, &log, subject, true);
        let entry = Entry {
            used_ms: facts.stored_ms,
            facts: facts.clone(),
            users: 0,
        };
        let known = {
            let mut state = self.lock();
            match state.blobs.get_mut(&id) {
                Some(known) => {
                    note_subject(&mut known.facts.subjects, subject);
                    known.used_ms = facts.stored_ms;
                    Some(known.facts.clone())
                }
                None => {
                    state.blobs.insert(id, entry);
                    None
                }
            }
        };
        let Some(known) = known else {
            return self.write(&id, &facts, Some(hashes)).await;
        };
        if known.is_whole {
            // With the hashes: who took it in first may not have written them yet.
            self.write(&id, &known, Some(hashes)).await?;
            return self.drop_log(log).await;
        }
        // It is being fetched, and is here now: what fetches it notices, and this one's content is the one that stays.
        let old = {
            let mut state = self.lock();
            let entry = state.blobs.get_mut(&id);
            let entry = entry.ok_or_else(|| BlobError::NotFound(id.to_string()))?;
            entry.facts.is_whole = true;
            // Those that use the other log use nothing of this one.
            entry.users = 0;
            std::mem::replace(&mut entry.facts.log, facts.log.clone())
        };
        let now = self.facts(&id).unwrap_or(facts);
        self.write(&id, &now, Some(hashes)).await?;
        Ok(self.parts.store.remove_log(&old).await?)
    }

    fn new_facts(&self, bytes: u64, log: &Log, subject: &Subject, is_whole: bool) -> Facts {
        Facts {
            bytes,
            log: log.name().to_owned(),
            subjects: vec![subject.clone()],
            stored_ms: self.now_ms(),
            is_whole,
        }
    }

    async fn write(&self, id: &BlobId, facts: &Facts, hashes: Option<&[GroupHash]>) -> Result<(), BlobError> {
        let mut batch = Batch::new().put(facts_key(id), codec::encode(facts));
        if let Some(hashes) = hashes {
            batch = batch.put(hashes_key(id), hashes.concat());
        }
        Ok(self.parts.keyspace.commit(batch).await?)
    }

    /// Lets go of a blob; whether it was here. Who reads it, reads no further.
    pub(super) async fn remove(&self, id: &BlobId) -> Result<bool, BlobError> {
        let Some(entry) = self.lock().blobs.remove(id) else {
            return Ok(false);
        };
        self.unwrite(id, &entry.facts).await?;
        Ok(true)
    }

    async fn unwrite(&self, id: &BlobId, facts: &Facts) -> Result<(), BlobError> {
        let batch = Batch::new().delete(facts_key(id)).delete(hashes_key(id));
        self.parts.keyspace.commit(batch).await?;
        Ok(self.parts.store.remove_log(&facts.log).await?)
    }

    /// Makes room for so many bytes, and takes it at once.
    async fn make_room(
        &self,
        bytes: u64,
        take: impl FnOnce(&mut State) -> Result<(), BlobError>,
    ) -> Result<(), BlobError> {
        let bytes_max = self.parts.options.bytes_max;
        let (now_ms, fresh_ms) = (self.now_ms(), FRESH.as_millis() as u64);
        let mut gone = Vec::new();
        let outcome = {
            let mut state = self.lock();
            let mut idle: Vec<(u64, BlobId, u64)> = state
                .blobs
                .iter()
                .filter(|(_, entry)| entry.users == 0 && entry.used_ms + fresh_ms < now_ms)
                .map(|(id, entry)| (entry.used_ms, *id, entry.facts.bytes))
                .collect();
            idle.sort_unstable();
            let (mut held, mut count) = (state.bytes(), state.blobs.len());
            let mut victims = Vec::new();
            for (_, id, freed) in idle {
                if held.saturating_add(bytes) <= bytes_max && count < BLOBS_MAX {
                    break;
                }
                held -= freed;
                count -= 1;
                victims.push(id);
            }
            if held.saturating_add(bytes) > bytes_max || count >= BLOBS_MAX {
                Err(BlobError::Full(format!(
                    "no room for {bytes} more bytes: blobs have {held} of {bytes_max} bytes, all in use or of the last {} minutes",
                    FRESH.as_secs() / 60
                )))
            } else {
                gone.extend(
                    victims
                        .into_iter()
                        .filter_map(|id| Some((id, state.blobs.remove(&id)?))),
                );
                take(&mut state)
            }
        };
        for (id, entry) in gone {
            // The room was taken. What is still on the disk is found at the next start.
            match self.unwrite(&id, &entry.facts).await {
                Ok(()) => tracing::debug!(blob = %id, "a blob made room for others"),
                Err(error) => {
                    tracing::warn!(blob = %id, %error, "a blob that made room for others could not be removed")
                }
            }
        }
        outcome
    }

    /// Lets go of what has been kept long enough.
    pub(super) async fn let_go_of_old(&self) -> Result<usize, BlobError> {
        let keep_ms = u64::try_from(self.parts.options.keep.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.now_ms();
        let old: Vec<(BlobId, Entry)> = {
            let blobs = &mut self.lock().blobs;
            let is_old = |entry: &Entry| entry.users == 0 && entry.used_ms.saturating_add(keep_ms) < now_ms;
            let ids: Vec<BlobId> = blobs
                .iter()
                .filter(|(_, entry)| is_old(entry))
                .map(|(id, _)| *id)
                .collect();
            ids.into_iter()
                .filter_map(|id| Some((id, blobs.remove(&id)?)))
                .collect()
        };
        for (id, entry) in &old {
            self.unwrite(id, &entry.facts).await?;
        }
        Ok(old.len())
    }

    fn now_ms(&self) -> u64 {
        self.parts.clock.now_unix_ms()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note_subject(subjects: &mut Vec<Subject>, subject: &Subject) {
    subjects.retain(|known| known != subject);
    if subjects.len() >= SUBJECTS_MAX {
        subjects.remove(0);
    }
    subjects.push(subject.clone());
}

/// Lets go of what has been kept long enough, until the node stops.
pub(super) async fn sweep(shelf: Arc<Shelf>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if let Err(error) = shelf.let_go_of_old().await {
            tracing::warn!(%error, "blobs that were kept long enough could not be removed");
        }
    }
}
