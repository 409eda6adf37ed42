//! Request-response: call a service by its name, wherever it runs.
//!
//! Promises: a call is answered, refused with a reason, or ends at its deadline, which travels with it; it is served at
//! most once: another instance is tried only if the first surely did not see it. Who offers a service says so in its own
//! signed record, so a lookup is local and works in a partition. When nobody can answer, the error says which of "none
//! known", "known but unreachable" and "all busy" it is.
//!
//! Does not promise that a service is idempotent, nor that it exists: an instance that died is known until its node says
//! otherwise or its record runs out.

mod actor;
mod core;
mod handle;
mod metrics;
pub mod routes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use handle::DEFAULT_ENDPOINT;
pub use handle::{
    CallAnswer, CallError, CallOptions, IncomingCall, Instance, RequestResponseHandle, ServiceOptions, Serving,
};
use metrics::CallMetrics;
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
            metrics,
            ..
        } = context;
        let registry = Arc::new(actor::Registry::new(mesh.clone()));
        tasks.spawn_vital(
            "request-response",
            actor::serve(doors, Arc::clone(&registry), tasks.child()),
        );
        Ok(RequestResponseHandle::new(
            mesh,
            registry,
            entropy,
            CallMetrics::register(&metrics),
        ))
    }
}
