//! What batching counts.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use super::work::Outcome;
use crate::telemetry::metrics::Metrics;

/// See the module.
#[derive(Clone)]
pub(super) struct BatchMetrics {
    pub(super) put: Counter,
    pub(super) delivered: Counter,
    pub(super) dead: Counter,
    batches: Counter,
    later: Counter,
    failed: Counter,
    handing_over_ms: Counter,
}

impl BatchMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics.subsystem("batching", |subsystem| BatchMetrics {
            put: subsystem.counter("records_put", "Records that were put into queues"),
            delivered: subsystem.counter("records_delivered", "Records that their destinations have"),
            dead: subsystem.counter("records_dead", "Records that were given up"),
            batches: subsystem.counter("batches_delivered", "Batches that their destinations have"),
            later: subsystem.counter("batches_postponed", "Batches whose destinations were away or busy"),
            failed: subsystem.counter("batches_failed", "Batches that their destinations could not take"),
            handing_over_ms: subsystem.counter("handing_over_ms", "Time that delivered batches took, milliseconds"),
        })
    }

    pub(super) fn handed_over(&self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Delivered | Outcome::Partly(_) => {
                self.batches.inc();
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                self.handing_over_ms.inc_by(took_ms);
            }
            Outcome::Later(..) => drop(self.later.inc()),
            Outcome::Failed(_) => drop(self.failed.inc()),
        }
    }
}
