//! Real time: a scenario with processes of the shipped program.
//!
//! Promises: each node is the program `weft` as a user starts it, with a data directory and ports of its own; what is measured comes
//! over its own local API; when the run ends, however it ends, no process and no file of it is left. What this way of running
//! cannot do is refused before anything starts.
//!
//! Not promised: that times repeat. What goes wrong and when follows from the seed, as in virtual time; how long a machine takes for
//! it does not.
//!
//! How: `Ground` is where processes stand, on loopback or in namespaces; `drive` does the rest for both.

mod api;
mod binary;
mod drive;
mod fleet;
mod folder;
mod load;
mod loopback;
mod node;
mod outcome;
mod refuse;
mod sample;
#[cfg(test)]
mod tests;

use std::{path::Path, process::Command, sync::Arc};

pub(crate) use binary::find as find_binary;
pub(crate) use drive::drive;
pub(crate) use refuse::refuse;

use crate::{
    chaos::Step,
    report::{Mode, Report},
    run::{Cancel, RunError, Watch},
    scenario::Scenario,
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
