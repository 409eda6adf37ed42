//! How the mesh is at one time: asked of every node at once; and what its processes take.

use std::collections::HashMap;

use weft_protocol::Subject;

use super::{api::Api, load::Ledger, node::Node};
use crate::{gossip_metrics, report::Sample, run::RunError};

/// Clock ticks of `/proc/PID/stat` in a second: part of the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a page as `/proc/PID/statm` counts them.
const PAGE_BYTES: u64 = 4096;

/// What the processes took so far.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// The most memory at one time.
    pub(super) rss_bytes_peak: u64,
    /// Processor time of those that live, by process.
    cpu: HashMap<u32, f64>,
}

impl Usage {
    /// Looks at all processes.
    pub(super) fn look(&mut self, nodes: &[Node]) {
        let mut rss = 0;
        for pid in nodes.iter().flat_map(Node::pids) {
            let Some((seconds, bytes)) = process(pid) else { continue };
            rss += bytes;
            self.cpu.insert(pid, seconds);
        }
        self.rss_bytes_peak = self.rss_bytes_peak.max(rss);
    }

    /// Processor time of all, those that ended as far as it was seen.
    pub(super) fn cpu_seconds(&self) -> f64 {
        self.cpu.values().sum()
    }
}

/// Processor time and memory of a process.
fn process(pid: u32) -> Option<(f64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may have anything in it but a last parenthesis.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some((ticks / TICKS_PER_SECOND, pages * PAGE_BYTES))
}

/// What every node that runs says, asked at once: its connections and its gossip neighbours on the topic of `subject`. Copies
/// of messages go into `copies`, by node.
pub(super) async fn look(
    nodes: &[Node],
    ledger: &Ledger,
    subject: Option<&Subject>,
    copies: &mut [u64],
) -> Result<Sample, RunError> {
    let mut asked = tokio::task::JoinSet::new();
    for node in nodes.iter().filter(|node| node.is_running() && !node.paused) {
        let (number, api): (usize, Api) = (node.number, node.api()?);
        asked.spawn(async move { (number, tokio::join!(api.peers(), api.metrics())) });
    }
    let mut neighbours: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut mesh_degrees = Vec::new();
    while let Some(answer) = asked.join_next().await {
        let Ok((number, (peers, metrics))) = answer else {
            continue;
        };
        if let Some(peers) = peers {
            let known = peers.iter().filter_map(|id| ledger.node(id)).collect();
            neighbours.insert(number as u32, known);
        }
        if let Some(metrics) = metrics {
            mesh_degrees.extend(subject.map(|subject| gossip_metrics::neighbours(&metrics, subject)));
            if let Some(place) = copies.get_mut(number) {
                *place = gossip_metrics::copies(&metrics);
            }
        }
    }
    let degrees: Vec<u32> = neighbours.values().map(|others| others.len() as u32).collect();
    Ok(Sample {
        at: ledger.elapsed().as_secs_f64(),
        nodes_up: nodes.iter().filter(|node| node.is_running()).count() as u32,
        connections: Sample::spread(&degrees),
        mesh_degree: Sample::spread(&mesh_degrees),
        components: components(&neighbours),
        ..Sample::default()
    })
}

/// Parts that do not reach each other; a link counts when one side says so.
pub(super) fn components(neighbours: &HashMap<u32, Vec<u32>>) -> u32 {
    let mut both: HashMap<u32, Vec<u32>> = HashMap::new();
    for (node, others) in neighbours {
        both.entry(*node).or_default();
        for other in others.iter().filter(|other| neighbours.contains_key(other)) {
            both.entry(*node).or_default().push(*other);
            both.entry(*other).or_default().push(*node);
        }
    }
    let mut seen = std::collections::HashSet::new();
    let mut parts = 0;
    for start in both.keys() {
        if !seen.insert(*start) {
            continue;
        }
        parts += 1;
        let mut stack = vec![*start];
        while let Some(node) = stack.pop() {
            stack.extend(both[&node].iter().copied().filter(|next| seen.insert(*next)));
        }
    }
    parts
}
