//! `weft-sim shrink`: looks for a smaller scenario that still fails.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use toml::{Table, Value};

use super::{
    CliError,
    interrupt::on_interrupt,
    out::{Out, write_file},
    own::{self, Run},
    which::Which,
};
use crate::{
    report::{Mode, Report},
    scenario::{self, Loaded, ScenarioError, TopologyKind},
    shrink,
};

/// Look for a smaller scenario that still fails in the same check
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim shrink my.toml --seed 42 --out small.toml
  weft-sim run small.toml --seed 42")]
pub(crate) struct ShrinkArgs {
    #[command(flatten)]
    which: Which,
    /// The seed with which it fails, instead of the scenario's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write the smaller scenario here instead of printing it
    #[arg(long, value_name = "FILE.toml", value_hint = clap::ValueHint::FilePath)]
    out: Option<PathBuf>,
    /// Runs to try at most
    #[arg(long, value_name = "N", default_value_t = 200)]
    tries: usize,
}

#[derive(Serialize)]
struct Shrunk<'a> {
    failing_checks: &'a [String],
    tries: usize,
    nodes_before: usize,
    nodes_after: usize,
    faults_before: usize,
    faults_after: usize,
    scenario: &'a str,
}

/// Shrinks it and says how to run what is left.
pub(crate) fn execute(out: &Out, args: &ShrinkArgs) -> Result<(), CliError> {
    let loaded = args.which.load()?;
    let seed = args.seed.unwrap_or(loaded.scenario.seed);
    let first = Run::start(&loaded, seed, Mode::Virtual)?.wait()?.into_report()?;
    let wanted = failing(&first);
    if wanted.is_empty() {
        return Err(CliError::Usage(format!(
            "{} does not fail with seed {seed}: there is nothing to shrink; `weft-sim run {} --seeds 1..100` looks for one that does",
            loaded.named, loaded.named
        )));
    }
    out.say(&format!("fails in: {}", wanted.join(", ")));
    let mut whole = document(&loaded)?;
    // The seed is in what is written, so that it fails by itself.
    whole.insert("seed".into(), Value::Integer(i64::try_from(seed).unwrap_or(i64::MAX)));
    let folder = tempfile::tempdir().map_err(|error| CliError::io("cannot make a folder for candidates", error))?;
    let file = folder.path().join("candidate.toml");
    let cancel = on_interrupt();
    let mut broken = None;
    let (small, tries) = shrink::shrink(whole, args.tries, &mut |candidate| {
        if cancel.is_cancelled() || broken.is_some() {
            return false;
        }
        still_fails(candidate, &file, seed, &wanted).unwrap_or_else(|error| {
            broken = Some(error);
            false
        })
    });
    if let Some(error) = broken {
        return Err(error);
    }
    finish(out, args, &loaded, &small, tries, &wanted, seed)
}

fn finish(
    out: &Out,
    args: &ShrinkArgs,
    loaded: &Loaded,
    small: &Table,
    tries: usize,
    wanted: &[String],
    seed: u64,
) -> Result<(), CliError> {
    let text = text_of(small)?;
    let named = args
        .out
        .as_ref()
        .map_or("small.toml".into(), |path| path.display().to_string());
    let left = of_text(named, &text)?;
    let shrunk = &left.scenario;
    if let Some(path) = &args.out {
        write_file(path, &text)?;
    }
    out.say(&format!(
        "after {tries} tries: {} nodes instead of {}, {} faults instead of {}; run it: {}",
        shrunk.nodes(),
        loaded.scenario.nodes(),
        shrunk.faults.len(),
        loaded.scenario.faults.len(),
        own::command(&left, seed, Mode::Virtual)
    ));
    if out.json {
        return out.document(&Shrunk {
            failing_checks: wanted,
            tries,
            nodes_before: loaded.scenario.nodes(),
            nodes_after: shrunk.nodes(),
            faults_before: loaded.scenario.faults.len(),
            faults_after: shrunk.faults.len(),
            scenario: &text,
        });
    }
    if args.out.is_some() { Ok(()) } else { out.text(&text) }
}

fn failing(report: &Report) -> Vec<String> {
    let failed = report.checks.iter().filter(|check| !check.passed);
    failed.map(|check| check.name.clone()).collect()
}

/// The scenario as a document, with paths that do not depend on where it lies.
fn document(loaded: &Loaded) -> Result<Table, CliError> {
    let mut table: Table = loaded
        .scenario
        .source
        .parse()
        .map_err(|error| CliError::Failed(format!("cannot read {} again: {error}", loaded.named)))?;
    if let (TopologyKind::File { path }, Some(Value::Table(topology))) =
        (&loaded.scenario.topology.kind, table.get_mut("topology"))
    {
        let path = std::path::absolute(path).map_err(|error| CliError::io(format!("cannot find {path}"), error))?;
        topology.insert("path".into(), Value::String(path.to_string_lossy().into_owned()));
    }
    Ok(table)
}

fn text_of(table: &Table) -> Result<String, CliError> {
    toml::to_string(table).map_err(|error| CliError::Failed(format!("cannot write the smaller scenario: {error}")))
}

/// A scenario of a file that has this text, or is about to.
fn of_text(named: String, text: &str) -> Result<Loaded, ScenarioError> {
    Ok(Loaded {
        scenario: scenario::parse(&named, text)?,
        named,
        sets: Vec::new(),
    })
}

/// Whether the candidate can be, runs, and fails in one of the checks that failed before.
fn still_fails(candidate: &Table, file: &std::path::Path, seed: u64, wanted: &[String]) -> Result<bool, CliError> {
    let text = text_of(candidate)?;
    let Ok(candidate) = of_text(file.display().to_string(), &text) else {
        return Ok(false);
    };
    write_file(file, &text)?;
    let ended = Run::start(&candidate, seed, Mode::Virtual)?.wait()?;
    Ok(ended
        .report
        .is_some_and(|report| failing(&report).iter().any(|name| wanted.contains(name))))
}
