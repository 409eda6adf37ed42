//! Who wanted something before this node knew it: its record was still on its way.
//!
//! Promises: what was handed to others directly since a member began to want it, in the last [`WITHIN`], goes to that member too, once
//! its record has come. Not promised to one that has taken in later messages of the same shard already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use weft_protocol::{
    PeerId,
    patterns::pub_sub::{Frame, interest::Interest},
};

use super::{feeds::Feeds, hub::Hub};

/// How far what is known of another's calendar may be wrong. Rather a moment too much than a message too few.
const SLACK_MS: u64 = 500;
/// How long a record may be on its way.
const WITHIN: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Late {
    hub: Arc<Hub>,
    feeds: Arc<Feeds>,
    records: watch::Receiver<u64>,
    is_due: bool,
    /// What was known the last time.
    known: BTreeMap<PeerId, Interest>,
}

impl Late {
    pub(super) fn new(hub: Arc<Hub>, feeds: Arc<Feeds>) -> Self {
        Late {
            records: hub.mesh.trust().watch_records(),
            hub,
            feeds,
            is_due: true,
            known: BTreeMap::new(),
        }
    }

    /// Waits until there may be something to do. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        if !self.feeds.is_used() || self.records.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.is_due = true;
    }

    /// Looks whether anybody wants something that was not known. To be called before anything more is handed over, so that what is
    /// added comes before it.
    pub(super) fn look(&mut self) {
        let is_due = self.is_due || self.records.has_changed().unwrap_or(false);
        if !is_due || !self.feeds.is_used() {
            return;
        }
        self.is_due = false;
        self.records.mark_unchanged();
        let all = self.hub.interests.others(self.hub.mesh.trust());
        let is_news = |peer: &PeerId, interest: &Interest| self.known.get(peer) != Some(interest);
        let news: Vec<(PeerId, Interest)> = all.iter().filter(|(p, i)| is_news(p, i)).cloned().collect();
        if news.is_empty() {
            return;
        }
        add(&self.hub, &self.feeds, &news);
        self.known = all.iter().cloned().collect();
    }
}

fn add(hub: &Hub, feeds: &Arc<Feeds>, news: &[(PeerId, Interest)]) {
    let mut late: BTreeMap<PeerId, Vec<u64>> = BTreeMap::new();
    let local = hub.mesh.local_peer();
    for (ordinal, data, audience) in feeds.recent(WITHIN) {
        let unserved: Vec<&(PeerId, Interest)> = news
            .iter()
            .filter(|(peer, _)| *peer != local && !audience.contains(peer))
            .collect();
        if unserved.is_empty() {
            continue;
        }
        let Ok(frame) = Frame::read(&data) else { continue };
        for (peer, interest) in unserved {
            if wants(hub, peer, interest, &frame) {
                late.entry(*peer).or_default().push(ordinal);
            }
        }
    }
    for (peer, ordinals) in late {
        tracing::debug!(%peer, items = ordinals.len(), "a member wanted what others got before that was known");
        feeds.add(peer, &ordinals);
    }
}

/// Whether a member wanted something in a frame when it was made. Groups have others who took it.
fn wants(hub: &Hub, peer: &PeerId, interest: &Interest, frame: &Frame<'_>) -> bool {
    let skew_ms = hub
        .mesh
        .peers()
        .get(peer)
        .and_then(|info| info.clock_skew_ms)
        .unwrap_or(0);
    frame.runs.iter().any(|run| {
        let Some(made_ms) = run.attributes.time_ms else {
            return false;
        };
        let made_ms = made_ms.saturating_add_signed(skew_ms).saturating_add(SLACK_MS);
        let mut plain = interest.0.iter().filter(|wanted| wanted.group.is_none());
        plain.any(|wanted| wanted.since_ms <= made_ms && wanted.pattern.matches(&run.attributes.subject))
    })
}
