//! Publish-subscribe: subjects with wildcards, across the mesh.
//!
//! Promises: a message is forwarded only after its signature, its signer's membership and right, its size and its
//! freshness were checked; a subscriber gets what its pattern matches and its node's members may publish, each message
//! once, and is told how many it lost when it was too slow; a subscriber that comes back within the replay window gets
//! what it missed while it was away from its node.
//!
//! Does not promise delivery: what gossip loses between nodes is not repaired here.
//!
//! Subjects ride on eight gossip topics, chosen by the first token, and are matched locally.

mod actor;
mod core;
mod handle;
pub mod routes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use handle::{Delivery, PubSubHandle, PublishError, PublishOptions, Receipt, Received, Subscription};
use weft_protocol::patterns::pub_sub::PATTERN_ID;

use crate::{context::Context, error::NodeError, pattern::Pattern};

/// The pattern.
#[derive(Debug, Default)]
pub struct PubSub;

impl Pattern for PubSub {
    const ID: &'static str = PATTERN_ID;
    type Handle = PubSubHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            mesh,
            doors,
            tasks,
            clock,
            entropy,
            metrics,
            ..
        } = context;
        let hub = Arc::new(actor::Hub::new(mesh.clone(), clock.now_unix_ms(), &metrics));
        tasks.spawn("pub-sub", actor::run(doors, Arc::clone(&hub), tasks.child()));
        Ok(PubSubHandle::new(mesh, hub, clock, entropy))
    }
}
