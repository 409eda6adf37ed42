//! Which instance to ask, and whether to ask another: decisions without I/O.

use std::time::Duration;

use weft_protocol::PeerId;

use crate::error::ErrorKind;

/// What is known of an instance when it is chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) peer: PeerId,
    pub(super) is_local: bool,
    pub(super) is_connected: bool,
    pub(super) rtt: Option<Duration>,
}

/// The order in which to ask: this node itself, then connected ones by their round trip, then the others.
pub(super) fn order(mut candidates: Vec<Candidate>) -> Vec<PeerId> {
    candidates.sort_by_key(|c| (!c.is_local, !c.is_connected, c.rtt.unwrap_or(Duration::MAX), c.peer));
    candidates.dedup_by_key(|c| c.peer);
    candidates.into_iter().map(|c| c.peer).collect()
}

/// How one attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The instance surely did not see the request.
    NotSeen(ErrorKind),
    /// It may have.
    Seen,
}

/// Whether another instance may be asked without serving the call twice.
pub(super) fn may_ask_another(attempt: Attempt) -> bool {
    matches!(attempt, Attempt::NotSeen(kind) if kind != ErrorKind::Invalid && kind != ErrorKind::Denied)
}

/// What it means that no instance answered, given how each attempt ended.
pub(super) fn nobody(attempts: &[ErrorKind]) -> ErrorKind {
    if attempts.is_empty() {
        ErrorKind::NotFound
    } else if attempts.iter().all(|k| *k == ErrorKind::Busy) {
        ErrorKind::Busy
    } else if attempts.iter().all(|k| *k == ErrorKind::NotFound) {
        ErrorKind::NotFound
    } else {
        ErrorKind::Unreachable
    }
}
