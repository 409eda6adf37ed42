//! The hash tree of RFC 6962 over a log's records, kept as its frontier.
//!
//! A frontier is the list of perfect subtrees, largest first, that the leaves so far make up: at most 64 hashes. It is
//! enough to add leaves and to give the root, and small enough to stand in every segment's header.

use weft_protocol::merkle::empty_root;
pub use weft_protocol::merkle::{Hash, leaf_hash, node_hash};

/// The frontier of a growing tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    count: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// A frontier of `count` leaves from its peaks, largest subtree first; `None` when their number does not fit.
    pub fn from_peaks(count: u64, peaks: Vec<Hash>) -> Option<Frontier> {
        (peaks.len() == Frontier::peaks_of(count)).then_some(Frontier { count, peaks })
    }

    /// How many peaks a tree of `count` leaves has.
    pub fn peaks_of(count: u64) -> usize {
        count.count_ones() as usize
    }

    /// How many leaves the tree has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The roots of the perfect subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf's hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // One subtree is joined for every trailing one bit of the count, as in a binary counter.
        for _ in 0..self.count.trailing_ones() {
            let left = self
                .peaks
                .pop()
                .expect("invariant: one peak for every one bit of the count");
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.count += 1;
    }

    /// The root of the tree; the hash of nothing when it has no leaf.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            None => empty_root(),
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition in RFC 6962, section 2.1, word for word.
    fn root_by_definition(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => empty_root(),
            1 => leaves[0],
            count => {
                let split = count.next_power_of_two() / 2;
                node_hash(
                    &root_by_definition(&leaves[..split]),
                    &root_by_definition(&leaves[split..]),
                )
            }
        }
    }

    #[test]
    fn the_root_is_that_of_rfc_6962() {
        let mut frontier = Frontier::default();
        let mut leaves = Vec::new();
        for index in 0..70_u32 {
            assert_eq!(frontier.root(), root_by_definition(&leaves));
            assert_eq!(frontier.peaks().len(), Frontier::peaks_of(frontier.count()));
            let leaf = leaf_hash(&index.to_le_bytes());
            leaves.push(leaf);
            frontier.push(leaf);
        }
        let copy = Frontier::from_peaks(70, frontier.peaks().to_vec()).unwrap();
        assert_eq!(copy, frontier);
        assert!(Frontier::from_peaks(71, frontier.peaks().to_vec()).is_none());
    }

    #[test]
    fn known_hashes_do_not_change() {
        let hex = super::super::error::hex;
        assert_eq!(
            hex(&leaf_hash(b"")),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            hex(&Frontier::default().root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
