//! `weft-sim scenarios`: what comes with the program.

use clap::Args;
use serde::Serialize;

use super::{CliError, out::Out};
use crate::scenario::{self, shipped};

/// List the scenarios that come with the program, or print one
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  weft-sim scenarios
  weft-sim scenarios islands >mine.toml     one to start from")]
pub(crate) struct ScenariosArgs {
    /// Print this one
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    about: String,
    nodes: usize,
    duration_seconds: f64,
}

/// Lists them, or prints one.
pub(crate) fn execute(out: &Out, args: &ScenariosArgs) -> Result<(), CliError> {
    if let Some(name) = &args.name {
        let found = shipped().iter().find(|shipped| shipped.name == name.as_str());
        let Some(found) = found else {
            let names: Vec<&str> = shipped().iter().map(|shipped| shipped.name).collect();
            out.complain(&format!(
                "weft-sim: no scenario {name} comes with the program; there are {}",
                names.join(", ")
            ));
            return Err(CliError::Exit(3));
        };
        return out.text(found.text);
    }
    let mut entries = Vec::new();
    for one in shipped() {
        let scenario = scenario::parse(one.name, one.text)?;
        entries.push(Entry {
            name: one.name,
            nodes: scenario.nodes(),
            duration_seconds: scenario.duration.as_secs_f64(),
            about: scenario.about,
        });
    }
    if out.json {
        return out.document(&entries);
    }
    let mut text = String::new();
    for entry in &entries {
        text.push_str(&format!(
            "{:<16} {:>5} nodes  {:>4} s  {}\n",
            entry.name, entry.nodes, entry.duration_seconds, entry.about
        ));
    }
    out.text(&text)
}
