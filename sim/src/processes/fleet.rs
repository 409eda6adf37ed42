//! The nodes of a run as they are to be started, and the oracle that is told of them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Ground, node::Node};
use crate::{
    oracle::Oracle,
    scenario::{Scenario, Transport, Version, WorkloadKind},
    topology::Graph,
};

/// An oracle for the scenario's workloads.
pub(super) fn oracle(scenario: &Scenario) -> Oracle {
    Oracle::new(scenario.workloads.iter().map(|workload| {
        let receivers: BTreeSet<u32> = scenario
            .nodes_of(workload.to.as_deref())
            .iter()
            .map(|n| *n as u32)
            .collect();
        let is_publish = matches!(workload.kind, WorkloadKind::Publish { .. });
        (workload.name.clone(), is_publish, receivers)
    }))
}

/// The nodes, not started.
pub(super) fn nodes(
    scenario: &Scenario,
    graph: &Graph,
    ground: &dyn Ground,
    binary: &Path,
    folder: &Path,
) -> Vec<Node> {
    let group_of = scenario.group_of_node();
    (0..scenario.nodes())
        .map(|number| {
            let group = &scenario.fleet[group_of[number]];
            let program = match &group.version {
                Version::Binary(path) => std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)),
                Version::Current | Version::Previous => binary.to_owned(),
            };
            let variable = |(key, value): (&String, &String)| {
                (
                    format!("WEFT__{}", key.to_uppercase().replace('.', "__")),
                    value.clone(),
                )
            };
            let scoring = (
                "mesh.peer_scoring".to_owned(),
                if scenario.scoring { "on" } else { "off" }.to_owned(),
            );
            let variables = group
                .config
                .iter()
                .chain([(&scoring.0, &scoring.1)])
                .map(variable)
                .collect();
            let args = arguments(number, &group.name, scenario, graph, ground);
            let mut node = Node::new(number, folder.join(number.to_string()), program, args, variables);
            node.services = scenario
                .workloads
                .iter()
                .filter(|workload| scenario.nodes_of(workload.to.as_deref()).contains(&number))
                .filter_map(|workload| match &workload.kind {
                    WorkloadKind::Call { service, .. } => Some(service.clone()),
                    WorkloadKind::Publish { .. } | WorkloadKind::Append { .. } | WorkloadKind::Batch(_) => None,
                })
                .collect();
            node
        })
        .collect()
}

/// `weft run` of a node. In a private mesh the ticket comes to it, once there is one.
fn arguments(number: usize, group: &str, scenario: &Scenario, graph: &Graph, ground: &dyn Ground) -> Vec<String> {
    let spoken = |address: &String| match scenario.transport {
        Some(Transport::Tcp) => !address.ends_with("/quic-v1"),
        Some(Transport::Quic) => address.ends_with("/quic-v1"),
        None => true,
    };
    let mut args: Vec<String> = ["--no-mdns", "--api", "127.0.0.1:0", "--log", "warn", "--name"]
        .map(str::to_owned)
        .into();
    args.push(format!("{group}-{number}"));
    for address in ground.listen(number).into_iter().filter(spoken) {
        args.extend(["--listen".to_owned(), address]);
    }
    if number == 0 {
        args.extend(scenario.open.then(|| "--open".to_owned()));
        return args;
    }
    args.push("--insecure-bootstrap".to_owned());
    let neighbours = graph.neighbours(number as u32).iter().map(|next| *next as usize);
    let mut ways: Vec<String> = neighbours.flat_map(|next| ground.dial(next)).collect();
    if ways.is_empty() {
        ways = ground.dial(0);
    }
    for address in ways.into_iter().filter(spoken) {
        args.extend(["--bootstrap".to_owned(), address]);
    }
    args
}
