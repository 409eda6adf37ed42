//! `weft completions` and `weft man`: what packagers and shells need, generated from the arguments themselves.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::{Cli, CliError, Session};

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft completions bash >~/.local/share/bash-completion/completions/weft
  weft completions zsh >\"${fpath[1]}/_weft\"
  weft completions fish >~/.config/fish/completions/weft.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft man ~/.local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Folder, made when it does not exist
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    dir: PathBuf,
}

/// Prints the script.
pub(crate) fn completions(session: &Session, args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft", &mut script);
    session.out.bytes(&script)
}

/// Writes the pages.
pub(crate) fn man(session: &Session, args: &ManArgs) -> Result<(), CliError> {
    let fail = |error| CliError::io(format!("cannot write manual pages to {}", args.dir.display()), error);
    std::fs::create_dir_all(&args.dir).map_err(fail)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail)?;
    session.out.say(&format!("manual pages are in {}", args.dir.display()));
    Ok(())
}
