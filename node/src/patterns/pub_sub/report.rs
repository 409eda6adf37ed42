//! Who has a message: the members that are known to want it, and what became of it for each.
//!
//! Promises: *confirmed* is said only of a member that said itself that it handed the message to its subscribers, or followed its publisher so
//! far. Not promised: that an application there has read it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_protocol::{PeerId, Subject, patterns::pub_sub::Line};

use super::{feeds::Feeds, hub::Hub, repair, ring::Outcome};

/// What a message needs to be asked after.
#[derive(Debug, Clone)]
pub(super) struct Trail {
    pub(super) line: Line,
    pub(super) seq: u64,
    /// Whom it was handed to directly, and as which item.
    pub(super) direct: Option<(Arc<[PeerId]>, u64)>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The members it was for, as far as their records say, this node not among them, and what became of it for each.
    pub members: Vec<(PeerId, Outcome)>,
    /// Subscriptions of this node that it was for.
    pub here: usize,
}

impl Report {
    /// The members of which it is not confirmed.
    pub fn missing(&self) -> impl Iterator<Item = &(PeerId, Outcome)> {
        self.members
            .iter()
            .filter(|(_, outcome)| *outcome != Outcome::Confirmed)
    }
}

/// Asks after a message, for so long at most.
pub(super) async fn report(hub: &Hub, feeds: &Feeds, subject: &Subject, trail: &Trail, within: Duration) -> Report {
    let here = hub.subscribed_to(subject);
    let members = match &trail.direct {
        Some((members, ordinal)) => feeds.outcomes(members, *ordinal, Instant::now() + within).await,
        None => {
            let mut members = hub.interested(subject);
            members.retain(|peer| *peer != hub.mesh.local_peer());
            let asked = members.iter().map(|peer| async {
                let followed = repair::has_followed(hub, *peer, trail.line, trail.seq, within).await;
                (*peer, followed)
            });
            futures::future::join_all(asked).await
        }
    };
    Report { members, here }
}
