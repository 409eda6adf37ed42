//! From what happened to the report.

use std::collections::BTreeSet;

use super::drive::Run;
use crate::{
    check::{self, Evidence},
    oracle::Oracle,
    report::{Mode, NodeReport, Report, Sample, TopologyReport},
    topology,
};

/// What was seen during a run.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// How it went over time.
    pub(super) series: Vec<Sample>,
    /// Why it ended before its time.
    pub(super) ended_early: Option<String>,
    /// What a reader should know.
    pub(super) notes: Vec<String>,
    /// Processes that ended by themselves, with the end of their logs.
    pub(super) deaths: Vec<String>,
    /// Nodes that were started and are not ready.
    pub(super) coming: BTreeSet<usize>,
    /// Copies of messages beyond the first, by node, since its last start.
    pub(super) copies: Vec<u64>,
    /// How long all of it took.
    pub(super) wall_seconds: f64,
    /// How long the scenario itself ran.
    pub(super) virtual_seconds: f64,
    /// When the mesh was last seen in parts.
    pub(super) apart_at: Option<f64>,
}

impl Findings {
    /// Takes in a sample.
    pub(super) fn seen(&mut self, sample: Sample) {
        if sample.components != 1 {
            self.apart_at = Some(sample.at);
        }
        self.series.push(sample);
    }

    /// When the mesh was whole and stayed so; none: it was in parts at the end.
    fn whole_at(&self) -> Option<f64> {
        self.series.last().filter(|sample| sample.components == 1)?;
        match self.apart_at {
            None => Some(0.0),
            // Seen at the sample after the last one that found it in parts.
            Some(apart_at) => self.series.iter().map(|sample| sample.at).find(|at| *at > apart_at),
        }
    }
}

/// The report of a run that has ended.
pub(super) fn report(run: &Run<'_>, oracle: &Oracle, mode: Mode, traffic: Option<Vec<(u64, u64)>>) -> Report {
    let (scenario, findings) = (run.scenario, &run.findings);
    let (bytes_sent, bytes_received) = traffic.unwrap_or_default().into_iter().unzip();
    let mut notes = findings.notes.clone();
    notes.extend(
        findings
            .deaths
            .iter()
            .map(|words| format!("a process ended by itself: {words}")),
    );
    let mut report = Report {
        format: Report::FORMAT,
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        seed: run.seed,
        mode,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ended_early: findings.ended_early.clone(),
        nodes: scenario.nodes(),
        virtual_seconds: findings.virtual_seconds,
        wall_seconds: findings.wall_seconds,
        cpu_seconds: run.usage.cpu_seconds(),
        rss_bytes_peak: run.usage.rss_bytes_peak,
        topology: laid_out(run),
        propagation: oracle.distribution(true),
        calls: oracle.distribution(false),
        hops: oracle.hops(),
        duplicates: findings.copies.clone(),
        bytes_sent,
        bytes_received,
        series: findings.series.clone(),
        faults: run.plan.spans.clone(),
        workloads: oracle.tallies(scenario.kinds()),
        notes,
        source: scenario.source.clone(),
        ..Report::default()
    };
    let faults_end = run.plan.ends_ns() as f64 / 1e9;
    let evidence = Evidence {
        oracle,
        convergence_ns: findings.whole_at().map(|at| ((at - faults_end).max(0.0) * 1e9) as u64),
        disks_were_sound: true,
    };
    report.checks = check::all(scenario, &evidence, &report);
    report
}

fn laid_out(run: &Run<'_>) -> TopologyReport {
    let scenario = run.scenario;
    let places = topology::layout(&run.graph, Some(&scenario.topology.kind), run.seed);
    let groups = scenario.group_of_node();
    TopologyReport {
        kind: scenario.topology.kind.as_str().to_owned(),
        nodes: (0..scenario.nodes())
            .map(|number| NodeReport {
                name: format!("{}-{number}", scenario.fleet[groups[number]].name),
                group: scenario.fleet[groups[number]].name.clone(),
                x: places[number].0,
                y: places[number].1,
                city: None,
                attacker: false,
                up: run.nodes[number].is_running(),
            })
            .collect(),
        edges: run.graph.edges().collect(),
    }
}
