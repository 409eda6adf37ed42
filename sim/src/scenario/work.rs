//! What a scenario says of applications, and what must hold.

use std::time::Duration;

use weft_node::patterns::batching::{Destination, QueueOptions};

/// What applications do.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Its name, by which checks refer to it.
    pub name: String,
    /// What is done.
    pub kind: WorkloadKind,
    /// The group that sends; none: all nodes.
    pub from: Option<String>,
    /// How many of that group send; the first ones.
    pub senders: usize,
    /// The group that subscribes, or serves; none: all nodes.
    pub to: Option<String>,
    /// Messages or calls a second, of all senders together.
    pub per_second: f64,
    /// How many at most; none: as many as fit between start and stop.
    pub count: Option<u64>,
    /// Bytes of a body.
    pub size: usize,
    /// When the first is sent.
    pub start: Duration,
    /// When no more are sent.
    pub stop: Duration,
}

/// Publishing, calling, appending or putting into queues.
#[derive(Debug, Clone, PartialEq)]
pub enum WorkloadKind {
    /// Messages to all who subscribe.
    Publish {
        /// The subject.
        subject: String,
        /// Each is the last value of a subject of its sender, below this one, for those who come later.
        retain: bool,
    },
    /// Calls, each to one who serves.
    Call {
        /// The service.
        service: String,
        /// How long a caller waits.
        timeout: Duration,
        /// Whether the caller's node chooses whom to ask; else one who runs is drawn for each call.
        any: bool,
    },
    /// Appends to a stream, each read by somebody else as soon as it is answered, and all by everybody in the end.
    Append {
        /// The stream.
        stream: String,
        /// How many nodes keep it.
        replicas: u8,
    },
    /// Records into a queue of each sender's node, which hands them over to those who serve, or puts them into a stream.
    Batch(Batch),
}

/// Who takes batches.
#[derive(Debug, Clone, PartialEq)]
pub enum Taker {
    /// A service of those that receive.
    Service(String),
    /// A stream.
    Stream {
        /// Its name.
        stream: String,
        /// How many nodes keep it.
        replicas: u8,
    },
}

/// How records are batched, and for whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Who takes batches.
    pub taker: Taker,
    /// Records of a batch, at most.
    pub records: usize,
    /// How long a record waits for others.
    pub age: Duration,
    /// How long the service may take for a batch.
    pub timeout: Duration,
    /// Keys that records have in turn; 0: they have none.
    pub keys: usize,
    /// The share of records that the service never takes.
    pub poison: f64,
}

impl Batch {
    /// The queue of each sender; `None`, where its stream cannot be called so.
    pub fn queue(&self) -> Option<QueueOptions> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let to = match &self.taker {
            Taker::Service(service) => Destination::Service {
                name: service.clone(),
                version: None,
                endpoint: None,
            },
            Taker::Stream { stream, .. } => Destination::Stream {
                name: stream.parse().ok()?,
                kind: None,
                dataschema: None,
            },
        };
        Some(QueueOptions {
            count_max: self.records,
            age_ms_max: ms(self.age),
            timeout_ms: ms(self.timeout),
            ..QueueOptions::new(to)
        })
    }
}

impl WorkloadKind {
    /// The word for it in a scenario and in reports.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Call { .. } => "call",
            Self::Append { .. } => "append",
            Self::Batch(_) => "batch",
        }
    }

    /// The stream that is written to, and how many nodes keep it.
    pub fn stream(&self) -> Option<(&str, u8)> {
        match self {
            Self::Append { stream, replicas }
            | Self::Batch(Batch {
                taker: Taker::Stream { stream, replicas },
                ..
            }) => Some((stream, *replicas)),
            _ => None,
        }
    }

    /// The service that is called.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Call { service, .. }
            | Self::Batch(Batch {
                taker: Taker::Service(service),
                ..
            }) => Some(service),
            Self::Publish { .. } | Self::Append { .. } | Self::Batch(_) => None,
        }
    }
}

impl Workload {
    /// The share of its records that no service takes.
    pub fn poison(&self) -> f64 {
        match &self.kind {
            WorkloadKind::Batch(batch) => batch.poison,
            _ => 0.0,
        }
    }

    /// How many messages or calls it is meant to send.
    pub fn planned(&self) -> u64 {
        let seconds = self.stop.saturating_sub(self.start).as_secs_f64();
        // Floor, but not below the last one that begins before the stop.
        let fit = (seconds * self.per_second).ceil().max(0.0) as u64;
        self.count.map_or(fit, |count| count.min(fit))
    }
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Its name in the report: the kind, and the workload where it is of one.
    pub name: String,
    /// What.
    pub kind: CheckKind,
    /// Of which workload, by its index; none: of the whole run.
    pub workload: Option<usize>,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum CheckKind {
    /// Messages that arrived, of those that were to arrive at nodes up all the time.
    DeliveryRatio {
        /// At least this share.
        min: f64,
    },
    /// Time from sending to arriving, or to the answer.
    Latency {
        /// Of which percentile, 0 to 100.
        percentile: f64,
        /// At most this.
        max: Duration,
    },
    /// Nothing that a node acknowledged as durable, or answered, is forgotten by it.
    NoAcknowledgedLoss,
    /// Messages of one publisher arrive in the order of their sending.
    OrderPerPublisher,
    /// No message is given to a subscriber twice.
    NoDuplicates,
    /// The appends to a stream are in one order, that of the time too, and the same wherever it is read.
    OneOrder {
        /// At least this share of them is answered.
        min: f64,
    },
    /// In the end every node knows the last value of each sender, or one that came after what was acknowledged last.
    Retained,
    /// Every record that a queue acknowledged is served, in the order of its key, or kept among the dead.
    HandedOver {
        /// Of those that are no poison, at most this share may be dead.
        dead_max: f64,
    },
    /// Calls answered, of those made.
    Answered {
        /// At least this share.
        min: f64,
    },
    /// Who takes calls and answers none is asked no more, and asked again when it answers.
    LeftAlone {
        /// Of the calls that reach anybody, at most this share goes to those who hang, once callers know.
        max: f64,
        /// How long callers have to find out.
        opens: Duration,
        /// How long after the end one is answered again by each of them.
        closes: Duration,
    },
    /// From the end of the last fault (from the start, without faults) until all nodes are one mesh again.
    ConvergenceTime {
        /// At most this.
        max: Duration,
    },
    /// Memory of the process, by the number of nodes.
    MemoryBound {
        /// At most so many bytes a node.
        max_per_node: u64,
    },
    /// Bytes sent, by the number of nodes.
    BytesPerNode {
        /// At most so many.
        max: u64,
    },
    /// Copies of a message a node receives beyond the first, on average.
    DuplicateRatio {
        /// At most so many.
        max: f64,
    },
    /// At the end every node has so many connections.
    Degree {
        /// At least.
        min: usize,
        /// At most; none: any number.
        max: Option<usize>,
    },
}

impl CheckKind {
    /// The word for it in a scenario.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::DeliveryRatio { .. } => "delivery-ratio",
            Self::Latency { .. } => "latency",
            Self::NoAcknowledgedLoss => "no-acknowledged-loss",
            Self::OrderPerPublisher => "order-per-publisher",
            Self::NoDuplicates => "no-duplicates",
            Self::Answered { .. } => "answered",
            Self::OneOrder { .. } => "one-order",
            Self::Retained => "retained",
            Self::HandedOver { .. } => "handed-over",
            Self::LeftAlone { .. } => "left-alone",
            Self::ConvergenceTime { .. } => "convergence-time",
            Self::MemoryBound { .. } => "memory-bound",
            Self::BytesPerNode { .. } => "bytes-per-node",
            Self::DuplicateRatio { .. } => "duplicate-ratio",
            Self::Degree { .. } => "degree",
        }
    }
}
