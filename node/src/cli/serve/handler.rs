//! Who answers a call: a command, one of a few that stay, an HTTP server, or nobody but the request itself.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::{ServeArgs, exec::Exec, frame::Request, pool::Pool, upstream::Upstream};
use crate::cli::CliError;

/// Largest answer; the mesh carries no larger one.
pub(super) const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How much of a failure's words goes to the caller.
pub(super) const REASON_BYTES_MAX: usize = 1024;

/// A successful answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Headers for the caller.
    pub(super) headers: BTreeMap<String, String>,
    /// The bytes for the caller.
    pub(super) body: Bytes,
}

/// A call that did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub(super) struct Failure {
    /// As in HTTP.
    pub(super) code: u16,
    /// For a person.
    pub(super) reason: String,
}

impl Failure {
    /// A failure with these words.
    pub(super) fn new(code: u16, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

/// Answers calls; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    pub(super) way: Way,
    time_max: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Way {
    Echo,
    Exec(Exec),
    Pool(Pool),
    Http(Upstream),
}

impl Handler {
    /// The handler that the arguments ask for.
    pub(super) fn new(args: &ServeArgs) -> Result<Self, CliError> {
        let way = match (&args.exec, &args.http) {
            (Some(command), _) => match args.pool {
                Some(size) => Way::Pool(Pool::new(Exec::new(command)?, size, args.pool_lines)),
                None => Way::Exec(Exec::new(command)?),
            },
            (None, Some(url)) => Way::Http(Upstream::new(url)?),
            (None, None) => Way::Echo,
        };
        Ok(Self {
            way,
            time_max: args.timeout,
        })
    }

    /// Answers one call within its deadline. Dropping the future ends the call and what it started.
    pub(super) async fn handle(&self, request: &Request, body: Bytes) -> Result<Answer, Failure> {
        let limit = request
            .deadline_ms
            .map_or(self.time_max, |ms| self.time_max.min(Duration::from_millis(ms)));
        let answering = async {
            match &self.way {
                Way::Echo => Ok(Answer {
                    body,
                    ..Answer::default()
                }),
                Way::Exec(exec) => exec.handle(request, body, limit).await,
                Way::Pool(pool) => pool.handle(request, body).await,
                Way::Http(upstream) => upstream.handle(request, body).await,
            }
        };
        match tokio::time::timeout(limit, answering).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new(504, format!("no answer within {} ms", limit.as_millis()))),
        }
    }
}
