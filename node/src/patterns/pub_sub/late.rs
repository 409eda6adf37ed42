//! Who wanted something before this node knew it: its record was still on its way.
//!
//! Promises: what was handed to others directly since a member began to want it, in the last [`WITHIN`], goes to that member too, once
//! its record has come. Not promised to one that has taken in later messages of the same shard already.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use weft_protocol::{
    PeerId, Wire as _,
    codec::frame,
    limits::DIRECT_ITEM_BYTES_MAX,
    patterns::pub_sub::{Frame, direct::DirectItem, interest::Interest},
};

use super::{feeds::Feeds, hub::Hub};

/// How long a record may be on its way.
const WITHIN: Duration = Duration::from_secs(10);
/// Records that come together are looked at together.
const PAUSE: Duration = Duration::from_millis(50);

/// Follows the records until the node stops.
pub(super) async fn run(hub: Arc<Hub>, feeds: Arc<Feeds>) {
    let trust = hub.mesh.trust();
    let mut records = trust.watch_records();
    let mut known: BTreeMap<PeerId, Interest> = BTreeMap::new();
    loop {
        records.mark_unchanged();
        let all = hub.interests.others(trust);
        let is_news = |peer: &PeerId, interest: &Interest| known.get(peer) != Some(interest);
        let news: Vec<(PeerId, Interest)> = all.iter().filter(|(p, i)| is_news(p, i)).cloned().collect();
        known.retain(|peer, _| all.iter().any(|(other, _)| other == peer));
        if !news.is_empty() {
            add(&hub, &feeds, &news);
            known.extend(news);
        }
        if records.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn add(hub: &Hub, feeds: &Arc<Feeds>, news: &[(PeerId, Interest)]) {
    let mut late: BTreeMap<PeerId, Vec<u64>> = BTreeMap::new();
    let local = hub.mesh.local_peer();
    for (ordinal, bytes, audience) in feeds.recent(WITHIN) {
        let unserved: Vec<&(PeerId, Interest)> = news
            .iter()
            .filter(|(peer, _)| *peer != local && !audience.contains(peer))
            .collect();
        if unserved.is_empty() {
            continue;
        }
        let Some(frame) = decoded(&bytes) else { continue };
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

fn decoded(bytes: &[u8]) -> Option<Frame> {
    let (_, prefix) = frame::decode_prefix(bytes, DIRECT_ITEM_BYTES_MAX).ok()??;
    match DirectItem::from_bytes(bytes.get(prefix..)?).ok()? {
        DirectItem::Frame { data, .. } => Frame::from_bytes(&data).ok(),
        DirectItem::Lost { .. } => None,
    }
}

/// Whether a member wanted something in a frame when it was made. Groups have others who took it.
fn wants(hub: &Hub, peer: &PeerId, interest: &Interest, frame: &Frame) -> bool {
    let skew_ms = hub
        .mesh
        .peers()
        .get(peer)
        .and_then(|info| info.clock_skew_ms)
        .unwrap_or(0);
    frame.publications.iter().any(|publication| {
        let (Ok(subject), Some(made_ms)) = (publication.subject(), publication.message.time_ms) else {
            return false;
        };
        let made_ms = made_ms.saturating_add_signed(skew_ms);
        let mut plain = interest.0.iter().filter(|wanted| wanted.group.is_none());
        plain.any(|wanted| wanted.since_ms <= made_ms && wanted.pattern.matches(subject))
    })
}
