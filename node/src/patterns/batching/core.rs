//! When a batch closes: by count, bytes, age and key. Decisions without I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// How much of the past counts for the time between two items: an eighth is new.
const GAP_WEIGHT: u32 = 8;

/// When a batch is full, and how many are filled at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Items of a batch.
    pub count_max: usize,
    /// Bytes of a batch, unless its only item is larger.
    pub bytes_max: usize,
    /// How long the first item of a batch waits for others.
    pub age_max: Duration,
    /// Keys whose batches are being filled at once. One more closes the oldest.
    pub keys_max: usize,
    /// Wait only if another item can be expected meanwhile, and no longer than it takes to fill the batch.
    pub is_adaptive: bool,
}

/// Why a batch was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has as many items as it may.
    Count,
    /// The next item would make it too large.
    Bytes,
    /// Its first item has waited long enough.
    Age,
    /// There were too many keys.
    Keys,
    /// It was asked for.
    Flush,
}

/// A batch that takes nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed<T> {
    /// What its items have in common.
    pub key: String,
    /// They, in the order in which they came.
    pub items: Vec<T>,
    /// Why it was closed.
    pub why: Why,
}

#[derive(Debug)]
struct Open<T> {
    items: Vec<T>,
    bytes: usize,
    due: Instant,
}

/// How long after each other the items of a key come.
#[derive(Debug, Clone, Copy)]
struct Pace {
    last: Instant,
    gap: Option<Duration>,
}

/// Gathers items into batches, a batch for each key.
#[derive(Debug)]
pub struct Batcher<T> {
    limits: Limits,
    open: BTreeMap<String, Open<T>>,
    by_due: BTreeSet<(Instant, String)>,
    paces: BTreeMap<String, Pace>,
}

impl<T> Batcher<T> {
    /// One that holds nothing.
    pub fn new(limits: Limits) -> Self {
        Batcher {
            limits,
            open: BTreeMap::new(),
            by_due: BTreeSet::new(),
            paces: BTreeMap::new(),
        }
    }

    /// Takes an item in; what is thereby closed is added to `closed`, in the order in which it was begun.
    pub fn push(&mut self, key: &str, item: T, bytes: usize, now: Instant, closed: &mut Vec<Closed<T>>) {
        let wait = self.wait(key, now);
        let is_full = |open: &Open<T>| open.bytes.saturating_add(bytes) > self.limits.bytes_max;
        if self.open.get(key).is_some_and(is_full) {
            closed.extend(self.close(key, Why::Bytes));
        }
        if !self.open.contains_key(key) {
            if self.open.len() >= self.limits.keys_max
                && let Some((_, oldest)) = self.by_due.first().cloned()
            {
                closed.extend(self.close(&oldest, Why::Keys));
            }
            let due = now + wait;
            self.by_due.insert((due, key.to_owned()));
            let empty = Open {
                items: Vec::new(),
                bytes: 0,
                due,
            };
            self.open.insert(key.to_owned(), empty);
        }
        let Some(open) = self.open.get_mut(key) else { return };
        open.items.push(item);
        open.bytes = open.bytes.saturating_add(bytes);
        if open.items.len() >= self.limits.count_max {
            closed.extend(self.close(key, Why::Count));
        } else if open.bytes >= self.limits.bytes_max {
            closed.extend(self.close(key, Why::Bytes));
        }
    }

    /// How long the first item of a batch waits.
    fn wait(&mut self, key: &str, now: Instant) -> Duration {
        if !self.limits.is_adaptive {
            return self.limits.age_max;
        }
        if self.paces.len() >= self.limits.keys_max && !self.paces.contains_key(key) {
            let open = &self.open;
            self.paces.retain(|key, _| open.contains_key(key));
        }
        let pace = self
            .paces
            .entry(key.to_owned())
            .or_insert(Pace { last: now, gap: None });
        let gap = now.saturating_duration_since(pace.last);
        if gap > Duration::ZERO || pace.gap.is_some() {
            // One long silence says nothing of what comes after it.
            let gap = gap.min(self.limits.age_max * 2);
            pace.gap = Some(
                pace.gap
                    .map_or(gap, |known| (known * (GAP_WEIGHT - 1) + gap) / GAP_WEIGHT),
            );
        }
        pace.last = now;
        match pace.gap {
            Some(gap) if gap > self.limits.age_max => Duration::ZERO,
            Some(gap) => {
                let to_fill = gap.saturating_mul(u32::try_from(self.limits.count_max).unwrap_or(u32::MAX));
                to_fill.min(self.limits.age_max)
            }
            None => self.limits.age_max,
        }
    }

    /// Closes what has waited long enough.
    pub fn due(&mut self, now: Instant, closed: &mut Vec<Closed<T>>) {
        while let Some((due, key)) = self.by_due.first().cloned() {
            if due > now {
                return;
            }
            closed.extend(self.close(&key, Why::Age));
        }
    }

    /// Closes everything, the oldest first.
    pub fn flush(&mut self, closed: &mut Vec<Closed<T>>) {
        while let Some((_, key)) = self.by_due.first().cloned() {
            closed.extend(self.close(&key, Why::Flush));
        }
    }

    /// When something will have waited long enough.
    pub fn next_due(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Items that are in no closed batch.
    pub fn len(&self) -> usize {
        self.open.values().map(|open| open.items.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn close(&mut self, key: &str, why: Why) -> Option<Closed<T>> {
        let (key, open) = self.open.remove_entry(key)?;
        self.by_due.remove(&(open.due, key.clone()));
        Some(Closed {
            key,
            items: open.items,
            why,
        })
    }
}
