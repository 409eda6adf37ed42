//! A group's log on the node's store: entries in a log of their own, the vote in the keyspace.
//!
//! An entry can be read as soon as it was queued, from memory: a leader sends it to the others while its own disk is still at work. So
//! the newest entries are held there, also those that are on the disk, as far as room goes: whoever is not far behind costs no read.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use openraft::{
    EntryPayload, OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::mpsc;
use weft_protocol::{
    Wire as _, codec,
    consensus::{Ballot, Entry, EntryId, GROUP_BYTES, GroupId},
};

use super::{
    Types,
    convert::{self, LogId, RaftEntry, Vote},
};
use crate::{
    store::{self, Appending, Frontier, Keyspace, Log, Store, StoreError},
    tasks::Tasks,
};

/// Bytes of entries that are held in memory although they are on the disk.
const RECENT_BYTES: usize = 4 << 20;
/// What an entry is reckoned to take besides its command.
const ENTRY_BYTES: usize = 128;
/// Appends that wait to be durable.
const FLUSHING_MAX: usize = 1024;
/// Segments of the log that are kept when it is shortened, the one that is written among them.
const KEPT_SEGMENTS: usize = 2;

/// The log's name in the store.
fn log_name(id: GroupId) -> String {
    format!("group.{id}")
}

fn vote_key(id: GroupId) -> Vec<u8> {
    format!("v/{id}").into_bytes()
}

fn purged_key(id: GroupId) -> Vec<u8> {
    format!("r/{id}").into_bytes()
}

/// Whether a log ends before what is said to be removed of it, and so cannot be gone on with.
fn is_behind(log: &Log, purged: &Option<LogId>) -> bool {
    let Some(purged) = purged else { return false };
    // One that was being made when the power went holds nothing.
    let is_half_made = log.first_seq() == log.next_seq() && !log.damage().is_empty();
    log.next_seq() <= purged.index || is_half_made
}

/// Removes a group's log and vote.
pub(super) async fn forget(id: GroupId, store: &Store, keyspace: &Keyspace) -> Result<(), StoreError> {
    store.remove_log(&log_name(id)).await?;
    keyspace.delete(purged_key(id)).await?;
    keyspace.delete(vote_key(id)).await
}

/// A group's log; also the reader of it.
#[derive(Clone)]
pub(super) struct Journal {
    id: GroupId,
    store: Store,
    keyspace: Keyspace,
    held: Arc<Mutex<Held>>,
    flushing: mpsc::Sender<(Vec<Appending>, IOFlushed<Types>)>,
}

struct Held {
    log: Log,
    vote: Option<Vote>,
    purged: Option<LogId>,
    /// The newest entries, in their order.
    entries: VecDeque<RaftEntry>,
    bytes: usize,
}

fn weight(entry: &RaftEntry) -> usize {
    ENTRY_BYTES
        + match &entry.payload {
            EntryPayload::Normal(command) => command.0.len(),
            _ => 0,
        }
}

impl Held {
    fn push(&mut self, entry: RaftEntry, durable: u64) {
        self.bytes += weight(&entry);
        self.entries.push_back(entry);
        while self.bytes > RECENT_BYTES
            && let Some(first) = self.entries.front().filter(|first| first.log_id.index < durable)
        {
            self.bytes -= weight(first);
            self.entries.pop_front();
        }
    }

    fn cut_from(&mut self, index: u64) {
        while let Some(last) = self.entries.back().filter(|last| last.log_id.index >= index) {
            self.bytes -= weight(last);
            self.entries.pop_back();
        }
    }

    fn first(&self) -> Option<u64> {
        self.entries.front().map(|first| first.log_id.index)
    }

    fn next(&self) -> Option<u64> {
        self.entries.back().map(|last| last.log_id.index + 1)
    }
}

fn failed(error: StoreError) -> io::Error {
    io::Error::other(error.to_string())
}

fn unread(index: u64, error: impl ToString) -> io::Error {
    let error = error.to_string();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the entry {index} of a group cannot be read: {error}"),
    )
}

fn stored<T: for<'b> minicbor::Decode<'b, ()>>(bytes: Option<Vec<u8>>) -> Result<Option<T>, io::Error> {
    let read = |bytes: Vec<u8>| codec::decode(&bytes, 1024, "what is stored of a group");
    bytes.map(read).transpose().map_err(io::Error::other)
}

impl Journal {
    pub(super) async fn open(id: GroupId, store: &Store, keyspace: Keyspace, tasks: &Tasks) -> Result<Self, io::Error> {
        let log = store.log(&log_name(id)).await.map_err(failed)?;
        let vote = stored::<Ballot>(keyspace.get(&vote_key(id)).await.map_err(failed)?)?;
        let purged = stored::<EntryId>(keyspace.get(&purged_key(id)).await.map_err(failed)?)?;
        let held = Held {
            log,
            vote: vote.map(convert::ballot_of),
            purged: purged.map(convert::id_of),
            entries: VecDeque::new(),
            bytes: 0,
        };
        let (flushing, waiting) = mpsc::channel(FLUSHING_MAX);
        tasks.spawn("group-flush", flush(waiting));
        let journal = Journal {
            id,
            store: store.clone(),
            keyspace,
            held: Arc::new(Mutex::new(held)),
            flushing,
        };
        journal.begin_behind_purged().await?;
        Ok(journal)
    }

    fn log(&self) -> Log {
        self.held().log.clone()
    }

    /// Where the log ends before what is removed of it, it is one that begins behind that.
    async fn begin_behind_purged(&self) -> Result<(), io::Error> {
        let (log, purged) = {
            let held = self.held();
            (held.log.clone(), held.purged)
        };
        match purged.filter(|_| is_behind(&log, &purged)) {
            Some(purged) => self.begin_at(purged.index + 1).await,
            None => Ok(()),
        }
    }

    /// Makes the log one that begins so, whatever it holds.
    async fn begin_at(&self, count: u64) -> Result<(), io::Error> {
        let name = log_name(self.id);
        self.store.remove_log(&name).await.map_err(failed)?;
        // What was removed is known by its last entry; nobody asks for the tree over the others.
        let beginning = Frontier::from_peaks(count, vec![[0; 32]; Frontier::peaks_of(count)]);
        let beginning = beginning.expect("invariant: as many peaks as there are to be");
        let log = self.store.log_from(&name, beginning).await.map_err(failed)?;
        let mut held = self.held();
        held.log = log;
        held.entries.clear();
        held.bytes = 0;
        Ok(())
    }

    /// Up to where the log can be let go of: what lies before the two newest parts of it on the disk.
    pub(super) fn shortened(&self) -> Option<u64> {
        let held = self.held();
        let segments = held.log.segments();
        let (kept, _) = *segments.get(segments.len().checked_sub(KEPT_SEGMENTS)?)?;
        let upto = kept.checked_sub(1)?;
        held.purged.is_none_or(|purged| purged.index < upto).then_some(upto)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries from `start` to before `end`, in so many bytes if there is more than one; none that were removed, though they may be on the disk still.
    async fn entries(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<RaftEntry>, io::Error> {
        let first = {
            let held = self.held();
            let purged = held.purged.map_or(0, |purged| purged.index + 1);
            purged.max(held.log.first_seq())
        };
        let (mut found, mut bytes, mut next) = (Vec::new(), 0, start.max(first));
        while next < end {
            let held_first = {
                let held = self.held();
                let first = held.first();
                if let Some(at) = first.filter(|first| *first <= next) {
                    for entry in held
                        .entries
                        .range((next - at).min(held.entries.len() as u64) as usize..)
                    {
                        bytes += weight(entry);
                        if entry.log_id.index >= end || (!found.is_empty() && bytes > bytes_max) {
                            break;
                        }
                        found.push(entry.clone());
                    }
                    return Ok(found);
                }
                first
            };
            let until = held_first.unwrap_or(end).min(end);
            let page = self
                .log()
                .read(next, (until - next) as usize, GROUP_BYTES)
                .await
                .map_err(failed)?;
            if page.is_empty() {
                return Ok(found);
            }
            for record in page {
                let entry = Entry::from_bytes(&record.data).map_err(|error| unread(record.seq, error))?;
                let entry = convert::entry_of(entry).map_err(|error| unread(record.seq, error))?;
                if entry.log_id.index != record.seq {
                    return Err(unread(record.seq, "it says that it is another"));
                }
                bytes += weight(&entry);
                if !found.is_empty() && bytes > bytes_max {
                    return Ok(found);
                }
                next = record.seq + 1;
                found.push(entry);
            }
        }
        Ok(found)
    }

    /// The index behind the last entry, on the disk or on its way there.
    fn next_index(&self) -> u64 {
        let held = self.held();
        held.next().unwrap_or_else(|| held.log.next_seq())
    }
}

/// Says of each append when it is durable.
async fn flush(mut waiting: mpsc::Receiver<(Vec<Appending>, IOFlushed<Types>)>) {
    while let Some((appending, flushed)) = waiting.recv().await {
        let mut done = Ok(());
        for one in appending {
            if let Err(error) = one.durable().await {
                done = Err(failed(error));
            }
        }
        flushed.io_completed(done);
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for Journal {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let (start, end) = bounds(&range);
        self.entries(start, end.min(self.next_index()), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.held().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<RaftEntry>, io::Error> {
        self.entries(start, end.min(self.next_index()), GROUP_BYTES).await
    }
}

impl RaftLogStorage<Types> for Journal {
    type LogReader = Journal;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let purged = self.held().purged;
        let last = match self.next_index().checked_sub(1) {
            Some(last) => self
                .entries(last, last + 1, usize::MAX)
                .await?
                .pop()
                .map(|entry| entry.log_id),
            None => None,
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.or(purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let ballot = codec::encode(&convert::ballot(vote));
        self.keyspace.put(vote_key(self.id), ballot).await.map_err(failed)?;
        self.held().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let encoded: Vec<Bytes> = entries
            .iter()
            .map(|entry| convert::entry(entry).to_bytes().into())
            .collect();
        let mut at = entries.first().map_or(0, |first| first.log_id.index);
        let is_empty = |held: &Held| held.entries.is_empty() && held.log.first_seq() == held.log.next_seq();
        if is_empty(&self.held()) && self.log().next_seq() < at {
            // It begins with whatever comes first.
            self.begin_at(at).await?;
        }
        let log = self.log();
        let mut appending = Vec::new();
        for part in chunks(encoded) {
            let count = part.len() as u64;
            appending.push(log.append_at(at, part).await.map_err(failed)?);
            at += count;
        }
        {
            let (mut held, durable) = (self.held(), log.next_seq());
            entries.into_iter().for_each(|entry| held.push(entry, durable));
        }
        let sent = self.flushing.send((appending, callback)).await;
        sent.map_err(|_| io::Error::other("the node is stopping"))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let next = last.map_or(0, |last| last.index + 1);
        self.held().cut_from(next);
        // What is on its way arrives before it is cut off.
        let log = self.log();
        log.append(Vec::new()).await.map_err(failed)?;
        log.truncate_from(next).await.map_err(failed)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let purged = codec::encode(&convert::id(&upto));
        self.keyspace.put(purged_key(self.id), purged).await.map_err(failed)?;
        {
            let mut held = self.held();
            held.purged = Some(upto);
            while let Some(first) = held.entries.front().filter(|first| first.log_id.index <= upto.index) {
                let bytes = weight(first);
                held.bytes -= bytes;
                held.entries.pop_front();
            }
        }
        let log = self.log();
        // What is on its way arrives before it is looked where the log ends.
        log.append(Vec::new()).await.map_err(failed)?;
        self.begin_behind_purged().await?;
        self.log().truncate_before(upto.index + 1).await.map_err(failed)?;
        Ok(())
    }
}

/// As many as the store takes at once.
fn chunks(records: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let (mut chunks, mut chunk, mut bytes) = (Vec::new(), Vec::new(), 0);
    for record in records {
        let is_full = bytes + record.len() > store::APPEND_BYTES_MAX / 2 || chunk.len() == store::APPEND_RECORDS_MAX;
        if is_full && !chunk.is_empty() {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += record.len();
        chunk.push(record);
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}
