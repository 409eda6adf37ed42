//! Streams of events: histories that are kept, read, followed, worked off and proved.
//!
//! Promises: an append that was acknowledged is on the disk of the stream's owner, all of it and in its place, and is served as it was appended
//! or not at all. What an append expected (a version, that nothing matching happened since, that it was not recorded before) was true when it
//! was recorded. Who follows gets every record once and in order, from the past into the present. A consumer's records are each handed out
//! until they are settled or a dead letter; those of one key one after the other. Every record can be proved to strangers: its bytes, its place
//! and that nothing before it was changed.
//!
//! Does not promise that a stream outlives its owner's disk: there is one copy of it. When its owner is not there, it cannot be used. A record that
//! a worker has settled may come again if the worker's word did not arrive.
//!
//! A map: `core` decides about appends, `index` and `tree` are what is known of records without reading them, `shelf` keeps that, `stream` is all of
//! it together for one stream, `streams` for those of this node; `schemas` checks data, `read` reads, `consumers` hands out, `prove` and `transfer` prove, `forks`
//! compares; `remote` is the way to and from other members, `handle` what applications see.

mod announcing;
mod asking;
mod consumers;
mod copies;
mod core;
mod events;
mod forks;
mod handle;
mod index;
mod metrics;
mod options;
mod prove;
mod read;
mod remote;
pub mod routes;
mod schemas;
mod shelf;
mod stream;
mod streams;
#[cfg(test)]
mod tests;
mod transfer;
mod tree;

use std::sync::Arc;

pub(crate) use copies::peer_of as peer_of_voter;
pub(crate) use events::{from_json as event_from_json, to_json as event_json};
pub(crate) use handle::Taker;
pub use handle::{EventSourcingHandle, Read, Reading, Recorded, StreamInfo, Verified};
pub use options::{STREAMS_MAX, StreamError, StreamOptions};
pub use transfer::Imported;
use weft_protocol::patterns::event_sourcing::PATTERN_ID;

use crate::{context::Context, error::NodeError, pattern::Pattern};

/// The pattern.
#[derive(Debug, Default)]
pub struct EventSourcing;

impl Pattern for EventSourcing {
    const ID: &'static str = PATTERN_ID;
    type Handle = EventSourcingHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            mesh,
            doors,
            keyspace,
            store,
            entropy,
            clock,
            tasks,
            metrics,
            ..
        } = context;
        let parts = streams::Parts {
            mesh,
            store: store.clone(),
            shelf: shelf::Shelf::new(keyspace.clone()),
            clock,
            tasks: tasks.child(),
            metrics: metrics::StreamMetrics::new(&metrics),
        };
        let streams = streams::Streams::open_all(parts).await?;
        let copies = copies::Copies::open_all(Arc::clone(&streams), store, keyspace, entropy).await?;
        tasks.spawn_vital("streams", Arc::clone(&streams).run());
        tasks.spawn_vital("stream-copies", Arc::clone(&copies).run());
        tasks.spawn_vital(
            "stream-forks",
            forks::run(asking::Asking::new(Arc::clone(&streams), Arc::clone(&copies))),
        );
        tasks.spawn_vital("stream-mending", Arc::clone(&copies).run_mending());
        doors
            .requests
            .open(remote::Serving::new(Arc::clone(&streams), Arc::clone(&copies)));
        let readers = remote::run(doors.streams, Arc::clone(&streams), Arc::clone(&copies), tasks.child());
        tasks.spawn_vital("stream-readers", readers);
        Ok(EventSourcingHandle::new(streams, copies))
    }
}
