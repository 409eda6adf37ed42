//! Batching: queues that gather records and hand them over together.
//!
//! Promises: a record that was acknowledged is on the disk, and stays there until its destination has answered for it, through restarts and
//! `kill -9`: it arrives at least once, or is kept among the dead with the reason. Records with one key arrive in their order. A batch that
//! fails is cut in half until the record that cannot be taken is alone, so that it takes no other with it. What is taken more slowly than it is
//! put makes the queue full, and then whoever puts is told so.
//!
//! Does not promise that a record arrives once only, unless it goes into a stream (a destination knows it again by its id), nor an order between keys or among records
//! without one, nor that a message on a subject has a subscriber: whoever needs that names a service.
//!
//! A map: `core` says when a batch closes, `work` what becomes of closed ones; `queue` does it, with `delivery` for the way out and `shelf`
//! for the disk.

pub mod core;
mod delivery;
mod handle;
mod metrics;
mod options;
mod queue;
pub mod routes;
mod shelf;
#[cfg(test)]
mod tests;
pub mod work;

pub use handle::{BatchingHandle, QueueInfo};
pub use options::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, BatchError, Compression, Destination, Form, PUT_RECORDS_MAX, QUEUES_MAX,
    QueueOptions, RECORD_BYTES_MAX, Record, check_queue_name,
};
pub use queue::Standing;
pub use shelf::Dead;

use crate::{
    context::Context,
    error::NodeError,
    pattern::Pattern,
    patterns::{event_sourcing::EventSourcing, pub_sub::PubSub, request_response::RequestResponse},
};

/// The pattern. It stands on request-response, publish-subscribe and, where there are streams, event sourcing, and comes after them.
#[derive(Debug, Default)]
pub struct Batching;

impl Pattern for Batching {
    const ID: &'static str = "batching";
    type Handle = BatchingHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            handles,
            keyspace,
            clock,
            entropy,
            tasks,
            metrics,
            ..
        } = context;
        let missing = || NodeError::internal("batching comes after request-response and publish-subscribe");
        let outlets = delivery::Outlets {
            calls: handles.get::<RequestResponse>().ok_or_else(missing)?,
            messages: handles.get::<PubSub>().ok_or_else(missing)?,
            streams: handles.get::<EventSourcing>(),
            clock,
            entropy,
        };
        let metrics = metrics::BatchMetrics::new(&metrics);
        Ok(BatchingHandle::open(keyspace, outlets, tasks, metrics).await?)
    }
}
