//! One stream on its owner's disk: appending, reading, finding.

mod landing;
mod room;
mod schemas;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, RwLock, watch};
use tokio_util::sync::CancellationToken;
use weft_protocol::{
    PublicKey, Subject, Wire as _,
    merkle::{Hash, leaf_hash},
    patterns::event_sourcing::{Ack, Append, Appended, Condition, Event, From, Keep, Producer, Record},
};

use self::landing::{Landing, not_landed};
use super::{
    core::{Numbering, Tail, check_ids},
    index::{Terms, id_term},
    options::StreamError,
    schemas::Schemas,
    shelf::{Facts, Shelf},
    tree::{BLOCK, Leaves, Tree},
};
use crate::{
    platform::Clock,
    store::{Log, StoreError},
};

/// Full blocks whose entries are not written; an append that would make it more waits.
const BLOCKS_AHEAD_MAX: usize = 64;
/// What is read at once.
const READ_BYTES: usize = 256 * 1024;
const READ_RECORDS: usize = 1024;

/// A stream that is open.
pub(super) struct Stream {
    pub(super) name: Subject,
    pub(super) number: u64,
    pub(super) log: Log,
    shelf: Shelf,
    clock: Arc<dyn Clock>,
    facts: std::sync::Mutex<Facts>,
    tail: Mutex<Option<Tail>>,
    schemas: RwLock<Option<Arc<Schemas>>>,
    /// What a group's log has brought and nobody has seen arrive on the disk yet.
    landing: std::sync::Mutex<Landing>,
    /// Held by whoever waits for them, so that none is passed over.
    settling: Mutex<()>,
    /// The first index that is kept, as far as retention has come.
    first: AtomicU64,
    gone: CancellationToken,
    /// A block is full, or the stream is closed.
    pub(super) full: Arc<Notify>,
    /// Entries of a block were written.
    written: Notify,
}

/// Where an append comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A member, or none: this node. It is decided here.
    Member(Option<PublicKey>),
    /// A group's log, with what its leader has added.
    Group { author: PublicKey, at_ms: u64, entry: u64 },
}

/// A record as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// From 1.
    pub(super) position: u64,
    pub(super) bytes: Bytes,
}

impl Kept {
    pub(super) fn record(&self) -> Result<Record, StreamError> {
        let position = self.position;
        Record::from_bytes(&self.bytes)
            .map_err(|error| StreamError::Corrupt(format!("the record {position} cannot be read: {error}")))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.full.notify_one();
    }
}

impl Stream {
    pub(super) fn new(name: Subject, facts: Facts, log: Log, shelf: Shelf, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Stream {
            name,
            number: facts.number,
            first: AtomicU64::new(log.first_seq()),
            log,
            shelf,
            clock,
            facts: std::sync::Mutex::new(facts),
            tail: Mutex::new(None),
            schemas: RwLock::default(),
            landing: std::sync::Mutex::default(),
            settling: Mutex::default(),
            gone: CancellationToken::new(),
            full: Arc::default(),
            written: Notify::new(),
        })
    }

    pub(super) fn facts(&self) -> Facts {
        self.facts
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_facts(&self, facts: Facts) {
        *self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = facts;
    }

    /// The position of the last record that is durable.
    pub(super) fn version(&self) -> u64 {
        self.log.next_seq()
    }

    /// The first position that is kept.
    pub(super) fn first(&self) -> u64 {
        self.first.load(Ordering::Acquire).max(self.log.first_seq()) + 1
    }

    /// Follows [`Stream::version`].
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.log.watch()
    }

    /// It was deleted: whoever still has it, gets no further.
    pub(super) fn go(&self) {
        self.gone.cancel();
        self.full.notify_one();
        self.written.notify_waiters();
    }

    /// Waits until it holds more than was seen of it, or was deleted.
    pub(super) async fn grown(&self, version: &mut watch::Receiver<u64>) -> Result<(), StreamError> {
        let gone = || StreamError::Gone(self.name.to_string());
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(gone()),
            grown = version.changed() => grown.map_err(|_| gone()),
        }
    }

    pub(super) fn check_there(&self) -> Result<(), StreamError> {
        match self.gone.is_cancelled() {
            true => Err(StreamError::Gone(self.name.to_string())),
            false => Ok(()),
        }
    }

    /// What the next append is decided upon; read from the disk when there is nothing, or what there is has become untrue.
    async fn load(&self) -> Result<Tail, StreamError> {
        // Whatever was queued before is answered when this is, so that nothing of it can come later.
        self.log.append(Vec::new()).await?;
        let blocks = self.shelf.blocks(self.number).await?;
        let count = blocks.len() as u64;
        let mut tail = Tail::new(Tree::of_blocks(blocks), count, self.shelf.producers(self.number).await?);
        if self.log.next_seq() < tail.next {
            return Err(StreamError::Corrupt(format!(
                "the stream {} has fewer records than its index knows of",
                self.name
            )));
        }
        loop {
            let page = self.log.read(tail.next, READ_RECORDS, READ_BYTES).await?;
            if page.is_empty() {
                break;
            }
            for record in page {
                let kept = Kept {
                    position: record.seq + 1,
                    bytes: record.data,
                };
                tail.push(&kept.record()?, leaf_hash(&kept.bytes));
            }
        }
        // The last record may lie before the block that is being filled.
        if let Some(last) = tail.next.checked_sub(1).filter(|_| tail.last_ms == 0)
            && let Some(record) = self.log.read(last, 1, 1).await?.into_iter().next()
        {
            let record = Record::from_bytes(&record.data).map_err(corrupt)?;
            (tail.last_ms, tail.last_entry) = (record.recorded_ms, record.entry);
        }
        if tail.recent.full().is_some() {
            self.full.notify_one();
        }
        Ok(tail)
    }

    /// Makes sure that what the next append is decided upon is there.
    async fn tail<'a>(&self, slot: &'a mut Option<Tail>) -> Result<&'a mut Tail, StreamError> {
        if slot.is_none() {
            *slot = Some(self.load().await?);
        }
        Ok(slot.as_mut().expect("invariant: it was loaded just above"))
    }

    /// Appends events: all of them, or none.
    ///
    /// Not cancel-safe: what was begun may be appended.
    pub(super) async fn append(&self, append: Append, origin: Origin) -> Result<Appended, StreamError> {
        append.check()?;
        check_distinct_ids(&append.events)?;
        if matches!(origin, Origin::Member(_)) {
            self.check_schemas(&append).await?;
            self.check_room(&append).await?;
        }
        loop {
            self.check_there()?;
            let written = self.written.notified();
            let mut slot = self.tail.lock().await;
            if self.tail(&mut slot).await?.recent.full_count() <= BLOCKS_AHEAD_MAX {
                return self.append_now(slot, append, origin).await;
            }
            drop(slot);
            written.await;
        }
    }

    async fn append_now(
        &self,
        mut slot: tokio::sync::MutexGuard<'_, Option<Tail>>,
        append: Append,
        origin: Origin,
    ) -> Result<Appended, StreamError> {
        let tail = self.tail(&mut slot).await?;
        if let Origin::Group { entry, .. } = origin
            && tail.last_entry.is_some_and(|last| entry <= last)
        {
            // It was applied before a restart, and nobody waits for what comes of it now.
            return Err(StreamError::Conflict("this was applied before".into()));
        }
        if matches!(origin, Origin::Group { .. }) && self.landing().has_failed {
            return Err(not_landed());
        }
        if let Some(known) = self.known(tail, &append).await? {
            // Where nothing says where it is, everything is waited for.
            let last = if known.last == 0 { tail.next } else { known.last };
            drop(slot);
            self.until_durable(last).await?;
            return Ok(known);
        }
        tail.check_version(&append)?;
        if let Some(condition) = &append.condition {
            self.check_condition(tail, condition).await?;
        }
        let at_ms = match origin {
            Origin::Member(_) => self.clock.now_unix_ms(),
            Origin::Group { at_ms, .. } => at_ms,
        };
        let (ack, first) = (append.ack, tail.next);
        let records = records_of(append, at_ms.max(tail.last_ms), origin);
        let encoded = records.iter().map(|record| record.to_bytes().into()).collect();
        // Up to here nothing has changed; from here on the log decides.
        let appending = self.log.append_at(first, encoded).await.inspect_err(|_| *slot = None)?;
        let tail = self.tail(&mut slot).await?;
        for (record, leaf) in records.iter().zip(appending.leaves()) {
            tail.push(record, *leaf);
        }
        if tail.recent.full().is_some() {
            self.full.notify_one();
        }
        drop(slot);
        let appended = Appended {
            first: first + 1,
            last: first + records.len() as u64,
            is_duplicate: false,
        };
        if let Origin::Group { .. } = origin {
            self.land(appending).await?;
            return Ok(appended);
        }
        if ack == Ack::Memory {
            return Ok(appended);
        }
        match appending.durable().await {
            Ok(_) => Ok(appended),
            Err(error) => {
                // What comes after it was decided upon something that is not there.
                *self.tail.lock().await = None;
                Err(match error {
                    StoreError::Elsewhere { .. } => {
                        StreamError::Again("an append before this one failed; nothing was appended, try again".into())
                    }
                    error => error.into(),
                })
            }
        }
    }

    /// Whether the append was recorded before, and where.
    async fn known(&self, tail: &Tail, append: &Append) -> Result<Option<Appended>, StreamError> {
        if let Some(producer) = &append.producer
            && let Numbering::Duplicate(appended) = tail.check_numbers(producer, append.events.len() as u64)?
        {
            return Ok(Some(appended));
        }
        if append.events.iter().all(|event| event.id.is_none()) {
            return Ok(None);
        }
        let mut found = Vec::with_capacity(append.events.len());
        for event in &append.events {
            found.push(match &event.id {
                Some(id) => self.event_with_id(tail, id).await?,
                None => None,
            });
        }
        check_ids(&append.events, &found)
    }

    /// The position of the event with this id.
    pub(super) async fn locate(&self, id: &str) -> Result<Option<u64>, StreamError> {
        let mut slot = self.tail.lock().await;
        let tail = self.tail(&mut slot).await?;
        Ok(self.event_with_id(tail, id).await?.map(|(position, _)| position))
    }

    async fn event_with_id(&self, tail: &Tail, id: &str) -> Result<Option<(u64, Option<Event>)>, StreamError> {
        let term = id_term(id);
        let index = match tail.recent.id(&term) {
            Some(index) => Some(index),
            None => self.shelf.id(self.number, &term).await?,
        };
        let Some(index) = index else {
            return Ok(None);
        };
        // It may still be on its way to the disk.
        self.until_durable(index + 1).await?;
        match self.kept(index).await {
            Ok(kept) => Ok(Some((kept.position, Some(kept.record()?.event)))),
            Err(StreamError::NoRecord { .. }) => Ok(Some((index + 1, None))),
            Err(error) => Err(error),
        }
    }

    async fn check_condition(&self, tail: &Tail, condition: &Condition) -> Result<(), StreamError> {
        let from = condition.after;
        let found = match Terms::of(&condition.query) {
            None if tail.next > from => Some(from),
            None => None,
            Some(terms) => self.find_in(tail, &terms, from).await?,
        };
        match found {
            Some(index) => Err(StreamError::ConditionFailed(index + 1)),
            None => Ok(()),
        }
    }

    async fn find_in(&self, tail: &Tail, terms: &Terms, from: u64) -> Result<Option<u64>, StreamError> {
        if from < tail.recent.first_block() * BLOCK
            && let Some(index) = self.shelf.find(self.number, terms, from).await?
        {
            return Ok(Some(index));
        }
        Ok(tail.recent.find(terms, from))
    }

    /// The index of the first record from `from` on that is meant; it may still be on its way to the disk.
    pub(super) async fn find(&self, terms: &Terms, from: u64) -> Result<Option<u64>, StreamError> {
        let mut slot = self.tail.lock().await;
        let tail = self.tail(&mut slot).await?;
        if let Some(index) = tail.recent.find(terms, from.max(tail.recent.first_block() * BLOCK)) {
            let first_block = tail.recent.first_block();
            drop(slot);
            if from < first_block * BLOCK
                && let Some(earlier) = self.shelf.find(self.number, terms, from).await?
            {
                return Ok(Some(earlier));
            }
            return Ok(Some(index));
        }
        drop(slot);
        self.shelf.find(self.number, terms, from).await
    }

    /// Waits until it has this version.
    pub(super) async fn until(&self, version: u64) -> Result<(), StreamError> {
        let mut grown = self.watch();
        while *grown.borrow_and_update() < version {
            self.grown(&mut grown).await?;
        }
        Ok(())
    }

    /// Waits until the record at this position is on the disk.
    async fn until_durable(&self, position: u64) -> Result<(), StreamError> {
        let mut version = self.log.watch();
        if *version.borrow_and_update() >= position {
            return Ok(());
        }
        // What is on its way is answered when an append behind it is, whether it arrived or not.
        self.log.append(Vec::new()).await?;
        match self.log.next_seq() >= position {
            true => Ok(()),
            false => Err(StreamError::Again("an append before this one failed; try again".into())),
        }
    }

    /// Records from `index` on.
    pub(super) async fn read(&self, index: u64, most: usize) -> Result<Vec<Kept>, StreamError> {
        self.check_there()?;
        let page = self.log.read(index, most.min(READ_RECORDS), READ_BYTES).await?;
        let kept = page.into_iter().map(|record| Kept {
            position: record.seq + 1,
            bytes: record.data,
        });
        Ok(kept.collect())
    }

    /// One record.
    pub(super) async fn kept(&self, index: u64) -> Result<Kept, StreamError> {
        let missing = || StreamError::NoRecord {
            position: index.saturating_add(1),
            first: self.first(),
            version: self.version(),
        };
        self.check_there()?;
        if index + 1 < self.first() || index >= self.version() {
            return Err(missing());
        }
        let page = self.log.read(index, 1, 1).await?;
        let record = page.into_iter().next().ok_or_else(missing)?;
        Ok(Kept {
            position: record.seq + 1,
            bytes: record.data,
        })
    }

    /// When the record at this index was recorded.
    pub(super) async fn recorded_ms(&self, index: u64) -> Result<u64, StreamError> {
        let page = self.log.read(index, 1, 1).await?;
        match page.into_iter().next() {
            Some(record) => Ok(Record::from_bytes(&record.data).map_err(corrupt)?.recorded_ms),
            None => Err(StreamError::Corrupt(format!("the record {} is missing", index + 1))),
        }
    }

    /// The index where reading begins.
    pub(super) async fn begin(&self, from: From) -> Result<u64, StreamError> {
        let (first, next) = (self.first() - 1, self.version());
        Ok(match from {
            From::Position(position) => position.saturating_sub(1).max(first),
            From::Last(count) => next.saturating_sub(count).max(first),
            From::End => next,
            From::Time(ms) => self.index_at(ms).await?,
        })
    }

    /// The first record that was recorded at this time or later. Times never fall, so it is searched for by halves.
    pub(super) async fn index_at(&self, ms: u64) -> Result<u64, StreamError> {
        let (mut low, mut high) = (self.first() - 1, self.version());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.recorded_ms(middle).await? < ms {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Writes the entries of the oldest full block; whether there was one.
    pub(super) async fn write_block(&self) -> Result<bool, StreamError> {
        let block = {
            let slot = self.tail.lock().await;
            slot.as_ref().and_then(|tail| tail.recent.full().cloned())
        };
        let Some(block) = block else {
            return Ok(false);
        };
        // What is written must be true of what is on the disk: something else may be there, if an append has failed meanwhile.
        self.until_durable((block.number + 1) * BLOCK).await?;
        self.check_there()?;
        let now = self
            .tail
            .lock()
            .await
            .as_ref()
            .and_then(|tail| tail.recent.full()?.root);
        if now != block.root {
            return Ok(now.is_some());
        }
        self.shelf.write(self.number, &block).await?;
        if let Some(tail) = self.tail.lock().await.as_mut() {
            tail.recent.written(block.number);
        }
        self.written.notify_waiters();
        Ok(true)
    }

    /// The hashes of subtrees, for a proof; no range ends behind what is durable.
    pub(super) async fn hashes(&self, ranges: &[(u64, u64)]) -> Result<Vec<Hash>, StreamError> {
        let needed = {
            let mut slot = self.tail.lock().await;
            self.tail(&mut slot).await?.tree.needs(ranges)
        };
        let mut leaves = Leaves::new();
        for block in needed {
            leaves.insert(block, self.leaves_of(block).await?);
        }
        let mut slot = self.tail.lock().await;
        let tree = &self.tail(&mut slot).await?.tree;
        let hashes: Option<Vec<Hash>> = ranges.iter().map(|range| tree.hash(*range, &leaves)).collect();
        // A block was filled meanwhile.
        hashes.ok_or_else(|| StreamError::Busy("the stream grew while it was proved; try again".into()))
    }

    async fn leaves_of(&self, block: u64) -> Result<Vec<Hash>, StreamError> {
        let (mut next, end) = (block * BLOCK, (block + 1) * BLOCK);
        if next < self.log.first_seq() {
            return Err(StreamError::NoRecord {
                position: next + 1,
                first: self.first(),
                version: self.version(),
            });
        }
        let mut leaves = Vec::with_capacity(BLOCK as usize);
        while next < end {
            let page = self.log.read(next, (end - next) as usize, READ_BYTES).await?;
            if page.is_empty() {
                return Err(StreamError::Corrupt(format!("the record {} is missing", next + 1)));
            }
            leaves.extend(page.iter().map(|record| leaf_hash(&record.data)));
            next = block * BLOCK + leaves.len() as u64;
        }
        Ok(leaves)
    }

    /// Lets go of what is not to be kept any more.
    pub(super) async fn retain(&self) -> Result<(), StreamError> {
        let options = self.facts().options;
        let mut first = self.first() - 1;
        let drops = !options.refuses();
        if let Some(count) = options.retain_records.filter(|_| drops) {
            first = first.max(self.version().saturating_sub(count));
        }
        if let Some(ms) = options.retain_ms {
            let now_ms = self.clock.now_unix_ms();
            first = first.max(self.index_at(now_ms.saturating_sub(ms)).await?);
        }
        if let Some(bytes_max) = options.retain_bytes.filter(|_| drops) {
            let segments = self.log.segments();
            let mut bytes: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
            for pair in segments.windows(2) {
                bytes -= pair[0].1;
                if bytes < bytes_max {
                    break;
                }
                first = first.max(pair[1].0);
            }
        }
        if let Some(keep) = options.keep {
            let needed = super::consumers::needed(&self.shelf, self.number).await?;
            let needed = needed.or((keep == Keep::Interest).then_some(self.version() + 1));
            first = first.max(needed.map_or(0, |needed| needed.min(self.version() + 1) - 1));
        }
        self.first.fetch_max(first, Ordering::AcqRel);
        // What is not in the index yet is read again at the next start, and the block of the first record is whole, so that it can be proved.
        let indexed = self.shelf.blocks(self.number).await?.len() as u64;
        let mut end = indexed.min(first / BLOCK) * BLOCK;
        if self.facts().copy.is_some() {
            // The last record says how far the group's log was applied.
            end = end.min(self.version().saturating_sub(1));
        }
        if self.log.segments().get(1).is_some_and(|(second, _)| *second <= end) {
            self.log.truncate_before(end).await?;
        }
        Ok(())
    }
}

fn corrupt(error: weft_protocol::DecodeError) -> StreamError {
    StreamError::Corrupt(format!("a record cannot be read: {error}"))
}

fn records_of(append: Append, recorded_ms: u64, origin: Origin) -> Vec<Record> {
    let (author, entry) = match origin {
        Origin::Member(author) => (author, None),
        Origin::Group { author, entry, .. } => (Some(author), Some(entry)),
    };
    let producer = append.producer;
    let numbered = |offset: usize| {
        producer.as_ref().map(|producer| Producer {
            id: producer.id.clone(),
            sequence: producer.sequence + offset as u64,
        })
    };
    let records = append.events.into_iter().enumerate().map(|(offset, event)| Record {
        recorded_ms,
        author,
        producer: numbered(offset),
        event,
        entry,
    });
    records.collect()
}

/// Ids name one event each.
fn check_distinct_ids(events: &[Event]) -> Result<(), StreamError> {
    let mut seen = std::collections::HashSet::new();
    let mut ids = events.iter().filter_map(|event| event.id.as_deref());
    match ids.find(|id| !seen.insert(*id)) {
        Some(id) => Err(StreamError::Invalid(format!("the id {id} occurs twice"))),
        None => Ok(()),
    }
}
