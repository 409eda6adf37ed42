//! The command line of `weft-sim`.
//!
//! What it promises: data on standard output and talk on standard error; `--json` for every answer, as one document; the exit codes
//! of the node's own command line: 0 done, 1 failed (a check did not hold, too), 2 wrong usage or a scenario that cannot be, 3 not
//! found, 4 denied, 5 out of time. One file per command; each has its arguments and its `execute`.

mod compare;
mod completions;
mod error;
mod export;
mod interrupt;
mod out;
mod own;
mod progress;
mod replay;
mod run;
mod scenarios;
mod seeds;
mod shrink;
mod sweep;
mod topology;
mod which;

use std::{ffi::OsString, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use error::CliError;
use out::Out;

const EXAMPLES: &str = "First things to try:
  weft-sim run hello                       a hundred nodes join, publish and call, in virtual time
  weft-sim run hello --report hello.html   the same, and a page with pictures
  weft-sim topology ring --nodes 20 --draw ring.svg
  weft-sim scenarios                       what comes with the program";

/// Runs meshes of real nodes in virtual time, repeatable from a seed; or as processes, for comparison.
#[derive(Debug, Parser)]
#[command(name = "weft-sim", version, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Print one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Replay(replay::ReplayArgs),
    Shrink(shrink::ShrinkArgs),
    Compare(compare::CompareArgs),
    Topology(topology::TopologyArgs),
    Export(export::ExportArgs),
    Scenarios(scenarios::ScenariosArgs),
    Completions(completions::CompletionsArgs),
    Man(completions::ManArgs),
}

/// Runs the command line to its end: parses, does, reports, and gives the exit code.
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stream leaves nobody to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let out = Out::new(&cli.globals);
    let outcome = match cli.command {
        Command::Run(args) => run::execute(&out, args),
        Command::Replay(args) => replay::execute(&out, &args),
        Command::Shrink(args) => shrink::execute(&out, &args),
        Command::Compare(args) => compare::execute(&out, &args),
        Command::Topology(args) => topology::execute(&out, &args),
        Command::Export(args) => export::execute(&out, &args),
        Command::Scenarios(args) => scenarios::execute(&out, &args),
        Command::Completions(args) => completions::completions(&out, &args),
        Command::Man(args) => completions::man(&out, &args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                out.complain(&format!("weft-sim: {error}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
