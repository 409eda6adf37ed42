//! `weft-sim compare`: one scenario in virtual time and with real processes, side by side.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{
    CliError,
    interrupt::on_interrupt,
    out::{Out, write_file},
    own::Run,
    run::{self, ModeArg},
    which::Which,
};
use crate::report::{self, Mode, Report};

/// Run a scenario in virtual time and with real processes, and put both side by side
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim compare small.toml --report both.html
  weft-sim compare small.toml --with hosts      needs root; has the links of the scenario")]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    which: Which,
    /// With what it is compared
    #[arg(long, value_enum, default_value = "processes", value_name = "MODE")]
    with: ModeArg,
    /// The seed, instead of the scenario's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE.html", value_hint = clap::ValueHint::FilePath)]
    report: Option<PathBuf>,
    /// The program [default: `weft` beside this one, or on PATH]
    #[arg(long, value_name = "PATH", env = "WEFT_BIN", value_hint = clap::ValueHint::FilePath)]
    weft: Option<PathBuf>,
}

#[derive(Serialize)]
struct Compared<'a> {
    scenario: &'a str,
    seed: u64,
    runs: &'a [Report],
}

/// Runs both and shows them.
pub(crate) fn execute(out: &Out, args: &CompareArgs) -> Result<(), CliError> {
    let loaded = args.which.load()?;
    let real = Mode::from(args.with);
    if real == Mode::Virtual {
        return Err(CliError::Usage(
            "virtual time is compared with processes or hosts, not with itself".into(),
        ));
    }
    run::fits(&loaded, Mode::Virtual)?;
    run::fits(&loaded, real)?;
    let seed = args.seed.unwrap_or(loaded.scenario.seed);
    let cancel = on_interrupt();
    // The real one first: what it cannot do is refused at once.
    let processes = run::one(out, &loaded, seed, real, args.weft.as_deref(), &cancel)?;
    out.say("in virtual time …");
    let simulated = Run::start(&loaded, seed, Mode::Virtual)?.wait()?.into_report()?;
    let both = [simulated, processes];
    if let Some(path) = &args.report {
        write_file(path, &report::page(&both))?;
        out.say(&format!("the report is in {}", path.display()));
    }
    if out.json {
        out.document(&Compared {
            scenario: &loaded.scenario.name,
            seed,
            runs: &both,
        })?;
    } else {
        out.text(&report::compared(&both, out.color))?;
    }
    if both.iter().all(Report::passed) {
        Ok(())
    } else {
        Err(CliError::Exit(1))
    }
}
