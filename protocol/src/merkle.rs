//! The hash tree of RFC 6962 over a log's records: its hashes and its proofs, made and checked.
//!
//! A leaf's hash is SHA-256 of a zero byte and the record; an inner node's of a one byte and its children. A tree of `size` leaves is cut at
//! the largest power of two below `size`.

use sha2::{Digest as _, Sha256};

use crate::error::DecodeError;

/// A SHA-256 hash.
pub type Hash = [u8; 32];
/// Hashes of a proof about a tree of at most 2^64 leaves.
pub const PROOF_HASHES_MAX: usize = 130;

const WHAT: &str = "proof";

/// The hash of a leaf.
pub fn leaf_hash(data: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(data);
    hasher.finalize().into()
}

/// The hash of an inner node.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut joined = [1; 65];
    joined[1..33].copy_from_slice(left);
    joined[33..].copy_from_slice(right);
    Sha256::digest(joined).into()
}

/// The root of a tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// The largest power of two below `count`, which is at least 2.
fn split(count: u64) -> u64 {
    1 << (u64::BITS - 1 - (count - 1).leading_zeros())
}

/// The subtrees, as ranges of leaves, whose hashes prove that leaf `index` is in a tree of `size` leaves, in the order of the proof
/// (RFC 6962, §2.1.1).
pub fn inclusion_ranges(index: u64, size: u64) -> Vec<(u64, u64)> {
    let (mut start, mut end, mut ranges) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((start, middle));
            start = middle;
        }
    }
    ranges.reverse();
    ranges
}

/// The subtrees whose hashes prove that a tree of `old` leaves is the beginning of one of `new` (RFC 6962, §2.1.2).
pub fn consistency_ranges(old: u64, new: u64) -> Vec<(u64, u64)> {
    if old == 0 || old >= new {
        return Vec::new();
    }
    let (mut start, mut end, mut ranges) = (0, new, Vec::new());
    let mut is_whole = true;
    // `old` is where the old tree ends; the walk goes down to the subtree that ends there.
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((start, middle));
            start = middle;
            is_whole = false;
        }
    }
    if !is_whole {
        ranges.push((start, end));
    }
    ranges.reverse();
    ranges
}

/// The root that a leaf and its proof lead to (RFC 9162, §2.1.3.2).
///
/// # Errors
/// The proof has not the length it must have, or the leaf is not in a tree of this size.
pub fn root_of_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash]) -> Result<Hash, DecodeError> {
    if index >= size {
        return Err(DecodeError::invalid(WHAT, "the record is behind the end of the tree"));
    }
    let ranges = inclusion_ranges(index, size);
    if ranges.len() != proof.len() {
        return Err(DecodeError::invalid(
            WHAT,
            format!("it has {} hashes in place of {}", proof.len(), ranges.len()),
        ));
    }
    let up = ranges.iter().zip(proof);
    Ok(up.fold(*leaf, |hash, ((start, _), sibling)| match *start > index {
        true => node_hash(&hash, sibling),
        false => node_hash(sibling, &hash),
    }))
}

/// Checks that a tree of `old` leaves with `old_root` is the beginning of one of `new` leaves with `new_root` (RFC 9162, §2.1.4.2).
///
/// # Errors
/// It is not, or the proof does not show it.
pub fn check_consistency(
    (old, old_root): (u64, &Hash),
    (new, new_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), DecodeError> {
    let wrong = |reason: &str| Err(DecodeError::invalid(WHAT, reason));
    if old > new {
        return wrong("the older tree is the larger one");
    }
    if old == new || old == 0 {
        let is_same = if old == new {
            old_root == new_root
        } else {
            *old_root == empty_root()
        };
        return match proof.is_empty() && is_same {
            true => Ok(()),
            false => wrong("the trees are of one size and differ"),
        };
    }
    let ranges = consistency_ranges(old, new);
    if ranges.len() != proof.len() {
        return wrong("it has not as many hashes as it must have");
    }
    let mut parts = ranges.iter().zip(proof).peekable();
    // A whole subtree of the old tree that is its only one is not said twice.
    let mut old_hash = *old_root;
    if let Some(((_, end), hash)) = parts.peek().copied()
        && *end == old
    {
        old_hash = *hash;
        parts.next();
    }
    let mut new_hash = old_hash;
    for ((start, _), hash) in parts {
        if *start >= old {
            new_hash = node_hash(&new_hash, hash);
        } else {
            old_hash = node_hash(hash, &old_hash);
            new_hash = node_hash(hash, &new_hash);
        }
    }
    match old_hash == *old_root && new_hash == *new_root {
        true => Ok(()),
        false => wrong("the older tree is not the beginning of the newer one"),
    }
}
