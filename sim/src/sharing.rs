//! Values that many nodes of a run hold alike, kept once.
//!
//! Promises: what is handed out equals what was given, and is let go with the last node that holds it; nothing of a run is
//! there in the next. Whether something was there already is told to nobody, so that no node can behave otherwise for it.

use std::{
    any::Any,
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use weft_node::platform::{Alike, Sharing};

/// The fewest values at which those nobody holds are looked for.
const SWEEP_MIN: usize = 1024;

/// Where the nodes of one run share. Not seeded, because asking for entropy would be seen in the run.
#[derive(Default)]
pub struct Shelf(Mutex<Values>);

#[derive(Default)]
struct Values {
    /// By digest: the first one met, and those that have the same digest and are not the same.
    known: HashMap<u64, Vec<Weak<dyn Alike>>, BuildHasherDefault<DefaultHasher>>,
    sweep_at: usize,
}

impl Shelf {
    /// How many values are held by somebody.
    pub fn len(&self) -> usize {
        let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.known.values().flatten().filter(|v| v.strong_count() > 0).count()
    }

    /// Whether nobody holds anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Sharing for Shelf {
    fn shared(&self, value: Arc<dyn Alike>) -> Arc<dyn Alike> {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.sweep();
        let alike = values.known.entry(value.digest()).or_default();
        let held = alike.iter().filter_map(Weak::upgrade).find(|held| {
            let held: &dyn Any = &**held;
            value.is_like(held)
        });
        if let Some(held) = held {
            return held;
        }
        alike.retain(|known| known.strong_count() > 0);
        alike.push(Arc::downgrade(&value));
        value
    }
}

impl Values {
    /// Forgets what nobody holds, each time there is twice as much as was left.
    fn sweep(&mut self) {
        if self.known.len() < self.sweep_at.max(SWEEP_MIN) {
            return;
        }
        self.known.retain(|_, alike| {
            alike.retain(|known| known.strong_count() > 0);
            !alike.is_empty()
        });
        self.sweep_at = self.known.len() * 2;
    }
}

#[cfg(test)]
mod tests {
    use weft_node::platform::share;

    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let shelf = Shelf::default();
        let (one, same, other) = (
            share(&shelf, vec![1_u8; 100]),
            share(&shelf, vec![1_u8; 100]),
            share(&shelf, vec![2_u8; 100]),
        );
        assert!(Arc::ptr_eq(&one, &same) && !Arc::ptr_eq(&one, &other));
        assert_eq!((&*one, &*other), (&vec![1; 100], &vec![2; 100]));
        let text = share(&shelf, "x".to_owned());
        assert!(Arc::ptr_eq(&text, &share(&shelf, "x".to_owned())));
        assert_eq!(shelf.len(), 3);
    }

    /// All of them have one digest.
    #[derive(PartialEq, Eq, Debug)]
    struct Colliding(u32);

    impl std::hash::Hash for Colliding {
        fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
            7.hash(state);
        }
    }

    #[test]
    fn a_digest_is_not_believed() {
        let shelf = Shelf::default();
        let all: Vec<_> = (0..10).map(|n| share(&shelf, Colliding(n % 5))).collect();
        for (n, value) in (0..).zip(&all) {
            assert_eq!(**value, Colliding(n % 5));
        }
        assert!(Arc::ptr_eq(&all[1], &all[6]));
        assert_eq!(shelf.len(), 5);
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let shelf = Shelf::default();
        let kept = share(&shelf, u64::MAX);
        for n in 0..100_000_u64 {
            drop(share(&shelf, n));
        }
        assert_eq!(shelf.len(), 1);
        let values = shelf.0.lock().unwrap();
        assert!(values.known.len() <= 2 * SWEEP_MIN, "{}", values.known.len());
        drop(values);
        assert!(Arc::ptr_eq(&kept, &share(&shelf, u64::MAX)));
        drop(kept);
        assert!(shelf.is_empty());
    }
}
