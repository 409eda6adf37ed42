//! What a check of the store found.

use super::error::StoreError;
use std::path::PathBuf;

/// What [`super::Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// One entry for every file that was checked, or should have been there.
    pub files: Vec<FileReport>,
}

impl Report {
    /// Whether nothing is damaged.
    pub fn is_ok(&self) -> bool {
        self.files.iter().all(|file| file.findings.is_empty())
    }

    /// All damage, file by file.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.files.iter().flat_map(|file| &file.findings)
    }
}

/// What the check of one file found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// How many records or values in it are whole.
    pub items: u64,
    /// What is wrong with it; empty when it is whole.
    pub findings: Vec<Finding>,
}

/// One piece of damage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The damaged file.
    pub file: PathBuf,
    /// Where the damage begins, when that is known.
    pub offset_bytes: Option<u64>,
    /// What was found.
    pub reason: String,
    /// What cannot be read any more.
    pub lost: String,
    /// The first and the last lost record, when the file belongs to a log.
    pub lost_records: Option<(u64, u64)>,
}

impl Finding {
    /// The finding that an error tells of.
    pub(super) fn of(error: &StoreError) -> Finding {
        match error.clone() {
            StoreError::Corrupt {
                file,
                offset_bytes,
                reason,
                lost,
                lost_records,
                ..
            } => Finding {
                file,
                offset_bytes,
                reason,
                lost,
                lost_records,
            },
            other => Finding {
                file: PathBuf::new(),
                offset_bytes: None,
                reason: other.to_string(),
                lost: String::new(),
                lost_records: None,
            },
        }
    }
}

/// What an open store uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The length of the state's file.
    pub state_bytes: u64,
    /// How many logs there are.
    pub logs: u64,
    /// How many logs are open.
    pub logs_open: u64,
    /// What the disk has left.
    pub available_bytes: u64,
    /// Why no write is taken any more, if that is so.
    pub failure: Option<String>,
}
