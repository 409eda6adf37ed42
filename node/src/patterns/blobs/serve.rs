//! Giving blobs to members that want them.
//!
//! Whether a member may subscribe to the subject it names was checked at the door; here it is whether the blob was published on it. To
//! somebody who may not have it, it is as if it were not here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{AsyncWrite, AsyncWriteExt as _};
use tokio::{sync::mpsc, time::timeout};
use tracing::Instrument as _;
use weft_protocol::{
    PeerId,
    limits::STREAM_PART_BYTES_MAX,
    patterns::blobs::{BlobId, BlobMessage, HASHES_PER_MESSAGE_MAX},
};

use super::{
    handle::BlobMetrics,
    options::BlobError,
    shelf::{InUse, Shelf},
};
use crate::{
    mesh::{self, FrameError, InboundStream},
    tasks::Tasks,
};

/// Blobs that are given at once: to all, and to one member.
const GIVEN_MAX: usize = 32;
const GIVEN_PER_PEER_MAX: usize = 4;
/// How long a member may take to say what it wants, and to take in the next part.
const PATIENCE: Duration = Duration::from_secs(20);

/// What those who give need.
pub(super) struct Serving {
    shelf: Arc<Shelf>,
    metrics: BlobMetrics,
    given: Mutex<HashMap<PeerId, usize>>,
}

/// One of a member's places; given back on drop.
struct Place<'a>(&'a Serving, PeerId);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut given = self.0.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = given.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                given.remove(&self.1);
            }
        }
    }
}

/// Takes streams from the door until the node stops.
pub(super) async fn run(mut streams: mpsc::Receiver<Box<InboundStream>>, serving: Arc<Serving>, tasks: Tasks) {
    while let Some(stream) = streams.recv().await {
        let (serving, span) = (Arc::clone(&serving), stream.span.clone());
        tasks.spawn("blob-give", async move { serving.give(*stream).await }.instrument(span));
    }
}

impl Serving {
    pub(super) fn new(shelf: Arc<Shelf>, metrics: BlobMetrics) -> Arc<Self> {
        Arc::new(Serving {
            shelf,
            metrics,
            given: Mutex::default(),
        })
    }

    fn place(&self, peer: PeerId) -> Option<Place<'_>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, own) = (given.values().sum::<usize>(), given.get(&peer).copied().unwrap_or(0));
        if all >= GIVEN_MAX || own >= GIVEN_PER_PEER_MAX {
            return None;
        }
        *given.entry(peer).or_default() += 1;
        Some(Place(self, peer))
    }

    async fn give(&self, mut inbound: InboundStream) {
        let Ok(Ok(BlobMessage::Want {
            id,
            first_group,
            hashes,
        })) = timeout(PATIENCE, mesh::expect::<BlobMessage>(&mut inbound.stream)).await
        else {
            return;
        };
        let turned_away = |is_busy, detail: &str| BlobMessage::TurnedAway {
            is_busy,
            detail: detail.to_owned(),
        };
        let Some(_place) = self.place(inbound.peer) else {
            self.metrics.turned_away.inc();
            let busy = turned_away(true, "it gives as many blobs as it can");
            let _ = say(&mut inbound.stream, &busy).await;
            return;
        };
        let subject = &inbound.hello.resource;
        let is_for = |subjects: &[weft_protocol::Subject]| subjects.iter().any(|known| known.as_str() == subject);
        let facts = self.shelf.facts(&id).filter(|facts| is_for(&facts.subjects));
        let taken = match facts {
            Some(_) => self.shelf.take(&id).await,
            None => Ok(None),
        };
        let answer = match taken {
            Ok(Some((in_use, true))) => {
                let given = self.give_all(&mut inbound.stream, &in_use, first_group as usize, hashes);
                if let Err(error) = given.await {
                    tracing::debug!(blob = %id, peer = %inbound.peer, %error, "a blob was given in part");
                }
                let _ = timeout(PATIENCE, inbound.stream.close()).await;
                return;
            }
            Ok(Some((_, false))) => turned_away(true, "it is still fetching it itself"),
            Ok(None) => turned_away(false, "it does not have it"),
            Err(error) => {
                tracing::warn!(blob = %id, %error, "a blob cannot be read");
                turned_away(false, "it cannot read it")
            }
        };
        let _ = say(&mut inbound.stream, &answer).await;
    }

    async fn give_all(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        in_use: &InUse,
        first_group: usize,
        hashes: bool,
    ) -> Result<(), GiveError> {
        let have = BlobMessage::Have { bytes: in_use.bytes() };
        say(stream, &have).await?;
        if hashes {
            let known = self.shelf.hashes(&in_use.id()).await?;
            let known = known.ok_or_else(|| lost(in_use.id()))?;
            for part in known.chunks(HASHES_PER_MESSAGE_MAX) {
                say(stream, &BlobMessage::Hashes(part.concat())).await?;
            }
        }
        for index in first_group..in_use.groups_total() {
            for part in in_use.group(index).await? {
                for part in part.chunks(STREAM_PART_BYTES_MAX) {
                    say(stream, &BlobMessage::Part(part.to_vec())).await?;
                }
                self.metrics.given_bytes.inc_by(part.len() as u64);
            }
        }
        Ok(())
    }
}

fn lost(id: BlobId) -> BlobError {
    BlobError::NotFound(id.to_string())
}

/// Why no more was given.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error(transparent)]
    Own(#[from] BlobError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it was not read")]
    Unread,
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), message: &BlobMessage) -> Result<(), GiveError> {
    let written = timeout(PATIENCE, mesh::write(stream, message)).await;
    Ok(written.map_err(|_| GiveError::Unread)??)
}
