//! Work that is done in the order in which it came, for each key by itself; what waits together is done together.
//!
//! Promises: of one key one piece of work is under way at a time, and takes in all that came meanwhile; nothing is kept of a key that has no
//! work. What waits has room: for each key so much, for all together so much; whoever brings more waits.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Work for one key.
struct Lane<T> {
    waiting: Vec<Item<T>>,
    room: Arc<Semaphore>,
}

/// One piece of it, with the room that it takes: given back when it is dropped.
pub(super) struct Item<T> {
    /// What it is.
    pub(super) work: T,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// See the module.
pub(super) struct Lanes<K, T> {
    lanes: Mutex<HashMap<K, Lane<T>>>,
    one_max: usize,
    room: Arc<Semaphore>,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    /// With so many units of room for each key, and for all.
    pub(super) fn new(one_max: usize, all_max: usize) -> Self {
        Lanes {
            lanes: Mutex::default(),
            one_max,
            room: Arc::new(Semaphore::new(all_max)),
        }
    }

    /// Puts work in, when there is room for so many units. Whether nobody works for this key: then the caller has somebody begin, who takes
    /// what waits with [`Lanes::take`] until there is nothing.
    ///
    /// Cancel-safe: either the work was put in, or it was not.
    pub(super) async fn put(&self, key: &K, work: T, units: usize) -> bool {
        let units = units.clamp(1, self.one_max) as u32;
        let room = match self.lock().get(key) {
            Some(lane) => Arc::clone(&lane.room),
            None => Arc::new(Semaphore::new(self.one_max)),
        };
        // They are never closed.
        let (Ok(one), Ok(all)) = (
            Arc::clone(&room).acquire_many_owned(units).await,
            Arc::clone(&self.room).acquire_many_owned(units).await,
        ) else {
            return false;
        };
        let item = Item {
            work,
            _room: (one, all),
        };
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(key) {
            lane.waiting.push(item);
            return false;
        }
        let waiting = vec![item];
        lanes.insert(key.clone(), Lane { waiting, room });
        true
    }

    /// All that waits for a key; nothing: whoever works for it has finished.
    pub(super) fn take(&self, key: &K) -> Option<Vec<Item<T>>> {
        let mut lanes = self.lock();
        let lane = lanes.get_mut(key)?;
        if lane.waiting.is_empty() {
            lanes.remove(key);
            return None;
        }
        Some(std::mem::take(&mut lane.waiting))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Lane<T>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn works(items: Vec<Item<u32>>) -> Vec<u32> {
        items.into_iter().map(|item| item.work).collect()
    }

    #[tokio::test]
    async fn one_works_for_a_key_at_a_time_and_takes_what_came() {
        let lanes: Lanes<&str, u32> = Lanes::new(10, 20);
        assert!(lanes.put(&"a", 1, 1).await);
        assert!(!lanes.put(&"a", 2, 1).await);
        assert!(lanes.put(&"b", 3, 1).await);
        assert_eq!(works(lanes.take(&"a").unwrap()), [1, 2]);
        // Whoever works for it has not finished yet.
        assert!(!lanes.put(&"a", 4, 1).await);
        assert_eq!(works(lanes.take(&"a").unwrap()), [4]);
        assert!(lanes.take(&"a").is_none());
        assert!(lanes.put(&"a", 5, 1).await);
        assert_eq!(lanes.lock().len(), 2);
    }

    #[tokio::test]
    async fn what_waits_has_its_room() {
        let lanes: Lanes<&str, u32> = Lanes::new(10, 15);
        // More than there is room for takes all of it.
        assert!(lanes.put(&"a", 1, 50).await);
        assert!(lanes.put(&"a", 2, 1).now_or_never().is_none());
        assert!(lanes.put(&"b", 3, 5).await);
        assert!(lanes.put(&"c", 4, 1).now_or_never().is_none());
        drop(lanes.take(&"a"));
        assert!(!lanes.put(&"a", 2, 1).await);
        assert!(lanes.put(&"c", 4, 1).await);
    }
}
