//! A map whose values know their own key.
//!
//! As many members as a mesh has are in two of them, in every node: a sorted list with the beginnings of the keys takes four tenths of what a
//! tree takes that has the keys once more, and looks at one value or two to find one. Where one is put in or taken out, those behind it move.

use weft_protocol::PublicKey;

/// What has a key of its own, which does not change.
pub(super) trait Keyed {
    fn key(&self) -> PublicKey;
}

/// See the module. In the order of the keys.
pub(super) struct ByKey<T>(Vec<(Start, T)>);

/// The beginning of a key, as a number that orders as keys do.
type Start = u64;

impl<T> Default for ByKey<T> {
    fn default() -> Self {
        ByKey(Vec::new())
    }
}

impl<T: Keyed> ByKey<T> {
    fn find(&self, key: &PublicKey) -> Result<usize, usize> {
        let start = start(key);
        self.0
            .binary_search_by(|(other, value)| other.cmp(&start).then_with(|| value.key().cmp(key)))
    }

    pub(super) fn get(&self, key: &PublicKey) -> Option<&T> {
        self.find(key).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn get_mut(&mut self, key: &PublicKey) -> Option<&mut T> {
        self.find(key).ok().map(|at| &mut self.0[at].1)
    }

    pub(super) fn contains_key(&self, key: &PublicKey) -> bool {
        self.find(key).is_ok()
    }

    /// Puts a value in, in place of the one with its key.
    pub(super) fn insert(&mut self, value: T) {
        let key = value.key();
        match self.find(&key) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => {
                if self.0.len() == self.0.capacity() {
                    // Twice as much each time would leave half of it unused, for good.
                    self.0.reserve_exact(self.0.len() / 8 + 4);
                }
                self.0.insert(at, (start(&key), value));
            }
        }
    }

    pub(super) fn remove(&mut self, key: &PublicKey) {
        if let Ok(at) = self.find(key) {
            self.0.remove(at);
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|(_, value)| value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().map(|(_, value)| value)
    }
}

fn start(key: &PublicKey) -> Start {
    key.as_bytes()[..8]
        .iter()
        .fold(0, |start, byte| start << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use weft_protocol::SecretKey;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Value(PublicKey, u32);

    impl Keyed for Value {
        fn key(&self) -> PublicKey {
            self.0
        }
    }

    fn key(number: u8) -> PublicKey {
        SecretKey::from_bytes(&[number; 32]).public()
    }

    proptest! {
        #[test]
        fn it_is_what_a_tree_is(deeds in proptest::collection::vec((0..3u8, 0..40u8, any::<u32>()), 0..200)) {
            let (mut map, mut tree) = (ByKey::default(), BTreeMap::new());
            for (deed, number, value) in deeds {
                let key = key(number);
                match deed {
                    0 => {
                        map.insert(Value(key, value));
                        tree.insert(key, value);
                    }
                    1 => {
                        map.remove(&key);
                        tree.remove(&key);
                    }
                    _ => {
                        map.retain(|kept: &Value| kept.1 % 5 != value % 5);
                        tree.retain(|_, kept| *kept % 5 != value % 5);
                    }
                }
                prop_assert_eq!(map.get(&key).map(|kept| kept.1), tree.get(&key).copied());
                prop_assert_eq!(map.contains_key(&key), tree.contains_key(&key));
                prop_assert_eq!(map.get_mut(&key).is_some(), tree.contains_key(&key));
            }
            prop_assert_eq!(map.len(), tree.len());
            prop_assert!(map.iter().map(|kept| (kept.0, kept.1)).eq(tree.iter().map(|(key, kept)| (*key, *kept))));
            prop_assert!(map.iter_mut().map(|kept| kept.0).eq(tree.keys().copied()));
        }
    }

    #[test]
    fn keys_that_begin_alike_are_told_apart() {
        // No two keys anybody made begin alike; what is compared here is the rest.
        let mut keys: Vec<PublicKey> = (0..=255)
            .filter_map(|last| {
                let mut bytes = [7; 32];
                bytes[31] = last;
                PublicKey::from_bytes(bytes).ok()
            })
            .collect();
        keys.sort();
        assert!(keys.len() > 50);
        let mut map = ByKey::default();
        for (number, key) in keys.iter().enumerate().rev() {
            map.insert(Value(*key, number as u32));
        }
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(map.get(key), Some(&Value(*key, number as u32)));
        }
        assert!(map.iter().map(|value| value.0).eq(keys));
    }
}
