//! The two ways in which something from outside can be wrong: its bytes ([`DecodeError`]) or its authority ([`TrustError`]).

use crate::ident::{MeshId, PublicKey};

/// Bytes or text that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Longer, or with more entries, than its limit.
    #[error("{what} is too large: {got}, the limit is {limit}")]
    TooLarge {
        /// What was being read.
        what: &'static str,
        /// The most that is accepted.
        limit: usize,
        /// What was found or announced.
        got: usize,
    },
    /// Not the encoding that was expected.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A version that is not spoken here.
    #[error("{what} has version {got}, supported is {supported}")]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version that is spoken here.
        supported: u16,
        /// The version found.
        got: u64,
    },
    /// Well-formed, but a value is not allowed.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// Which rule it breaks.
        reason: String,
    },
}

impl DecodeError {
    pub(crate) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            reason: reason.into(),
        }
    }

    pub(crate) fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid {
            what,
            reason: reason.into(),
        }
    }
}

/// `Ok` if `got <= limit`, else [`DecodeError::TooLarge`].
pub(crate) fn at_most(what: &'static str, got: usize, limit: usize) -> Result<(), DecodeError> {
    if got > limit {
        Err(DecodeError::TooLarge { what, limit, got })
    } else {
        Ok(())
    }
}

/// Something signed that proves nothing, or not enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The bytes themselves cannot be understood.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The signature does not belong to this payload and key.
    #[error("the signature of the {what} does not verify")]
    BadSignature {
        /// The domain of the payload.
        what: &'static str,
    },
    /// It belongs to another mesh.
    #[error("it belongs to {got}, not to {expected}")]
    WrongMesh {
        /// The mesh asked about.
        expected: MeshId,
        /// The mesh it names.
        got: MeshId,
    },
    /// Its time is over.
    #[error("expired: valid until {not_after_ms} ms, it is {now_ms} ms")]
    Expired {
        /// End of validity, unix milliseconds.
        not_after_ms: u64,
        /// The time it was judged at, unix milliseconds.
        now_ms: u64,
    },
    /// Its time has not come.
    #[error("not yet valid: valid from {not_before_ms} ms, it is {now_ms} ms")]
    NotYetValid {
        /// Begin of validity, unix milliseconds.
        not_before_ms: u64,
        /// The time it was judged at, unix milliseconds.
        now_ms: u64,
    },
    /// A key it depends on was revoked.
    #[error("the key {key} is revoked")]
    Revoked {
        /// The revoked key.
        key: PublicKey,
    },
    /// The signer may not say this.
    #[error("{key} is not authorised: {reason}")]
    NotAuthorised {
        /// The signer that lacks the authority.
        key: PublicKey,
        /// What it lacks.
        reason: String,
    },
    /// More links than allowed.
    #[error("the chain has {got} links, the limit is {limit}")]
    ChainTooLong {
        /// The most that is accepted.
        limit: usize,
        /// The number of links.
        got: usize,
    },
    /// The links do not hold together.
    #[error("the chain is broken at link {link}: {reason}")]
    BrokenChain {
        /// Index of the link, 0 is the one next to the root.
        link: usize,
        /// What does not fit.
        reason: &'static str,
    },
    /// A key appears twice in one chain.
    #[error("the key {key} appears twice in the chain")]
    DuplicateKey {
        /// The key.
        key: PublicKey,
    },
}

impl TrustError {
    pub(crate) fn not_authorised(key: PublicKey, reason: impl Into<String>) -> Self {
        Self::NotAuthorised {
            key,
            reason: reason.into(),
        }
    }
}
