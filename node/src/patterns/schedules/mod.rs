//! Schedules: events that are appended to a stream later, or again and again.
//!
//! Promises: what was scheduled is on this node's disk, and is appended when it is due, or as soon after as this node runs and the stream can be
//! reached; each occurrence once, because it has an id that says which it is. An occurrence is not appended before its time by this node's clock.
//!
//! Does not promise that every occurrence is appended when there were several while the node was away: then the last of them is, and it is counted how many
//! were left out. It lies on the node on which it was defined; the stream may be anywhere.
//!
//! A map: `when` says when something is due, `handle` does it, `shelf` keeps it.

mod handle;
mod options;
pub mod routes;
mod shelf;
#[cfg(test)]
mod tests;
mod when;

pub use handle::{SchedulesHandle, Standing};
pub use options::{SCHEDULES_MAX, ScheduleError, ScheduleOptions};
pub use when::When;

use crate::{context::Context, error::NodeError, pattern::Pattern, patterns::event_sourcing::EventSourcing};

/// The pattern. It stands on event sourcing, and comes after it.
#[derive(Debug, Default)]
pub struct Schedules;

impl Pattern for Schedules {
    const ID: &'static str = "schedules";
    type Handle = SchedulesHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            handles,
            keyspace,
            clock,
            entropy,
            tasks,
            ..
        } = context;
        let missing = || NodeError::internal("schedules come after event sourcing");
        let parts = handle::Parts {
            streams: handles.get::<EventSourcing>().ok_or_else(missing)?,
            shelf: shelf::Shelf::new(keyspace),
            clock,
            entropy,
            tasks,
        };
        Ok(SchedulesHandle::open(parts).await?)
    }
}
