//! Metrics in the OpenMetrics text format.
//!
//! Names are `weft_<subsystem>_<what>_<unit>`, with base units; libp2p's own keep `libp2p_*`, the process's `process_*`. Labels are
//! bounded: never a peer id, and a text that a user chose only through [`LabelBound`]. A metric is a cheap handle; reading it out
//! costs something only when somebody asks.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::process::ProcessCollector;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds of a duration's buckets, from a fast call on one machine to a slow one across the world.
pub const DURATION_BUCKETS_S: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Upper bounds of a size's buckets, from 64 B to 16 MiB.
pub const SIZE_BUCKETS_BYTES: [f64; 10] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Every metric of one node. Cheap to clone; there is no global one.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    dropped: Dropped,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The metrics every node has: those of the process, and what it dropped.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let dropped = Dropped::default();
        let help = "Items dropped because a queue was full or their sender may not send them";
        registry
            .sub_registry_with_prefix("weft")
            .register("dropped", help, dropped.0.clone());
        Self {
            registry: Arc::new(Mutex::new(registry)),
            dropped,
        }
    }

    /// What was dropped, by queue and reason.
    pub fn dropped(&self) -> &Dropped {
        &self.dropped
    }

    /// Registers metrics under their own full names, as libp2p's do.
    pub fn with_registry<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Registers metrics under `weft_<subsystem>_`.
    pub fn subsystem<T>(&self, subsystem: &str, register: impl FnOnce(&mut Subsystem<'_>) -> T) -> T {
        self.with_registry(|registry| {
            let registry = registry
                .sub_registry_with_prefix("weft")
                .sub_registry_with_prefix(subsystem);
            register(&mut Subsystem { registry })
        })
    }

    /// Every metric as text; its media type is [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        self.with_registry(|registry| {
            let mut text = String::new();
            text::encode(&mut text, registry).expect("invariant: writing to a string does not fail");
            text
        })
    }
}

/// Where the metrics of one subsystem are registered; a name is given without prefix, unit and `_total`.
#[derive(Debug)]
pub struct Subsystem<'a> {
    registry: &'a mut Registry,
}

impl Subsystem<'_> {
    /// A count that only grows.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Counts that only grow, one per set of labels.
    pub fn counters<L: Labels>(&mut self, name: &str, help: &str) -> Family<L, Counter> {
        let metric = Family::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// A count of bytes that only grows.
    pub fn bytes_counter(&mut self, name: &str, help: &str) -> Counter {
        let metric = Counter::default();
        self.registry
            .register_with_unit(name, help, Unit::Bytes, metric.clone());
        metric
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let metric = Gauge::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// Numbers that go up and down, one per set of labels.
    pub fn gauges<L: Labels>(&mut self, name: &str, help: &str) -> Family<L, Gauge> {
        let metric = Family::default();
        self.registry.register(name, help, metric.clone());
        metric
    }

    /// How long something takes, in seconds.
    pub fn durations(&mut self, name: &str, help: &str) -> Histogram {
        let metric = Histogram::new(DURATION_BUCKETS_S);
        self.registry
            .register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    /// How long something takes, in seconds, one histogram per set of labels.
    pub fn durations_by<L: Labels>(&mut self, name: &str, help: &str) -> Family<L, Histogram> {
        let metric = Family::new_with_constructor((|| Histogram::new(DURATION_BUCKETS_S)) as fn() -> Histogram);
        self.registry
            .register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    /// How large something is, in bytes.
    pub fn sizes(&mut self, name: &str, help: &str) -> Histogram {
        let metric = Histogram::new(SIZE_BUCKETS_BYTES);
        self.registry
            .register_with_unit(name, help, Unit::Bytes, metric.clone());
        metric
    }
}

/// A set of labels.
pub trait Labels: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static {}

impl<T: EncodeLabelSet + Clone + std::hash::Hash + Eq + std::fmt::Debug + Send + Sync + 'static> Labels for T {}

/// Lets so many different texts become label values, and the rest `other`: a user may name a service as he likes, but not fill
/// the memory with names.
#[derive(Debug, Clone)]
pub struct LabelBound {
    seen: Arc<Mutex<BTreeSet<String>>>,
    values_max: usize,
}

/// The value of a label whose own text came too late.
pub const OTHER: &str = "other";

/// Longer texts are no label values.
const LABEL_BYTES_MAX: usize = 128;

impl LabelBound {
    /// Room for `values_max` values.
    pub fn new(values_max: usize) -> Self {
        Self {
            seen: Arc::default(),
            values_max,
        }
    }

    /// The value to use for this text.
    pub fn admit<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(text) {
            return text.into();
        }
        if seen.len() >= self.values_max || text.len() > LABEL_BYTES_MAX {
            return OTHER.into();
        }
        seen.insert(text.to_owned());
        text.into()
    }
}

/// `weft_dropped_total{queue, reason}`: whatever a full queue or a rule cost. Both labels come from the code, never from outside.
#[derive(Debug, Clone, Default)]
pub struct Dropped(Family<DroppedLabels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DroppedLabels {
    queue: &'static str,
    reason: &'static str,
}

impl Dropped {
    /// Counts one.
    pub fn inc(&self, queue: &'static str, reason: &'static str) {
        self.add(queue, reason, 1);
    }

    /// Counts several.
    pub fn add(&self, queue: &'static str, reason: &'static str, count: u64) {
        self.0.get_or_create(&DroppedLabels { queue, reason }).inc_by(count);
    }

    /// How many so far.
    pub fn get(&self, queue: &'static str, reason: &'static str) -> u64 {
        self.0.get_or_create(&DroppedLabels { queue, reason }).get()
    }
}

/// What the mesh's driver counts.
#[derive(Debug, Clone, Default)]
pub struct MeshCounters {
    dropped: Dropped,
    refused_connections: Counter,
    refused_peers: Counter,
    refused_greetings: Family<RefusalLabels, Counter>,
    peers: Gauge,
    members: Gauge,
    round_trips: Option<Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

impl MeshCounters {
    /// Counters registered under `weft_mesh_`; those of `default()` are counted but never shown.
    pub fn register(metrics: &Metrics) -> Self {
        metrics.subsystem("mesh", |mesh| Self {
            dropped: metrics.dropped.clone(),
            refused_connections: mesh.counter("refused_connections", "Connections refused by a limit or a ban"),
            refused_peers: mesh.counter(
                "refused_peers",
                "Peers disconnected because they did not prove their membership",
            ),
            refused_greetings: mesh.counters("refused_greetings", "Streams and requests the door-keeper refused"),
            peers: mesh.gauge("peers", "Members connected now"),
            members: mesh.gauge("members", "Members the directory knows, this one included"),
            round_trips: Some(mesh.durations("round_trip", "Measured round trips to members")),
        })
    }

    /// Counts a refusal at the door.
    pub fn refused_greeting(&self, reason: &'static str) {
        self.refused_greetings.get_or_create(&RefusalLabels { reason }).inc();
    }

    /// Says how many are connected and known.
    pub fn set_sizes(&self, peers: usize, members: usize) {
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        self.members.set(i64::try_from(members).unwrap_or(i64::MAX));
    }

    /// Notes a measured round trip.
    pub fn round_trip(&self, rtt: std::time::Duration) {
        if let Some(histogram) = &self.round_trips {
            histogram.observe(rtt.as_secs_f64());
        }
    }

    /// Counts something that a queue or a rule dropped.
    pub fn dropped(&self, queue: &'static str, reason: &'static str) {
        self.dropped.inc(queue, reason);
    }

    /// Counts a connection that was refused.
    pub fn refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// Counts a peer that was refused.
    pub fn refused_peer(&self) {
        self.refused_peers.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct ByService {
        service: String,
    }

    #[test]
    fn names_have_prefix_subsystem_and_unit() {
        let metrics = Metrics::new();
        let (calls, latency, open) = metrics.subsystem("request_response", |s| {
            (
                s.counters::<ByService>("calls", "Calls"),
                s.durations("call", "Latency"),
                s.gauge("open", "Open"),
            )
        });
        calls
            .get_or_create(&ByService {
                service: "greet".into(),
            })
            .inc();
        latency.observe(0.003);
        open.set(-2);
        metrics.dropped().inc("gossip", "full");
        let mesh = MeshCounters::register(&metrics);
        mesh.dropped("gossip", "full");
        mesh.refused_peer();
        let text = metrics.encode();
        for line in [
            "weft_request_response_calls_total{service=\"greet\"} 1",
            "weft_request_response_call_seconds_bucket{le=\"0.005\"} 1",
            "weft_request_response_open -2",
            "weft_dropped_total{queue=\"gossip\",reason=\"full\"} 2",
            "weft_mesh_refused_peers_total 1",
            "weft_mesh_refused_connections_total 0",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
        }
        assert!(
            text.contains("\nprocess_resident_memory_bytes ") && text.ends_with("# EOF\n"),
            "{text}"
        );
    }

    #[test]
    fn two_nodes_in_one_process_count_apart() {
        let (a, b) = (Metrics::new(), Metrics::new());
        a.dropped().inc("q", "r");
        assert_eq!((a.dropped().get("q", "r"), b.dropped().get("q", "r")), (1, 0));
    }

    #[test]
    fn label_values_are_bounded() {
        let bound = LabelBound::new(2);
        let texts = ["a", "b", "c", "a", "d"].map(|text| bound.admit(text).into_owned());
        assert_eq!(texts, ["a", "b", OTHER, "a", OTHER]);
        assert_eq!(LabelBound::new(2).admit(&"x".repeat(LABEL_BYTES_MAX + 1)), OTHER);
    }
}
