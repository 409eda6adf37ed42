//! Streams to the members that want what this node publishes: what few want goes to them, and to nobody else.
//!
//! Promises: what is handed in goes to each of its members in order, and again after its stream broke, as long as the ring has it; what
//! the ring has no more is told. Who publishes is held up, for at most [`PATIENCE`], by a member that is there and does not take
//! in what comes; after that it loses only its own.
//!
//! A member is spoken to in this way once its stream is open. Until then, and where none can be opened any more, gossip does it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};
use weft_protocol::{PeerId, patterns::pub_sub::direct::DirectTaken};

use super::{
    hub::Hub,
    repair::hello,
    ring::{Outcome, Parcel, Recent, Ring},
};
use crate::{
    mesh::{self, FrameError, MeshError, streams::MeshStream},
    tasks::Tasks,
};

/// Members that one publication goes to directly; what more want goes by gossip.
pub(super) const MEMBERS_MAX: usize = 16;
/// Streams to members at once.
const FEEDS_MAX: usize = 128;
/// How long a member that takes in nothing holds up who publishes.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long what was said directly goes on to be, though a member has no stream.
const GRACE: Duration = Duration::from_secs(3);
/// A stream on which nothing went for so long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// The pauses between attempts to open a stream.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Bytes that are written at once.
const WRITE_BYTES: usize = 256 << 10;

/// See the module.
pub(super) struct Feeds {
    hub: Arc<Hub>,
    tasks: Tasks,
    ring: Mutex<Ring>,
    /// Streams opened or ended.
    streams: watch::Sender<u64>,
    /// Somebody took something in.
    taken: Notify,
    /// Whether anything was ever handed in.
    is_used: AtomicBool,
}

impl Feeds {
    pub(super) fn new(hub: Arc<Hub>, tasks: &Tasks) -> Arc<Self> {
        Arc::new(Feeds {
            hub,
            tasks: tasks.child(),
            ring: Mutex::default(),
            streams: watch::Sender::new(0),
            taken: Notify::new(),
            is_used: AtomicBool::new(false),
        })
    }

    /// Changes when a stream is opened or ends.
    pub(super) fn version(&self) -> u64 {
        *self.streams.borrow()
    }

    /// Whether all of these can be spoken to directly. Begins to make it so.
    pub(super) fn are_open(self: &Arc<Self>, peers: &[PeerId]) -> bool {
        if peers.len() > MEMBERS_MAX {
            return false;
        }
        let mut new = Vec::new();
        let mut ring = self.lock();
        for peer in peers {
            if ring.readers() >= FEEDS_MAX && !ring.are_open(&[*peer]) {
                return false;
            }
            if ring.take_up(*peer, Instant::now()) {
                new.push(*peer);
            }
        }
        let all_open = ring.are_open(peers);
        drop(ring);
        for peer in new {
            let feeds = Arc::clone(self);
            self.tasks.spawn("pub-sub-feed", async move { feeds.run(peer).await });
        }
        all_open
    }

    /// Whether these may be spoken to directly all the same: those that have no stream may have one again in a moment.
    pub(super) fn are_expected(&self, peers: &[PeerId]) -> bool {
        peers.len() <= MEMBERS_MAX && self.lock().are_expected(peers, GRACE, Instant::now())
    }

    /// Whether anything was ever handed in.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// Hands a frame to its members. Waits for room. The number of the item.
    pub(super) async fn send(&self, parcel: Parcel) -> u64 {
        self.is_used.store(true, Ordering::Relaxed);
        let bytes = parcel.data.len();
        let until = Instant::now() + PATIENCE;
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            // Before it is looked, so that nothing is missed.
            taken.as_mut().enable();
            let held_up_by = self.lock().held_up_by(bytes);
            if held_up_by.is_empty() {
                break;
            }
            if timeout_at(until, taken).await.is_err() {
                self.hub.dropped.add("publish", "slow_member", held_up_by.len() as u64);
                tracing::warn!(members = ?held_up_by, "these take in too slowly what is published, and are not waited for any more");
                self.lock().give_up_on(&held_up_by);
            }
        }
        self.lock().push(parcel, Instant::now())
    }

    /// What became of an item for each of these, once all have taken it in or the time is over.
    pub(super) async fn outcomes(&self, peers: &[PeerId], ordinal: u64, until: Instant) -> Vec<(PeerId, Outcome)> {
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            let outcomes: Vec<(PeerId, Outcome)> = {
                let ring = self.lock();
                peers.iter().map(|peer| (*peer, ring.outcome(peer, ordinal))).collect()
            };
            let is_final = |outcome: &Outcome| matches!(outcome, Outcome::Confirmed | Outcome::Lost);
            if outcomes.iter().all(|(_, outcome)| is_final(outcome)) || timeout_at(until, taken).await.is_err() {
                return outcomes;
            }
        }
    }

    /// Waits until these have taken in everything, for a bounded time.
    pub(super) async fn settle(&self, peers: &[PeerId]) {
        let until = Instant::now() + PATIENCE;
        loop {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            let have_all = self.lock().have_all(peers, GRACE, Instant::now());
            if have_all || timeout_at(until, taken).await.is_err() {
                return;
            }
        }
    }

    /// What was handed in lately.
    pub(super) fn recent(&self, within: Duration) -> Vec<Recent> {
        self.lock().recent(within, Instant::now())
    }

    /// These items are for another member too.
    pub(super) fn add(self: &Arc<Self>, peer: PeerId, ordinals: &[u64]) {
        self.are_open(&[peer]);
        self.lock().add(peer, ordinals);
    }

    /// Members spoken to directly: whether they have a stream, are slow, have something to come.
    pub(super) fn standing(&self) -> Vec<(PeerId, bool, bool, bool)> {
        self.lock().standing()
    }

    /// Keeps a stream to a member as long as it is needed.
    async fn run(&self, peer: PeerId) {
        let mut connections = self.hub.mesh.peers().watch();
        let mut pause = RETRY_MIN;
        loop {
            match self.open(peer).await {
                Ok(stream) => {
                    pause = RETRY_MIN;
                    if let Err(error) = self.carry(peer, stream).await {
                        tracing::debug!(%peer, %error, "the stream of publications to a member broke");
                    }
                    self.lock().closed(&peer, Instant::now());
                    // Who waits for it need not any more.
                    self.taken.notify_waiters();
                }
                Err(error) => tracing::debug!(%peer, %error, "no stream of publications to a member"),
            }
            self.streams.send_modify(|n| *n += 1);
            if !self.hub.mesh.trust().is_member(&peer) {
                return self.lock().forget(&peer);
            }
            if self.lock().let_go(&peer, IDLE, Instant::now()) {
                return;
            }
            connections.mark_unchanged();
            let was_there = self.hub.mesh.peers().contains(&peer);
            let returns = async {
                while connections.changed().await.is_ok() {
                    if !was_there && self.hub.mesh.peers().contains(&peer) {
                        return;
                    }
                }
                std::future::pending().await
            };
            let _ = timeout(pause, returns).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn open(&self, peer: PeerId) -> Result<MeshStream, MeshError> {
        self.hub.mesh.open(peer, &hello(&self.hub)?).await
    }

    /// Writes what is there for a member, and reads what it says of it, until either fails or nothing came for long.
    async fn carry(&self, peer: PeerId, stream: MeshStream) -> Result<(), FrameError> {
        let (mut read, mut write) = stream.split();
        let Some(wake) = self.lock().opened(&peer) else {
            return Ok(());
        };
        self.streams.send_modify(|n| *n += 1);
        let reading = async {
            while let Some(said) = mesh::read::<DirectTaken>(&mut read).await? {
                let could = self.lock().taken(&peer, said.ordinal);
                if !could {
                    return Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into());
                }
                self.taken.notify_waiters();
            }
            Ok(())
        };
        let writing = async {
            let mut buffer = Vec::new();
            loop {
                let items = self.lock().next_for(&peer, WRITE_BYTES);
                if items.is_empty() {
                    write.flush().await?;
                    if timeout(IDLE, wake.notified()).await.is_err() && self.lock().is_idle(&peer, IDLE, Instant::now())
                    {
                        return write.close().await.map_err(FrameError::from);
                    }
                } else {
                    let pieces = items.iter().flat_map(|item| item.bytes());
                    pieces.for_each(|piece| buffer.extend_from_slice(piece));
                    write.write_all(&buffer).await?;
                    buffer.clear();
                }
            }
        };
        tokio::select! {
            biased;
            read = reading => read,
            written = writing => written,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
