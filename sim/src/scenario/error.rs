//! What can be wrong with a scenario, and where it stands.

use std::fmt;

/// One thing that is wrong with a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named; or a shipped scenario's name.
    pub file: String,
    /// The line, counted from 1; 0 where it is of the whole file.
    pub line: usize,
    /// The key with its section, such as `fault.at`; empty where it is of no key.
    pub key: String,
    /// What is wrong, worded to follow the key.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "{} ", self.key)?;
        }
        f.write_str(&self.reason)
    }
}

/// A scenario cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Neither a file nor the name of a shipped one.
    Missing(String),
    /// The file cannot be read.
    Unreadable(String),
    /// Everything that is wrong with it; never empty.
    Invalid(Vec<Problem>),
}

impl ScenarioError {
    /// The process exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Missing(_) => 3,
            Self::Unreadable(_) => 1,
            Self::Invalid(_) => 2,
        }
    }
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(text) | Self::Unreadable(text) => f.write_str(text),
            Self::Invalid(problems) => match problems.as_slice() {
                [only] => write!(f, "{only}"),
                all => {
                    write!(f, "{} errors in the scenario", all.len())?;
                    all.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
                }
            },
        }
    }
}

impl std::error::Error for ScenarioError {}
