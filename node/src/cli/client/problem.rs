//! A refusal in the form of RFC 9457.

use std::fmt;

use http::StatusCode;
use serde_json::Value;

use crate::cli::{output::escape, view};
use crate::error::ErrorKind;

/// Why the node did not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The sort of failure.
    pub kind: ErrorKind,
    /// The HTTP status.
    pub status: u16,
    /// The sort of failure in words.
    pub title: String,
    /// What happened this time.
    pub detail: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// The code a remote service gave, when the failure is its own.
    pub code: Option<u16>,
}

impl Problem {
    /// The problem in an answer; a body that is no problem document leaves what the status says.
    pub(crate) fn from_answer(status: StatusCode, body: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        Self::from_json(status.as_u16(), &value)
    }

    /// The problem in a JSON object.
    pub(crate) fn from_json(status: u16, value: &Value) -> Self {
        let kind = view::text(value, "kind")
            .parse()
            .unwrap_or_else(|_| kind_of_status(status));
        let hint = Some(view::text(value, "hint")).filter(|hint| !hint.is_empty());
        let code = value
            .get("code")
            .and_then(Value::as_u64)
            .and_then(|code| u16::try_from(code).ok());
        Self {
            kind,
            status,
            title: view::text(value, "title"),
            detail: view::text(value, "detail"),
            hint,
            code,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = if self.detail.is_empty() {
            &self.title
        } else {
            &self.detail
        };
        match (said.is_empty(), self.code) {
            (true, _) => write!(f, "the node answered {} ({})", self.status, self.kind),
            (false, Some(code)) if !said.contains(&code.to_string()) => write!(f, "{} (code {code})", escape(said)),
            (false, _) => f.write_str(&escape(said)),
        }
    }
}

fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        401 | 403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        409 => ErrorKind::Conflict,
        429 => ErrorKind::Busy,
        503 => ErrorKind::Unreachable,
        400..500 => ErrorKind::Invalid,
        _ => ErrorKind::Internal,
    }
}
