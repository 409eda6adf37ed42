//! What the door counts.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::telemetry::metrics::{Dropped, Metrics};

/// `weft_nats_*`.
#[derive(Debug, Clone)]
pub(super) struct NatsMetrics {
    pub(super) connections: Gauge,
    pub(super) subscriptions: Gauge,
    /// From clients.
    pub(super) published: Counter,
    pub(super) published_bytes: Counter,
    /// To clients.
    pub(super) delivered: Counter,
    pub(super) requests_unanswered: Counter,
    pub(super) refused: Counter,
    pub(super) slow: Counter,
    pub(super) dropped: Dropped,
}

impl NatsMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let dropped = metrics.dropped().clone();
        metrics.subsystem("nats", |subsystem| NatsMetrics {
            connections: subsystem.gauge("connections", "NATS clients that are connected"),
            subscriptions: subsystem.gauge("subscriptions", "Subscriptions of NATS clients"),
            published: subsystem.counter("published", "Messages that NATS clients published"),
            published_bytes: subsystem.bytes_counter("published", "Bytes of their headers and payloads"),
            delivered: subsystem.counter("delivered", "Messages handed to NATS clients"),
            requests_unanswered: subsystem.counter("no_responders", "Requests to which nobody listened"),
            refused: subsystem.counter("refused", "Connections refused: no room, or no valid credentials"),
            slow: subsystem.counter("slow_consumers", "NATS clients cut off because they did not read"),
            dropped,
        })
    }
}
