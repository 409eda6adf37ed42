//! Which scenario: what several commands ask alike.

use clap::Args;

use crate::scenario::{self, Loaded, ScenarioError};

/// Which scenario, and what is changed in it.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// A scenario's file, or the name of one that comes with the program
    #[arg(value_name = "FILE")]
    scenario: String,
    /// Change a value of it; may be given several times: fleet.nodes=300, fault.0.at=5s
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
}

impl Which {
    /// Reads it.
    pub(crate) fn load(&self) -> Result<Loaded, ScenarioError> {
        scenario::load(&self.scenario, &self.sets)
    }
}
