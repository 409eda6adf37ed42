//! A projection's groups, and the events that they take in.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::Value;
use weft_protocol::Subject;

use super::{
    options::{GROUPS_MAX, ProjectionError},
    shelf::{Progress, Shelf},
    sql::{Group, Query},
};
use crate::patterns::event_sourcing::{Recorded, event_json};

/// Bytes of groups that are written at once; one more group may come on top.
const BATCH_BYTES: usize = 4 << 20;
/// Groups that are written at once.
const BATCH_GROUPS: usize = 4096;
/// Bytes of groups that are held in memory because they were there lately.
const CACHE_BYTES: usize = 2 << 20;

/// What a generation of a projection keeps.
pub(super) struct Table {
    shelf: Shelf,
    generation: u64,
    stream: Subject,
    query: Arc<Query>,
    progress: Progress,
    cache: HashMap<Vec<u8>, Group>,
    cached_bytes: usize,
}

/// Groups that have changed and are not written yet.
#[derive(Default)]
struct Changed {
    groups: BTreeMap<Vec<u8>, Group>,
    bytes: usize,
}

impl Table {
    pub(super) async fn open(
        shelf: Shelf,
        generation: u64,
        stream: Subject,
        query: Arc<Query>,
    ) -> Result<Self, ProjectionError> {
        let progress = shelf.progress(generation).await?;
        Ok(Table {
            shelf,
            generation,
            stream,
            query,
            progress,
            cache: HashMap::new(),
            cached_bytes: 0,
        })
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Takes in records that follow what was taken in before; those that were are passed over. Durable when it returns.
    ///
    /// # Errors
    /// `Stopped` behind the last event that could be taken in. After any other failure what is in memory is what is on the disk.
    pub(super) async fn take(&mut self, records: &[Recorded]) -> Result<(), ProjectionError> {
        let taken = self.take_all(records).await;
        if matches!(taken, Err(ref error) if !matches!(error, ProjectionError::Stopped(_))) {
            self.cache.clear();
            self.cached_bytes = 0;
            self.progress = self.shelf.progress(self.generation).await?;
        }
        taken
    }

    async fn take_all(&mut self, records: &[Recorded]) -> Result<(), ProjectionError> {
        if let Some(reason) = &self.progress.stopped {
            return Err(ProjectionError::Stopped(reason.clone()));
        }
        let mut changed = Changed::default();
        for recorded in records {
            if recorded.position <= self.progress.position {
                continue;
            }
            let event = event_json(&self.stream, recorded);
            match self.take_one(&mut changed, &event).await {
                Err(ProjectionError::Stopped(reason)) => {
                    let reason = format!("at the event {}: {reason}", recorded.position);
                    self.progress.stopped = Some(reason.clone());
                    self.write(&mut changed).await?;
                    return Err(ProjectionError::Stopped(reason));
                }
                taken => taken?,
            }
            self.progress.missed += recorded.position - self.progress.position - 1;
            self.progress.position = recorded.position;
            self.progress.recorded_ms = recorded.record.recorded_ms;
            if changed.bytes > BATCH_BYTES || changed.groups.len() >= BATCH_GROUPS {
                self.write(&mut changed).await?;
            }
        }
        self.write(&mut changed).await
    }

    /// Takes in one event.
    ///
    /// # Errors
    /// `Stopped` when it cannot be: then nothing has changed.
    async fn take_one(&mut self, changed: &mut Changed, event: &Value) -> Result<(), ProjectionError> {
        let stopped = |reason: String| ProjectionError::Stopped(reason);
        let group = self.query.group(event).map_err(|error| stopped(error.to_string()))?;
        let Some((name, keys)) = group else { return Ok(()) };
        let (mut group, is_fresh) = match changed.groups.get(&name).or_else(|| self.cache.get(&name)) {
            Some(group) => (group.clone(), false),
            None => match self.shelf.group(self.generation, &name).await? {
                Some(group) => (group, false),
                None => (self.query.fresh(keys), true),
            },
        };
        if is_fresh && self.progress.groups >= GROUPS_MAX {
            return Err(stopped(format!("there are {GROUPS_MAX} groups, which is the limit")));
        }
        let misfits = self
            .query
            .take(&mut group, event)
            .map_err(|error| stopped(error.to_string()))?;
        self.progress.misfits += misfits;
        self.progress.taken += 1;
        self.progress.groups += u64::from(is_fresh);
        changed.bytes += name.len() + group.weight();
        changed.groups.insert(name, group);
        Ok(())
    }

    async fn write(&mut self, changed: &mut Changed) -> Result<(), ProjectionError> {
        let Changed { groups, .. } = std::mem::take(changed);
        self.shelf
            .advance(self.generation, groups.iter(), &self.progress)
            .await?;
        for (name, group) in groups {
            self.cached_bytes += name.len() + group.weight();
            self.cache.insert(name, group);
        }
        if self.cached_bytes > CACHE_BYTES {
            self.cache.clear();
            self.cached_bytes = 0;
        }
        Ok(())
    }

    /// Notes which stream of this name it is.
    ///
    /// # Errors
    /// `Stopped` when it is another one than before.
    pub(super) async fn belongs_to(&mut self, created_ms: u64) -> Result<(), ProjectionError> {
        match self.progress.stream_created_ms {
            Some(known) if known == created_ms => Ok(()),
            Some(_) => {
                let reason = format!("the stream {} was deleted and made anew", self.stream);
                let progress = Progress {
                    stopped: Some(reason.clone()),
                    ..self.progress.clone()
                };
                self.note(progress).await?;
                Err(ProjectionError::Stopped(reason))
            }
            None => {
                let progress = Progress {
                    stream_created_ms: Some(created_ms),
                    ..self.progress.clone()
                };
                self.note(progress).await
            }
        }
    }

    /// Notes that a snapshot was taken here by itself.
    pub(super) async fn has_snapshot(&mut self) -> Result<(), ProjectionError> {
        let progress = Progress {
            snapshot: self.progress.position,
            ..self.progress.clone()
        };
        self.note(progress).await
    }

    async fn note(&mut self, progress: Progress) -> Result<(), ProjectionError> {
        self.shelf
            .advance(self.generation, std::iter::empty(), &progress)
            .await?;
        self.progress = progress;
        Ok(())
    }
}
