//! Deeds: publishes on the gossip shards, validates what comes, hands it to subscribers.

use std::sync::{Arc, Mutex, MutexGuard};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use weft_protocol::{
    CapabilityToken, MeshId, Pattern, PeerId, Verb, Wire as _,
    patterns::pub_sub::{Publication, SHARDS, topic},
};

use super::{
    core::{Freshness, Received, ReplayGuard, ReplayWindow, matches},
    handle::{Delivery, Subscription},
};
use crate::{
    mesh::{Gossip, Mesh, MeshError, PatternDoors, Validation},
    tasks::Tasks,
    telemetry::metrics::{Dropped, Metrics},
    trust::Standing,
};

/// Messages waiting for one subscriber; beyond it they are dropped for this one, and counted.
const SUBSCRIBER_QUEUE_MAX: usize = 1024;
/// Bytes of messages that wait for subscribers, and of those kept for who comes back. Beyond it only who has nothing waiting
/// gets more, and beyond twice as many nobody.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Subscriptions at once that the local API gives.
pub(super) const SUBSCRIPTIONS_MAX: usize = 16_384;
/// Messages waiting for validation.
const VALIDATION_QUEUE_MAX: usize = 4096;

struct Subscriber {
    id: u64,
    pattern: Pattern,
    sink: mpsc::Sender<Delivery>,
    dropped: u64,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    replay: ReplayGuard,
    window: ReplayWindow,
    next_id: u64,
}

/// What the handle and the actor share.
pub(super) struct Hub {
    mesh: Mesh,
    /// Tells this run's messages and cursors from an earlier run's.
    boot: u64,
    state: Mutex<State>,
    /// Held while a sequence is taken and its message handed to the mesh, so that the two orders agree.
    sequence: tokio::sync::Mutex<u64>,
    published: Counter,
    received: Counter,
    delivered: Counter,
    dropped: Dropped,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("subscribers", &self.lock().subscribers.len())
            .finish()
    }
}

impl Hub {
    pub(super) fn new(mesh: Mesh, boot: u64, metrics: &Metrics) -> Self {
        let (state, sequence) = (Mutex::default(), tokio::sync::Mutex::new(0));
        let dropped = metrics.dropped().clone();
        metrics.subsystem("pub_sub", |subsystem| Hub {
            mesh,
            boot,
            state,
            sequence,
            published: subsystem.counter("published", "Messages published by this node"),
            received: subsystem.counter("received", "Messages of other nodes that were found good"),
            delivered: subsystem.counter("delivered", "Messages handed to subscribers of this node"),
            dropped,
        })
    }

    pub(super) async fn publish(&self, mesh: &MeshId, mut publication: Publication) -> Result<(u64, usize), MeshError> {
        let shard = publication
            .subject()
            .map_err(|e| MeshError::Invalid(e.to_string()))?
            .shard(SHARDS);
        let mut sequence = self.sequence.lock().await;
        *sequence += 1;
        publication.publisher_seq = *sequence;
        publication.boot = self.boot;
        let peers = self.mesh.publish(topic(mesh, shard), publication.to_bytes()).await;
        let peers = match peers {
            Ok(published) => published.peers,
            Err(error) => {
                // Nobody has it: the sequence stays without a gap.
                *sequence -= 1;
                return Err(error);
            }
        };
        let taken = *sequence;
        self.published.inc();
        drop(sequence);
        self.deliver(self.mesh.local_peer(), self.mesh.local_peer(), publication);
        Ok((taken, peers))
    }

    pub(super) fn subscribe(self: &Arc<Self>, pattern: Pattern, resume: Option<&str>) -> Subscription {
        let mut state = self.lock();
        let (missed, lost) = match resume.map(|cursor| self.position(cursor)) {
            Some(Some(number)) => state.window.after(number, &pattern),
            // A cursor of an earlier run: how much was missed cannot be known.
            Some(None) => (Vec::new(), 1),
            None => (Vec::new(), 0),
        };
        let (sink, deliveries) = mpsc::channel(SUBSCRIBER_QUEUE_MAX.max(missed.len() + 1));
        let lost = (lost > 0).then_some(Delivery::Dropped(lost));
        for delivery in lost.into_iter().chain(missed.into_iter().map(Delivery::Message)) {
            let _ = sink.try_send(delivery);
        }
        state.next_id += 1;
        let id = state.next_id;
        state.subscribers.push(Subscriber {
            id,
            pattern,
            sink,
            dropped: 0,
        });
        Subscription {
            id,
            deliveries,
            hub: Arc::clone(self),
        }
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.lock().subscribers.len()
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        self.lock().subscribers.retain(|s| s.id != id);
    }

    pub(super) fn cursor(&self, number: u64) -> String {
        format!("{:x}-{number}", self.boot)
    }

    fn position(&self, cursor: &str) -> Option<u64> {
        let (boot, number) = cursor.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        (u64::from_str_radix(boot, 16).ok()? == self.boot).then_some(number)
    }

    /// Hands a message that was found good to the subscribers whose pattern it matches.
    fn deliver(&self, publisher: PeerId, from: PeerId, publication: Publication) {
        let mut state = self.lock();
        let received = state.window.push(publisher, from, publication);
        let held_bytes = state.window.held_bytes();
        for subscriber in &mut state.subscribers {
            if matches(&subscriber.pattern, &received.publication) {
                self.offer(subscriber, &received, held_bytes);
            }
        }
    }

    fn offer(&self, subscriber: &mut Subscriber, received: &Arc<Received>, held_bytes: usize) {
        let has_room = match held_bytes {
            0..HELD_BYTES_MAX => true,
            _ if held_bytes < HELD_BYTES_MAX * 2 => subscriber.sink.capacity() == subscriber.sink.max_capacity(),
            _ => false,
        };
        if !has_room {
            subscriber.dropped += 1;
            self.dropped.inc("subscriber", "slow");
            return;
        }
        if subscriber.dropped > 0 {
            // It hears of its loss before it hears anything else.
            match subscriber.sink.try_send(Delivery::Dropped(subscriber.dropped)) {
                Ok(()) => subscriber.dropped = 0,
                Err(_) => {
                    subscriber.dropped += 1;
                    self.dropped.inc("subscriber", "slow");
                    return;
                }
            }
        }
        if subscriber
            .sink
            .try_send(Delivery::Message(Arc::clone(received)))
            .is_err()
        {
            subscriber.dropped += 1;
            self.dropped.inc("subscriber", "slow");
        } else {
            self.delivered.inc();
        }
    }

    /// Judges a message from another node and delivers it here if it is good.
    fn take_in(&self, gossip: &Gossip) -> Validation {
        let Ok(publication) = Publication::from_bytes(&gossip.data) else {
            return Validation::Reject;
        };
        let Ok(subject) = publication.subject().cloned() else {
            return Validation::Reject;
        };
        let tokens: Vec<CapabilityToken> = publication
            .capability
            .iter()
            .filter_map(|bytes| CapabilityToken::from_bytes(bytes).ok())
            .collect();
        let trust = self.mesh.trust();
        if !trust.may_publish(&gossip.source, &subject, &tokens).allowed {
            tracing::info!(peer = %gossip.source, subject = subject.as_str(), "a publication was denied");
            return Validation::Ignore;
        }
        match self
            .lock()
            .replay
            .judge(gossip.source, publication.boot, publication.publisher_seq)
        {
            Freshness::Fresh => {}
            Freshness::Stale | Freshness::OldBoot => return Validation::Ignore,
        }
        if trust.check(&gossip.source, Verb::Publish, &subject, &tokens).allowed {
            self.received.inc();
            self.deliver(gossip.source, gossip.from(), publication);
        }
        Validation::Accept
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Takes in the shards as soon as the node belongs to a mesh, until it stops.
pub(super) async fn run(mut doors: PatternDoors, hub: Arc<Hub>, tasks: Tasks) {
    // Nothing is asked of this pattern by streams or requests; what comes is refused by being dropped.
    tasks.spawn("pub-sub-doors", async move {
        loop {
            tokio::select! {
                request = doors.requests.recv() => if request.is_none() { return },
                stream = doors.streams.recv() => if stream.is_none() { return },
            }
        }
    });
    let mut standing = hub.mesh.trust().watch_standing();
    let mesh = match standing
        .wait_for(|s| matches!(s, Standing::Member(_)))
        .await
        .map(|s| s.clone())
    {
        Ok(Standing::Member(mesh)) => mesh,
        _ => return,
    };
    let (sink, mut gossip) = mpsc::channel(VALIDATION_QUEUE_MAX);
    for shard in 0..SHARDS {
        if hub.mesh.subscribe(topic(&mesh.id, shard), sink.clone()).await.is_err() {
            return;
        }
    }
    drop(sink);
    while let Some(message) = gossip.recv().await {
        let verdict = hub.take_in(&message);
        if hub.mesh.validate(&message, verdict).await.is_err() {
            return;
        }
    }
}
