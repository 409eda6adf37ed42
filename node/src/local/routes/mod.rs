//! The node's own routes; a pattern's are with the pattern.

mod capabilities;
mod doctor;
mod members;
mod node;

use axum::extract::Path;
use utoipa_axum::{router::OpenApiRouter, routes};
use weft_protocol::PeerId;

use super::{App, problem::Problem};
use crate::error::NodeError;

/// What every handler returns.
pub(crate) type Answer<T> = Result<T, Problem>;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(node::status))
        .routes(routes!(node::peers))
        .routes(routes!(node::ping))
        .routes(routes!(node::join))
        .routes(routes!(node::config))
        .routes(routes!(node::reload))
        .routes(routes!(node::healthz))
        .routes(routes!(node::readyz))
        .routes(routes!(node::metrics))
        .routes(routes!(members::list))
        .routes(routes!(members::approve))
        .routes(routes!(members::revoke))
        .routes(routes!(members::invites, members::invite))
        .routes(routes!(members::withdraw))
        .routes(routes!(capabilities::list, capabilities::grant))
        .routes(routes!(capabilities::explain))
        .routes(routes!(doctor::doctor))
}

/// A time of the calendar, RFC 3339, UTC.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    // Days to civil date: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let z = days as i64 + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s, milli) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{milli:03}Z")
}

/// The member somebody means: a peer id, `self`, a name, or a part of an id that only one has.
pub(crate) fn resolve(app: &App, text: &str) -> Result<PeerId, NodeError> {
    let trust = app.node.trust();
    if text == "self" {
        return Ok(trust.local_peer());
    }
    if let Ok(peer) = text.parse::<PeerId>() {
        return Ok(peer);
    }
    let mut known: Vec<(PeerId, String)> = trust
        .known_members()
        .into_iter()
        .map(|m| {
            (
                m.peer,
                m.membership
                    .map(|m| m.name)
                    .filter(|n| !n.is_empty())
                    .unwrap_or(m.record.name),
            )
        })
        .chain(trust.pending().into_iter().map(|p| (p.peer, p.name)))
        .collect();
    known.sort();
    known.dedup();
    let by_name: Vec<PeerId> = known
        .iter()
        .filter(|(_, name)| name == text)
        .map(|(peer, _)| *peer)
        .collect();
    let found = if by_name.is_empty() && text.len() >= 4 {
        known
            .iter()
            .map(|(peer, _)| *peer)
            .filter(|peer| peer.to_string().contains(text))
            .collect()
    } else {
        by_name
    };
    match found.as_slice() {
        [peer] => Ok(*peer),
        [] => Err(NodeError::not_found(format!("no member is called {text}"))
            .with_hint("`weft member ls` shows names and ids; a part of an id of 4 characters or more will do")),
        many => Err(NodeError::conflict(format!("{text} means {} members", many.len()))
            .with_hint("give the whole peer id, or more of it")),
    }
}

/// The member a path names.
pub(crate) fn resolve_path(app: &App, Path(id): Path<String>) -> Result<PeerId, NodeError> {
    resolve(app, &id)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_calendar_is_right() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
            (4_107_542_400_123, "2100-03-01T00:00:00.123Z"),
        ] {
            assert_eq!(super::rfc3339(ms), text);
        }
    }
}
