//! Request-response: call a service by its name, wherever it runs.
//!
//! Promises: a call is answered, refused with a reason, or ends at its deadline, which travels with it; it is served at
//! most once: another instance is tried only if the first surely did not see it, or the service says that this does no harm. A
//! caller that goes takes its call back. Who offers a service says so in its own signed record, so a lookup is local and works in
//! a partition. When nobody can answer, the error says at once which of "none known", "known but unreachable" and "all busy" it
//! is.
//!
//! Of the instances that will do the near and less busy are preferred (`core`), those that fail are left alone for a while
//! (`health`). A call with an idempotency key is served once for as long as its instance remembers (`memory`).
//!
//! Requests and answers of any size flow in parts, no faster than they are read (`stream_in`, `stream_out`); such a call is
//! made once.
//!
//! Does not promise that a service that says it is idempotent is so, nor that it exists: an instance that died is known until its
//! node says otherwise or its record runs out.

mod actor;
mod attempts;
mod catalogue;
mod core;
mod gather;
mod handle;
mod health;
mod memory;
mod metrics;
mod options;
mod questions;
mod receipts;
mod registry;
pub mod routes;
mod serving;
mod stats;
mod stream_in;
mod stream_out;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use super::body::{BodyError, BodyReader, BodyWriter, body};
pub use gather::{GATHER_MAX, GatherOptions, Gathered};
pub use handle::{Instance, RequestResponseHandle};
use metrics::CallMetrics;
pub use options::{CallAnswer, CallError, CallOptions, EndpointOptions, ServiceOptions};
pub(crate) use options::{DEFAULT_ENDPOINT, STATUS};
pub use questions::Told;
pub use serving::{IncomingCall, Serving};
pub use stream_out::StreamAnswer;
use weft_protocol::patterns::request_response::PATTERN_ID;

use crate::{context::Context, error::NodeError, pattern::Pattern};

/// The pattern.
#[derive(Debug, Default)]
pub struct RequestResponse;

impl Pattern for RequestResponse {
    const ID: &'static str = PATTERN_ID;
    type Handle = RequestResponseHandle;

    async fn start(self, context: Context) -> Result<Self::Handle, NodeError> {
        let Context {
            mesh,
            doors,
            tasks,
            entropy,
            clock,
            metrics,
            ..
        } = context;
        let registry = Arc::new(registry::Registry::new(mesh.clone(), tasks.child()));
        doors.requests.open(actor::Actor::new(Arc::clone(&registry)));
        tasks.spawn_vital(
            "request-response",
            actor::serve(doors.streams, Arc::clone(&registry), tasks.child()),
        );
        Ok(RequestResponseHandle::new(
            mesh,
            registry,
            tasks.child(),
            (entropy, clock),
            CallMetrics::register(&metrics),
        ))
    }
}
