//! What can go wrong in the store.

use crate::error::ErrorKind;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What can go wrong in the store. Clones are cheap: one failed group commit is answered to many callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused; nothing was changed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// The disk has no room; nothing was changed, and the same write succeeds once there is room.
    #[error("no room on the disk of {}: {available_bytes} bytes left, {needed_bytes} needed", .path.display())]
    Full {
        /// The file that could not grow.
        path: PathBuf,
        /// What the disk said is left.
        available_bytes: u64,
        /// What the write and the reserve need together.
        needed_bytes: u64,
    },
    /// An earlier write or sync failed, so no write is taken any more; reads go on. Only a new start helps.
    #[error("the store takes no writes since a failure: {reason}; check the disk, then restart the node")]
    Failed {
        /// The first failure.
        reason: Arc<str>,
    },
    /// Bytes on the disk are not what was written.
    #[error("{} is damaged{}: {reason}; lost: {lost}; {advice}", .file.display(), at(*.offset_bytes))]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where the damage begins, when that is known.
        offset_bytes: Option<u64>,
        /// What was found.
        reason: String,
        /// What cannot be read any more.
        lost: String,
        /// The first and the last lost sequence number, when the file belongs to a log.
        lost_records: Option<(u64, u64)>,
        /// What the operator can do.
        advice: &'static str,
    },
    /// A precondition of the batch does not hold; nothing was changed.
    #[error("a precondition on key {key} of keyspace {keyspace} does not hold")]
    Conflict {
        /// The keyspace.
        keyspace: &'static str,
        /// The key, readable bytes as they are and others in hexadecimal.
        key: String,
    },
    /// The append was to begin where the log does not end; nothing was appended.
    #[error("log {log} does not end before record {expected}")]
    Elsewhere {
        /// The log.
        log: String,
        /// Where the append was to begin.
        expected: u64,
    },
    /// An argument is outside its limits.
    #[error("{what} is {actual}, allowed is {allowed}")]
    Invalid {
        /// What is outside.
        what: &'static str,
        /// What was given.
        actual: String,
        /// What is allowed.
        allowed: String,
    },
    /// The records before `first_seq` were removed by retention.
    #[error("record {seq} of log {log} is not there any more; the first is {first_seq}")]
    Truncated {
        /// The log.
        log: String,
        /// What was asked for.
        seq: u64,
        /// What is still there.
        first_seq: u64,
    },
    /// There is no log of this name.
    #[error("there is no log {log}")]
    NoSuchLog {
        /// The name asked for.
        log: String,
    },
    /// The data directory is of a version this program does not know.
    #[error("{} is written by store version {found}, this program reads up to version {supported}: use a newer program", .dir.display())]
    TooNew {
        /// The data directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
        /// The newest this program knows.
        supported: u32,
    },
    /// The data directory is of a version this program no longer reads.
    #[error("{} is written by store version {found}, this program reads from version {supported} on and has no migration from it: start a program in between first", .dir.display())]
    TooOld {
        /// The data directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
        /// The version this program writes.
        supported: u32,
    },
    /// The data directory belongs to another node.
    #[error("{} belongs to another node: it was written by owner {found}, this node is {expected}", .path.display())]
    WrongOwner {
        /// The file that says so.
        path: PathBuf,
        /// Whose it is, in hexadecimal.
        found: String,
        /// Who asks, in hexadecimal.
        expected: String,
    },
    /// Another process has the data directory open.
    #[error("{} is in use by another process", .dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The kind shared by all modules, by which callers decide what to do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
                io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::AlreadyExists => {
                    ErrorKind::Invalid
                }
                _ => ErrorKind::Internal,
            },
            StoreError::Full { .. } => ErrorKind::Busy,
            StoreError::Failed { .. } => ErrorKind::Internal,
            StoreError::Corrupt { .. } => ErrorKind::Corrupt,
            StoreError::Conflict { .. }
            | StoreError::Elsewhere { .. }
            | StoreError::InUse { .. }
            | StoreError::TooNew { .. }
            | StoreError::TooOld { .. }
            | StoreError::WrongOwner { .. } => ErrorKind::Conflict,
            StoreError::Truncated { .. } | StoreError::NoSuchLog { .. } => ErrorKind::NotFound,
            StoreError::Invalid { .. } => ErrorKind::Invalid,
            StoreError::Closed => ErrorKind::Closed,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::Full { .. } => Some(
                "make room on that disk, or choose a --data-dir on another; what was acknowledged is safe".to_owned(),
            ),
            StoreError::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Some("choose a --data-dir on a file system that can be written".to_owned())
            }
            _ => None,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io {
            action,
            path: path.to_path_buf(),
            source: Arc::new(source),
        }
    }

    pub(super) fn too_large(what: &'static str, actual: usize, allowed: usize) -> StoreError {
        StoreError::Invalid {
            what,
            actual: actual.to_string(),
            allowed: format!("at most {allowed}"),
        }
    }
}

/// Whether the operating system says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A key for people: readable bytes as they are, others in hexadecimal, cut to a length fit for a log line.
pub(super) fn readable(key: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    let shown = &key[..key.len().min(SHOWN_BYTES_MAX)];
    let mut text: String = if shown.iter().all(u8::is_ascii_graphic) {
        shown.iter().map(|byte| char::from(*byte)).collect()
    } else {
        hex(shown)
    };
    if key.len() > SHOWN_BYTES_MAX {
        text.push('…');
    }
    text
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn at(offset_bytes: Option<u64>) -> String {
    offset_bytes.map_or(String::new(), |offset| format!(" at byte {offset}"))
}
