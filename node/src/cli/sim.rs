//! `weft sim`: the simulator, which is a program of its own.
//!
//! It is not part of this one, because it makes the C library's clock its own; here it is only found and started in this
//! process's place, so that streams, signals and exit code are its own.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;

use super::{CliError, Session};

/// The simulator's name.
const PROGRAM: &str = "weft-sim";

/// Simulate meshes of thousands of nodes in virtual time, with `weft-sim`
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:
  weft sim run hello          a hundred nodes, in virtual time
  weft sim --help             what the simulator can do"
)]
pub(crate) struct SimArgs {
    /// Arguments of `weft-sim`
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes the simulator.
pub(crate) fn execute(session: &Session, args: &SimArgs) -> Result<(), CliError> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = find(beside, std::env::split_paths(&path)).ok_or_else(missing)?;
    session.detail(&format!("starting {}", program.display()));
    let mut command = Command::new(&program);
    command.args(&args.arguments);
    if session.globals.json && !args.arguments.iter().any(|argument| argument == "--json") {
        command.arg("--json");
    }
    // It comes back only if it failed.
    let error = command.exec();
    Err(CliError::io(format!("cannot start {}", program.display()), error))
}

/// The program, beside this one or in one of the folders.
fn find(beside: Option<&Path>, folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    let candidates = beside.map(Path::to_owned).into_iter().chain(folders);
    candidates
        .map(|folder| folder.join(PROGRAM))
        .find(|candidate| candidate.is_file())
}

fn missing() -> CliError {
    CliError::io(
        format!(
            "the simulator {PROGRAM} is neither beside this program nor on PATH; it is built by `cargo build --release -p weft-sim`, \
             and belongs into the folder of `weft`"
        ),
        io::Error::from(io::ErrorKind::NotFound),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_for_beside_this_program_first_and_then_on_the_path() {
        let (beside, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let found = || find(Some(beside.path()), [path.path().to_owned()].into_iter());
        assert_eq!(found(), None);
        std::fs::write(path.path().join(PROGRAM), "").unwrap();
        assert_eq!(found(), Some(path.path().join(PROGRAM)));
        std::fs::write(beside.path().join(PROGRAM), "").unwrap();
        assert_eq!(found(), Some(beside.path().join(PROGRAM)));
    }

    #[test]
    fn what_is_missing_says_what_to_do_and_is_not_found() {
        let error = missing();
        assert_eq!(error.exit_code(), 3);
        assert!(
            error.to_string().contains("cargo build --release -p weft-sim"),
            "{error}"
        );
    }
}
