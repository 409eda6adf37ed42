//! What a group has agreed upon on its way to the disk of a copy: appended by its log, or taken in from another member.

use std::collections::VecDeque;

use bytes::Bytes;
use weft_protocol::{Wire as _, patterns::event_sourcing::Record};

use super::{BLOCKS_AHEAD_MAX, Stream, corrupt};
use crate::{patterns::event_sourcing::options::StreamError, store::Appending};

/// Appends of a group's log that may be on their way to the disk.
const LANDING_MAX: usize = 4096;

/// Appends of a group's log on their way to the disk.
#[derive(Default)]
pub(super) struct Landing {
    under_way: VecDeque<Appending>,
    /// One of them did not arrive: what is known in memory is not what is on the disk, and nothing may be built upon it.
    pub(super) has_failed: bool,
}

/// Whoever waits for an append to arrive: when it did not, or whoever waited has gone, nothing may be built upon it.
struct Unsure<'a>(&'a Stream);

impl Drop for Unsure<'_> {
    fn drop(&mut self) {
        self.0.landing().has_failed = true;
    }
}

impl Stream {
    /// Waits until everything that was appended is on the disk, and so can be read.
    pub(in crate::patterns::event_sourcing) async fn settle(&self) -> Result<(), StreamError> {
        let _one = self.settling.lock().await;
        while let Some(first) = self.next_to_land() {
            self.landed(first).await?;
        }
        if self.landing().has_failed {
            return Err(not_landed());
        }
        self.log.append(Vec::new()).await?;
        Ok(())
    }

    pub(super) fn landing(&self) -> std::sync::MutexGuard<'_, Landing> {
        self.landing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next_to_land(&self) -> Option<Appending> {
        self.landing().under_way.pop_front()
    }

    /// Notes an append that nobody waits for. When there are many, the oldest is waited for.
    pub(super) async fn land(&self, appending: Appending) -> Result<(), StreamError> {
        let is_full = {
            let mut landing = self.landing();
            landing.under_way.push_back(appending);
            landing.under_way.len() > LANDING_MAX
        };
        if is_full {
            let _one = self.settling.lock().await;
            if let Some(first) = self.next_to_land() {
                self.landed(first).await?;
            }
        }
        Ok(())
    }

    async fn landed(&self, appending: Appending) -> Result<(), StreamError> {
        let unsure = Unsure(self);
        appending.durable().await?;
        std::mem::forget(unsure);
        Ok(())
    }

    /// Whether nothing is on its way to the disk that matters to a group.
    pub(in crate::patterns::event_sourcing) fn is_settled(&self) -> bool {
        self.landing().under_way.is_empty()
    }

    /// Begins again with what is on the disk, after something did not get there.
    pub(in crate::patterns::event_sourcing) async fn recover(&self) {
        let _one = self.settling.lock().await;
        let mut tail = self.tail.lock().await;
        *self.landing() = Landing::default();
        *tail = None;
    }

    /// Takes in records as another member has them, the first of them at this index. What is there already is passed over.
    ///
    /// They are all of the entries of the group's log that they come from: what the log says of these later is known by that to be done.
    pub(in crate::patterns::event_sourcing) async fn take_in(
        &self,
        first: u64,
        records: Vec<Bytes>,
    ) -> Result<(), StreamError> {
        loop {
            self.check_there()?;
            let written = self.written.notified();
            let mut slot = self.tail.lock().await;
            let tail = self.tail(&mut slot).await?;
            if tail.recent.full_count() > BLOCKS_AHEAD_MAX {
                drop(slot);
                written.await;
                continue;
            }
            if self.landing().has_failed {
                return Err(not_landed());
            }
            let Some(known) = tail.next.checked_sub(first) else {
                return Err(StreamError::Again(format!(
                    "records from {} on came, and {} are there",
                    first + 1,
                    tail.next
                )));
            };
            let new: Vec<Bytes> = records.into_iter().skip(known as usize).collect();
            if new.is_empty() {
                return Ok(());
            }
            let read = new.iter().map(|record| Record::from_bytes(record).map_err(corrupt));
            let read: Vec<Record> = read.collect::<Result<_, _>>()?;
            let appending = self.log.append_at(tail.next, new).await;
            let appending = appending.inspect_err(|_| *slot = None)?;
            let tail = self.tail(&mut slot).await?;
            for (record, leaf) in read.iter().zip(appending.leaves()) {
                tail.push(record, *leaf);
            }
            if tail.recent.full().is_some() {
                self.full.notify_one();
            }
            drop(slot);
            return self.land(appending).await;
        }
    }
}

pub(super) fn not_landed() -> StreamError {
    StreamError::Again("something that was appended before is not on this node's disk".into())
}
