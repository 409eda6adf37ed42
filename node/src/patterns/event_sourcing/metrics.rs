//! What is counted.

use prometheus_client::metrics::counter::Counter;

use crate::telemetry::metrics::Metrics;

/// What is counted, of all streams together.
#[derive(Clone)]
pub(super) struct StreamMetrics {
    pub(super) appended: Counter,
    pub(super) repeated: Counter,
    pub(super) refused: Counter,
    pub(super) handed: Counter,
    pub(super) settled: Counter,
    pub(super) dead: Counter,
}

impl StreamMetrics {
    pub(super) fn new(metrics: &Metrics) -> Self {
        metrics.subsystem("streams", |subsystem| StreamMetrics {
            appended: subsystem.counter("events_appended", "Events recorded in streams of this node"),
            repeated: subsystem.counter("appends_repeated", "Appends that were recorded before"),
            refused: subsystem.counter("appends_refused", "Appends that were not recorded"),
            handed: subsystem.counter("records_handed", "Records handed out to workers"),
            settled: subsystem.counter("records_settled", "Records that workers have settled"),
            dead: subsystem.counter("dead_letters", "Records that were given up"),
        })
    }
}
