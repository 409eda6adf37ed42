//! `weft-sim run`: one scenario, one seed, one way of running; or many seeds, each in a process of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::{
    CliError,
    interrupt::on_interrupt,
    out::{Out, write_file},
    own,
    progress::Line,
    seeds::{Seeds, seeds},
    sweep,
    which::Which,
};
use crate::{
    engine, hosts, processes,
    report::{self, Mode, Report},
    run::Cancel,
    scenario::{self, Loaded},
};

/// How the nodes are run
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ModeArg {
    /// The library in virtual time, in this process
    #[default]
    Virtual,
    /// Processes of `weft` on loopback
    Processes,
    /// Processes of `weft` in network namespaces; needs root
    Hosts,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Virtual => Self::Virtual,
            ModeArg::Processes => Self::Processes,
            ModeArg::Hosts => Self::Hosts,
        }
    }
}

/// Run a scenario
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim run hello
  weft-sim run my.toml --seed 7 --report my.html
  weft-sim run churn --seeds 1..100
  weft-sim run hello --mode processes
  weft-sim run hello --json | jq -r .trace_hash")]
pub(crate) struct RunArgs {
    #[command(flatten)]
    which: Which,
    /// The seed, instead of the scenario's
    #[arg(long, value_name = "N", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Each of these seeds, on all cores: 1..100
    #[arg(long, value_name = "A..B", value_parser = seeds)]
    seeds: Option<Seeds>,
    /// Runs at once, for --seeds [default: the cores]
    #[arg(long, value_name = "N", requires = "seeds")]
    jobs: Option<std::num::NonZeroUsize>,
    /// How the nodes are run
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    mode: ModeArg,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE.html", value_hint = clap::ValueHint::FilePath, conflicts_with = "seeds")]
    report: Option<PathBuf>,
    /// The program for the modes that start processes [default: `weft` beside this one, or on PATH]
    #[arg(long, value_name = "PATH", env = "WEFT_BIN", value_hint = clap::ValueHint::FilePath)]
    weft: Option<PathBuf>,
    /// What the nodes log, on standard error, with the time of the run: weft_node=debug; in virtual time
    #[arg(long, value_name = "FILTER", conflicts_with = "seeds", value_parser = log_filter)]
    log: Option<String>,
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|e| e.to_string())
}

/// Has the nodes' logs written. The clock they are dated by is that of the thread: the virtual one, where there is one.
fn write_logs(filter: &str) {
    let filter = EnvFilter::new(filter);
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // The first one stays; there is no other.
    let _ = logs.with_ansi(false).try_init();
}

/// Runs it and shows the report.
pub(crate) fn execute(out: &Out, args: RunArgs) -> Result<(), CliError> {
    let loaded = args.which.load()?;
    let mode = Mode::from(args.mode);
    if let Some(filter) = &args.log {
        write_logs(filter);
    }
    fits(&loaded, mode)?;
    if let Some(seeds) = args.seeds {
        return sweep::sweep(out, &loaded, mode, seeds, args.jobs);
    }
    let seed = args.seed.unwrap_or(loaded.scenario.seed);
    let report = one(out, &loaded, seed, mode, args.weft.as_deref(), &on_interrupt())?;
    if let Some(path) = &args.report {
        write_file(path, &report::page(std::slice::from_ref(&report)))?;
        out.say(&format!("the report is in {}", path.display()));
    }
    show(out, &report)?;
    verdict(out, &loaded, &report)
}

/// Refuses a fleet that this machine has no room for.
pub(crate) fn fits(loaded: &Loaded, mode: Mode) -> Result<(), CliError> {
    let reason = scenario::memory_available().and_then(|bytes| scenario::unfit(&loaded.scenario, mode, bytes));
    match reason {
        Some(reason) => Err(CliError::Usage(format!("{}: {reason}", loaded.named))),
        None => Ok(()),
    }
}

/// One run in this process.
pub(crate) fn one(
    out: &Out,
    loaded: &Loaded,
    seed: u64,
    mode: Mode,
    weft: Option<&std::path::Path>,
    cancel: &Cancel,
) -> Result<Report, CliError> {
    let scenario = &loaded.scenario;
    let line = Line::start(out, &scenario.name, scenario.duration);
    let report = match mode {
        Mode::Virtual => engine::run(scenario, seed, line.watch(), cancel)?,
        Mode::Processes => processes::run(scenario, seed, weft, line.watch(), cancel)?,
        Mode::Hosts => hosts::run(scenario, seed, weft, line.watch(), cancel)?,
    };
    Ok(report)
}

pub(crate) fn show(out: &Out, report: &Report) -> Result<(), CliError> {
    if out.json {
        out.document(report)
    } else {
        out.text(&report::summary(report, out.color))
    }
}

/// Exit code 1, and the command that runs it again, when a check did not hold.
fn verdict(out: &Out, loaded: &Loaded, report: &Report) -> Result<(), CliError> {
    if report.passed() {
        return Ok(());
    }
    out.say(&format!(
        "run it again: {}",
        own::command(loaded, report.seed, report.mode)
    ));
    Err(CliError::Exit(1))
}
