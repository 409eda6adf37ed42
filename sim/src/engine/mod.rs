//! Virtual time: the node library by the thousand in one process, on one thread.
//!
//! Promises: a scenario and a seed give one run, to the last byte and nanosecond ([`crate::trace`]), in whatever process
//! and however busy the machine; a run that is told to stop ends with the report so far.
//!
//! How: a fresh thread is made virtual ([`crate::virtual_os`]) and closed to what is real (`crate::closed`); on it a runtime of one thread with a paused clock, which
//! jumps to the next thing to do whenever nobody has anything to do; on that the unreal network and the nodes; and a
//! conductor, `world`, who starts, breaks and asks as the scenario says.

mod layout;
mod outcome;
mod sample;
mod world;

#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub(crate) use layout::links;
use world::World;

use crate::{
    closed,
    report::Report,
    run::{Cancel, RunError, Watch},
    scenario::Scenario,
    virtual_os,
};

/// Of the thread that simulates: futures nest deeply.
const STACK_BYTES: usize = 64 << 20;

/// Whether this process has simulated already.
static USED: AtomicBool = AtomicBool::new(false);

/// Runs a scenario in virtual time.
///
/// Once in a process: libp2p numbers connections process-wide, so a second run would leave another trace. Who wants
/// several starts the program several times, which also uses all cores.
///
/// # Errors
/// [`RunError`] when the simulation itself cannot be made.
pub fn run(scenario: &Scenario, seed: u64, watch: Arc<dyn Watch>, cancel: &Cancel) -> Result<Report, RunError> {
    if USED.swap(true, Ordering::SeqCst) {
        return Err(RunError::Failed(
            "this process has simulated already: start another one for another run".into(),
        ));
    }
    let (own, cancel) = (scenario.clone(), cancel.clone());
    let wall = virtual_os::real_seconds(libc::CLOCK_MONOTONIC);
    let simulation = std::thread::Builder::new()
        .name("simulation".into())
        .stack_size(STACK_BYTES)
        .spawn(move || simulate(&own, seed, &*watch, &cancel))
        .map_err(|error| RunError::io("cannot start a thread", error))?;
    let mut report = simulation
        .join()
        .unwrap_or_else(|_| Err(RunError::Failed(format!("the simulation panicked (seed {seed})"))))?;
    report.wall_seconds = virtual_os::real_seconds(libc::CLOCK_MONOTONIC) - wall;
    report.cpu_seconds = virtual_os::real_seconds(libc::CLOCK_PROCESS_CPUTIME_ID);
    report.rss_bytes_peak = peak_memory_bytes();
    crate::check::memory(scenario, &mut report);
    Ok(report)
}

fn simulate(scenario: &Scenario, seed: u64, watch: &dyn Watch, cancel: &Cancel) -> Result<Report, RunError> {
    let guard = virtual_os::enter(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .on_thread_unpark(virtual_os::catch_up)
        .build()
        .map_err(|error| RunError::io("cannot build a runtime", error))?;
    closed::close();
    let report = runtime.block_on(async {
        virtual_os::follow_tokio();
        let mut world = World::new(scenario, seed, watch, cancel)?;
        Box::pin(world.run()).await?;
        Ok(world.report())
    });
    // Thousands of nodes are taken down by the end of the process faster than one by one.
    std::mem::forget(runtime);
    drop(guard);
    report
}

/// The most memory this process ever held.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
