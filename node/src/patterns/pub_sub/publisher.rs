//! Puts publications into frames and hands these to gossip.
//!
//! Promises: publications of one shard go out in the order in which they were taken; a publication is answered once its
//! frame is handed over, or with the reason why it was not; when more is published than goes out, publishers wait, and
//! after [`ROOM_PATIENCE`] they are refused. Whatever has queued while a frame was handed over goes into the next one: one
//! signature for many under load, no delay without. What few members want goes to them and not to gossip: see `ways`.
//!
//! That the last frame of a line was lost, members see by their digests.

use std::{borrow::Cow, collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use weft_protocol::{
    PeerId,
    limits::FRAME_PUBLICATIONS_MAX,
    patterns::pub_sub::{Attributes, DIRECT, Frame, Run, SHARDS, topic},
};

use super::{
    cache,
    feeds::Feeds,
    hub::Hub,
    late::Late,
    priority::Priority,
    repair,
    report::Trail,
    retained::is_retained,
    ring::Parcel,
    ways::{Way, Ways},
};
use crate::mesh::MeshError;

/// Publications waiting for a frame, and their bytes: urgent ones, those of no priority, and those that can wait.
const QUEUE_MAX: usize = 8192;
const QUEUE_BYTES_MAX: [usize; 3] = [2 << 20, 8 << 20, 2 << 20];
/// How long a publisher waits for room in the queue, unless it says otherwise.
pub(super) const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of publications after which a frame is closed.
pub(super) const FRAME_BYTES_SOFT: usize = 64 << 10;
/// What a publication costs in a frame besides its data, and in the queue.
const PUBLICATION_BYTES: usize = 5;
const QUEUED_BYTES: usize = 64;
/// How long full queues to all neighbours are waited for.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_WAIT: Duration = Duration::from_millis(10);
/// Bytes that go out on a shard before the neighbours are asked whether they have kept up.
const WINDOW_BYTES: usize = 4 << 20;

/// What a publisher is told of a publication.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) trail: Trail,
    pub(super) peers: usize,
}

/// The members that something was handed to directly, and as which item.
type Handed = Option<(Arc<[PeerId]>, u64)>;
type Answer = oneshot::Sender<Result<Sent, MeshError>>;
/// Where it is told what came of publications that share a frame.
pub(super) type Sending = oneshot::Receiver<Result<Sent, MeshError>>;

/// Publications in a row that have everything in common but their data.
#[derive(Debug)]
pub(super) struct OwnRun {
    pub(super) attributes: Attributes,
    pub(super) data: Vec<Bytes>,
}

/// Publications on one subject that wait for their frame, in which they stay together.
#[derive(Debug)]
pub(super) struct Outgoing {
    runs: Vec<OwnRun>,
    count: usize,
    shard: u16,
    bytes: usize,
    way: Way,
    /// Has a frame of its own, which is kept whole.
    is_retained: bool,
    priority: Priority,
    answer: Answer,
    room: OwnedSemaphorePermit,
}

impl OwnRun {
    /// About what it takes in a frame.
    fn bytes(&self) -> usize {
        let data = self.data.iter().map(|data| data.len() + PUBLICATION_BYTES);
        self.attributes.bytes() + data.sum::<usize>()
    }

    fn borrowed(&self) -> Run<'_> {
        Run {
            attributes: Cow::Borrowed(&self.attributes),
            data: self.data.iter().map(|data| &data[..]).collect(),
        }
    }
}

/// Puts a run behind others, or into the last one, if they have everything in common.
fn append(runs: &mut Vec<OwnRun>, mut run: OwnRun) {
    match runs.last_mut().filter(|last| last.attributes == run.attributes) {
        Some(last) => last.data.append(&mut run.data),
        None => runs.push(run),
    }
}

impl Outgoing {
    /// Whether it goes where another goes, and can share its frame.
    fn joins(&self, shard: u16, way: &Way) -> bool {
        self.shard == shard && self.way == *way && !self.is_retained
    }

    /// Whether it must not overtake another of its shard that goes elsewhere: some member may get both.
    fn is_bound_by(&self, other: &Way) -> bool {
        match (&self.way, other) {
            (Way::Direct(own), Way::Direct(others)) => own.iter().any(|peer| others.contains(peer)),
            _ => true,
        }
    }
}

/// Where publications of one priority wait.
#[derive(Debug, Clone)]
struct Lane {
    // Boxed: a queue has room for many at once, and most nodes publish little.
    queue: mpsc::Sender<Box<Outgoing>>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl Lane {
    /// Room for so many bytes, and a place in the queue. Without patience, only if it is there.
    async fn place(
        &self,
        weight: u32,
        patience: Duration,
    ) -> Result<(OwnedSemaphorePermit, mpsc::Permit<'_, Box<Outgoing>>), MeshError> {
        let room = Arc::clone(&self.room);
        if patience.is_zero() {
            let busy = || MeshError::Busy("no room to publish: more is published than goes out".to_owned());
            let room = room.try_acquire_many_owned(weight).map_err(|_| busy())?;
            return Ok((room, self.queue.try_reserve().map_err(|_| busy())?));
        }
        let place = async {
            let room = room.acquire_many_owned(weight).await.ok()?;
            Some((room, self.queue.reserve().await.ok()?))
        };
        match timeout(patience, place).await {
            Ok(place) => place.ok_or(MeshError::Closed),
            Err(_) => Err(MeshError::Busy(format!(
                "no room to publish within {} s: more is published than goes out; try again later",
                patience.as_secs_f64()
            ))),
        }
    }
}

/// Where publications are handed in.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    lanes: [Lane; 3],
}

/// Where they come out.
pub(super) struct Incoming {
    lanes: [mpsc::Receiver<Box<Outgoing>>; 3],
}

impl Incoming {
    /// The next one, of the most urgent there are; `None` when the node stops. Cancel-safe.
    async fn next(&mut self) -> Option<Box<Outgoing>> {
        let [high, normal, low] = &mut self.lanes;
        tokio::select! {
            biased;
            out = high.recv() => out,
            out = normal.recv() => out,
            out = low.recv() => out,
        }
    }

    /// What has come as well, of one priority, unless so many wait already.
    fn more(&mut self, priority: Priority, waiting: usize) -> impl Iterator<Item = Box<Outgoing>> {
        let lane = &mut self.lanes[priority as usize];
        std::iter::from_fn(|| lane.try_recv().ok()).take(FRAME_PUBLICATIONS_MAX.saturating_sub(waiting))
    }
}

impl Outbox {
    pub(super) fn new() -> (Self, Incoming) {
        let lane = |bytes_max| {
            let (queue, outgoing) = mpsc::channel(QUEUE_MAX);
            let room = Arc::new(Semaphore::new(bytes_max));
            let lane = Lane { queue, room, bytes_max };
            (lane, outgoing)
        };
        let [(high, high_out), (normal, normal_out), (low, low_out)] = QUEUE_BYTES_MAX.map(lane);
        let outbox = Outbox {
            lanes: [high, normal, low],
        };
        let incoming = Incoming {
            lanes: [high_out, normal_out, low_out],
        };
        (outbox, incoming)
    }

    /// Queues publications that were checked. Waits for room, for so long. An answer for each frame's worth of them.
    pub(super) async fn put(
        &self,
        attributes: Attributes,
        data: Vec<Bytes>,
        patience: Duration,
    ) -> Result<Vec<Sending>, MeshError> {
        let attribute_bytes = attributes.bytes();
        let (mut sending, mut unit, mut unit_bytes) = (Vec::with_capacity(1), Vec::new(), attribute_bytes);
        let mut left = data.len();
        for data in data {
            let bytes = data.len() + PUBLICATION_BYTES;
            if !unit.is_empty() && (unit_bytes + bytes > FRAME_BYTES_SOFT || unit.len() >= FRAME_PUBLICATIONS_MAX) {
                let run = OwnRun {
                    attributes: attributes.clone(),
                    data: std::mem::take(&mut unit),
                };
                match self.put_unit(run, unit_bytes, patience).await {
                    Ok(put) => sending.push(put),
                    Err(error) => return refused(sending, error),
                }
                unit_bytes = attribute_bytes;
            }
            if unit.is_empty() {
                unit.reserve(left.min(FRAME_PUBLICATIONS_MAX));
            }
            left -= 1;
            unit_bytes += bytes;
            unit.push(data);
        }
        let run = OwnRun { attributes, data: unit };
        match self.put_unit(run, unit_bytes, patience).await {
            Ok(put) => sending.push(put),
            Err(error) => return refused(sending, error),
        }
        Ok(sending)
    }

    async fn put_unit(&self, run: OwnRun, bytes: usize, patience: Duration) -> Result<Sending, MeshError> {
        let priority = Priority::of(&run.attributes);
        let lane = &self.lanes[priority as usize];
        let (count, shard) = (run.data.len(), run.attributes.subject.shard(SHARDS));
        let queued_bytes = bytes + count * QUEUED_BYTES;
        let weight = u32::try_from(queued_bytes.min(lane.bytes_max)).unwrap_or(u32::MAX);
        let (room, slot) = lane.place(weight, patience).await?;
        let (answer, sent) = oneshot::channel();
        slot.send(Box::new(Outgoing {
            is_retained: is_retained(&run.attributes),
            priority,
            runs: vec![run],
            count,
            shard,
            bytes,
            way: Way::Gossip,
            answer,
            room,
        }));
        Ok(sent)
    }
}

/// What is queued goes out; of the rest it is told as of what is refused later.
fn refused(mut sending: Vec<Sending>, error: MeshError) -> Result<Vec<Sending>, MeshError> {
    if sending.is_empty() {
        return Err(error);
    }
    let (answer, refused) = oneshot::channel();
    let _ = answer.send(Err(error));
    sending.push(refused);
    Ok(sending)
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

impl Own {
    /// A frame went out.
    fn note(&mut self, frame: &Frame<'_>) {
        self.last_seq = frame.last_seq();
        self.last_ms = self.last_ms.max(frame.made_ms()).max(1);
    }
}

struct Publisher {
    hub: Arc<Hub>,
    feeds: Arc<Feeds>,
    ways: Ways,
    late: Late,
    /// Lines by gossip, then those that go directly.
    own: Vec<Own>,
    /// What the queues gave that is in no frame yet, by priority.
    waiting: [VecDeque<Box<Outgoing>>; 3],
}

/// Tells subscribers that nothing more comes, when the node stops and with it the task that holds this.
struct Closing(Arc<Hub>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Takes publications until the node stops.
pub(super) async fn run(hub: Arc<Hub>, feeds: Arc<Feeds>, mut incoming: Incoming) {
    let _closing = Closing(Arc::clone(&hub));
    let mut publisher = Publisher {
        ways: Ways::new(Arc::clone(&hub), Arc::clone(&feeds)),
        late: Late::new(Arc::clone(&hub), Arc::clone(&feeds)),
        hub,
        feeds,
        own: (0..SHARDS + DIRECT).map(|_| Own::default()).collect(),
        waiting: Default::default(),
    };
    loop {
        tokio::select! {
            biased;
            first = incoming.next() => match first {
                Some(first) => publisher.send_all(first, &mut incoming).await,
                None => return,
            },
            () = publisher.late.changed() => publisher.late.look(),
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
    /// Sends what has come and what comes meanwhile, the most urgent of it first, until nothing waits.
    async fn send_all(&mut self, first: Box<Outgoing>, incoming: &mut Incoming) {
        self.take(std::iter::once(first));
        loop {
            for priority in Priority::ALL {
                let came = incoming.more(priority, self.waiting[priority as usize].len());
                self.take(came);
            }
            let first = self.waiting.iter().find_map(|waiting| waiting.front());
            let Some(first) = first else { return };
            let kind = (first.priority, first.shard, first.way.clone());
            self.send(kind).await;
        }
    }

    /// Finds the way of each.
    fn take(&mut self, came: impl Iterator<Item = Box<Outgoing>>) {
        let mut came = came.peekable();
        if came.peek().is_none() {
            return;
        }
        self.late.look();
        self.ways.refresh();
        for mut out in came {
            for run in std::mem::take(&mut out.runs) {
                (out.runs, out.way) = self.ways.choose(run);
            }
            // Who takes it in queue groups was added.
            out.bytes = out.runs.iter().map(OwnRun::bytes).sum();
            self.waiting[out.priority as usize].push_back(out);
        }
    }

    /// Sends one frame of what waits on a shard and goes one way.
    async fn send(&mut self, (priority, shard, way): (Priority, u16, Way)) {
        let (mut runs, mut answers, mut rooms) = (Vec::new(), Vec::new(), Vec::new());
        let (mut bytes, mut count, mut others, mut is_closed) = (0, 0, VecDeque::new(), false);
        let waiting = &mut self.waiting[priority as usize];
        for out in waiting.drain(..) {
            let fits =
                count == 0 || bytes + out.bytes <= FRAME_BYTES_SOFT && count + out.count <= FRAME_PUBLICATIONS_MAX;
            // Once one did not fit, or goes elsewhere to somebody who gets this too, no later one overtakes it.
            let joins = count == 0 || out.joins(shard, &way);
            if is_closed || !fits || !joins {
                is_closed |= out.shard == shard && (!fits || out.is_bound_by(&way));
                others.push_back(out);
                continue;
            }
            is_closed |= out.is_retained;
            bytes += out.bytes;
            count += out.count;
            out.runs.into_iter().for_each(|run| append(&mut runs, run));
            answers.push((out.answer, count as u64));
            rooms.push(out.room);
        }
        *waiting = others;
        self.follow_on(shard, &runs, &way).await;
        let line_shard = if way.is_direct() { shard + DIRECT } else { shard };
        let own = &self.own[usize::from(line_shard)];
        let frame = Frame {
            epoch: self.hub.epoch,
            shard: line_shard,
            first_seq: own.last_seq + 1,
            before_ms: own.last_ms,
            runs: runs.iter().map(OwnRun::borrowed).collect(),
        };
        let (line, first_seq) = (self.hub.own_line(line_shard), frame.first_seq);
        let handed_over = match way {
            Way::Gossip => self.hand_over(frame).await.map(|peers| (peers, None)),
            Way::Direct(members) => self.hand_to(frame, members).await,
        };
        match handed_over {
            Ok((peers, direct)) => {
                for (answer, count) in answers {
                    let trail = |line| Trail {
                        line,
                        seq: first_seq - 1 + count,
                        direct: direct.clone(),
                    };
                    let sent = line.map(trail).map(|trail| Sent { trail, peers });
                    let _ = answer.send(sent.ok_or(MeshError::Closed));
                }
            }
            Err(error) => answers
                .into_iter()
                .for_each(|(answer, _)| drop(answer.send(Err(error.clone())))),
        }
        drop(rooms);
        self.keep_pace(shard).await;
    }

    /// Where the way of a first token has changed, waits for what went the old way, so that it is not overtaken.
    async fn follow_on(&mut self, shard: u16, runs: &[OwnRun], way: &Way) {
        let mut last = "";
        for run in runs {
            let subject = &run.attributes.subject;
            let first = subject.tokens().next().unwrap_or_default();
            if first == std::mem::replace(&mut last, first) || !self.ways.changes(first, way.is_direct()) {
                continue;
            }
            let members = self.ways.near(subject);
            if way.is_direct() {
                let seq = self.own[usize::from(shard)].last_seq;
                repair::await_members(&self.hub, members, shard, seq).await;
            } else {
                self.feeds.settle(&members).await;
            }
        }
    }

    /// Gives a frame to the members that want it: to how many, to whom, and as which item.
    async fn hand_to(&mut self, frame: Frame<'_>, members: Arc<[PeerId]>) -> Result<(usize, Handed), MeshError> {
        let data = frame
            .to_checked_bytes()
            .map_err(|e| MeshError::Invalid(e.to_string()))?;
        let data: cache::Bytes = Arc::new(data.into());
        self.own[usize::from(frame.shard)].note(&frame);
        let parcel = Parcel {
            data: Arc::clone(&data),
            shard: frame.shard,
            seqs: (frame.first_seq, frame.last_seq()),
            audience: Arc::clone(&members),
        };
        let ordinal = self.feeds.send(parcel).await;
        self.hub.went_directly(&frame, data);
        Ok((members.len(), Some((members, ordinal))))
    }

    /// Gives a frame to gossip. If nobody has it, the numbers stay without a gap.
    async fn hand_over(&mut self, frame: Frame<'_>) -> Result<usize, MeshError> {
        let data = frame
            .to_checked_bytes()
            .map_err(|e| MeshError::Invalid(e.to_string()))?;
        let published = self.gossip(frame.shard, &data).await?;
        let own = &mut self.own[usize::from(frame.shard)];
        own.note(&frame);
        own.unconfirmed_bytes += data.len();
        self.hub.went_out(&frame, &data, published.sequence_number.unwrap_or(0));
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
