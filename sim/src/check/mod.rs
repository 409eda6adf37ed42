//! What must hold at the end of a run: one file for each property, each citing the sentence it checks.

mod batches;
mod breaker;
mod convergence;
mod delivery;
mod latency;
mod limits;
mod loss;
mod order;
mod retained;
mod streams;

#[cfg(test)]
mod tests;

use crate::{
    oracle::{Log, Oracle},
    report::{CheckResult, Report},
    scenario::{Check, CheckKind, FaultKind, Scenario},
};

/// What a run has to show, whichever way it was made.
pub struct Evidence<'a> {
    /// What was sent and what arrived.
    pub oracle: &'a Oracle,
    /// From the end of the last fault until the mesh was one, and stayed so; none: it never was.
    pub convergence_ns: Option<u64>,
    /// No disk lied, tore or flipped: then nothing acknowledged may be forgotten.
    pub disks_were_sound: bool,
}

/// What one property says.
struct Verdict {
    passed: bool,
    measured: String,
    limit: String,
    sentence: &'static str,
}

/// Whether a fault makes a disk break its promises.
pub fn harms_disks(kind: &FaultKind) -> bool {
    matches!(kind, FaultKind::LostFsync | FaultKind::TornWrite | FaultKind::BitFlip)
}

/// Judges all checks of a scenario. The one on memory is judged by [`memory`], once the run has been measured.
pub fn all(scenario: &Scenario, evidence: &Evidence<'_>, report: &Report) -> Vec<CheckResult> {
    let judge = |check: &Check| named(check, judge(check, evidence, report));
    scenario.checks.iter().map(judge).collect()
}

/// Judges the checks on memory, which the report now says.
pub fn memory(scenario: &Scenario, report: &mut Report) {
    for (index, check) in scenario.checks.iter().enumerate() {
        if let CheckKind::MemoryBound { max_per_node } = check.kind
            && let Some(place) = report.checks.get(index)
        {
            let result = named(check, limits::memory(max_per_node, report));
            debug_assert_eq!(place.name, result.name);
            report.checks[index] = result;
        }
    }
}

fn named(check: &Check, verdict: Verdict) -> CheckResult {
    CheckResult {
        name: check.name.clone(),
        passed: verdict.passed,
        measured: verdict.measured,
        limit: verdict.limit,
        sentence: verdict.sentence.to_owned(),
    }
}

fn judge(check: &Check, evidence: &Evidence<'_>, report: &Report) -> Verdict {
    let logs = || {
        let all = evidence.oracle.logs().iter().enumerate();
        let chosen = all.filter(|(index, _)| check.workload.is_none_or(|wanted| wanted == *index));
        chosen.map(|(_, log)| log)
    };
    let publishing = || logs().filter(|log: &&Log| log.is_publish);
    let calling = || logs().filter(|log: &&Log| !log.is_publish);
    match &check.kind {
        CheckKind::DeliveryRatio { min } => delivery::ratio(evidence.oracle, publishing(), *min),
        CheckKind::NoDuplicates => delivery::no_duplicates(evidence.oracle, publishing()),
        CheckKind::Answered { min } => delivery::answered(calling(), *min),
        CheckKind::OneOrder { min } => streams::one_order(evidence.oracle, logs(), *min),
        CheckKind::Retained => retained::known(evidence.oracle, publishing()),
        CheckKind::HandedOver { dead_max } => batches::handed_over(logs(), *dead_max),
        CheckKind::LeftAlone { max, opens, closes } => {
            breaker::left_alone(evidence.oracle, calling(), *max, (*opens, *closes))
        }
        CheckKind::Latency { percentile, max } => latency::latency(evidence.oracle, logs(), *percentile, *max),
        CheckKind::NoAcknowledgedLoss => loss::none(evidence),
        CheckKind::OrderPerPublisher => order::per_publisher(evidence.oracle, publishing()),
        CheckKind::ConvergenceTime { max } => convergence::time(evidence.convergence_ns, *max),
        CheckKind::Degree { min, max } => convergence::degree(report, *min, *max),
        CheckKind::MemoryBound { max_per_node } => limits::memory(*max_per_node, report),
        CheckKind::BytesPerNode { max } => limits::bytes(*max, report),
        CheckKind::DuplicateRatio { max } => limits::duplicates(*max, report, evidence.oracle),
    }
}

/// `99.87 %`.
fn percent(share: f64) -> String {
    // Rounded down: what is not all must not look like it.
    format!("{} %", (share * 100_000.0).floor() / 1000.0)
}
