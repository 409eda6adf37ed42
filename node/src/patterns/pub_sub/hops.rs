//! Traces: which nodes a message comes by, from whom, when, and for how many subscriptions.
//!
//! Promises: each node that takes a traced message in tells its publisher once, with its signature, over a connection that proves who it
//! is; what it says is kept for nobody but the one who asked. Not promised: that all do. Who is asked for too much keeps silent
//! ([`QUEUE_MAX`], [`PAUSE`]), and so does an older node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use weft_protocol::{
    PeerId, PublicKey, Signed,
    patterns::pub_sub::{
        DIRECT, Line,
        hop::{Hop, Trace},
        repair::RepairRequest,
    },
};

use super::{handle::Receipt, hub::Hub, received::Received, repair};
use crate::{mesh::MeshError, tasks::Tasks, telemetry::metrics::Dropped};

/// What this node has to tell and has not yet; more is not told.
const QUEUE_MAX: usize = 64;
/// After each message of which it told.
const PAUSE: Duration = Duration::from_millis(20);
const TELL_PATIENCE: Duration = Duration::from_secs(5);
/// Traces of this node at once, and what is heard of one.
const TRACES_MAX: usize = 64;
const HOPS_MAX: usize = 4096;
/// What was said and is not read yet.
const HEARD_MAX: usize = 256;

/// What a node said of a traced message.
#[derive(Debug, Clone)]
pub struct HopRecord {
    /// Who says it.
    pub node: PeerId,
    /// Who handed the message to it; itself, if it published it.
    pub from: PeerId,
    /// Whether it came directly, and not by gossip.
    pub is_direct: bool,
    /// When it came, Unix milliseconds by that node's calendar.
    pub received_at_ms: u64,
    /// Subscriptions there that it selects.
    pub subscriptions: u32,
    /// All of it, as the node signed it.
    pub signed: Signed<Hop>,
}

impl HopRecord {
    fn new(node: PeerId, hop: &Hop, signed: Signed<Hop>) -> Self {
        HopRecord {
            node,
            from: hop.from.peer_id(),
            is_direct: hop.line.shard >= DIRECT,
            received_at_ms: hop.received_at_ms,
            subscriptions: hop.subscriptions,
            signed,
        }
    }
}

/// A traced message, and what was said of it.
#[derive(Debug)]
pub struct Traced {
    /// What is known of any message that is on its way.
    pub receipt: Receipt,
    /// What nodes said, each once; this one as well.
    pub hops: Vec<HopRecord>,
}

/// What is to be told of a message.
struct Told {
    trace: Trace,
    received: Received,
    received_at_ms: u64,
    subscriptions: usize,
}

/// See the module.
pub(super) struct Hops {
    to_tell: mpsc::Sender<Box<Told>>,
    /// Who waits for what is said, by what the message is known by.
    waiting: Mutex<BTreeMap<[u8; 16], mpsc::Sender<HopRecord>>>,
    dropped: Dropped,
}

/// What a node tells, until its task takes it.
pub(super) struct ToTell(mpsc::Receiver<Box<Told>>);

/// A trace of this node, until it is dropped.
pub(super) struct Waiting<'a> {
    hops: &'a Hops,
    nonce: [u8; 16],
    heard: mpsc::Receiver<HopRecord>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.hops.lock().remove(&self.nonce);
    }
}

impl Waiting<'_> {
    /// What is said until then; or until all of these have said something, if it is known who they are.
    pub(super) async fn collect(&mut self, mut missing: Option<Vec<PeerId>>, until: Instant) -> Vec<HopRecord> {
        let mut hops: BTreeMap<PeerId, HopRecord> = BTreeMap::new();
        while missing.as_ref().is_none_or(|missing| !missing.is_empty()) && hops.len() < HOPS_MAX {
            let Ok(Some(hop)) = timeout_at(until, self.heard.recv()).await else {
                break;
            };
            if let Some(missing) = &mut missing {
                missing.retain(|peer| *peer != hop.node);
            }
            hops.entry(hop.node).or_insert(hop);
        }
        hops.into_values().collect()
    }
}

impl Hops {
    pub(super) fn new(dropped: Dropped) -> (Self, ToTell) {
        let (to_tell, told) = mpsc::channel(QUEUE_MAX);
        let hops = Hops {
            to_tell,
            waiting: Mutex::default(),
            dropped,
        };
        (hops, ToTell(told))
    }

    /// This node took a traced message in, at this time, for so many subscriptions.
    pub(super) fn note(&self, trace: Trace, received: Received, received_at_ms: u64, subscriptions: usize) {
        let told = Told {
            trace,
            received,
            received_at_ms,
            subscriptions,
        };
        if self.to_tell.try_send(Box::new(told)).is_err() {
            self.dropped.inc("hop", "queue");
        }
    }

    /// Begins to wait for what is said of a message.
    pub(super) fn wait_for(&self, nonce: [u8; 16]) -> Result<Waiting<'_>, MeshError> {
        let (sink, heard) = mpsc::channel(HEARD_MAX);
        let mut waiting = self.lock();
        if waiting.len() >= TRACES_MAX {
            return Err(MeshError::Busy(format!("{TRACES_MAX} messages are traced already")));
        }
        waiting.insert(nonce, sink);
        Ok(Waiting {
            hops: self,
            nonce,
            heard,
        })
    }

    /// A member says what came by it. Whether that was a message of this node, and its own word.
    pub(super) fn heard(&self, local: PeerId, peer: PeerId, signed: Signed<Hop>) -> bool {
        let Ok(hop) = signed.open() else { return false };
        let is_right = signed.signer().peer_id() == peer && hop.line.publisher() == local;
        if is_right && let Some(sink) = self.lock().get(&hop.nonce) {
            // Who traces reads at once; what does not fit is too much.
            let _ = sink.try_send(HopRecord::new(peer, &hop, signed));
        }
        is_right
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 16], mpsc::Sender<HopRecord>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells publishers of their traced messages, until the node stops.
pub(super) async fn tell(hub: Arc<Hub>, mut to_tell: ToTell, tasks: Tasks) {
    while let Some(told) = to_tell.0.recv().await {
        if let Some((publisher, signed)) = sign(&hub, &told) {
            let hub = Arc::clone(&hub);
            tasks.spawn("pub-sub-hop", async move { tell_one(&hub, publisher, signed).await });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn sign(hub: &Hub, told: &Told) -> Option<(PeerId, Signed<Hop>)> {
    let received = &told.received;
    let line: Line = *received.line();
    let local = hub.mesh.local_peer();
    let from = if received.publisher() == local {
        local
    } else {
        received.from()
    };
    let hop = Hop {
        nonce: told.trace.nonce,
        line,
        seq: received.sequence(),
        subject: received.subject().clone(),
        from: PublicKey::from_peer_id(&from)?,
        received_at_ms: told.received_at_ms,
        subscriptions: u32::try_from(told.subscriptions).unwrap_or(u32::MAX),
    };
    Some((received.publisher(), hub.mesh.trust().sign(&hop).ok()?))
}

async fn tell_one(hub: &Hub, publisher: PeerId, hop: Signed<Hop>) {
    let local = hub.mesh.local_peer();
    if publisher == local {
        hub.hops.heard(local, local, hop);
        return;
    }
    if let Err(error) = repair::ask(hub, publisher, &RepairRequest::Hop { hop }, TELL_PATIENCE).await {
        tracing::debug!(%publisher, %error, "a publisher could not be told of its traced message");
    }
}
