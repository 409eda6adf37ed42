//! Checkpoints and proofs of this node's streams.

use weft_protocol::{
    merkle::{Hash, consistency_ranges, inclusion_ranges},
    patterns::event_sourcing::{
        checkpoint::{Checkpoint, Origin},
        proof::{Enclosed, Proof},
    },
};

use super::{options::StreamError, stream::Stream};
use crate::trust::Trust;

/// The checkpoint over everything that is durable, signed.
pub(super) fn checkpoint(stream: &Stream, trust: &Trust) -> Result<(u64, String), StreamError> {
    let (size, root) = stream.log.root_at_next()?;
    Ok((size, sign(stream, trust, size, root)?))
}

fn sign(stream: &Stream, trust: &Trust, size: u64, root: Hash) -> Result<String, StreamError> {
    let mesh = trust.mesh().ok_or(StreamError::Closed)?;
    let checkpoint = Checkpoint {
        origin: Origin {
            mesh: mesh.id,
            stream: stream.name.clone(),
            owner: trust.public_key(),
        },
        size,
        root,
        time_ms: trust.now_ms(),
    };
    Ok(trust.sign_note(|key| checkpoint.sign(key)))
}

/// The proof that the record at this position is in the stream.
pub(super) async fn prove(stream: &Stream, trust: &Trust, position: u64) -> Result<Proof, StreamError> {
    let (size, checkpoint) = checkpoint(stream, trust)?;
    let index = position.checked_sub(1).filter(|index| *index < size);
    let index = index.ok_or_else(|| StreamError::NoRecord {
        position,
        first: stream.first(),
        version: size,
    })?;
    let kept = stream.kept(index).await?;
    let hashes = stream.hashes(&inclusion_ranges(index, size)).await?;
    let proof = Proof {
        enclosed: Enclosed {
            record: kept.bytes.to_vec(),
            chain: trust.chain(),
        },
        index,
        hashes,
        checkpoint,
    };
    // A proof that does not hold is damage of ours, which nobody else is to find first.
    proof
        .verify()
        .map_err(|error| StreamError::Corrupt(format!("the record {position} cannot be proved: {error}")))?;
    Ok(proof)
}

/// The proof that the stream of `old` records is the beginning of what it is now.
pub(super) async fn extend(stream: &Stream, trust: &Trust, old: u64) -> Result<(String, Vec<Hash>), StreamError> {
    let (size, checkpoint) = checkpoint(stream, trust)?;
    if old > size {
        return Err(StreamError::Conflict(format!(
            "the stream has {size} records, and never had {old}"
        )));
    }
    let hashes = stream.hashes(&consistency_ranges(old, size)).await?;
    Ok((checkpoint, hashes))
}
