//! Scenarios for engines that span machines: what outgrows this one is not simulated here.
//!
//! What is written is complete: it is started by the command its README names. What an engine does not carry (most faults, checks)
//! is listed there, not left out in silence. The mesh is an open one, so that every node gets in by the address of a neighbour.

mod kubernetes;
mod shadow;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use kubernetes::kubernetes;
pub use shadow::shadow;

use crate::{
    scenario::{Dial, Scenario, Taker, WorkloadKind},
    topology::{Graph, TopologyError, make},
};

/// A file of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name, in the export's folder.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The names and neighbours of a scenario's nodes.
struct Plan<'s> {
    scenario: &'s Scenario,
    graph: Graph,
    group_of: Vec<usize>,
}

impl<'s> Plan<'s> {
    fn new(scenario: &'s Scenario, seed: u64) -> Result<Self, TopologyError> {
        let topology = &scenario.topology;
        Ok(Self {
            graph: make(
                &topology.kind,
                scenario.nodes(),
                topology.seed.unwrap_or(seed),
                Path::new(""),
            )?,
            group_of: scenario.group_of_node(),
            scenario,
        })
    }

    /// The neighbours that are there before a node, and by which it gets in; any earlier node where it has none.
    fn ways_in(&self, node: usize) -> Vec<usize> {
        let earlier = |next: &&u32| (**next as usize) < node;
        let mut ways: Vec<usize> = self
            .graph
            .neighbours(node as u32)
            .iter()
            .filter(earlier)
            .map(|next| *next as usize)
            .collect();
        if ways.is_empty() && node > 0 {
            ways.push(node - 1);
        }
        ways
    }

    /// `node.config`, as TOML sections with dotted keys, for the group of a node.
    fn config(&self, group: usize) -> String {
        let config = &self.scenario.fleet[group].config;
        config
            .iter()
            .map(|(key, text)| format!("{key} = {}\n", toml_value(text)))
            .collect()
    }

    /// Whether a node sends, subscribes or serves in a workload.
    fn has_part(&self, node: usize, group: Option<&str>, first: Option<usize>) -> bool {
        let nodes = self.scenario.nodes_of(group);
        let taken = first.unwrap_or(nodes.len());
        nodes.iter().take(taken).any(|known| *known == node)
    }
}

/// A value of the configuration as TOML: numbers, booleans and lists as they are, everything else quoted.
fn toml_value(text: &str) -> String {
    let bare = text.parse::<i64>().is_ok() || matches!(text, "true" | "false") || text.starts_with('[');
    if bare {
        text.to_owned()
    } else {
        toml::Value::from(text).to_string()
    }
}

/// What an export does not carry, in sentences.
fn left_out(scenario: &Scenario, kills: bool) -> Vec<String> {
    let mut left = Vec::new();
    for fault in &scenario.faults {
        let carried = kills && matches!(fault.kind, crate::scenario::FaultKind::Kill { .. });
        if !carried {
            left.push(format!(
                "the fault {} that begins at {:.1} s",
                fault.kind.as_str(),
                fault.when.start().as_secs_f64()
            ));
        }
    }
    left.extend(
        scenario
            .attacks
            .iter()
            .map(|attack| format!("the attack {}", attack.kind.as_str())),
    );
    left.extend(scenario.checks.iter().map(|check| {
        format!(
            "the check {}: its figures are in the nodes' logs and metrics",
            check.name
        )
    }));
    if scenario.transport.is_some() {
        left.push("transport: nodes dial each other over TCP first".into());
    }
    if !scenario.open {
        left.push(
            "certificates and roles: the mesh is an open one, so that every node gets in by a neighbour's address"
                .into(),
        );
    }
    if scenario.topology.dial == Dial::Edges {
        left.push(
            "that nodes reach each other only along the edges: here the edges are whom a node knows at the start"
                .into(),
        );
    }
    left
}

fn bullets(lines: &[String]) -> String {
    if lines.is_empty() {
        return "Nothing.\n".into();
    }
    lines.iter().map(|line| format!("- {line}\n")).collect()
}

/// A shell script that does a node's part in the workloads, with the program `weft` on its data directory.
///
/// It is the same for every engine: sleep, publish, call; subscribers and services first, in the background.
fn load_script(plan: &Plan<'_>, node: usize, weft: &str) -> Option<String> {
    let mut head = String::new();
    let mut body = String::new();
    for workload in &plan.scenario.workloads {
        let senders = workload.senders.max(1);
        let sends = plan.has_part(node, workload.from.as_deref(), Some(senders));
        let takes = plan.has_part(node, workload.to.as_deref(), None);
        // Each sender has its part of the rate.
        let pause = senders as f64 / workload.per_second;
        let mine = workload.planned().div_ceil(senders as u64);
        let text = "x".repeat(workload.size.min(1024));
        let start = workload.start.as_secs_f64();
        if let Some((stream, replicas)) = workload.kind.stream()
            && plan.has_part(node, workload.from.as_deref(), Some(1))
        {
            // Those that are to keep it may not have met yet.
            head.push_str(&format!(
                "( for i in 1 2 3 4 5 6 7 8 9 10; do {weft} stream create '{stream}' --replicas {replicas} >>load.log 2>&1 && break; sleep 3; done ) &\n"
            ));
        }
        match &workload.kind {
            WorkloadKind::Publish { subject, retain } => {
                // What is retained is of its sender.
                let (level, own, option) = match retain {
                    true => (".*", format!(".{node}"), " --retain"),
                    false => ("", String::new(), ""),
                };
                if takes {
                    head.push_str(&format!(
                        "{weft} sub '{subject}{level}' --json >>messages.log 2>>load.log &\n"
                    ));
                }
                if sends {
                    body.push_str(&format!(
                        "( sleep {start}; i=0; while [ $i -lt {mine} ]; do {weft} pub '{subject}{own}' \"$i {text}\"{option} >>sent.log 2>&1; i=$((i+1)); sleep {pause:.3}; done ) &\n"
                    ));
                }
            }
            WorkloadKind::Append { stream, .. } => {
                if sends {
                    body.push_str(&format!(
                        "( sleep {start}; i=0; while [ $i -lt {mine} ]; do {weft} stream append '{stream}' --type sim \"$i {text}\" >>appended.log 2>&1; i=$((i+1)); sleep {pause:.3}; done ) &\n"
                    ));
                }
            }
            WorkloadKind::Batch(batch) => {
                let queue = &workload.name;
                let to = match &batch.taker {
                    Taker::Service(service) => format!("--to-service '{service}'"),
                    Taker::Stream { stream, .. } => format!("--to-stream '{stream}'"),
                };
                if let Taker::Service(service) = &batch.taker
                    && takes
                {
                    head.push_str(&format!("{weft} serve '{service}' --echo >>served.log 2>&1 &\n"));
                }
                if sends {
                    let (records, age_ms) = (batch.records, batch.age.as_millis());
                    head.push_str(&format!(
                        "{weft} batch create '{queue}' {to} --count {records} --age {age_ms}ms >>load.log 2>&1\n"
                    ));
                    body.push_str(&format!(
                        "( sleep {start}; i=0; while [ $i -lt {mine} ]; do {weft} batch put '{queue}' \"$i {text}\" >>put.log 2>&1; i=$((i+1)); sleep {pause:.3}; done ) &\n"
                    ));
                }
            }
            WorkloadKind::Call { service, timeout, .. } => {
                if takes {
                    head.push_str(&format!("{weft} serve '{service}' --echo >>served.log 2>&1 &\n"));
                }
                if sends {
                    body.push_str(&format!(
                        "( sleep {start}; i=0; while [ $i -lt {mine} ]; do {weft} call '{service}' \"$i {text}\" --timeout {}ms >>called.log 2>&1; i=$((i+1)); sleep {pause:.3}; done ) &\n",
                        timeout.as_millis()
                    ));
                }
            }
        }
    }
    if head.is_empty() && body.is_empty() {
        return None;
    }
    Some(format!(
        "#!/bin/sh\n# The part of one node in the workloads.\n{weft} status --wait 60s >>load.log 2>&1\n{head}{body}wait\n"
    ))
}
