//! The scenario file: read, checked whole before anything starts, and turned into plain data.
//!
//! Promises: everything that is wrong is said at once, with file, line and key; an unknown key names the nearest known one; what
//! cannot be (more faults than nodes, a check on a workload that does not exist, more nodes than memory) is refused with the
//! reason. Not promised: that a scenario that can be makes sense.

pub mod cities;
mod data;
mod error;
mod field;
mod fit;
mod parse;
mod reader;
mod set;
mod shipped;
#[cfg(test)]
mod tests;
mod work;

use std::{io::Read, path::Path};

pub use data::*;
pub use error::{Problem, ScenarioError};
pub use fit::{memory_available, memory_needed, unfit};
pub use shipped::{Shipped, shipped};
pub use work::*;

/// The largest scenario file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A scenario and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub scenario: Scenario,
    /// As the user named it: a file, or a shipped one.
    pub named: String,
    /// What was changed in it: `KEY=VALUE`.
    pub sets: Vec<String>,
}

/// Reads a scenario from a file, or a shipped one by its name, and makes some changes in it.
///
/// # Errors
/// [`ScenarioError`], which lists everything that is wrong.
pub fn load(named: &str, sets: &[String]) -> Result<Loaded, ScenarioError> {
    let path = Path::new(named);
    // A folder that happens to be named like a shipped scenario is no scenario.
    let opened = match path.is_dir() {
        true => Err(std::io::ErrorKind::NotFound.into()),
        false => std::fs::File::open(path),
    };
    let (text, folder) = match opened {
        Ok(file) => (read(named, file)?, path.parent()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match shipped_text(named) {
            Some(text) => (text.to_owned(), None),
            None => return Err(missing(named)),
        },
        Err(error) => return Err(ScenarioError::Unreadable(format!("cannot read {named}: {error}"))),
    };
    let mut scenario = match sets {
        [] => parse(named, &text)?,
        // Lines are those of the changed document.
        sets => parse(&format!("{named} (as changed)"), &set::change(named, &text, sets)?)?,
    };
    if let (TopologyKind::File { path }, Some(folder)) = (&mut scenario.topology.kind, folder) {
        // Paths in a scenario start from its own folder.
        *path = folder.join(path.as_str()).to_string_lossy().into_owned();
    }
    Ok(Loaded {
        scenario,
        named: named.to_owned(),
        sets: sets.to_owned(),
    })
}

/// Reads a scenario from its text; `file` is its name in errors.
///
/// # Errors
/// [`ScenarioError::Invalid`], which lists everything that is wrong.
pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
    parse::parse(file, text)
}

fn read(named: &str, file: std::fs::File) -> Result<String, ScenarioError> {
    let mut bytes = Vec::new();
    let unreadable = |reason: String| ScenarioError::Unreadable(format!("cannot read {named}: {reason}"));
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not text in UTF-8".into()))
}

/// The text of a shipped scenario; `scenarios/NAME.toml` names it too.
fn shipped_text(named: &str) -> Option<&'static str> {
    let name = named.strip_prefix("scenarios/").unwrap_or(named);
    let name = name.strip_suffix(".toml").unwrap_or(name);
    shipped()
        .iter()
        .find(|shipped| shipped.name == name)
        .map(|shipped| shipped.text)
}

fn missing(named: &str) -> ScenarioError {
    let hint = reader::did_you_mean(reader::nearest(named, shipped().iter().map(|shipped| shipped.name)));
    ScenarioError::Missing(format!(
        "there is no file {named}, and no shipped scenario of that name{hint}; `weft-sim scenarios` lists them"
    ))
}
