//! What is counted of calls.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use super::CallError;
use crate::{error::Kind as _, telemetry::metrics::Metrics};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

/// `weft_request_response_calls_total{outcome}`, how long they took, and what was done about those that went wrong.
#[derive(Debug, Clone)]
pub(super) struct CallMetrics {
    calls: Family<Outcome, Counter>,
    /// The one that nearly all calls are counted by, once it is there.
    answered: Arc<OnceLock<Counter>>,
    events: Family<Event, Counter>,
    durations: Histogram,
}

impl CallMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        metrics.subsystem("request_response", |subsystem| CallMetrics {
            calls: subsystem.counters("calls", "Calls made by this node, by their outcome"),
            answered: Arc::default(),
            events: subsystem.counters("further_tries", "Calls sent again, or to a second instance as well"),
            durations: subsystem.durations("call_duration", "How long calls by this node took, however they ended"),
        })
    }

    pub(super) fn note<T>(&self, result: &Result<T, CallError>, elapsed: Duration) {
        let count = |outcome| self.calls.get_or_create_owned(&Outcome { outcome });
        match result {
            Ok(_) => self.answered.get_or_init(|| count("ok")).inc(),
            Err(error) => count(error.kind().as_str()).inc(),
        };
        self.durations.observe(elapsed.as_secs_f64());
    }

    pub(super) fn note_event(&self, event: &'static str) {
        self.events.get_or_create(&Event { event }).inc();
    }
}
