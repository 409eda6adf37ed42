//! How a projection was: at a position, at a time, and what is different between two moments.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use weft_protocol::patterns::event_sourcing::{From, Query as All, ReadRequest};

use super::{
    follow::Generation,
    options::ProjectionError,
    shelf::{Groups, too_much},
    sql::Group,
};
use crate::patterns::event_sourcing::{Read, Recorded, event_json};

/// Bytes of groups that are held to look at a moment of the past.
const BYTES_MAX: u64 = 64 << 20;

/// The groups of one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) position: u64,
    pub(super) groups: Groups,
    bytes: u64,
}

/// What became of a group between two moments: as it was, and as it is.
pub(super) type Difference = BTreeMap<Vec<u8>, (Option<Group>, Group)>;

impl Generation {
    /// The groups as they were behind a position. The one that was asked for last is still known.
    ///
    /// # Errors
    /// `Forgotten` when neither the stream nor a snapshot goes back so far; `Invalid` when it would be too much.
    pub(super) async fn at(&self, position: u64) -> Result<Arc<Held>, ProjectionError> {
        if let Some(held) = self.looked_at(position) {
            return Ok(held);
        }
        let mut held = self.nearest(position).await?;
        self.advance(&mut held, position, |_, _, _| {}).await?;
        let held = Arc::new(held);
        *self.lock_past() = Some(Arc::clone(&held));
        Ok(held)
    }

    /// The moment that was looked at last, if it is this one.
    pub(super) fn looked_at(&self, position: u64) -> Option<Arc<Held>> {
        self.lock_past().clone().filter(|held| held.position == position)
    }

    /// Lets go of the moment that was looked at last, if it is this one.
    pub(super) fn forget_past(&self, position: u64) {
        let mut past = self.lock_past();
        if past.as_ref().is_some_and(|held| held.position == position) {
            *past = None;
        }
    }

    /// The groups that changed behind `from` up to `to`.
    ///
    /// # Errors
    /// As [`Generation::at`].
    pub(super) async fn difference(&self, from: u64, to: u64) -> Result<Difference, ProjectionError> {
        let mut held = (*self.at(from).await?).clone();
        let mut before: BTreeMap<Vec<u8>, Option<Group>> = BTreeMap::new();
        self.advance(&mut held, to, |name, group, is_fresh| {
            if let Entry::Vacant(entry) = before.entry(name.to_vec()) {
                entry.insert((!is_fresh).then(|| group.clone()));
            }
        })
        .await?;
        let changed = before.into_iter().filter_map(|(name, before)| {
            let after = held.groups.get(&name)?.clone();
            (before.as_ref() != Some(&after)).then_some((name, (before, after)))
        });
        Ok(changed.collect())
    }

    /// The last position that was recorded at this time or before it.
    pub(super) async fn position_at(&self, unix_ms: u64) -> Result<u64, ProjectionError> {
        let request = ReadRequest {
            from: From::Time(unix_ms.saturating_add(1)),
            query: All::default(),
            follow: false,
            limit: Some(1),
            is_upcast: None,
        };
        let mut reading = self.streams.read(&self.stream, request).await?;
        while let Some(read) = reading.next().await? {
            if let Read::Records(records) = read
                && let Some(first) = records.first()
            {
                return Ok(first.position - 1);
            }
        }
        let info = self.streams.info(&self.stream).await?;
        Ok(info.figures.map_or(0, |figures| figures.version))
    }

    /// The newest snapshot that is not behind this position, or nothing at all.
    async fn nearest(&self, position: u64) -> Result<Held, ProjectionError> {
        let snapshots = self.shelf.snapshots(self.number).await?;
        match snapshots.iter().rev().find(|snapshot| snapshot.position <= position) {
            None => Ok(Held::default()),
            Some(snapshot) => {
                let groups = self
                    .shelf
                    .snapshot_groups(self.number, snapshot.position, BYTES_MAX)
                    .await?;
                Ok(Held {
                    position: snapshot.position,
                    bytes: snapshot.bytes,
                    groups,
                })
            }
        }
    }

    /// Takes in what follows, up to a position. `changing` is told of each group as it was before an event is taken in, and whether it is a new one.
    async fn advance(
        &self,
        held: &mut Held,
        position: u64,
        mut changing: impl FnMut(&[u8], &Group, bool),
    ) -> Result<(), ProjectionError> {
        let Some(count) = position.checked_sub(held.position).filter(|count| *count > 0) else {
            return Ok(());
        };
        let forgotten = |reason: String| ProjectionError::Forgotten { at: position, reason };
        let request = ReadRequest {
            from: From::Position(held.position + 1),
            query: All::default(),
            follow: false,
            limit: Some(count),
            is_upcast: Some(true),
        };
        let mut reading = self.streams.read(&self.stream, request).await?;
        while let Some(read) = reading.next().await? {
            let Read::Records(records) = read else { continue };
            for recorded in records {
                if recorded.position != held.position + 1 {
                    return Err(forgotten(format!("the stream begins at {}", recorded.position)));
                }
                self.take(held, &recorded, &mut changing)?;
                held.position = recorded.position;
            }
        }
        match held.position == position {
            true => Ok(()),
            false => Err(forgotten(format!("the stream ends at {}", held.position))),
        }
    }

    fn take(
        &self,
        held: &mut Held,
        recorded: &Recorded,
        changing: &mut impl FnMut(&[u8], &Group, bool),
    ) -> Result<(), ProjectionError> {
        let stopped = |error: &dyn std::fmt::Display| {
            ProjectionError::Stopped(format!("at the event {}: {error}", recorded.position))
        };
        let event = event_json(&self.stream, recorded);
        let Some((name, keys)) = self.query.group(&event).map_err(|error| stopped(&error))? else {
            return Ok(());
        };
        let is_fresh = !held.groups.contains_key(&name);
        let group = held
            .groups
            .entry(name.clone())
            .or_insert_with(|| self.query.fresh(keys));
        changing(&name, group, is_fresh);
        let before = if is_fresh { 0 } else { group.weight() + name.len() };
        self.query.take(group, &event).map_err(|error| stopped(&error))?;
        held.bytes = (held.bytes + (group.weight() + name.len()) as u64).saturating_sub(before as u64);
        match held.bytes > BYTES_MAX {
            true => Err(too_much(BYTES_MAX)),
            false => Ok(()),
        }
    }
}
