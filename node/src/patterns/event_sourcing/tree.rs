//! The hash tree over a stream's records, as far as proofs need it: the hashes of whole blocks, and the leaves of the last one.
//!
//! All leaves of 10 million records would be 320 MB. The roots of blocks of [`BLOCK`] records are 1.2 MB; the leaves of one block are
//! computed from its records when a proof goes through it.

use std::collections::BTreeMap;

use weft_protocol::merkle::{Hash, empty_root, node_hash};

/// Records of a block; a power of two, so that its root is a node of the tree.
pub(super) const BLOCK: u64 = 256;

/// Hashes of blocks and the leaves behind them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    blocks: Vec<Hash>,
    open: Vec<Hash>,
}

/// The leaves of some blocks, by the number of the block.
pub(super) type Leaves = BTreeMap<u64, Vec<Hash>>;

impl Tree {
    /// A tree of whole blocks.
    pub(super) fn of_blocks(blocks: Vec<Hash>) -> Self {
        Tree {
            blocks,
            open: Vec::new(),
        }
    }

    /// How many leaves it has.
    #[cfg(test)]
    pub(super) fn size(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK + self.open.len() as u64
    }

    /// Adds a leaf; the number and the root of the block that it completes.
    pub(super) fn push(&mut self, leaf: Hash) -> Option<(u64, Hash)> {
        self.open.push(leaf);
        if self.open.len() as u64 != BLOCK {
            return None;
        }
        let root = root(&self.open);
        self.open.clear();
        self.blocks.push(root);
        Some((self.blocks.len() as u64 - 1, root))
    }

    /// The blocks whose leaves [`Tree::hash`] needs for these ranges.
    pub(super) fn needs(&self, ranges: &[(u64, u64)]) -> Vec<u64> {
        let mut blocks = Vec::new();
        for (start, end) in ranges.iter().filter(|(start, end)| start < end) {
            for block in [start / BLOCK, (end - 1) / BLOCK] {
                let (first, next) = (block * BLOCK, (block + 1) * BLOCK);
                let is_whole = *start <= first && next <= *end;
                if !is_whole && block < self.blocks.len() as u64 {
                    blocks.push(block);
                }
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// The hash of the subtree over these leaves, which must begin at a multiple of its own size rounded up; `None` when leaves are missing.
    pub(super) fn hash(&self, (start, end): (u64, u64), leaves: &Leaves) -> Option<Hash> {
        let count = end.checked_sub(start)?;
        if count == 0 {
            return Some(empty_root());
        }
        let block = start / BLOCK;
        if count == BLOCK && start.is_multiple_of(BLOCK) && block < self.blocks.len() as u64 {
            return self.blocks.get(block as usize).copied();
        }
        if count <= BLOCK {
            let of_block = match block == self.blocks.len() as u64 {
                true => &self.open,
                false => leaves.get(&block)?,
            };
            let first = (start % BLOCK) as usize;
            return of_block.get(first..first + count as usize).map(root);
        }
        let middle = start + count.next_power_of_two() / 2;
        Some(node_hash(
            &self.hash((start, middle), leaves)?,
            &self.hash((middle, end), leaves)?,
        ))
    }
}

/// The root over some leaves (RFC 6962, §2.1).
pub(super) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_protocol::merkle::{
        check_consistency, consistency_ranges, inclusion_ranges, leaf_hash, root_of_inclusion,
    };

    use super::*;

    #[test]
    fn proofs_through_blocks_lead_to_the_root() {
        let leaves: Vec<Hash> = (0..2000_u64).map(|n| leaf_hash(&n.to_le_bytes())).collect();
        let mut tree = Tree::default();
        for leaf in &leaves {
            tree.push(*leaf);
        }
        assert_eq!(tree.size(), 2000);
        let hashes = |ranges: &[(u64, u64)]| -> Vec<Hash> {
            let blocks = tree.needs(ranges);
            assert!(blocks.len() <= 3, "{blocks:?}");
            let load = |block: &u64| {
                let first = (block * BLOCK) as usize;
                (*block, leaves[first..first + BLOCK as usize].to_vec())
            };
            let loaded: Leaves = blocks.iter().map(load).collect();
            ranges.iter().map(|range| tree.hash(*range, &loaded).unwrap()).collect()
        };
        for size in [1, 2, 255, 256, 257, 511, 512, 513, 1023, 1025, 1791, 1792, 1999, 2000] {
            let whole = root(&leaves[..size as usize]);
            assert_eq!(hashes(&[(0, size)]), [whole], "{size}");
            for index in (0..size).step_by(37).chain([size - 1]) {
                let proof = hashes(&inclusion_ranges(index, size));
                let leaf = &leaves[index as usize];
                assert_eq!(
                    root_of_inclusion(leaf, index, size, &proof),
                    Ok(whole),
                    "{index} of {size}"
                );
            }
            for old in (1..=size).step_by(41) {
                let proof = hashes(&consistency_ranges(old, size));
                let old_root = root(&leaves[..old as usize]);
                let checked = check_consistency((old, &old_root), (size, &whole), &proof);
                assert_eq!(checked, Ok(()), "{old} of {size}");
            }
        }
    }
}
