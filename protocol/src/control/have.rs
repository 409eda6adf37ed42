//! What a member has of the directory, said briefly enough to be asked for the rest.

use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::error::{DecodeError, at_most};
use crate::ident::PublicKey;
use crate::limits::MARKS_MAX;

/// Of one record: six bytes of a hash of its signer's key, six of its `seq`.
const MARK_BYTES: usize = 12;
const HALF: usize = MARK_BYTES / 2;
/// A `seq` is a time in milliseconds, or little beyond; what six bytes cannot hold counts as the most they can.
const SEQ_MAX: u64 = (1 << (8 * HALF)) - 1;

type Mark = [u8; MARK_BYTES];

/// Which records a member has: a mark for each, in order.
///
/// The salt is new with each question. Two signers whose marks are alike by chance, or by labour, hide a record from one question and
/// not from the next.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Have {
    /// What is hashed before each key.
    #[cbor(n(0), with = "minicbor::bytes")]
    salt: [u8; 16],
    #[cbor(n(1), with = "minicbor::bytes")]
    marks: Vec<u8>,
}

impl Have {
    /// Of these records, by their signers and their `seq`: [`MARKS_MAX`] of them at most.
    pub fn new(salt: [u8; 16], records: impl IntoIterator<Item = (PublicKey, u64)>) -> Self {
        let records = records.into_iter().take(MARKS_MAX);
        let mut marks: Vec<Mark> = records.map(|(signer, seq)| mark(&salt, &signer, seq)).collect();
        marks.sort_unstable();
        Have {
            salt,
            marks: marks.concat(),
        }
    }

    /// Whether this member has the signer's record of this `seq`, or a later one.
    pub fn covers(&self, signer: &PublicKey, seq: u64) -> bool {
        let wanted = mark(&self.salt, signer, seq);
        let (marks, _) = self.marks.as_chunks::<MARK_BYTES>();
        // The first that is not before it is of the same signer and as late, or later; or of another one.
        let at = marks.partition_point(|mark| *mark < wanted);
        marks.get(at).is_some_and(|mark| mark[..HALF] == wanted[..HALF])
    }

    /// # Errors
    /// When there are too many, or not whole ones, or they are not in order.
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let (marks, rest) = self.marks.as_chunks::<MARK_BYTES>();
        at_most("known records", marks.len(), MARKS_MAX)?;
        if !rest.is_empty() || !marks.is_sorted() {
            return Err(DecodeError::malformed(
                "known records",
                "marks that are cut off or not in order",
            ));
        }
        Ok(())
    }
}

fn mark(salt: &[u8; 16], signer: &PublicKey, seq: u64) -> Mark {
    let mut hash = Sha256::new_with_prefix(b"weft-have-v1");
    hash.update(salt);
    hash.update(signer.as_bytes());
    let hash = hash.finalize();
    let mut mark = Mark::default();
    mark[..HALF].copy_from_slice(&hash[..HALF]);
    mark[HALF..].copy_from_slice(&seq.min(SEQ_MAX).to_be_bytes()[8 - HALF..]);
    mark
}
