//! What every way of running a scenario shares: how it says how far it is, how it is told to stop, and how it fails.
//!
//! A run that is told to stop ends soon with the report so far; it does not fail for that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::topology::TopologyError;

/// A run could not be made. What a scenario finds wrong with a mesh is not this, but a check that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// This way of running cannot do what the scenario wants.
    #[error("{0}")]
    Unsupported(String),
    /// A right is missing.
    #[error("{0}")]
    Denied(String),
    /// Something needed is not there.
    #[error("{0}")]
    Missing(String),
    /// It did not get going, or broke down.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// It did not get going, or broke down.
    #[error("{0}")]
    Failed(String),
}

impl From<TopologyError> for RunError {
    fn from(error: TopologyError) -> Self {
        match error {
            TopologyError::Impossible(reason) => Self::Unsupported(reason),
            TopologyError::Missing(reason) => Self::Missing(reason),
            TopologyError::File(reason) => Self::Failed(reason),
        }
    }
}

impl RunError {
    /// A failed operation of the system, with words for what was tried.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            what: what.into(),
            source,
        }
    }

    /// The process exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Unsupported(_) => 2,
            Self::Missing(_) => 3,
            Self::Denied(_) => 4,
            Self::Io { .. } | Self::Failed(_) => 1,
        }
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Time of the scenario.
    pub virtual_time: Duration,
    /// Nodes that run.
    pub nodes_up: usize,
    /// Messages and calls sent.
    pub sent: u64,
    /// Deliveries and answers.
    pub delivered: u64,
}

/// Who is told how far a run is. Called often: it decides itself what to show.
pub trait Watch: Send + Sync {
    /// How far it is.
    fn progress(&self, progress: Progress);
}

/// Nobody.
pub struct Nobody;

impl Watch for Nobody {
    fn progress(&self, _: Progress) {}
}

/// Tells a run to end with what it has. Clones are of one and the same.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Tells it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was told. Cheap: to be asked between any two events.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
