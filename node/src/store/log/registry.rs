//! What the state knows about each log: from where on it is kept, and up to where it is certainly on disk.
//!
//! The files alone cannot tell a log that ends from one whose end was cut off. The registry is written when a segment is
//! full, when the log is shortened, and when the store is closed in good order, so that what it names and the files do
//! not have is known to be lost.

use super::super::error::{Result, StoreError};
use super::super::group::Committer;
use super::super::keyspace::{Batch, SCAN_ENTRIES_MAX};
use super::super::state::{Commit, State};
use std::sync::Arc;
use tokio::sync::oneshot;

/// No keyspace can have this name.
const TABLE: &str = "weft.logs";

/// What is known about a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    /// Records before this one were removed on purpose.
    pub(super) first_seq: u64,
    /// Records before this one are on disk, or lost.
    pub(super) durable_seq: u64,
}

/// What is known about a log, `None` when it is not known at all. Blocks.
pub(super) fn get(state: &State, name: &str) -> Result<Option<Entry>> {
    Ok(state.get(TABLE, name.as_bytes())?.and_then(|value| decode(&value)))
}

/// Notes what is known about a log, durably. Blocks.
pub(super) fn put(state: &State, name: &str, entry: Entry) -> Result<()> {
    put_all(state, &[(name.to_string(), entry)])
}

/// Notes what is known about several logs, in one step. Blocks.
pub(super) fn put_all(state: &State, entries: &[(String, Entry)]) -> Result<()> {
    state.commit_now(TABLE, batch_of(entries))
}

fn batch_of(entries: &[(String, Entry)]) -> Batch {
    let put = |batch: Batch, (name, entry): &(String, Entry)| {
        let mut value = entry.first_seq.to_le_bytes().to_vec();
        value.extend_from_slice(&entry.durable_seq.to_le_bytes());
        batch.put(name.as_bytes(), value)
    };
    entries.iter().fold(Batch::new(), put)
}

/// Notes what is known about a log, durably, with one sync for all that do so at the same time. Blocks.
pub(in crate::store) fn put_together(committer: &Arc<Committer<State>>, name: &str, entry: Entry) -> Result<()> {
    let (reply, mut answer) = oneshot::channel();
    let batch = batch_of(&[(name.to_string(), entry)]);
    let bytes = batch.bytes();
    let commit = Commit {
        keyspace: TABLE,
        batch,
        reply,
    };
    match committer.submit_now(commit, bytes) {
        Ok(()) => match answer.try_recv() {
            Ok(done) => done,
            // Another thread is at it.
            Err(_) => answer.blocking_recv().unwrap_or(Err(StoreError::Closed)),
        },
        Err(commit) => committer.work().commit_now(TABLE, commit.batch),
    }
}

/// Forgets a log. Blocks.
pub(super) fn delete(state: &State, name: &str) -> Result<()> {
    state.commit_now(TABLE, Batch::new().delete(name.as_bytes()))
}

/// The names of all logs, sorted. Blocks.
pub(super) fn names(state: &State) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().map(|name| name.as_bytes().to_vec());
        let page = state.scan(TABLE, b"", after.as_deref(), SCAN_ENTRIES_MAX)?;
        if page.is_empty() {
            return Ok(names);
        }
        names.extend(
            page.into_iter()
                .map(|(name, _)| String::from_utf8_lossy(&name).into_owned()),
        );
    }
}

fn decode(value: &[u8]) -> Option<Entry> {
    let (first, rest) = value.split_first_chunk::<8>()?;
    let durable = rest.first_chunk::<8>()?;
    Some(Entry {
        first_seq: u64::from_le_bytes(*first),
        durable_seq: u64::from_le_bytes(*durable),
    })
}
