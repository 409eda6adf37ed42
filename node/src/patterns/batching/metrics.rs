//! What batching counts.

use std::time::Duration;

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

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
    handing_over: Histogram,
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
            handing_over: subsystem.durations("handing_over_duration", "How long delivered batches took"),
        })
    }

    pub(super) fn handed_over(&self, outcome: &Outcome, took: Duration) {
        match outcome {
            Outcome::Delivered | Outcome::Partly(_) => {
                self.batches.inc();
                self.handing_over.observe(took.as_secs_f64());
            }
            Outcome::Later(..) => drop(self.later.inc()),
            Outcome::Failed(_) => drop(self.failed.inc()),
        }
    }
}
