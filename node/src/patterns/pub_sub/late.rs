//! Who wanted something before this node knew it: its record was still on its way.
//!
//! Promises: what was handed to others directly since a member began to want it goes to that member too, once its record has come, as long
//! as the ring has it. What the member has later messages of already, it takes in as late: see `direct`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;
use weft_protocol::{
    PeerId,
    patterns::pub_sub::{
        Frame,
        interest::{Interest, Wanted},
    },
};

use super::{feeds::Feeds, hub::Hub};

/// How far what is known of another's calendar may be wrong. Rather a moment too much than a message too few.
pub(super) const SLACK_MS: u64 = 500;
/// So far back it is looked in any case, whatever the calendars say.
const WITHIN_MIN: Duration = Duration::from_secs(10);

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
        let new_wants = news.iter().flat_map(|(peer, interest)| {
            let known = self.known.get(peer);
            let is_new = move |wanted: &&Wanted| known.is_none_or(|known| !known.0.contains(wanted));
            interest
                .0
                .iter()
                .filter(is_new)
                .map(move |wanted| (peer, wanted.since_ms))
        });
        let now_ms = self.hub.clock.now_unix_ms();
        let age_ms = |(peer, since_ms): (&PeerId, u64)| {
            let since_ms = since_ms.saturating_add_signed(skew_ms(&self.hub, peer).saturating_neg());
            now_ms.saturating_sub(since_ms).saturating_add(SLACK_MS)
        };
        let within = new_wants.map(age_ms).max().map(Duration::from_millis);
        if let Some(within) = within {
            add(&self.hub, &self.feeds, &news, within.max(WITHIN_MIN));
        }
        self.known = all.iter().cloned().collect();
    }
}

/// How far a member's calendar is before this node's.
fn skew_ms(hub: &Hub, peer: &PeerId) -> i64 {
    let skew_ms = hub.mesh.peers().look(peer, |info| info.clock_skew_ms);
    skew_ms.flatten().unwrap_or(0)
}

fn add(hub: &Hub, feeds: &Arc<Feeds>, news: &[(PeerId, Interest)], within: Duration) {
    let mut late: BTreeMap<PeerId, Vec<u64>> = BTreeMap::new();
    let local = hub.mesh.local_peer();
    let skews_ms: BTreeMap<PeerId, i64> = news.iter().map(|(peer, _)| (*peer, skew_ms(hub, peer))).collect();
    for (ordinal, data, audience) in feeds.recent(within) {
        let unserved: Vec<&(PeerId, Interest)> = news
            .iter()
            .filter(|(peer, _)| *peer != local && !audience.contains(peer))
            .collect();
        if unserved.is_empty() {
            continue;
        }
        let Ok(frame) = Frame::read(&data) else { continue };
        for (peer, interest) in unserved {
            if wants(interest, skews_ms.get(peer).copied().unwrap_or(0), &frame) {
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
fn wants(interest: &Interest, skew_ms: i64, frame: &Frame<'_>) -> bool {
    frame.runs.iter().any(|run| {
        let Some(made_ms) = run.attributes.time_ms else {
            return false;
        };
        let made_ms = made_ms.saturating_add_signed(skew_ms).saturating_add(SLACK_MS);
        let mut plain = interest.0.iter().filter(|wanted| wanted.group.is_none());
        plain.any(|wanted| wanted.since_ms <= made_ms && wanted.pattern.matches(&run.attributes.subject))
    })
}
