//! How a projection is defined, and why something cannot be done with it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{ErrorKind, Kind},
    patterns::event_sourcing::StreamError,
    store::StoreError,
};

/// Projections of one node.
pub const PROJECTIONS_MAX: usize = 256;
/// Groups of one projection.
pub(super) const GROUPS_MAX: u64 = 1_000_000;
/// Snapshots of one projection.
pub(super) const SNAPSHOTS_MAX: usize = 1000;
const NAME_BYTES_MAX: usize = 64;
/// A snapshot costs as much as everything that is kept: not for each event.
const SNAPSHOT_EVERY_MIN: u64 = 100;

/// Why something cannot be done with a projection.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ProjectionError {
    /// There is none of this name.
    #[error("there is no projection {0} on this node")]
    NoProjection(String),
    /// There is no snapshot at this position.
    #[error("the projection {name} has no snapshot at {position}")]
    NoSnapshot {
        /// The projection.
        name: String,
        /// The position.
        position: u64,
    },
    /// A definition or a question cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is one of this name that is defined otherwise.
    #[error("there is a projection {0} already, defined otherwise")]
    Exists(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// It cannot go on.
    #[error("the projection stopped: {0}")]
    Stopped(String),
    /// The events of that time are gone.
    #[error("how it was at {at} cannot be told: {reason}")]
    Forgotten {
        /// The position that was asked for.
        at: u64,
        /// Why.
        reason: String,
    },
    /// What was waited for did not come.
    #[error("the projection has come to {0} only")]
    Behind(u64),
    /// What is stored does not fit together.
    #[error("{0}")]
    Corrupt(String),
    /// Its stream cannot be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It cannot be written down, or not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Closed,
}

impl Kind for ProjectionError {
    fn kind(&self) -> ErrorKind {
        match self {
            ProjectionError::NoProjection(_)
            | ProjectionError::NoSnapshot { .. }
            | ProjectionError::Forgotten { .. } => ErrorKind::NotFound,
            ProjectionError::Invalid(_) => ErrorKind::Invalid,
            ProjectionError::Exists(_) | ProjectionError::Conflict(_) | ProjectionError::Stopped(_) => {
                ErrorKind::Conflict
            }
            ProjectionError::Behind(_) => ErrorKind::Timeout,
            ProjectionError::Corrupt(_) => ErrorKind::Corrupt,
            ProjectionError::Stream(error) => error.kind(),
            ProjectionError::Store(error) => error.kind(),
            ProjectionError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ProjectionError::NoProjection(name) => Some(format!(
                "`weft projection add {name} --sql 'SELECT …'` makes it; `weft projection ls` lists those there are"
            )),
            ProjectionError::NoSnapshot { name, .. } => {
                Some(format!("`weft snapshot ls {name}` lists those there are"))
            }
            ProjectionError::Exists(name) => Some(format!(
                "`weft projection rebuild {name} --sql 'SELECT …'` builds it anew beside the old one; `weft projection rm {name}` removes it"
            )),
            ProjectionError::Stopped(_) => Some(
                "`weft projection rebuild` begins from the first event, with --sql by another definition".to_owned(),
            ),
            ProjectionError::Behind(_) => Some("`weft projection info` says what it waits for".to_owned()),
            ProjectionError::Stream(error) => error.hint(),
            ProjectionError::Store(error) => error.hint(),
            _ => None,
        }
    }
}

/// How a projection is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, Encode, Decode)]
#[serde(deny_unknown_fields)]
pub struct ProjectionOptions {
    /// What is kept of a stream's events: `SELECT … FROM STREAM [WHERE …] [GROUP BY …] [HAVING …]`.
    #[n(0)]
    pub sql: String,
    /// Take a snapshot after so many events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(1)]
    pub snapshot_every: Option<u64>,
    /// So many snapshots are kept of those that are taken by themselves; 10, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(2)]
    pub snapshots_kept: Option<u32>,
}

impl ProjectionOptions {
    pub(super) fn check(&self) -> Result<(), ProjectionError> {
        match (self.snapshot_every, self.snapshots_kept) {
            (Some(..SNAPSHOT_EVERY_MIN), _) => Err(ProjectionError::Invalid(format!(
                "a snapshot is taken after {SNAPSHOT_EVERY_MIN} events or more: it holds all rows"
            ))),
            (_, Some(0)) => Err(ProjectionError::Invalid("no snapshot is kept of none".to_owned())),
            (_, Some(kept)) if kept as usize > SNAPSHOTS_MAX => Err(ProjectionError::Invalid(format!(
                "{SNAPSHOTS_MAX} snapshots are kept at most"
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn kept(&self) -> usize {
        self.snapshots_kept.unwrap_or(10) as usize
    }
}

pub(super) fn check_name(name: &str) -> Result<(), ProjectionError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_good) {
        return Err(ProjectionError::Invalid(format!(
            "a projection's name has 1 to {NAME_BYTES_MAX} letters, digits, -, _ and dots; `{}` does not fit",
            name.escape_debug()
        )));
    }
    Ok(())
}
