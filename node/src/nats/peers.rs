//! Messages for other nodes' doors, sent to each in their order.
//!
//! One queue and one task per node: what waits is sent as one request, so a stream of answers needs neither a round trip each nor loses
//! its order. A full queue makes its sender wait; a node that cannot be reached loses what waits for it, counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use weft_protocol::{
    PeerId, Subject, Verb, Wire as _,
    limits::NATS_ITEMS_MAX,
    patterns::nats::{NatsItem, NatsItems, NatsReached, PATTERN_ID},
};

use crate::{context::greeting, mesh::Mesh, tasks::Tasks, telemetry::metrics::Dropped};

/// Messages waiting for one node.
const QUEUE_MAX: usize = 256;
/// Bytes of one request, unless one message alone has more.
const REQUEST_BYTES_MAX: usize = 256 << 10;
/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A queue in which nothing came for so long goes.
const IDLE: Duration = Duration::from_secs(30);
/// Queues at once.
const PEERS_MAX: usize = 4096;

/// A message, and who wants to know how many subscriptions it reached.
struct Parcel {
    item: NatsItem,
    reached: Option<oneshot::Sender<u32>>,
}

/// See the module.
pub(super) struct Peers {
    mesh: Mesh,
    tasks: Tasks,
    dropped: Dropped,
    queues: Mutex<HashMap<PeerId, mpsc::Sender<Parcel>>>,
}

impl Peers {
    pub(super) fn new(mesh: Mesh, tasks: Tasks, dropped: Dropped) -> Arc<Self> {
        Arc::new(Peers {
            mesh,
            tasks,
            dropped,
            queues: Mutex::default(),
        })
    }

    /// Sends a message; waits only for room in the queue. Not cancel-safe: a cancelled message may be lost.
    pub(super) async fn send(self: &Arc<Self>, peer: PeerId, item: NatsItem) {
        self.enqueue(peer, Parcel { item, reached: None }).await;
    }

    /// Sends a message and waits until it is known how many subscriptions it reached; 0 also when that cannot be known.
    pub(super) async fn deliver(self: &Arc<Self>, peer: PeerId, item: NatsItem) -> u32 {
        let (reached, answer) = oneshot::channel();
        let reached = Some(reached);
        self.enqueue(peer, Parcel { item, reached }).await;
        answer.await.unwrap_or(0)
    }

    async fn enqueue(self: &Arc<Self>, peer: PeerId, mut parcel: Parcel) {
        // Once more when the queue ended at this very moment.
        for _ in 0..2 {
            let Some(queue) = self.queue(peer) else { break };
            match queue.send(parcel).await {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => parcel = back,
            }
        }
        self.dropped.inc("nats_peers", "full");
    }

    fn queue(self: &Arc<Self>, peer: PeerId) -> Option<mpsc::Sender<Parcel>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&peer).filter(|queue| !queue.is_closed()) {
            return Some(queue.clone());
        }
        if queues.len() >= PEERS_MAX {
            return None;
        }
        let (queue, parcels) = mpsc::channel(QUEUE_MAX);
        queues.insert(peer, queue.clone());
        let this = Arc::clone(self);
        self.tasks
            .spawn("nats-peer", async move { this.run(peer, parcels).await });
        Some(queue)
    }

    async fn run(&self, peer: PeerId, mut parcels: mpsc::Receiver<Parcel>) {
        let mut waiting = Vec::new();
        loop {
            let came = tokio::time::timeout(IDLE, parcels.recv_many(&mut waiting, NATS_ITEMS_MAX)).await;
            if matches!(came, Err(_) | Ok(0)) {
                parcels.close();
                // What came in between.
                parcels.recv_many(&mut waiting, QUEUE_MAX).await;
                self.send_all(peer, &mut waiting).await;
                let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
                if queues.get(&peer).is_some_and(mpsc::Sender::is_closed) {
                    queues.remove(&peer);
                }
                return;
            }
            self.send_all(peer, &mut waiting).await;
        }
    }

    async fn send_all(&self, peer: PeerId, waiting: &mut Vec<Parcel>) {
        while !waiting.is_empty() {
            let rest = waiting.split_off(run_len(waiting));
            let (items, asked): (Vec<NatsItem>, Vec<_>) = std::mem::replace(waiting, rest)
                .into_iter()
                .map(|p| (p.item, p.reached))
                .unzip();
            let reached = self.request(peer, items).await;
            for (index, asked) in asked.into_iter().enumerate() {
                if let Some(asked) = asked {
                    let _ = asked.send(reached.get(index).copied().unwrap_or(0));
                }
            }
        }
    }

    async fn request(&self, peer: PeerId, items: Vec<NatsItem>) -> Vec<u32> {
        let count = items.len() as u64;
        let Some(resource) = items.first().and_then(|item| Subject::reserved(item.resource()).ok()) else {
            return Vec::new();
        };
        let hello = greeting(PATTERN_ID, self.mesh.trust(), Verb::Publish, &resource);
        let answer = self
            .mesh
            .request(peer, hello, NatsItems(items).to_bytes(), REQUEST_TIMEOUT)
            .await;
        match answer.map(|bytes| NatsReached::from_bytes(&bytes)) {
            Ok(Ok(NatsReached(reached))) => reached,
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "what a NATS door answered makes no sense");
                Vec::new()
            }
            Err(error) => {
                tracing::debug!(%peer, %error, resource = resource.as_str(), "a NATS door was not reached");
                self.dropped.add("nats_peers", "unreachable", count);
                Vec::new()
            }
        }
    }
}

/// How many of the first are about one thing and fit into one request; at least one.
fn run_len(waiting: &[Parcel]) -> usize {
    let mut bytes = 0;
    let Some(first) = waiting.first() else { return 0 };
    let fits = |parcel: &&Parcel| {
        bytes += parcel.item.len();
        bytes <= REQUEST_BYTES_MAX && parcel.item.resource() == first.item.resource()
    };
    waiting.iter().take(NATS_ITEMS_MAX).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(subject: &str, len: usize) -> Parcel {
        Parcel {
            item: NatsItem::Deliver {
                subject: subject.parse().unwrap(),
                reply: None,
                group: None,
                headers: Vec::new(),
                payload: vec![0; len],
            },
            reached: None,
        }
    }

    #[test]
    fn a_request_is_about_one_thing_and_not_too_large() {
        let run = |list: &[(&str, usize)]| run_len(&list.iter().map(|(s, n)| parcel(s, *n)).collect::<Vec<_>>());
        assert_eq!(run(&[("a", 1), ("a", 1), ("b", 1)]), 2);
        assert_eq!(run(&[("a", 1 << 20), ("a", 1)]), 1);
        assert_eq!(run(&[("a", 100 << 10), ("a", 100 << 10), ("a", 100 << 10)]), 2);
        assert_eq!(run_len(&[]), 0);
    }
}
