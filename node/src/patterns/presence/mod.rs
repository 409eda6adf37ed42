//! Presence: what is there in the mesh, what comes and goes, and what is said when something is gone without a word.
//!
//! Promises: what is declared is known to every member a moment later, in the declaring node's own signed record; who watches is told
//! of what comes and goes, and whether it was withdrawn or cut off; what was cut off has its will said, to each subscriber that its subject reaches, once.
//! When an application goes, its node says its will, as any other message. When a node goes, nobody is there to say it: every
//! other node gives it to its own subscribers, as a message of the one that is gone, which signed it beforehand.
//!
//! A node counts as gone for those that watch it, or whose subscribers its will reaches, when its connection is lost and it does not answer two
//! probes either. In a mesh that is cut in two each side misses the other, and hears the wills; when the cut heals, everything is there again.
//!
//! Does not promise to tell a node that stands still from one that is gone, nor to remember what was said for those who subscribe later.
//!
//! A map: `standing` says who is there and what follows from it, without time or network; `watch` asks, and tells; `handle` is what applications see.

mod handle;
pub mod routes;
mod standing;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::Arc;

pub use handle::{Declared, PresenceError, PresenceHandle, Present, Watching};
pub use standing::{Change, Fate};
use weft_protocol::patterns::presence::PATTERN_ID;

use crate::{context::Context, error::NodeError, pattern::Pattern, patterns::pub_sub::PubSub};

/// The pattern. It stands on publish-subscribe, and comes after it.
#[derive(Debug, Default)]
pub struct Presence;

impl Pattern for Presence {
    const ID: &'static str = PATTERN_ID;
    type Handle = PresenceHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            handles,
            mesh,
            clock,
            entropy,
            tasks,
            ..
        } = context;
        let missing = || NodeError::internal("presence comes after publish-subscribe");
        let messages = handles.get::<PubSub>().ok_or_else(missing)?;
        let inner = Arc::new(watch::Inner::new(mesh, messages, (clock, &*entropy), tasks.child()));
        tasks.spawn_vital("presence", watch::run(Arc::clone(&inner)));
        Ok(PresenceHandle::new(inner))
    }
}
