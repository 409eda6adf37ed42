//! Why a request of JetStream's API was not done, with the numbers that its clients know.

use serde_json::{Value, json};

use crate::{
    error::{ErrorKind, Kind},
    patterns::event_sourcing::StreamError,
};

/// A refusal, as the API words it: `{"error":{"code":…,"err_code":…,"description":…}}` (nats-server's `errors.json`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As in HTTP.
    code: u16,
    /// nats-server's own number.
    err_code: u16,
    description: String,
}

pub(super) const BAD_REQUEST: (u16, u16) = (400, 10003);
pub(super) const UNAVAILABLE: (u16, u16) = (503, 10008);
pub(super) const CONSUMER_NOT_FOUND: (u16, u16) = (404, 10014);
pub(super) const RESOURCES: (u16, u16) = (503, 10023);
pub(super) const INVALID_JSON: (u16, u16) = (400, 10025);
pub(super) const NO_MESSAGE: (u16, u16) = (404, 10037);
pub(super) const INVALID_CONFIG: (u16, u16) = (400, 10052);
pub(super) const STREAM_EXISTS: (u16, u16) = (400, 10058);
pub(super) const STREAM_NOT_FOUND: (u16, u16) = (404, 10059);
pub(super) const WRONG_STREAM: (u16, u16) = (400, 10060);
pub(super) const OVERLAP: (u16, u16) = (400, 10065);
pub(super) const WRONG_SEQUENCE: (u16, u16) = (400, 10071);
const FULL: (u16, u16) = (503, 10077);
pub(super) const NOT_SUBSET: (u16, u16) = (400, 10093);
pub(super) const CONSUMER_EXISTS: (u16, u16) = (400, 10148);
pub(super) const NO_CONSUMER: (u16, u16) = (400, 10149);
/// Of what Weft does not offer; nats-server has no number for it.
pub(super) const NOT_OFFERED: (u16, u16) = (501, 10003);
const FAILED: (u16, u16) = (500, 10003);
const DENIED: (u16, u16) = (403, 10003);

impl Refusal {
    pub(super) fn new((code, err_code): (u16, u16), description: impl Into<String>) -> Self {
        Refusal {
            code,
            err_code,
            description: description.into(),
        }
    }

    /// Of a stream that refused. What is not found is the stream itself, what contradicts is `conflict`.
    pub(super) fn of(error: &StreamError, conflict: (u16, u16)) -> Self {
        if let StreamError::Full(_) = error {
            return Refusal::new(FULL, error.to_string());
        }
        let numbers = match error.kind() {
            ErrorKind::NotFound => match error {
                StreamError::NoConsumer(_) => CONSUMER_NOT_FOUND,
                StreamError::NoRecord { .. } => NO_MESSAGE,
                StreamError::AtOwner { detail, .. } if detail.contains("consumer") => CONSUMER_NOT_FOUND,
                _ => STREAM_NOT_FOUND,
            },
            ErrorKind::Conflict => conflict,
            ErrorKind::Invalid => BAD_REQUEST,
            ErrorKind::Busy => RESOURCES,
            ErrorKind::Denied => DENIED,
            ErrorKind::Unreachable | ErrorKind::Closed => UNAVAILABLE,
            _ => FAILED,
        };
        Refusal::new(numbers, error.to_string())
    }

    /// Whether there is no such stream.
    pub(super) fn is_missing_stream(&self) -> bool {
        (self.code, self.err_code) == STREAM_NOT_FOUND
    }

    /// As the status of a message.
    pub(super) fn status(&self) -> String {
        match (self.code, self.err_code) == NO_MESSAGE {
            true => " 404 Message Not Found".to_owned(),
            false => format!(" {} {}", self.code, self.description.replace(['\r', '\n'], " ")),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "code": self.code, "err_code": self.err_code, "description": self.description })
    }
}
