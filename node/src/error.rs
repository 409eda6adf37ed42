//! One vocabulary of failure for the whole node.
//!
//! Every module has its own error enum, rich in detail; what a door (the local API, the command line) needs from it is only
//! the [`ErrorKind`]: what sort of failure it is, which HTTP status and exit code that means, and whether trying again can help.
//! A module's enum implements [`Kind`]; [`NodeError`] is the one concrete type for interfaces that carry failures of many modules.
//!
//! Not promised: that messages stay the same. Decide by kind, never by text.

use std::{error::Error, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The sort of a failure, shared by all modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// The request itself is wrong and will be wrong again.
    Invalid,
    /// A bound is reached; later it may work.
    Busy,
    /// The deadline passed before an answer came.
    Timeout,
    /// The other side cannot be reached now.
    Unreachable,
    /// The request contradicts the present state (already exists, in use, stale).
    Conflict,
    /// The thing is shut down or shutting down.
    Closed,
    /// Stored or received data failed its checks.
    Corrupt,
    /// A fault of this node that is none of the others.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::NotFound,
        Self::Denied,
        Self::Invalid,
        Self::Busy,
        Self::Timeout,
        Self::Unreachable,
        Self::Conflict,
        Self::Closed,
        Self::Corrupt,
        Self::Internal,
    ];

    /// The name used in JSON, in `urn:weft:error:<name>` and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Conflict => "conflict",
            Self::Closed => "closed",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }

    /// The same in words, for a person: the `title` of a problem document.
    pub const fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Denied => "Denied",
            Self::Invalid => "Invalid request",
            Self::Busy => "Busy",
            Self::Timeout => "Deadline passed",
            Self::Unreachable => "Unreachable",
            Self::Conflict => "Conflict",
            Self::Closed => "Closed",
            Self::Corrupt => "Corrupt data",
            Self::Internal => "Internal error",
        }
    }

    /// Whether the same request, unchanged, may succeed when it is tried again.
    ///
    /// For a request that is not idempotent, `Timeout` and `Unreachable` leave open whether it took effect; retrying is then
    /// the caller's decision.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Timeout | Self::Unreachable | Self::Closed)
    }

    /// The HTTP status of the local API for this kind.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Denied => 403,
            Self::Invalid => 400,
            Self::Busy => 429,
            Self::Timeout => 504,
            Self::Unreachable | Self::Closed => 503,
            Self::Conflict => 409,
            Self::Corrupt | Self::Internal => 500,
        }
    }

    /// The exit code of the command line for this kind; an `Invalid` that is not the user's own argument exits with 1 instead.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Timeout | Self::Unreachable => 5,
            Self::Busy | Self::Conflict | Self::Closed | Self::Corrupt | Self::Internal => 1,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(UnknownKind)
    }
}

/// A text names no [`ErrorKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown error kind")]
pub struct UnknownKind;

/// An error of some module that knows its place in the shared vocabulary.
pub trait Kind: Error {
    /// What sort of failure this is.
    fn kind(&self) -> ErrorKind;

    /// What the person in front of the screen can do about it, when that is known.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// A failure of any module, reduced to what a door needs: kind, message, optional advice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl NodeError {
    /// A failure of this kind with a lower-case message that names the thing.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// The same failure with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What sort of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, naming the thing.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Whether the same request may succeed when tried again.
    pub fn is_retryable(&self) -> bool {
        self.kind.is_retryable()
    }

    /// A named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// The caller may not do this.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Denied, message)
    }

    /// The request itself is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A bound is reached.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Busy, message)
    }

    /// The deadline passed.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    /// The other side cannot be reached.
    pub fn unreachable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unreachable, message)
    }

    /// The request contradicts the present state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// The thing is shut down.
    pub fn closed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Closed, message)
    }

    /// Data failed its checks.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// A fault of this node.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}

impl<E: Kind> From<E> for NodeError {
    fn from(error: E) -> Self {
        Self {
            kind: error.kind(),
            message: chain(&error),
            hint: error.hint(),
        }
    }
}

/// The message of an error and of its causes, joined by `: `; a cause that its parent already spells out is not repeated.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_its_contract() {
        let table: Vec<_> = ErrorKind::ALL
            .iter()
            .map(|k| (k.as_str(), k.http_status(), k.exit_code(), k.is_retryable()))
            .collect();
        assert_eq!(
            table,
            [
                ("not_found", 404, 3, false),
                ("denied", 403, 4, false),
                ("invalid", 400, 2, false),
                ("busy", 429, 1, true),
                ("timeout", 504, 5, true),
                ("unreachable", 503, 5, true),
                ("conflict", 409, 1, false),
                ("closed", 503, 1, true),
                ("corrupt", 500, 1, false),
                ("internal", 500, 1, false),
            ]
        );
    }

    #[test]
    fn the_name_is_the_same_in_json_and_in_text() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert_eq!("NotFound".parse::<ErrorKind>(), Err(UnknownKind));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the key file /k")]
    struct Outer(#[source] std::io::Error);

    impl Kind for Outer {
        fn kind(&self) -> ErrorKind {
            ErrorKind::NotFound
        }
    }

    #[test]
    fn a_module_error_becomes_a_node_error_with_its_causes() {
        fn fails() -> Result<(), NodeError> {
            Err(Outer(std::io::Error::other("disk is on fire")))?
        }
        let error = fails().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "cannot read the key file /k: disk is on fire");
        assert_eq!(error.hint(), None);
    }
}
