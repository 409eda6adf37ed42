//! What outlives the process: when this node began to follow, how far it followed each line, and its own last run.
//!
//! Positions are written together, at most every [`SAVE_EVERY`] and only when they changed. So what was handed on in the last
//! moments before a crash may be handed on once more after it; nothing older is.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_protocol::patterns::pub_sub::Line;

use super::{hub::Hub, order::Orders, parts::Parts};
use crate::{
    error::NodeError,
    store::{Batch, Keyspace},
};

/// The longest time between a change and its writing.
const SAVE_EVERY: Duration = Duration::from_secs(1);
const SINCE: &[u8] = b"since";
const EPOCH: &[u8] = b"epoch";
const LINE: &[u8] = b"line/";
const PAGE: usize = 1000;

/// How a run begins.
pub(super) struct Begun {
    /// Rises with each run.
    pub(super) epoch: u64,
    /// What earlier ones followed.
    pub(super) orders: Orders<Parts>,
    /// Whether there were earlier ones, after which this node may have missed something.
    pub(super) was_away: bool,
}

/// Begins a run.
pub(super) async fn begin(keyspace: &Keyspace, now_ms: u64) -> Result<Begun, NodeError> {
    let last_epoch = number(keyspace.get(EPOCH).await?);
    let since_ms = number(keyspace.get(SINCE).await?);
    let epoch = now_ms.max(last_epoch.map_or(0, |last| last + 1));
    let mut batch = Batch::new().put(EPOCH, epoch.to_be_bytes());
    if since_ms.is_none() {
        batch = batch.put(SINCE, now_ms.to_be_bytes());
    }
    keyspace.commit(batch).await?;
    let mut orders = Orders::new(since_ms.unwrap_or(now_ms));
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = keyspace.scan_prefix(LINE, after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, value) in &page {
            let line = key.strip_prefix(LINE).and_then(read_line);
            if let (Some(line), Some(next)) = (line, number(Some(value.clone()))) {
                orders.restore(line, next, Instant::now());
            }
        }
    }
    Ok(Begun {
        epoch,
        orders,
        was_away: since_ms.is_some(),
    })
}

/// Writes positions down as they change, until the node stops.
pub(super) async fn keep(hub: Arc<Hub>, keyspace: Keyspace) {
    let mut progress = hub.progress.subscribe();
    while progress.changed().await.is_ok() {
        tokio::time::sleep(SAVE_EVERY).await;
        progress.mark_unchanged();
        let batch = hub.take_dirty().into_iter().fold(Batch::new(), |batch, (line, next)| {
            let key = [LINE, &weft_protocol::codec::encode(&line)].concat();
            match next {
                Some(next) => batch.put(key, next.to_be_bytes()),
                None => batch.delete(key),
            }
        });
        if let Err(error) = keyspace.commit(batch).await {
            tracing::warn!(%error, "how far messages were followed could not be written down");
        }
    }
}

fn read_line(bytes: &[u8]) -> Option<Line> {
    weft_protocol::codec::decode(bytes, 128, "line").ok()
}

fn number(bytes: Option<Vec<u8>>) -> Option<u64> {
    Some(u64::from_be_bytes(bytes?.try_into().ok()?))
}
