//! Who in the mesh wants what: says it of this node in its record, and reads it in the records of the others.
//!
//! Promises: every subscription is covered by what is said, at the latest [`SAY_EVERY`] after it was made. Does not promise
//! that what others say is fresh: a record takes its time through the mesh, and that of a member that died counts until it
//! expires.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use weft_protocol::{
    PeerId, Subject, Wire as _,
    patterns::pub_sub::interest::{ANNOUNCEMENT_KEY, Interest},
};

use super::hub::Hub;
use crate::trust::Trust;

/// The shortest time between two announcements.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What each member wants.
type All = Arc<Vec<(PeerId, Interest)>>;

/// What the records of the others say, read once for each version of the directory.
#[derive(Debug, Default)]
pub(super) struct Interests {
    read: Mutex<(u64, All)>,
}

impl Interests {
    /// The members that want a subject, as far as is known; without this node.
    pub(super) fn of(&self, trust: &Trust, subject: &Subject) -> Vec<PeerId> {
        let local = trust.local_peer();
        let all = self.all(trust);
        let wanting = all
            .iter()
            .filter(|(peer, interest)| *peer != local && interest.includes(subject));
        wanting
            .map(|(peer, _)| *peer)
            .filter(|peer| trust.is_member(peer))
            .collect()
    }

    fn all(&self, trust: &Trust) -> All {
        // The version first: what changes meanwhile is read again next time.
        let version = *trust.watch_records().borrow() + 1;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != version {
            let said = trust.announcements(ANNOUNCEMENT_KEY).into_iter();
            let understood = said.filter_map(|(peer, bytes)| Some((peer, Interest::from_bytes(&bytes).ok()?)));
            *read = (version, Arc::new(understood.collect()));
        }
        Arc::clone(&read.1)
    }
}

/// Says what this node wants whenever that changes, until the node stops.
pub(super) async fn announce(hub: Arc<Hub>) {
    let mut said = Interest::default();
    loop {
        hub.wanted.notified().await;
        let interest = hub.interest();
        if interest == said {
            continue;
        }
        if hub.mesh.announce(ANNOUNCEMENT_KEY, interest.to_bytes()).await.is_err() {
            return;
        }
        said = interest;
        tokio::time::sleep(SAY_EVERY).await;
    }
}
