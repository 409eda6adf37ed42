//! From what happened to the report.

use super::{layout::cities, world::World};
use crate::{
    check::{self, Evidence},
    gossip_metrics,
    network::{HostId, ns},
    oracle::Item,
    report::{AttackFigures, Distribution, Mode, NodeReport, Report, TopologyReport},
    scenario::{Attack, AttackKind, Latency, TopologyKind, cities::CITIES},
    topology,
};

/// Messages that did not arrive, in the notes.
const MISSING_SHOWN: usize = 8;

impl World<'_> {
    /// The report of a run that has ended.
    pub(super) fn report(&mut self) -> Report {
        let oracle = self.ledger.oracle().clone();
        let (trace, now_ns) = (self.network.trace(), self.network.now_ns());
        let nodes = self.scenario.nodes();
        let traffic: Vec<_> = (0..nodes).map(|host| self.network.traffic(host as HostId)).collect();
        let mut report = Report {
            format: Report::FORMAT,
            scenario: self.scenario.name.clone(),
            about: self.scenario.about.clone(),
            seed: self.seed,
            mode: Mode::Virtual,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ended_early: self.ended_early.take(),
            nodes,
            virtual_seconds: now_ns as f64 / 1e9,
            trace_hash: Some(trace.hash()),
            trace_events: trace.events(),
            topology: self.topology_report(),
            propagation: oracle.distribution(true),
            calls: oracle.distribution(false),
            hops: oracle.hops(),
            duplicates: self.duplicates(),
            bytes_sent: traffic.iter().map(|t| t.bytes_sent).collect(),
            bytes_received: traffic.iter().map(|t| t.bytes_received).collect(),
            series: std::mem::take(&mut self.samples),
            faults: std::mem::take(&mut self.faults.spans),
            workloads: oracle.tallies(self.scenario.kinds()),
            attacks: self
                .scenario
                .attacks
                .iter()
                .map(|attack| self.figures(attack))
                .collect(),
            notes: std::mem::take(&mut self.notes),
            source: self.scenario.source.clone(),
            ..Report::default()
        };
        report.notes.extend(oracle.missing(MISSING_SHOWN));
        let faults_end_ns = self.faults.ends_ns();
        let whole_ns = match (self.whole_at_end, self.apart_ns) {
            (false, _) => None,
            (true, None) => Some(0),
            // Seen at the sample after the last one that found it in parts.
            (true, Some(apart_ns)) => {
                let next = report
                    .series
                    .iter()
                    .map(|s| (s.at * 1e9) as u64)
                    .find(|at| *at > apart_ns);
                Some(next.unwrap_or(apart_ns))
            }
        };
        let evidence = Evidence {
            oracle: &oracle,
            convergence_ns: whole_ns.map(|at| at.saturating_sub(faults_end_ns)),
            disks_were_sound: !self.scenario.faults.iter().any(|fault| check::harms_disks(&fault.kind)),
        };
        report.checks = check::all(self.scenario, &evidence, &report);
        report
    }

    fn topology_report(&self) -> TopologyReport {
        let scenario = self.scenario;
        let places = topology::layout(&self.graph, Some(&scenario.topology.kind), self.seed);
        let (groups, cities) = (scenario.group_of_node(), cities(scenario));
        let has_cities = scenario.links.default.latency == Latency::Cities
            || scenario
                .links
                .between
                .iter()
                .any(|between| between.link.latency == Latency::Cities);
        let honest = (0..scenario.nodes()).map(|node| NodeReport {
            name: format!("{}-{node}", scenario.fleet[groups[node]].name),
            group: scenario.fleet[groups[node]].name.clone(),
            x: places[node].0,
            y: places[node].1,
            city: has_cities.then(|| CITIES[cities[node]].to_owned()),
            attacker: false,
            up: self.fleet.running(node as HostId).is_some(),
        });
        TopologyReport {
            kind: kind_name(&scenario.topology.kind).to_owned(),
            nodes: honest.collect(),
            edges: self.graph.edges().collect(),
        }
    }

    /// Copies beyond the first that each node's gossip has counted since its last start.
    fn duplicates(&self) -> Vec<u64> {
        let count = |host: usize| {
            let Some(running) = self.fleet.running(host as HostId) else {
                return 0;
            };
            gossip_metrics::copies(&running.node.metrics().encode())
        };
        (0..self.scenario.nodes()).map(count).collect()
    }

    fn figures(&self, attack: &Attack) -> AttackFigures {
        let oracle = self.ledger.oracle();
        let during = |item: &Item| (ns(attack.at)..ns(attack.until)).contains(&item.at_ns);
        let logs = || oracle.logs().iter().filter(|log| log.is_publish);
        let ratio = |counts: &dyn Fn(&Item, u32) -> bool| {
            let sums = logs().map(|log| oracle.deliveries(log, counts));
            let (due, delivered) = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            if due == 0 { 1.0 } else { delivered as f64 / due as f64 }
        };
        let victim = attack.victim.map(|victim| victim as u32);
        let latencies = logs().flat_map(|log| oracle.latencies_ms(log, during)).collect();
        AttackFigures {
            kind: kind_of_attack(attack.kind).to_owned(),
            attackers: attack.attackers,
            scoring: self.scenario.scoring,
            delivery_ratio: ratio(&|item, _| during(item)),
            victim_delivery_ratio: victim.map(|victim| {
                let is_his = |item: &Item, node: u32| match attack.kind {
                    AttackKind::Censor => item.sender == victim,
                    _ => node == victim,
                };
                ratio(&|item, node| during(item) && is_his(item, node))
            }),
            latency_p99_ms: Distribution::of(latencies).percentile(99.0).unwrap_or(0.0),
            attacker_share_of_mesh: self.attacker_share,
        }
    }
}

fn kind_of_attack(kind: AttackKind) -> &'static str {
    match kind {
        AttackKind::Sybil => "sybil",
        AttackKind::Eclipse => "eclipse",
        AttackKind::ColdBoot => "cold-boot",
        AttackKind::Flash => "flash",
        AttackKind::CovertFlash => "covert-flash",
        AttackKind::Censor => "censor",
        AttackKind::Degrade => "degrade",
    }
}

fn kind_name(kind: &TopologyKind) -> &'static str {
    match kind {
        TopologyKind::Ring => "ring",
        TopologyKind::Line => "line",
        TopologyKind::Star => "star",
        TopologyKind::Grid { .. } => "grid",
        TopologyKind::Tree { .. } => "tree",
        TopologyKind::Clique => "clique",
        TopologyKind::RandomRegular { .. } => "random-regular",
        TopologyKind::SmallWorld { .. } => "small-world",
        TopologyKind::ScaleFree { .. } => "scale-free",
        TopologyKind::Islands { .. } => "islands",
        TopologyKind::File { .. } => "file",
    }
}
