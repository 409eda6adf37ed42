//! `weft-sim replay`: runs again what a report is of, and says whether the trace is the same.

use std::{io::Read as _, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{CliError, interrupt::on_interrupt, out::Out, run};
use crate::{
    report::{Mode, Report},
    scenario::{self, Loaded},
};

/// The largest report that is read.
const REPORT_BYTES_MAX: u64 = 512 << 20;

/// Run again what a report is of, and compare the traces
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim run churn --seed 42 --json >r.json
  weft-sim replay r.json              exit code 1 when the trace is another one")]
pub(crate) struct ReplayArgs {
    /// What `weft-sim run --json` printed; `-`: from standard input
    #[arg(value_name = "REPORT", value_hint = clap::ValueHint::FilePath)]
    report: PathBuf,
}

#[derive(Serialize)]
struct Replayed<'a> {
    same_trace: bool,
    trace_hash_then: &'a str,
    trace_hash_now: &'a str,
    report: &'a Report,
}

/// Runs it again.
pub(crate) fn execute(out: &Out, args: &ReplayArgs) -> Result<(), CliError> {
    let then = read(args)?;
    if then.mode != Mode::Virtual {
        return Err(CliError::Usage(format!(
            "the report is of a run in mode {}: only runs in virtual time can be repeated exactly",
            then.mode.as_str()
        )));
    }
    if then.ended_early.is_some() {
        return Err(CliError::Usage(
            "the report is of a run that ended early: its trace has no end to compare".into(),
        ));
    }
    let name = if then.scenario.is_empty() {
        "report"
    } else {
        &then.scenario
    };
    let loaded = Loaded {
        scenario: scenario::parse(name, &then.source)?,
        named: name.to_owned(),
        sets: Vec::new(),
    };
    let now = run::one(out, &loaded, then.seed, Mode::Virtual, None, &on_interrupt())?;
    let (hash_then, hash_now) = (
        then.trace_hash.unwrap_or_default(),
        now.trace_hash.clone().unwrap_or_default(),
    );
    let same = hash_then == hash_now && !hash_now.is_empty();
    if out.json {
        out.document(&Replayed {
            same_trace: same,
            trace_hash_then: &hash_then,
            trace_hash_now: &hash_now,
            report: &now,
        })?;
    } else {
        run::show(out, &now)?;
        let words = if same { "the same trace" } else { "ANOTHER TRACE" };
        out.text(&format!("\n{words}: {hash_then} then, {hash_now} now\n"))?;
    }
    if same {
        return Ok(());
    }
    if then.version != now.version {
        out.complain(&format!(
            "the report is by version {}, this is {}",
            then.version, now.version
        ));
    }
    Err(CliError::Exit(1))
}

fn read(args: &ReplayArgs) -> Result<Report, CliError> {
    let fail = |error| CliError::io(format!("cannot read {}", args.report.display()), error);
    let mut bytes = Vec::new();
    if args.report.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(REPORT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(fail)?;
    } else {
        let file = std::fs::File::open(&args.report).map_err(fail)?;
        file.take(REPORT_BYTES_MAX).read_to_end(&mut bytes).map_err(fail)?;
    }
    let report: Report = serde_json::from_slice(&bytes).map_err(|error| {
        CliError::Usage(format!(
            "{} is no report of `weft-sim run --json`: {error}",
            args.report.display()
        ))
    })?;
    if report.format > Report::FORMAT {
        return Err(CliError::Usage(format!(
            "{} is a report of format {}, this version reads up to {}: use the newer weft-sim",
            args.report.display(),
            report.format,
            Report::FORMAT
        )));
    }
    Ok(report)
}
