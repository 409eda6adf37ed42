//! Blobs: payloads too large for a message, fetched by the hash of their content.
//!
//! Promises: a message of any size can be published. What is too large for gossip stays at its publisher, on the disk before the message goes
//! out, and the message says where; who wants it fetches it, from the publisher or from any member that has fetched it before. What arrives is
//! checked, 256 KiB at a time, before anybody sees it, and a fetch that breaks off goes on where it stopped, also after a restart and from another
//! member. The same content is kept once. Who may subscribe to the subject may fetch.
//!
//! Does not promise that it is there for ever: it is kept for some time after it was last used ([`BlobOptions::keep`]), and less when others need
//! the room ([`BlobOptions::bytes_max`]).
//!
//! A map: `shelf` is what lies on the disk, `put` takes in, `fetch` gets from others, `serve` gives to others, `content` reads; `handle` is what
//! applications see.

mod content;
mod fetch;
mod handle;
mod options;
mod put;
pub mod routes;
mod serve;
mod shelf;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use content::Content;
pub use handle::{BlobsHandle, Stored};
pub use options::{BlobError, BlobOptions};
use weft_protocol::patterns::blobs::PATTERN_ID;

use crate::{context::Context, error::NodeError, pattern::Pattern, patterns::pub_sub::PubSub};

/// The pattern. It stands on publish-subscribe, and comes after it.
#[derive(Debug, Default)]
pub struct Blobs {
    /// How much is kept, and for how long.
    pub options: BlobOptions,
}

impl Pattern for Blobs {
    const ID: &'static str = PATTERN_ID;
    type Handle = BlobsHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            handles,
            mesh,
            doors,
            keyspace,
            store,
            clock,
            entropy,
            tasks,
            metrics,
            ..
        } = context;
        let missing = || NodeError::internal("blobs come after publish-subscribe");
        let messages = handles.get::<PubSub>().ok_or_else(missing)?;
        let parts = shelf::Parts {
            store,
            keyspace,
            clock,
            entropy,
            options: self.options,
        };
        let shelf = Arc::new(shelf::Shelf::open(parts).await?);
        let metrics = handle::BlobMetrics::new(&metrics);
        tasks.spawn_vital("blob-room", shelf::sweep(Arc::clone(&shelf)));
        let serving = serve::Serving::new(Arc::clone(&shelf), metrics.clone());
        tasks.spawn_vital("blobs", serve::run(doors.streams, serving, tasks.child()));
        let fetching = fetch::Fetching::new(mesh.clone(), Arc::clone(&shelf), tasks.child(), metrics);
        tasks.spawn("blob-providing", fetch::provide_all(Arc::clone(&fetching)));
        Ok(BlobsHandle::new(shelf, fetching, messages, tasks))
    }
}
