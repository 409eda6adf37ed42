//! What a way of running with processes cannot do, and says before anything starts.

use crate::{
    report::Mode,
    run::RunError,
    scenario::{CheckKind, FaultKind, Nat, Scenario, Workload, WorkloadKind},
};

const VIRTUAL: &str = "run it in virtual time (--mode virtual)";
const HOSTS: &str = "--mode hosts has it, and --mode virtual";

/// What is missing, and what to do instead.
type Missing = (String, &'static str);

/// Refuses what no process can be made to do from outside.
pub(crate) fn refuse(scenario: &Scenario, mode: Mode) -> Result<(), RunError> {
    let missing = fleet(scenario, mode)
        .or_else(|| scenario.checks.iter().find_map(|check| unmeasured(&check.kind, mode)))
        .or_else(|| scenario.workloads.iter().find_map(unsendable))
        .or_else(|| scenario.faults.iter().find_map(|fault| undoable(&fault.kind, mode)));
    match missing {
        Some((what, instead)) => Err(RunError::Unsupported(format!(
            "mode {} has no {what}: {instead}",
            mode.as_str()
        ))),
        None => Ok(()),
    }
}

fn fleet(scenario: &Scenario, mode: Mode) -> Option<Missing> {
    if let Some(attack) = scenario.attacks.first() {
        return Some((format!("attackers (attack {})", attack.kind.as_str()), VIRTUAL));
    }
    if let Some(group) = scenario.fleet.iter().find(|group| group.clock_skew_ms != 0) {
        let what = format!("calendars of its own (clock_skew of the group {})", group.name);
        return Some((what, VIRTUAL));
    }
    let behind_nat = scenario.fleet.iter().find(|group| group.nat != Nat::None);
    if let Some(group) = behind_nat.filter(|_| mode == Mode::Processes) {
        return Some((format!("NAT (group {})", group.name), HOSTS));
    }
    let with_role = scenario.fleet.iter().find(|group| group.role.is_some());
    if let Some(group) = with_role.filter(|_| scenario.open) {
        let what = format!("roles in an open mesh (role of the group {})", group.name);
        return Some((what, "leave out open, or the roles"));
    }
    let first = scenario.fleet.first()?;
    if matches!(first.nat, Nat::None | Nat::FullCone) {
        return None;
    }
    let what = format!("way to a founder behind NAT (group {}, where node 0 is)", first.name);
    Some((what, "put a group without NAT first"))
}

fn unmeasured(check: &CheckKind, mode: Mode) -> Option<Missing> {
    match check {
        CheckKind::BytesPerNode { .. } if mode == Mode::Processes => {
            Some(("count of a node's bytes (check bytes-per-node)".to_owned(), HOSTS))
        }
        _ => None,
    }
}

fn unsendable(workload: &Workload) -> Option<Missing> {
    match workload.kind {
        WorkloadKind::Append { .. } => Some((format!("appends (workload {})", workload.name), VIRTUAL)),
        WorkloadKind::Batch(_) => Some((format!("queues (workload {})", workload.name), VIRTUAL)),
        WorkloadKind::Publish { retain: true, .. } => {
            Some((format!("retained values (workload {})", workload.name), VIRTUAL))
        }
        WorkloadKind::Publish { .. } | WorkloadKind::Call { .. } => None,
    }
}

fn undoable(fault: &FaultKind, mode: Mode) -> Option<Missing> {
    let kind = fault.as_str();
    match fault {
        FaultKind::Hang
        | FaultKind::Skew { .. }
        | FaultKind::DiskFull
        | FaultKind::LostFsync
        | FaultKind::TornWrite
        | FaultKind::BitFlip => Some((format!("faults of the kind {kind}"), VIRTUAL)),
        FaultKind::Partition | FaultKind::Islands { .. } | FaultKind::Cut { .. } | FaultKind::Degrade { .. }
            if mode == Mode::Processes =>
        {
            let instead = "--mode hosts has them, and --mode virtual";
            Some((format!("links to break (fault {kind})"), instead))
        }
        _ => None,
    }
}
