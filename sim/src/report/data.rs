//! What a run found, as data: the one JSON document of `--json`, and what tables and pictures are made from.
//!
//! Readable by later versions: fields are added, not renamed. Latencies are in milliseconds, times on the axis in seconds of
//! virtual time (in the modes that start processes: of real time) from the start.

use serde::{Deserialize, Serialize};

/// What one run found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Report {
    /// Of this shape of the document; grows when a reader must know.
    pub format: u32,
    /// The scenario's name.
    pub scenario: String,
    /// What it shows.
    #[serde(default)]
    pub about: String,
    /// The seed.
    pub seed: u64,
    /// In which way the nodes were run.
    pub mode: Mode,
    /// The program's version.
    pub version: String,
    /// Why the run ended before its time; none: it did not.
    #[serde(default)]
    pub ended_early: Option<String>,
    /// Honest nodes.
    pub nodes: usize,
    /// How long the scenario ran in its own time.
    pub virtual_seconds: f64,
    /// How long that took.
    pub wall_seconds: f64,
    /// Processor time it took, of all processes.
    pub cpu_seconds: f64,
    /// The most memory it held, of all processes together.
    pub rss_bytes_peak: u64,
    /// Digest over everything that happened and when: equal for equal seeds. None where the mode cannot have one.
    pub trace_hash: Option<String>,
    /// Events the digest covers.
    #[serde(default)]
    pub trace_events: u64,
    /// The mesh.
    pub topology: TopologyReport,
    /// Publishing to arriving, of all messages.
    pub propagation: Distribution,
    /// Calling to the answer, appending to the answer, or putting into a queue to being served.
    pub calls: Distribution,
    /// Hops from publisher to subscriber, where they are known: `hops[n]` deliveries took n.
    #[serde(default)]
    pub hops: Vec<u64>,
    /// Bytes sent by each node.
    #[serde(default)]
    pub bytes_sent: Vec<u64>,
    /// Bytes received by each node.
    #[serde(default)]
    pub bytes_received: Vec<u64>,
    /// Copies of messages received beyond the first, by each node.
    #[serde(default)]
    pub duplicates: Vec<u64>,
    /// How things went over time.
    #[serde(default)]
    pub series: Vec<Sample>,
    /// What went wrong, and when.
    #[serde(default)]
    pub faults: Vec<FaultSpan>,
    /// What became of what applications did.
    #[serde(default)]
    pub workloads: Vec<Tally>,
    /// What was to hold, and whether it did.
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    /// What attackers achieved.
    #[serde(default)]
    pub attacks: Vec<AttackFigures>,
    /// What else a reader should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The scenario's text, for replay.
    #[serde(default)]
    pub source: String,
}

impl Report {
    /// The shape of the document this version writes.
    pub const FORMAT: u32 = 1;

    /// Whether every check held and the run was not cut short.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// How many hops a delivery took, in the mean, and the most; none where no way is known.
    pub fn hops_mean_and_most(&self) -> Option<(f64, usize)> {
        let deliveries: u64 = self.hops.iter().sum();
        let hops = self.hops.iter().zip(0u64..).map(|(count, hops)| count * hops);
        let most = self.hops.iter().rposition(|count| *count > 0)?;
        Some((hops.sum::<u64>() as f64 / deliveries as f64, most))
    }
}

/// In which way the nodes were run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The library in virtual time, in one process.
    #[default]
    Virtual,
    /// The shipped program, on loopback.
    Processes,
    /// The shipped program, in network namespaces.
    Hosts,
}

impl Mode {
    /// The word for it on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Virtual => "virtual",
            Self::Processes => "processes",
            Self::Hosts => "hosts",
        }
    }
}

/// The mesh as it was laid out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct TopologyReport {
    /// Its kind.
    pub kind: String,
    /// The nodes, by number.
    pub nodes: Vec<NodeReport>,
    /// Pairs of numbers, the smaller first.
    pub edges: Vec<(u32, u32)>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// The name of its group.
    pub group: String,
    /// Where it is drawn, 0 to 1.
    pub x: f64,
    /// Where it is drawn, 0 to 1.
    pub y: f64,
    /// The city it is in, where the scenario has cities.
    #[serde(default)]
    pub city: Option<String>,
    /// An attacker.
    #[serde(default)]
    pub attacker: bool,
    /// It ran at the end.
    #[serde(default)]
    pub up: bool,
}

/// A distribution: how many values, and the curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Distribution {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Points (value, share of values up to it) in rising order, a few hundred at most.
    pub cdf: Vec<(f64, f64)>,
}

impl Distribution {
    /// The most points a curve keeps.
    pub const POINTS_MAX: usize = 200;

    /// Of these values, in any order.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        if count == 0 {
            return Self::default();
        }
        let points = count.min(Self::POINTS_MAX);
        let cdf = (1..=points)
            .map(|point| {
                // The last value of each part, so that the smallest and the largest are both there.
                let rank = if points == 1 {
                    count - 1
                } else {
                    (point - 1) * (count - 1) / (points - 1)
                };
                (values[rank], (rank + 1) as f64 / count as f64)
            })
            .collect();
        Self {
            count: count as u64,
            mean: values.iter().sum::<f64>() / count as f64,
            cdf,
        }
    }

    /// The value below which this percentage lies; none of an empty one.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let share = percent / 100.0;
        self.cdf
            .iter()
            .find(|(_, up_to)| *up_to + 1e-12 >= share)
            .or(self.cdf.last())
            .map(|(value, _)| *value)
    }
}

/// How things were at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Sample {
    /// Seconds from the start.
    pub at: f64,
    /// Nodes that run.
    pub nodes_up: u32,
    /// Connections of a node: the fewest, the average, the most.
    pub connections: (u32, f64, u32),
    /// Gossip neighbours of a node: the fewest, the average, the most.
    pub mesh_degree: (u32, f64, u32),
    /// Parts that do not reach each other.
    pub components: u32,
    /// Messages sent since the last sample.
    pub sent: u64,
    /// Deliveries since the last sample.
    pub delivered: u64,
}

impl Sample {
    /// The fewest, the average, the most.
    pub fn spread(values: &[u32]) -> (u32, f64, u32) {
        let (Some(min), Some(max)) = (values.iter().min(), values.iter().max()) else {
            return (0, 0.0, 0);
        };
        let sum: u64 = values.iter().map(|value| u64::from(*value)).sum();
        (*min, sum as f64 / values.len() as f64, *max)
    }
}

/// A fault on the axis of time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct FaultSpan {
    /// What, in words.
    pub what: String,
    /// Seconds from the start.
    pub from: f64,
    /// Seconds from the start; equal to `from` where it does not last.
    pub until: f64,
    /// The nodes it met.
    #[serde(default)]
    pub nodes: Vec<u32>,
}

/// What became of one workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Tally {
    /// Its name.
    pub name: String,
    /// `publish`, `call`, `append` or `batch`.
    pub kind: String,
    /// Sent, or called.
    pub sent: u64,
    /// The sender's node took it, or the call was answered.
    pub acknowledged: u64,
    /// Of those: the sender's node said that nobody else has it yet.
    #[serde(default)]
    pub kept: u64,
    /// The sender's node refused it, and said so.
    pub refused: u64,
    /// What became of it the sender cannot know: its node died, or time ran out.
    pub unknown: u64,
    /// Deliveries that were due: subscribers who were there, for each message acknowledged.
    pub expected: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries of something that was delivered there before.
    pub duplicates: u64,
    /// Deliveries of what nobody sent: must be none.
    pub impossible: u64,
    /// Deliveries out of their publisher's order.
    pub out_of_order: u64,
}

impl Tally {
    /// Deliveries made, of those due; 1 where none was due.
    pub fn delivery_ratio(&self) -> f64 {
        if self.expected == 0 {
            1.0
        } else {
            self.delivered as f64 / self.expected as f64
        }
    }
}

/// Whether something held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct CheckResult {
    /// Its name.
    pub name: String,
    /// It held.
    pub passed: bool,
    /// What was found, with its unit.
    pub measured: String,
    /// What was allowed, with its unit.
    pub limit: String,
    /// The sentence that is checked, from the documents.
    pub sentence: String,
}

/// What one attack achieved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct AttackFigures {
    /// Its kind.
    pub kind: String,
    /// Attackers.
    pub attackers: usize,
    /// Nodes scored their neighbours.
    pub scoring: bool,
    /// The share of due deliveries made while it lasted.
    pub delivery_ratio: f64,
    /// Deliveries at the victim, of those due there.
    #[serde(default)]
    pub victim_delivery_ratio: Option<f64>,
    /// Arrival at the 99th percentile while it lasted.
    pub latency_p99_ms: f64,
    /// The share of honest nodes' gossip neighbours that were attackers, at the end.
    pub attacker_share_of_mesh: f64,
}
