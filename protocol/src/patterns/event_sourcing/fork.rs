//! Evidence of a fork: two checkpoints of one stream that its owner has signed and that cannot both be true. One text that a stranger checks
//! with nothing else.
//!
//! A fork is a history that was changed after somebody had it signed: records taken out, put in or exchanged. To whoever relied upon the
//! earlier checkpoint it is no matter whether that was malice, a disk restored from an old copy, or a stream deleted and made anew.

#[cfg(test)]
mod tests;

use data_encoding::BASE64;

use super::checkpoint::{CHECKPOINT_BYTES_MAX, Checkpoint};
use crate::error::{DecodeError, TrustError, at_most};
use crate::merkle::{Hash, PROOF_HASHES_MAX, check_consistency};

const HEAD: &str = "weft-fork@v1";
const WHAT: &str = "evidence of a fork";
/// The text of such evidence.
pub const FORK_BYTES_MAX: usize = 2 * CHECKPOINT_BYTES_MAX + (PROOF_HASHES_MAX + 2) * 64;

/// Evidence, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fork {
    /// The checkpoint with fewer records, or with as many.
    pub earlier: String,
    /// The checkpoint with more.
    pub later: String,
    /// The root that the later history has over as many records as the earlier one.
    pub root: Hash,
    /// The hashes that lead from there to the later root.
    pub hashes: Vec<Hash>,
}

/// What good evidence says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forked {
    /// What was signed of so many records.
    pub earlier: Checkpoint,
    /// What was signed of more, or of as many, and is no continuation.
    pub later: Checkpoint,
}

impl Fork {
    /// Whether a text is to be such evidence.
    pub fn is_text(text: &str) -> bool {
        text.starts_with(HEAD)
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEAD}\nroot {}\n", BASE64.encode(&self.root));
        for hash in &self.hashes {
            text.push_str(&BASE64.encode(hash));
            text.push('\n');
        }
        format!("{text}\n{}\n{}", self.earlier, self.later)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// It is no evidence of a fork.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        at_most(WHAT, text.len(), FORK_BYTES_MAX)?;
        let malformed = |reason: &str| DecodeError::malformed(WHAT, reason);
        let parts: Vec<&str> = text.split("\n\n").collect();
        let [head, body, signatures, later @ ..] = parts.as_slice() else {
            return Err(malformed("it has no two checkpoints"));
        };
        if later.len() != 2 {
            return Err(malformed("it has not two checkpoints"));
        }
        let mut lines = head.split('\n');
        if lines.next() != Some(HEAD) {
            return Err(malformed("it does not begin with weft-fork@v1"));
        }
        let hash = |text: &str| {
            let bytes = BASE64.decode(text.as_bytes()).ok();
            let hash = bytes.and_then(|bytes| Hash::try_from(bytes).ok());
            hash.ok_or_else(|| malformed("a hash in it is none"))
        };
        let root = lines.next().and_then(|line| line.strip_prefix("root "));
        let root = hash(root.ok_or_else(|| malformed("it has no root"))?)?;
        let mut hashes = Vec::new();
        for line in lines {
            at_most("hashes of a proof", hashes.len() + 1, PROOF_HASHES_MAX)?;
            hashes.push(hash(line)?);
        }
        Ok(Self {
            earlier: format!("{body}\n\n{signatures}\n"),
            later: later.join("\n\n"),
            root,
            hashes,
        })
    }

    /// Verifies that both checkpoints are their owner's, and that neither is a continuation of the other.
    ///
    /// # Errors
    /// A signature that is none, two streams, or no contradiction.
    pub fn verify(&self) -> Result<Forked, TrustError> {
        let (earlier, later) = (Checkpoint::open(&self.earlier)?, Checkpoint::open(&self.later)?);
        let no_fork = |reason: &str| Err(DecodeError::invalid(WHAT, reason).into());
        if earlier.origin != later.origin {
            return no_fork("the checkpoints are of two streams, or of two owners");
        }
        check_consistency((earlier.size, &self.root), (later.size, &later.root), &self.hashes)?;
        match self.root == earlier.root {
            true => no_fork("the later history goes on from the earlier one"),
            false => Ok(Forked { earlier, later }),
        }
    }
}
