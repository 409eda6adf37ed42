//! Real time: a scenario with processes of the shipped program.
//!
//! Promises: each node is the program `weft` as a user starts it, with a data directory and ports of its own; what is measured comes
//! over its own local API; when the run ends, however it ends, no process and no file of it is left. What this way of running
//! cannot do is refused before anything starts.
//!
//! Not promised: that times repeat. What goes wrong and when follows from the seed, as in virtual time; how long a machine takes for
//! it does not.
//!
//! How: [`Ground`] is where processes stand, on loopback or in namespaces; [`drive`] does the rest for both.

mod api;
mod binary;
mod drive;
mod folder;
mod load;
mod loopback;
mod node;
mod outcome;
mod sample;
#[cfg(test)]
mod tests;

use std::{path::Path, process::Command, sync::Arc};

pub(crate) use binary::find as find_binary;
pub(crate) use drive::drive;

use crate::{
    chaos::Step,
    report::{Mode, Report},
    run::{Cancel, RunError, Watch},
    scenario::{Attack, CheckKind, FaultKind, Nat, Scenario},
};

/// Where the processes of a run stand: what is between them.
pub(crate) trait Ground {
    /// Which way of running this is.
    fn mode(&self) -> Mode;

    /// A program as it is to be started on a node.
    fn command(&self, node: usize, program: &Path) -> Command;

    /// The addresses a node listens on.
    fn listen(&self, node: usize) -> Vec<String>;

    /// The addresses by which others dial it, without its id; none: nobody can.
    fn dial(&self, node: usize) -> Vec<String>;

    /// Does what is done to links, not to processes. Others are left to the caller.
    ///
    /// # Errors
    /// What the system says.
    fn apply(&mut self, step: &Step) -> std::io::Result<()>;

    /// A node is about to come in by the founder, or is in.
    fn admit(&mut self, _: usize, _on: bool) {}

    /// Bytes sent and received by each node, where that is known.
    fn traffic(&self) -> Option<Vec<(u64, u64)>>;

    /// What a reader of the report should know.
    fn notes(&self, scenario: &Scenario) -> Vec<String>;
}

/// Runs a scenario with processes on this machine's loopback.
///
/// # Errors
/// [`RunError`] when the scenario wants what loopback has not, or the program cannot be found or started.
pub fn run(
    scenario: &Scenario,
    seed: u64,
    weft: Option<&Path>,
    watch: Arc<dyn Watch>,
    cancel: &Cancel,
) -> Result<Report, RunError> {
    refuse(scenario, Mode::Processes)?;
    let binary = find_binary(weft)?;
    let mut ground = loopback::Loopback::new(scenario.nodes())?;
    drive(scenario, seed, &binary, &mut ground, watch, cancel)
}

/// Refuses what no process can be made to do from outside.
pub(crate) fn refuse(scenario: &Scenario, mode: Mode) -> Result<(), RunError> {
    let needs = |what: &str, instead: &str| {
        let name = mode.as_str();
        Err(RunError::Unsupported(format!("mode {name} has no {what}: {instead}")))
    };
    const VIRTUAL: &str = "run it in virtual time (--mode virtual)";
    if let Some(Attack { kind, .. }) = scenario.attacks.first() {
        return needs(&format!("attackers (attack {})", kind.as_str()), VIRTUAL);
    }
    if let Some(group) = scenario.fleet.iter().find(|group| group.clock_skew_ms != 0) {
        return needs(
            &format!("calendars of its own (clock_skew of the group {})", group.name),
            VIRTUAL,
        );
    }
    if mode == Mode::Processes
        && let Some(group) = scenario.fleet.iter().find(|group| group.nat != Nat::None)
    {
        return needs(
            &format!("NAT (group {})", group.name),
            "--mode hosts has it, and --mode virtual",
        );
    }
    if scenario.open
        && let Some(group) = scenario.fleet.iter().find(|group| group.role.is_some())
    {
        return needs(
            &format!("roles in an open mesh (role of the group {})", group.name),
            "leave out open, or the roles",
        );
    }
    if let Some(first) = scenario
        .fleet
        .first()
        .filter(|group| !matches!(group.nat, Nat::None | Nat::FullCone))
    {
        return needs(
            &format!("way to a founder behind NAT (group {}, where node 0 is)", first.name),
            "put a group without NAT first",
        );
    }
    for check in &scenario.checks {
        match check.kind {
            CheckKind::BytesPerNode { .. } if mode == Mode::Processes => {
                return needs(
                    "count of a node's bytes (check bytes-per-node)",
                    "--mode hosts has it, and --mode virtual",
                );
            }
            CheckKind::DuplicateRatio { .. } => {
                return needs("count of duplicates (check duplicate-ratio)", VIRTUAL);
            }
            _ => {}
        }
    }
    for fault in &scenario.faults {
        let kind = fault.kind.as_str();
        match &fault.kind {
            FaultKind::Skew { .. }
            | FaultKind::DiskFull
            | FaultKind::LostFsync
            | FaultKind::TornWrite
            | FaultKind::BitFlip => return needs(&format!("faults of the kind {kind}"), VIRTUAL),
            FaultKind::Partition | FaultKind::Islands { .. } | FaultKind::Cut { .. } | FaultKind::Degrade { .. }
                if mode == Mode::Processes =>
            {
                return needs(
                    &format!("links to break (fault {kind})"),
                    "--mode hosts has them, and --mode virtual",
                );
            }
            _ => {}
        }
    }
    Ok(())
}
