//! Puts publications into frames and hands these to gossip.
//!
//! Promises: publications of one shard go out in the order in which they were taken; a publication is answered once its
//! frame is handed over, or with the reason why it was not; when more is published than goes out, publishers wait, and
//! after [`ROOM_PATIENCE`] they are refused. Whatever has queued while a frame was handed over goes into the next one: one
//! signature for many under load, no delay without.
//!
//! That the last frame of a line was lost, members see by their digests.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use weft_protocol::{
    Wire as _,
    limits::FRAME_PUBLICATIONS_MAX,
    patterns::pub_sub::{Frame, Line, Publication, SHARDS, topic},
};

use super::{cache::Kept, hub::Hub, repair};
use crate::mesh::MeshError;

/// Publications waiting for a frame, and their bytes.
const QUEUE_MAX: usize = 8192;
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// How long a publisher waits for room in the queue.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of publications after which a frame is closed.
const FRAME_BYTES_SOFT: usize = 64 << 10;
/// What a publication costs besides its data and attributes.
const PUBLICATION_BYTES: usize = 48;
/// How long full queues to all neighbours are waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// Bytes that go out on a shard before the neighbours are asked whether they have kept up.
const WINDOW_BYTES: usize = 4 << 20;

/// What a publisher is told of a publication.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) line: Line,
    pub(super) seq: u64,
    pub(super) peers: usize,
}

type Answer = oneshot::Sender<Result<Sent, MeshError>>;

/// A publication that waits for its frame.
#[derive(Debug)]
pub(super) struct Outgoing {
    publication: Publication,
    shard: u16,
    bytes: usize,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

/// Where publications are handed in.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    // Boxed: a queue has room for many at once, and most nodes publish little.
    queue: mpsc::Sender<Box<Outgoing>>,
    room: Arc<Semaphore>,
}

impl Outbox {
    pub(super) fn new() -> (Self, mpsc::Receiver<Box<Outgoing>>) {
        let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        (Outbox { queue, room }, outgoing)
    }

    /// Queues a publication that was checked. Waits for room.
    pub(super) async fn put(
        &self,
        publication: Publication,
        shard: u16,
    ) -> Result<oneshot::Receiver<Result<Sent, MeshError>>, MeshError> {
        let message = &publication.message;
        let bytes = message.data.len() + message.attribute_bytes() + PUBLICATION_BYTES;
        let weight = u32::try_from(bytes.min(QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        let place = async {
            let room = Arc::clone(&self.room).acquire_many_owned(weight).await.ok()?;
            Some((room, self.queue.reserve().await.ok()?))
        };
        let (room, slot) = match timeout(ROOM_PATIENCE, place).await {
            Ok(place) => place.ok_or(MeshError::Closed)?,
            Err(_) => {
                return Err(MeshError::Busy(format!(
                    "no room to publish within {} s: more is published than goes out; try again later",
                    ROOM_PATIENCE.as_secs()
                )));
            }
        };
        let (answer, sent) = oneshot::channel();
        slot.send(Box::new(Outgoing {
            publication,
            shard,
            bytes,
            answer,
            room,
        }));
        Ok(sent)
    }
}

/// One shard of this node's publications.
#[derive(Debug, Default)]
struct Own {
    last_seq: u64,
    /// When the last publication was made.
    last_ms: u64,
    /// Bytes since the neighbours were asked.
    unconfirmed_bytes: usize,
}

struct Publisher {
    hub: Arc<Hub>,
    own: Vec<Own>,
    /// What the queue gave that is in no frame yet.
    waiting: VecDeque<Box<Outgoing>>,
}

/// Takes publications until the node stops.
pub(super) async fn run(hub: Arc<Hub>, mut outgoing: mpsc::Receiver<Box<Outgoing>>) {
    let mut publisher = Publisher {
        hub,
        own: (0..SHARDS).map(|_| Own::default()).collect(),
        waiting: VecDeque::new(),
    };
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, FRAME_PUBLICATIONS_MAX).await > 0 {
        publisher.waiting.extend(batch.drain(..));
        while let Some(shard) = publisher.waiting.front().map(|first| first.shard) {
            publisher.send(shard).await;
        }
    }
}

/// Sleeps until then; without a time, for good.
pub(super) async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Publisher {
    /// Sends one frame of what waits on a shard.
    async fn send(&mut self, shard: u16) {
        let (mut publications, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut bytes, mut others) = (0, VecDeque::new());
        for out in self.waiting.drain(..) {
            let fits = publications.is_empty() || bytes + out.bytes <= FRAME_BYTES_SOFT;
            // Once one did not fit, no later one overtakes it.
            if out.shard != shard || !fits {
                bytes = if out.shard == shard { usize::MAX / 2 } else { bytes };
                others.push_back(out);
                continue;
            }
            bytes += out.bytes;
            publications.push(out.publication);
            answers.push(out.answer);
            rooms.push(out.room);
        }
        self.waiting = others;
        let own = &self.own[usize::from(shard)];
        let frame = Frame {
            epoch: self.hub.epoch,
            shard,
            first_seq: own.last_seq + 1,
            before_ms: own.last_ms,
            publications,
        };
        let (line, first_seq) = (self.hub.own_line(shard), frame.first_seq);
        match self.hand_over(frame).await {
            Ok(peers) => {
                for (answer, seq) in answers.into_iter().zip(first_seq..) {
                    let sent = line.map(|line| Sent { line, seq, peers });
                    let _ = answer.send(sent.ok_or(MeshError::Closed));
                }
            }
            Err(error) => answers
                .into_iter()
                .for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
        drop(rooms);
        self.keep_pace(shard).await;
    }

    /// Gives a frame to gossip. If nobody has it, the numbers stay without a gap.
    async fn hand_over(&mut self, frame: Frame) -> Result<usize, MeshError> {
        let data = frame
            .to_checked_bytes()
            .map_err(|e| MeshError::Invalid(e.to_string()))?;
        let published = self.gossip(frame.shard, &data).await?;
        let last_ms = frame.publications.last().and_then(|p| p.message.time_ms).unwrap_or(0);
        let own = &mut self.own[usize::from(frame.shard)];
        own.last_seq = frame.last_seq();
        own.last_ms = own.last_ms.max(last_ms).max(1);
        own.unconfirmed_bytes += data.len();
        let data = self.hub.shared(&data);
        self.hub
            .went_out(frame, Kept::own(data, published.sequence_number.unwrap_or(0)));
        Ok(published.peers)
    }

    async fn gossip(&self, shard: u16, data: &[u8]) -> Result<crate::mesh::Published, MeshError> {
        let mesh = self.hub.mesh_id().ok_or(MeshError::Closed)?;
        let give_up = Instant::now() + BUSY_PATIENCE;
        loop {
            match self.hub.mesh.publish(topic(&mesh, shard), data.to_vec()).await {
                Err(MeshError::Busy(_)) if Instant::now() < give_up => tokio::time::sleep(BUSY_WAIT).await,
                result => return result,
            }
        }
    }

    /// After so many bytes, waits until the neighbours have taken them in, or are given up as too slow to be waited for.
    async fn keep_pace(&mut self, shard: u16) {
        let own = &mut self.own[usize::from(shard)];
        if own.unconfirmed_bytes < WINDOW_BYTES {
            return;
        }
        own.unconfirmed_bytes = 0;
        let seq = own.last_seq;
        repair::await_neighbours(&self.hub, shard, seq).await;
    }
}
