//! Network namespaces, with NAT and a WAN between them.

use std::{path::Path, sync::Arc};

use crate::{
    report::Report,
    run::{Cancel, RunError, Watch},
    scenario::Scenario,
};

/// Runs a scenario in network namespaces.
///
/// # Errors
/// [`RunError`].
pub fn run(_: &Scenario, _: u64, _: Option<&Path>, _: Arc<dyn Watch>, _: &Cancel) -> Result<Report, RunError> {
    Err(RunError::Unsupported(
        "network namespaces are not part of this build".into(),
    ))
}
