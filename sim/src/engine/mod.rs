//! Virtual time: the node library by the thousand in one process.

use std::sync::Arc;

use crate::{
    report::Report,
    run::{Cancel, RunError, Watch},
    scenario::Scenario,
};

/// Runs a scenario in virtual time.
///
/// Called once in a process: libp2p counts connections process-wide, so a second run would leave another trace.
///
/// # Errors
/// [`RunError`] when the simulation itself cannot be made.
pub fn run(_: &Scenario, _: u64, _: Arc<dyn Watch>, _: &Cancel) -> Result<Report, RunError> {
    Err(RunError::Unsupported("virtual time is not part of this build".into()))
}
