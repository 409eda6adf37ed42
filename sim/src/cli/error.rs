//! What can go wrong on the command line, and which exit code that is.

use std::io;

use crate::{run::RunError, scenario::ScenarioError, topology::TopologyError};

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The arguments contradict each other or name something impossible.
    #[error("{0}")]
    Usage(String),
    /// The scenario cannot be had.
    #[error("{0}")]
    Scenario(#[from] ScenarioError),
    /// The topology cannot be made.
    #[error("{0}")]
    Topology(#[from] TopologyError),
    /// The run could not be made.
    #[error("{0}")]
    Run(#[from] RunError),
    /// A file or a process of this machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output failed.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// It did not succeed.
    #[error("{0}")]
    Failed(String),
    /// Everything was said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

impl CliError {
    /// A failed operation on a file, with words for what was tried.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// The process exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Topology(TopologyError::Impossible(_)) => 2,
            Self::Topology(TopologyError::Missing(_)) => 3,
            Self::Scenario(error) => error.exit_code(),
            Self::Run(error) => error.exit_code(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => 3,
                io::ErrorKind::PermissionDenied => 4,
                _ => 1,
            },
            // A reader that has seen enough (`weft-sim scenarios | head`) is not a failure.
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::Failed(_) | Self::Topology(_) => 1,
            Self::Exit(code) => *code,
        }
    }

    /// Whether there is nothing left to say about it.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Exit(_) => true,
            Self::Output(source) => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}
