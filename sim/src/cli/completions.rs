//! `weft-sim completions` and `weft-sim man`: generated from the arguments themselves.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, CliError, out::Out};

/// Print the completion script of a shell
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct ManArgs {
    /// Folder, made when it does not exist
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

/// Prints the script.
pub(crate) fn completions(out: &Out, args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft-sim", &mut script);
    out.text(&String::from_utf8_lossy(&script))
}

/// Writes the pages.
pub(crate) fn man(out: &Out, args: &ManArgs) -> Result<(), CliError> {
    let fail = |error| CliError::io(format!("cannot write manual pages to {}", args.dir.display()), error);
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail)?;
    out.say(&format!("manual pages are in {}", args.dir.display()));
    Ok(())
}
