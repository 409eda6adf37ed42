//! What can go wrong on the command line, and which exit code that is.
//!
//! Exit codes are a promise to scripts: 0 done, 1 failed, 2 wrong arguments, 3 not found, 4 denied, 5 unreachable or out of time.
//! Messages are for people and may change.

use std::{io, path::PathBuf, process::ExitCode};

use super::client::Problem;
use crate::error::{ErrorKind, Kind, NodeError};

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The arguments contradict each other or name something impossible.
    #[error("{0}")]
    Usage(String),
    /// Nothing answers on this data dir.
    #[error("no node is running on {}", dir.display())]
    NoNode {
        /// The data dir that was looked into.
        dir: PathBuf,
    },
    /// The node refused or failed.
    #[error("{0}")]
    Api(Box<Problem>),
    /// The node library refused or failed, in this process.
    #[error("{}", .0.message())]
    Node(#[from] NodeError),
    /// The connection to the node broke while a request was under way.
    #[error("the connection to the node broke: {0}")]
    Lost(String),
    /// The node said something this program does not understand.
    #[error("the node's answer is not understood: {0}")]
    Protocol(String),
    /// A file or a stream of this machine failed.
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
    /// The time the user gave is over.
    #[error("{0}")]
    Timeout(String),
    /// Everything was said already; only the exit code is left.
    #[error("exit code {0}")]
    Exit(u8),
}

impl<E: Kind> From<E> for CliError {
    fn from(error: E) -> Self {
        Self::Node(NodeError::from(error))
    }
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
            Self::Usage(_) => 2,
            Self::NoNode { .. } | Self::Lost(_) | Self::Timeout(_) => 5,
            Self::Api(problem) => problem.kind.exit_code(),
            Self::Node(error) => error.kind().exit_code(),
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => 3,
                io::ErrorKind::PermissionDenied => 4,
                _ => 1,
            },
            // A reader that has seen enough (`weft sub … | head`) is not a failure.
            Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::Protocol(_) => 1,
            Self::Exit(code) => *code,
        }
    }

    /// The same as the standard library wants it.
    pub fn to_exit(&self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }

    /// Whether there is nothing left to say about it.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Exit(_) => true,
            Self::Output(source) => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoNode { dir } => Some(match crate::data_dir::resolve_for_process(None) {
                Ok(default) if default == *dir => "start one with `weft run`".to_owned(),
                _ => format!("start one with `weft run --data-dir {}`", dir.display()),
            }),
            Self::Api(problem) => problem.hint.clone(),
            Self::Node(error) => error.hint().map(str::to_owned),
            Self::Lost(_) => Some("the node may have stopped; look with `weft status`".to_owned()),
            _ => None,
        }
    }

    /// Whether a client that waits for its node (after a restart, say) does well to try again.
    pub(crate) fn is_worth_waiting(&self) -> bool {
        match self {
            Self::NoNode { .. } | Self::Lost(_) | Self::Timeout(_) => true,
            Self::Api(problem) => problem.kind.is_retryable(),
            Self::Node(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// The kind, where the node gave one.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Api(problem) => Some(problem.kind),
            Self::Node(error) => Some(error.kind()),
            Self::NoNode { .. } | Self::Lost(_) => Some(ErrorKind::Unreachable),
            Self::Timeout(_) => Some(ErrorKind::Timeout),
            _ => None,
        }
    }
}
