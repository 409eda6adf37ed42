//! Projections: what a stream's events come to, kept up to date while they come.
//!
//! Promises: each event counts exactly once, through restarts and `kill -9`, because what is gathered and how far the stream was read are written
//! together or not at all. What is shown is the state at the position that is said with it. A projection that is built anew is served when it has
//! caught up with the old one, which is served until then. How everything was at an earlier position, or at a time, can be asked as long as the stream
//! or a snapshot goes back so far.
//!
//! Does not promise that the newest event is in it already: whoever needs that says behind which position. It lies on the node on which it was
//! defined, and is told to nobody else.
//!
//! A map: `sql` is what can be said of events, `table` takes them in, `follow` reads the stream, `past` is for earlier states, `shelf` for the disk;
//! `handle` is what applications see.

mod follow;
mod handle;
mod options;
mod past;
pub mod routes;
mod shelf;
pub mod sql;
mod table;
#[cfg(test)]
mod tests;

pub use handle::{Change, Moment, ProjectionsHandle, Rebuilding, Rows, Standing, State};
pub use options::{PROJECTIONS_MAX, ProjectionError, ProjectionOptions};
pub use shelf::SnapshotInfo;

use crate::{context::Context, error::NodeError, pattern::Pattern, patterns::event_sourcing::EventSourcing};

/// The pattern. It stands on event sourcing, and comes after it.
#[derive(Debug, Default)]
pub struct Projections;

impl Pattern for Projections {
    const ID: &'static str = "projections";
    type Handle = ProjectionsHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            handles,
            keyspace,
            clock,
            tasks,
            ..
        } = context;
        let missing = || NodeError::internal("projections come after event sourcing");
        let streams = handles.get::<EventSourcing>().ok_or_else(missing)?;
        Ok(ProjectionsHandle::open(shelf::Shelf::new(keyspace), streams, clock, tasks.child()).await?)
    }
}
