//! Which connections there are, to find one that can make room.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::local::limits::Activity;

/// The connections of one listener.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    entries: BTreeMap<u64, Arc<Activity>>,
}

impl Connections {
    fn with<T>(&self, f: impl FnOnce(&mut List) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lists a connection until the entry is dropped.
    pub(super) fn add(&self, activity: Arc<Activity>) -> Entry {
        let number = self.with(|list| {
            list.next += 1;
            list.entries.insert(list.next, activity);
            list.next
        });
        Entry {
            connections: self.clone(),
            number,
        }
    }

    /// Asks the connection that has waited longest for a request to go; whether there is one.
    pub(super) fn evict_longest_waiting(&self) -> bool {
        self.with(|list| {
            let waiting = list
                .entries
                .values()
                .filter_map(|activity| Some((activity.waiting_since()?, activity)));
            let longest = waiting.min_by_key(|(since, _)| *since);
            longest.inspect(|(_, activity)| activity.evict.notify_one()).is_some()
        })
    }
}

/// A place in the list.
#[derive(Debug)]
pub(super) struct Entry {
    connections: Connections,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.with(|list| list.entries.remove(&self.number));
    }
}
