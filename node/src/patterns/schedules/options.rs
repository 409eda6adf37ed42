//! How a schedule is defined, and why something cannot be done with it.

use minicbor::{Decode, Encode};
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event},
};

use super::when::When;
use crate::{
    error::{ErrorKind, Kind},
    patterns::event_sourcing::StreamError,
    store::StoreError,
};

/// Schedules of one node.
pub const SCHEDULES_MAX: usize = 100_000;
const NAME_BYTES_MAX: usize = 64;

/// Why something cannot be done with a schedule.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// There is none of this name.
    #[error("there is no schedule {0} on this node")]
    NoSchedule(String),
    /// There is one of this name that is defined otherwise.
    #[error("there is a schedule {0} already, defined otherwise")]
    Exists(String),
    /// A definition cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There are too many.
    #[error("there are {SCHEDULES_MAX} schedules, which is the limit")]
    TooMany,
    /// What is stored does not fit together.
    #[error("{0}")]
    Corrupt(String),
    /// It cannot be written down, or not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its event cannot be appended.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Closed,
}

impl Kind for ScheduleError {
    fn kind(&self) -> ErrorKind {
        match self {
            ScheduleError::NoSchedule(_) => ErrorKind::NotFound,
            ScheduleError::Exists(_) => ErrorKind::Conflict,
            ScheduleError::Invalid(_) => ErrorKind::Invalid,
            ScheduleError::TooMany => ErrorKind::Busy,
            ScheduleError::Corrupt(_) => ErrorKind::Corrupt,
            ScheduleError::Store(error) => error.kind(),
            ScheduleError::Stream(error) => error.kind(),
            ScheduleError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            ScheduleError::NoSchedule(_) => Some("`weft schedule ls` lists those there are".to_owned()),
            ScheduleError::Exists(name) => Some(format!("`weft schedule rm {name}` removes that one")),
            ScheduleError::TooMany => Some("`weft schedule ls` shows what waits".to_owned()),
            ScheduleError::Store(error) => error.hint(),
            ScheduleError::Stream(error) => error.hint(),
            _ => None,
        }
    }
}

/// How a schedule is defined.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ScheduleOptions {
    /// The stream that is appended to.
    #[n(0)]
    pub stream: Subject,
    /// When.
    #[n(1)]
    pub when: When,
    /// What is appended.
    #[n(2)]
    pub event: Event,
}

impl ScheduleOptions {
    pub(super) fn check(&self) -> Result<(), ScheduleError> {
        self.when.check().map_err(ScheduleError::Invalid)?;
        if self.event.id.is_some() && !self.when.is_once() {
            return Err(ScheduleError::Invalid(
                "what is due again and again has no id of its own: each occurrence gets one".to_owned(),
            ));
        }
        let append = Append {
            events: vec![self.event.clone()],
            ..Append::default()
        };
        append
            .check()
            .map_err(|error| ScheduleError::Invalid(error.to_string()))
    }
}

pub(super) fn check_name(name: &str) -> Result<(), ScheduleError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_good) {
        return Err(ScheduleError::Invalid(format!(
            "a schedule's name has 1 to {NAME_BYTES_MAX} letters, digits, -, _ and dots; `{}` does not fit",
            name.escape_debug()
        )));
    }
    Ok(())
}
