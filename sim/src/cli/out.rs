//! Where words go: data to standard output, talk to standard error.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
};

use serde::Serialize;

use super::{CliError, Globals};

/// The streams of a command and how to write on them.
pub(crate) struct Out {
    /// One JSON document is wanted.
    pub(crate) json: bool,
    /// Nothing is to be said but errors.
    pub(crate) quiet: bool,
    /// Standard output may be coloured.
    pub(crate) color: bool,
    /// A person looks at standard error.
    pub(crate) talk_terminal: bool,
}

impl Out {
    /// The process's own streams.
    pub(crate) fn new(globals: &Globals) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
            || std::env::var_os("TERM").is_some_and(|v| v == "dumb");
        Self {
            json: globals.json,
            quiet: globals.quiet,
            color: !plain && io::stdout().is_terminal(),
            talk_terminal: io::stderr().is_terminal(),
        }
    }

    /// Writes text as it is and flushes.
    pub(crate) fn text(&self, text: &str) -> Result<(), CliError> {
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
            .map_err(CliError::Output)
    }

    /// Writes one JSON document on one line.
    pub(crate) fn document(&self, value: &impl Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?;
        self.text(&format!("{text}\n"))
    }

    /// Says something to the person.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// Says something to the person that must be heard.
    pub(crate) fn complain(&self, text: &str) {
        // Nobody is left to be told when standard error is gone.
        let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
    }
}

/// Writes a file, whole, or says which could not be.
pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    std::fs::write(path, text).map_err(|error| CliError::io(format!("cannot write {}", path.display()), error))
}
