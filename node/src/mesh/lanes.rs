//! Requests to one peer share a lane: one long-lived stream on the connection that measures best.
//!
//! The first request to a peer, and any to a peer without lanes, goes by the request-response behaviour, a stream each;
//! meanwhile a lane is opened, and what follows takes that. When another connection to the peer becomes the better one, a
//! new lane is opened there, and the old one ends once it has brought its answers. A request is never sent twice.
//!
//! Bounds: [`IN_FLIGHT_MAX`] requests of a lane wait for answers, the next waits at the sender; the answering side takes
//! no more than so many, and no more than [`SERVED_BYTES_MAX`] of them, off the stream before it has answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, TryStreamExt as _};
use libp2p::{PeerId, swarm::ConnectionId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use weft_protocol::direct::LaneFrame;

use super::{
    MeshError,
    frames::{self, FrameError},
    inbound::DoorKeeper,
    lean::Lean,
    scales::Weight,
    streams::MeshStream,
};

/// Requests of one lane that wait for answers; the next waits at the sender.
pub(crate) const IN_FLIGHT_MAX: usize = super::behaviour::DIRECT_IN_FLIGHT_MAX;
/// Bytes of requests that the answering side has taken and not answered.
const SERVED_BYTES_MAX: usize = 16 << 20;
/// Frames that wait to be written.
const QUEUE_MAX: usize = 64;
/// What is ready is written together, up to about so many bytes.
const GATHER_BYTES: usize = 64 << 10;
/// A peer that reads nothing of its answers for so long loses the lane.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(20);
/// A lane without traffic is given back after so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

type Answer = oneshot::Sender<Result<Vec<u8>, MeshError>>;

struct Request {
    body: Vec<u8>,
    answer: Answer,
}

/// The way to one peer.
pub(crate) struct Lane {
    peer: PeerId,
    requests: mpsc::Sender<Request>,
    in_flight: Semaphore,
}

impl Lane {
    /// Sends a request and waits for its answer. A lane that ends before the request was taken gives it back.
    ///
    /// Cancel-safe: the answer is dropped; the request may have been served.
    pub(crate) async fn request(&self, body: Vec<u8>) -> Result<Result<Vec<u8>, MeshError>, Vec<u8>> {
        let Ok(_place) = self.in_flight.acquire().await else {
            return Err(body);
        };
        let (answer, answered) = oneshot::channel();
        if let Err(mpsc::error::SendError(request)) = self.requests.send(Request { body, answer }).await {
            return Err(request.body);
        }
        Ok(answered.await.unwrap_or_else(|_| Err(broken(self.peer))))
    }
}

enum Slot {
    Opening,
    Open(Arc<Lane>),
    /// The peer does not know lanes.
    Without,
}

/// The lanes to all peers. Cloneable: the driver opens them, the handle uses them.
#[derive(Clone, Default)]
pub(crate) struct Lanes(Arc<Mutex<HashMap<PeerId, (ConnectionId, Slot)>>>);

impl Lanes {
    /// The lane to a peer, if there is one.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<Arc<Lane>> {
        match self.lock().get(peer) {
            Some((_, Slot::Open(lane))) => Some(Arc::clone(lane)),
            _ => None,
        }
    }

    /// On which connection the lane to a peer is, or is being opened.
    pub(crate) fn connection(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.lock().get(peer).map(|(connection, _)| *connection)
    }

    /// Whether a lane is to be opened on `connection` now: there is none there, and it may have one. If so it counts as
    /// being opened; a lane elsewhere ends when it has brought its answers.
    pub(crate) fn begin(&self, peer: PeerId, connection: ConnectionId) -> bool {
        let mut lanes = self.lock();
        match lanes.get(&peer) {
            Some((current, _)) if *current == connection => false,
            Some((_, Slot::Without)) => false,
            _ => {
                lanes.insert(peer, (connection, Slot::Opening));
                true
            }
        }
    }

    /// The peer has no lanes.
    pub(crate) fn without(&self, peer: PeerId, connection: ConnectionId) {
        self.lock().insert(peer, (connection, Slot::Without));
    }

    /// Carries requests on `stream` until the lane is given back or breaks.
    pub(crate) async fn carry(self, peer: PeerId, connection: ConnectionId, stream: MeshStream) {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let lane = Lane {
            peer,
            requests,
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
        };
        match self.lock().get_mut(&peer) {
            Some((current, slot)) if *current == connection => *slot = Slot::Open(Arc::new(lane)),
            // Something better came in between.
            _ => return,
        }
        let ended = exchange(peer, stream, queue).await;
        if let Err(error) = ended {
            tracing::debug!(%peer, connection = %connection, %error, "a lane broke");
        }
        self.remove(&peer, connection);
    }

    /// A lane is gone, with its connection or alone.
    pub(crate) fn remove(&self, peer: &PeerId, connection: ConnectionId) {
        let mut lanes = self.lock();
        if lanes.get(peer).is_some_and(|(current, _)| *current == connection) {
            lanes.remove(peer);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PeerId, (ConnectionId, Slot)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers that are waited for.
struct Waiting {
    peer: PeerId,
    by_id: Mutex<HashMap<u64, Answer>>,
}

impl Waiting {
    fn insert(&self, id: u64, answer: Answer) {
        let mut by_id = self.lock();
        // Those that nobody waits for any more hold no place.
        if by_id.len() >= IN_FLIGHT_MAX * 2 {
            by_id.retain(|_, answer| !answer.is_closed());
        }
        by_id.insert(id, answer);
    }

    fn remove(&self, id: u64) -> Option<Answer> {
        self.lock().remove(&id)
    }

    fn is_empty(&self) -> bool {
        self.lock().values().all(oneshot::Sender::is_closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Answer>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let peer = self.peer;
        for (_, answer) in self.lock().drain() {
            let _ = answer.send(Err(broken(peer)));
        }
    }
}

fn broken(peer: PeerId) -> MeshError {
    MeshError::Broken {
        peer,
        reason: "the connection closed".to_owned(),
    }
}

async fn exchange(peer: PeerId, stream: MeshStream, queue: mpsc::Receiver<Request>) -> Result<(), FrameError> {
    let waiting = Waiting {
        peer,
        by_id: Mutex::default(),
    };
    let (reader, writer) = stream.split();
    let mut reader = Lean::new(reader);
    let mut reading = std::pin::pin!(read_answers(&mut reader, &waiting));
    tokio::select! {
        biased;
        ended = &mut reading => return ended,
        written = write_requests(writer, queue, &waiting) => written?,
    }
    // Nobody sends any more. What was asked is still answered, but not waited for without end.
    while !waiting.is_empty() {
        match timeout(Duration::from_secs(1), &mut reading).await {
            Ok(ended) => return ended,
            Err(_) => continue,
        }
    }
    Ok(())
}

async fn write_requests(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Request>,
    waiting: &Waiting,
) -> Result<(), FrameError> {
    let mut next_id = 0;
    let mut buffer = Vec::new();
    loop {
        let request = match timeout(IDLE_TIMEOUT, queue.recv()).await {
            Ok(Some(request)) => request,
            Ok(None) => break,
            Err(_) if waiting.is_empty() => {
                // Who comes now gets the request back and goes another way.
                queue.close();
                continue;
            }
            Err(_) => continue,
        };
        buffer.clear();
        let mut next = Some(request);
        while let Some(Request { body, answer }) = next {
            if !answer.is_closed() {
                waiting.insert(next_id, answer);
                LaneFrame::append(next_id, &body, &mut buffer);
                next_id += 1;
            }
            next = (buffer.len() < GATHER_BYTES).then(|| queue.try_recv().ok()).flatten();
        }
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.shrink_to(GATHER_BYTES * 2);
    }
    Ok(())
}

async fn read_answers(reader: &mut (impl AsyncRead + Unpin), waiting: &Waiting) -> Result<(), FrameError> {
    while let Some(LaneFrame { id, body }) = frames::read(reader).await? {
        // An answer nobody waits for any more, or has had already, is dropped.
        if let Some(answer) = waiting.remove(id) {
            let _ = answer.send(Ok(body));
        }
    }
    Ok(())
}

/// Answers on a lane that a peer has opened, until it ends.
pub(crate) async fn answer(door: DoorKeeper, peer: PeerId, stream: MeshStream) -> Result<(), FrameError> {
    let Some(_place) = door.lane_place(peer) else {
        tracing::debug!(%peer, "no place for another lane");
        return Ok(());
    };
    let (reader, writer) = stream.split();
    let (replies, ready) = mpsc::channel(QUEUE_MAX);
    let reader = (Lean::new(reader), Arc::new(Semaphore::new(SERVED_BYTES_MAX)));
    let requests = futures::stream::try_unfold(reader, next_request);
    // All in this task: what takes long is done in tasks of the patterns.
    let (door, replies) = (&door, &replies);
    let serving = requests.map_ok(|(id, body, weight)| {
        async move {
            let reply = door.serve_request(peer, body).await;
            drop(weight);
            let frame = LaneFrame { id, body: reply.bytes };
            // The place is held until the answer is on its way, its weight until it is written.
            let _ = replies.send(Box::new((frame, reply.weight))).await;
            Ok(())
        }
    });
    let reading = serving.try_buffer_unordered(IN_FLIGHT_MAX).try_collect::<()>();
    tokio::select! {
        biased;
        ended = reading => ended,
        ended = write_answers(writer, ready) => ended,
    }
}

/// The next request, once there is room for its bytes.
async fn next_request<R: AsyncRead + Unpin>(
    (mut reader, bytes): (Lean<R>, Arc<Semaphore>),
) -> Result<Option<((u64, Vec<u8>, OwnedSemaphorePermit), (Lean<R>, Arc<Semaphore>))>, FrameError> {
    let Some(LaneFrame { id, body }) = frames::read(&mut reader).await? else {
        return Ok(None);
    };
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let weight = Arc::clone(&bytes).acquire_many_owned(size).await.ok();
    Ok(weight.map(|weight| ((id, body, weight), (reader, bytes))))
}

async fn write_answers(
    mut writer: impl AsyncWrite + Unpin,
    // Boxed: a queue has room for many at once, and few lanes have any.
    mut ready: mpsc::Receiver<Box<(LaneFrame, Option<Weight>)>>,
) -> Result<(), FrameError> {
    let mut buffer = Vec::new();
    while let Some(first) = ready.recv().await {
        let (reply, weight) = *first;
        buffer.clear();
        LaneFrame::append(reply.id, &reply.body, &mut buffer);
        let mut weights = vec![weight];
        while buffer.len() < GATHER_BYTES
            && let Ok(next) = ready.try_recv()
        {
            let (reply, weight) = *next;
            LaneFrame::append(reply.id, &reply.body, &mut buffer);
            weights.push(weight);
        }
        for part in buffer.chunks(GATHER_BYTES) {
            match timeout(UNREAD_TIMEOUT, writer.write_all(part)).await {
                Ok(written) => written?,
                Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            }
        }
        writer.flush().await?;
        buffer.shrink_to(GATHER_BYTES * 2);
    }
    Ok(())
}
