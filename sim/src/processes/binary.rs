//! Finding the program.

use std::path::{Path, PathBuf};

use crate::run::RunError;

const NAME: &str = "weft";

/// The program that was named, or `weft` beside this one, or on PATH.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, RunError> {
    if let Some(path) = named {
        // Processes are started elsewhere: a relative path would not be found there.
        return match std::path::absolute(path) {
            Ok(path) if path.is_file() => Ok(path),
            _ => Err(RunError::Missing(format!("there is no program {}", path.display()))),
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(NAME)));
    // A test's program lies one folder deeper than the programs it tests.
    let above = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.parent()?.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(NAME));
    let mut candidates = beside.into_iter().chain(above).chain(on_path);
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| {
        RunError::Missing(
            "the program weft is neither beside weft-sim nor on PATH: build it (`cargo build -p weft-node`), or name it \
             with --weft or WEFT_BIN"
                .to_owned(),
        )
    })
}
