//! What an open log is made of: the tail that the one writer changes, and the view that readers share.

use super::super::error::{Result, StoreError};
use super::super::merkle::{Frontier, Hash, leaf_hash};
use super::super::shared::Shared;
use super::super::state::State;
use super::read::Cache;
use super::record::LogId;
use super::segment::{self, Index, Trailer};
use crate::platform::disk::{DiskFile, OpenMode};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

const ADVICE: &str = "fetch the lost records from another node, or restore the log's folder from a backup";

/// An open log.
#[derive(Debug)]
pub(in crate::store) struct Core {
    pub(super) shared: Arc<Shared>,
    pub(super) state: Arc<State>,
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) id: LogId,
    pub(super) tail: Mutex<Tail>,
    pub(super) view: RwLock<View>,
    pub(super) cache: Mutex<Cache>,
    /// The sequence number of the next record, for those who wait for more.
    pub(super) grown: watch::Sender<u64>,
}

/// What the writer needs; locked while it writes and syncs.
#[derive(Debug)]
pub(super) struct Tail {
    /// The segment being written; `None` after the last one was sealed.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) path: PathBuf,
    pub(super) first_seq: u64,
    pub(super) next_seq: u64,
    /// Where the last record ends.
    pub(super) end: u64,
    /// How long the file is; behind the mark there are zeros.
    pub(super) file_bytes: u64,
    pub(super) frontier: Frontier,
    /// Why the log takes no more records, when its end is damaged or it was removed.
    pub(super) refused: Option<StoreError>,
    pub(super) buffer: Vec<u8>,
}

/// What readers need; only durable records are in it.
#[derive(Debug)]
pub(super) struct View {
    /// In order of their first records, never empty.
    pub(super) segments: Vec<Segment>,
    pub(super) next_seq: u64,
    /// Damage known since the log was opened.
    pub(super) damage: Vec<StoreError>,
    pub(super) frontier: Frontier,
    /// Why there is no root, when a record needed for it is lost.
    pub(super) rootless: Option<StoreError>,
}

/// One segment as readers see it.
#[derive(Debug, Clone)]
pub(super) struct Segment {
    pub(super) first_seq: u64,
    /// The record after its last one.
    pub(super) next_seq: u64,
    pub(super) path: PathBuf,
    /// Where its last record ends.
    pub(super) data_end: u64,
    pub(super) trailer: Option<Trailer>,
    /// The index of the segment being written; a sealed one has it in its footer.
    pub(super) index: Arc<Index>,
}

impl View {
    pub(super) fn first_seq(&self) -> u64 {
        self.segments.first().map_or(self.next_seq, |segment| segment.first_seq)
    }
}

impl Core {
    pub(super) fn lock_tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn change_view(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree before the first record that is kept. Blocks.
    pub(super) fn beginning(&self) -> Result<Frontier> {
        // Whoever removes segments waits.
        let _tail = self.lock_tail();
        let (first_seq, path) = {
            let view = self.read_view();
            let first = view.segments.first();
            let first = first.expect("invariant: a log that is open has a segment");
            (first.first_seq, first.path.clone())
        };
        let file = self.shared.disk.open(&path, OpenMode::READ);
        let header = file.and_then(|file| segment::read_header(&*file, self.id, first_seq));
        let header = header.map_err(StoreError::io("read", &path))?;
        header.map_err(|reason| self.corrupt(&path, 0, &reason, None))
    }

    pub(super) fn corrupt(&self, file: &Path, offset: u64, reason: &str, lost: Option<(u64, u64)>) -> StoreError {
        corrupt(&self.name, file, offset, reason, lost)
    }
}

/// The error for damage in a log.
pub(super) fn corrupt(log: &str, file: &Path, offset: u64, reason: &str, lost: Option<(u64, u64)>) -> StoreError {
    StoreError::Corrupt {
        file: file.to_path_buf(),
        offset_bytes: Some(offset),
        reason: reason.to_string(),
        lost: match lost {
            None => format!("no record of log {log}"),
            Some((first, last)) if first == last => format!("record {first} of log {log}"),
            Some((first, last)) => format!("records {first} to {last} of log {log}"),
        },
        lost_records: lost,
        advice: ADVICE,
    }
}

/// The identity of a log: no other store's log, and no other log of this store, has it.
pub(super) fn log_id(owner: &Hash, name: &str) -> LogId {
    let mut bytes = owner.to_vec();
    bytes.extend_from_slice(name.as_bytes());
    LogId(leaf_hash(&bytes))
}
