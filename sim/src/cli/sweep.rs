//! `weft-sim run --seeds`: independent seeds, each in a process of its own, on all cores.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError, mpsc},
};

use serde::Serialize;

use super::{
    CliError,
    interrupt::on_interrupt,
    out::Out,
    own::{self, Run},
    seeds::Seeds,
};
use crate::{
    report::{Mode, seconds},
    run::Cancel,
    scenario::Loaded,
};

/// What one seed came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Seeded {
    seed: u64,
    passed: bool,
    trace_hash: Option<String>,
    wall_seconds: f64,
    /// Checks that did not hold, or why there is no report.
    failed: Vec<String>,
    /// Runs it again.
    command: String,
}

#[derive(Serialize)]
struct Sweep<'a> {
    scenario: &'a str,
    mode: Mode,
    passed: usize,
    failed: usize,
    ended_early: bool,
    seeds: &'a [Seeded],
}

/// Runs every seed and says which failed.
pub(super) fn sweep(
    out: &Out,
    loaded: &Loaded,
    mode: Mode,
    seeds: Seeds,
    jobs: Option<NonZeroUsize>,
) -> Result<(), CliError> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    // Processes and namespaces share the machine: one run of them at a time.
    let default = if mode == Mode::Virtual { cores } else { 1 };
    let jobs = jobs
        .map_or(default, NonZeroUsize::get)
        .min(usize::try_from(seeds.count()).unwrap_or(usize::MAX));
    let cancel = on_interrupt();
    let mut results = run_all(out, loaded, mode, seeds, jobs, &cancel)?;
    results.sort_by_key(|result| result.seed);
    let failed: Vec<&Seeded> = results.iter().filter(|result| !result.passed).collect();
    let ended_early = (results.len() as u64) < seeds.count();
    if out.json {
        out.document(&Sweep {
            scenario: &loaded.scenario.name,
            mode,
            passed: results.len() - failed.len(),
            failed: failed.len(),
            ended_early,
            seeds: &results,
        })?;
    } else {
        let early = if ended_early { ", ended early" } else { "" };
        let mut text = format!(
            "{}: {} of {} seeds passed{early}\n",
            loaded.scenario.name,
            results.len() - failed.len(),
            results.len()
        );
        for result in &failed {
            text.push_str(&format!(
                "  seed {}: {}\n    {}\n",
                result.seed,
                result.failed.join("; "),
                result.command
            ));
        }
        out.text(&text)?;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}

fn run_all(
    out: &Out,
    loaded: &Loaded,
    mode: Mode,
    seeds: Seeds,
    jobs: usize,
    cancel: &Cancel,
) -> Result<Vec<Seeded>, CliError> {
    let waiting = Mutex::new(seeds.iter());
    let (tell, told) = mpsc::sync_channel(jobs);
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let tell = tell.clone();
            let waiting = &waiting;
            scope.spawn(move || {
                while !cancel.is_cancelled() {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = next else { break };
                    if tell.send(run_one(loaded, mode, seed)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(tell);
        for result in told {
            let result: Seeded = result?;
            let word = if result.passed { "ok" } else { "FAILED" };
            let hash = result.trace_hash.as_deref().unwrap_or("-");
            out.say(&format!(
                "seed {:<8} {word:<7} {hash}  {}",
                result.seed,
                seconds(result.wall_seconds)
            ));
            results.push(result);
        }
        Ok(results)
    })
}

fn run_one(loaded: &Loaded, mode: Mode, seed: u64) -> Result<Seeded, CliError> {
    let ended = Run::start(loaded, seed, mode)?.wait()?;
    let command = own::command(loaded, seed, mode);
    Ok(match ended.report {
        Some(report) => Seeded {
            seed,
            passed: report.passed(),
            trace_hash: report.trace_hash,
            wall_seconds: report.wall_seconds,
            failed: report
                .checks
                .iter()
                .filter(|check| !check.passed)
                .map(|check| format!("{}: {}, not {}", check.name, check.measured, check.limit))
                .collect(),
            command,
        },
        None => Seeded {
            seed,
            passed: false,
            trace_hash: None,
            wall_seconds: 0.0,
            failed: vec![match (ended.said.is_empty(), ended.code) {
                (false, _) => ended.said,
                (true, Some(code)) => format!("it ended with exit code {code} and without a report"),
                (true, None) => "it was killed by a signal".to_owned(),
            }],
            command,
        },
    })
}
