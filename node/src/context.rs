//! What a pattern is given. Passed, never global: two nodes in one process are two nodes.

use std::sync::Arc;

use weft_protocol::{Hello, PeerId, Subject, Verb};

use crate::{
    mesh::{Mesh, PatternDoors},
    pattern::Handles,
    platform::{Clock, Entropy, Sharing},
    store::{Keyspace, Store},
    tasks::Tasks,
    telemetry::{metrics::Metrics, trace},
    trust::{Decision, Trust},
};

/// A pattern's share of the node.
pub struct Context {
    /// The pattern's name.
    pub pattern: &'static str,
    /// The mesh.
    pub mesh: Mesh,
    /// Where this pattern's inbound streams and requests come out.
    pub doors: PatternDoors,
    /// The pattern's own keyspace.
    pub keyspace: Keyspace,
    /// For histories: logs, which the pattern names after itself.
    pub store: Store,
    /// The calendar.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Where what others hold as well is shared.
    pub sharing: Arc<dyn Sharing>,
    /// The only way to spawn.
    pub tasks: Tasks,
    /// Where to register metrics.
    pub metrics: Metrics,
    /// The patterns that come before this one.
    pub handles: Handles,
}

impl Context {
    /// Who belongs, and who may what.
    pub fn trust(&self) -> &Trust {
        self.mesh.trust()
    }

    /// Decides what a peer may do, given the capabilities of its greeting.
    pub fn check(&self, peer: &PeerId, verb: Verb, resource: &Subject, hello: &Hello) -> Decision {
        let tokens = hello.capability_tokens().unwrap_or_default();
        self.trust().check(peer, verb, resource, &tokens)
    }

    /// A greeting for this pattern, with the current trace and our own capabilities for the act.
    pub fn hello(&self, verb: Verb, resource: &Subject) -> Hello {
        greeting(self.pattern, self.trust(), verb, resource)
    }
}

/// A greeting with the current trace and our own capabilities for the act.
pub fn greeting(pattern: &str, trust: &Trust, verb: Verb, resource: &Subject) -> Hello {
    let mut hello = Hello::new(pattern, verb, resource.as_str());
    if let Some(context) = trace::current() {
        hello.traceparent = Some(context.traceparent());
        hello.tracestate = context.tracestate;
    }
    hello.capability = trust.to_present(verb, resource);
    hello
}
