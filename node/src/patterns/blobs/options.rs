//! How much is kept, and what can go wrong.

use std::time::Duration;

use weft_protocol::DecodeError;

use crate::{
    error::{ErrorKind, Kind},
    patterns::{body::BodyError, pub_sub::PublishError},
    store::StoreError,
};

/// How much is kept, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobOptions {
    /// Bytes of all blobs together; for what comes, those go that were not used for the longest time.
    pub bytes_max: u64,
    /// How long one is kept after it was published, fetched or read.
    pub keep: Duration,
}

impl Default for BlobOptions {
    fn default() -> Self {
        BlobOptions {
            bytes_max: 8 << 30,
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// Why a blob cannot be had, or kept.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// A reference or a message is malformed, or exceeds a limit.
    #[error("{0}")]
    Invalid(String),
    /// It is not here, and nothing says where it may be.
    #[error("this node does not have the blob {0}")]
    NotFound(String),
    /// Nobody who has it can be reached, or gives it.
    #[error("{0}")]
    Unreachable(String),
    /// Who has it does not give it to this node.
    #[error("{0}")]
    Denied(String),
    /// There is no room for it now.
    #[error("{0}")]
    Full(String),
    /// Its content came to no end.
    #[error("the content broke off: {0}")]
    Broken(#[from] BodyError),
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The message could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Closed,
}

impl From<DecodeError> for BlobError {
    fn from(error: DecodeError) -> Self {
        BlobError::Invalid(error.to_string())
    }
}

impl Kind for BlobError {
    fn kind(&self) -> ErrorKind {
        match self {
            BlobError::Invalid(_) | BlobError::Broken(_) => ErrorKind::Invalid,
            BlobError::NotFound(_) => ErrorKind::NotFound,
            BlobError::Unreachable(_) => ErrorKind::Unreachable,
            BlobError::Denied(_) => ErrorKind::Denied,
            BlobError::Full(_) => ErrorKind::Busy,
            BlobError::Store(error) => error.kind(),
            BlobError::Publish(error) => error.kind(),
            BlobError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            BlobError::NotFound(_) => Some(
                "give the whole dataref of the message, which says how long it is and who has it".to_owned(),
            ),
            BlobError::Full(_) => Some(
                "`weft blob ls` shows what is kept, `weft blob rm` lets go of it; blobs.bytes_max in the configuration is the limit"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}
