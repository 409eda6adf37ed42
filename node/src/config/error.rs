//! What can be wrong with a configuration, and where.

use std::{fmt, path::PathBuf};

use crate::error::{ErrorKind, Kind};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag of the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
        /// Whether it is because the file does not exist.
        missing: bool,
    },
    /// The file is larger than any sensible configuration.
    #[error("the configuration file {} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1 in characters.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// There is no such section.
    #[error("{origin}: unknown section [{section}]{}", did_you_mean(.nearest.as_deref()))]
    UnknownSection {
        /// Where it stands.
        origin: Origin,
        /// The unknown name.
        section: String,
        /// The known name that is most like it.
        nearest: Option<String>,
    },
    /// There is no such key.
    #[error("{origin}: unknown key {key}{}", did_you_mean(.nearest.as_deref()))]
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The unknown key, with its section.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// The value does not fit the key.
    #[error("{origin}: {key} {reason}")]
    Value {
        /// Where it stands.
        origin: Origin,
        /// The key, with its section.
        key: String,
        /// What is wrong with the value.
        reason: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "{only}"),
            all => {
                write!(f, "{} errors in the configuration", all.len())?;
                all.iter().try_for_each(|error| write!(f, "\n  {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl Kind for ConfigErrors {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }

    fn hint(&self) -> Option<String> {
        Some("`weft config show --defaults` lists every key with its default and meaning".into())
    }
}
