//! Gossip: libp2p's gossipsub, with a signature verified once for each message and not once for each copy of it.
//!
//! Every message comes from several neighbours, and gossipsub verifies the signature of each copy, which costs fifty times what
//! everything else about a copy does. Here frames are read before gossipsub does. One whose messages all equal, in every part
//! including the signature, messages that gossipsub has verified before, goes by without; every other frame is
//! gossipsub's to verify, in its strictest mode. So nothing is taken for good here that it has not found good: what is
//! remembered are digests of what it said yes to, a bounded number of them, and who is forgotten is verified again.
//!
//! A copy of a message that was found good *and* that this node has accepted goes nowhere at all: gossipsub would look up that
//! it has it, note who else brought it, for two minutes and for a part of the score that weighs nothing here, and drop it. Seven
//! of eight messages that come are such copies.
//!
//! The wire is that of gossipsub: signed, as every implementation does it.
//!
//! A map: `frame` takes frames apart; `handler` is a connection's share; `original` are messages as they were signed.

mod frame;
mod handler;
mod original;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    mem,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    gossipsub::{self, MessageAcceptance, MessageId},
    identity::Keypair,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use prometheus_client::metrics::counter::Counter;
use sha2::{Digest as _, Sha256};
use weft_protocol::limits;

use self::handler::Handler;
pub use self::original::Original;
pub(crate) use self::original::take_signature;
use crate::telemetry::metrics::Metrics;

/// A message with its signature and framing.
pub(crate) const FRAME_BYTES_MAX: usize = limits::PUBLICATION_BYTES_MAX + 1024;
/// Heartbeats, of a second each, for which gossip keeps messages for those who ask for them.
pub(crate) const HISTORY: usize = 5;
/// Of these, for how many it tells others what it has. Both are what the specification names.
const HISTORY_TOLD: usize = 3;
/// Copies of messages from this size on are worth that every neighbour is told not to send one.
const IDONTWANT_BYTES_MIN: usize = 4096;
/// Topics a peer may subscribe to: the shards of this mesh, with room to grow.
const TOPICS_MAX: usize = 256;
/// Digests of one generation of known messages; there are two. Copies come within seconds.
const KNOWN_MAX: usize = 8192;

type Gossipsub = gossipsub::Behaviour<
    original::Handover,
    gossipsub::MaxCountSubscriptionFilter<gossipsub::AllowAllSubscriptionFilter>,
>;

/// The last messages that were found to be signed by their authors.
#[derive(Debug, Default)]
struct Generation {
    /// Digests of all parts of a message.
    signed: HashSet<[u8; 32]>,
    /// Digests of the ids of those that this node has accepted.
    accepted: HashSet<[u8; 16]>,
}

/// What is remembered of messages, and what is counted of their copies.
#[derive(Debug, Default)]
struct Known {
    /// When the first is full it becomes the second, and the second is forgotten.
    generations: Mutex<[Generation; 2]>,
    /// Copies that went nowhere.
    dropped_copies: Counter,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, [Generation; 2]> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message of this digest was found good.
    fn is_signed(&self, digest: &[u8; 32]) -> bool {
        self.lock().iter().any(|generation| generation.signed.contains(digest))
    }

    fn insert_signed(&self, digest: [u8; 32]) {
        let mut generations = self.lock();
        if generations[0].signed.len() >= KNOWN_MAX {
            generations[1] = mem::take(&mut generations[0]);
        }
        generations[0].signed.insert(digest);
    }

    /// Whether a message of this id was accepted.
    fn is_accepted(&self, id: &[u8]) -> bool {
        let digest = id_digest(id);
        self.lock()
            .iter()
            .any(|generation| generation.accepted.contains(&digest))
    }

    fn insert_accepted(&self, id: &[u8]) {
        // Accepted are at most as many as were found good, each a moment later.
        self.lock()[0].accepted.insert(id_digest(id));
    }
}

fn id_digest(id: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(id)[..16]);
    short
}

/// See the module. What gossipsub does besides is had by dereferencing.
pub(crate) struct Behaviour {
    inner: Gossipsub,
    known: Arc<Known>,
}

impl Deref for Behaviour {
    type Target = Gossipsub;

    fn deref(&self) -> &Gossipsub {
        &self.inner
    }
}

impl DerefMut for Behaviour {
    fn deref_mut(&mut self) -> &mut Gossipsub {
        &mut self.inner
    }
}

impl Behaviour {
    /// Gossip of the holder of `key`.
    pub(crate) fn new(key: &Keypair, peer_scoring: bool, metrics: &Metrics) -> Result<Self, String> {
        let filter = gossipsub::MaxCountSubscriptionFilter {
            filter: gossipsub::AllowAllSubscriptionFilter {},
            max_subscribed_topics: TOPICS_MAX,
            max_subscriptions_per_request: TOPICS_MAX,
        };
        let mut gossip = gossipsub::Behaviour::new_with_subscription_filter_and_transform(
            gossipsub::MessageAuthenticity::Signed(key.clone()),
            config()?,
            filter,
            original::Handover,
        )
        .map_err(str::to_owned)?;
        // Copies, neighbours, what was asked for: how well the gossip mesh does its work.
        gossip = metrics.with_registry(|registry| {
            let registry = registry.sub_registry_with_prefix("gossipsub");
            gossip.with_metrics(registry, gossipsub::MetricsConfig::default())
        });
        if peer_scoring {
            let (params, thresholds) = scoring();
            gossip.with_peer_score(params, thresholds)?;
        }
        let dropped_copies = metrics.subsystem("mesh", |mesh| {
            mesh.counter(
                "gossip_copies_dropped",
                "Copies of gossiped messages that were accepted before",
            )
        });
        Ok(Behaviour {
            inner: gossip,
            known: Arc::new(Known {
                dropped_copies,
                ..Known::default()
            }),
        })
    }

    /// What the node thinks of a message that gossipsub has handed up, from which neighbour it came.
    pub(crate) fn report_verdict(&mut self, id: &MessageId, from: &PeerId, verdict: MessageAcceptance) {
        if matches!(verdict, MessageAcceptance::Accept) {
            self.known.insert_accepted(&id.0);
        }
        self.inner.report_message_validation_result(id, from, verdict);
    }

    fn wrap(&self, inner: THandler<Gossipsub>) -> Handler {
        Handler::new(inner, Arc::clone(&self.known))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = gossipsub::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        let handler = self
            .inner
            .handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.wrap(handler))
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        let handler =
            self.inner
                .handle_established_outbound_connection(connection, peer, address, role_override, port_use)?;
        Ok(self.wrap(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Gossipsub>,
    ) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<gossipsub::Event, THandlerInEvent<Gossipsub>>> {
        self.inner.poll(cx)
    }
}

fn config() -> Result<gossipsub::Config, String> {
    gossipsub::ConfigBuilder::default()
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        // As the specification has it, which rust-libp2p's default is not: so IHAVE, IWANT and IDONTWANT match those of
        // other implementations.
        .message_id_fn(|message| {
            let mut id = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
            id.extend_from_slice(&message.sequence_number.unwrap_or_default().to_be_bytes());
            id.into()
        })
        .max_transmit_size(FRAME_BYTES_MAX)
        .flood_publish(true)
        .idontwant_message_size_threshold(IDONTWANT_BYTES_MIN)
        .duplicate_cache_time(Duration::from_secs(120))
        .history_length(HISTORY)
        .history_gossip(HISTORY_TOLD)
        .prune_backoff(Duration::from_secs(15))
        .publish_queue_duration(Duration::from_secs(30))
        .forward_queue_duration(Duration::from_secs(30))
        // Between two looks for better neighbours, heartbeats.
        .opportunistic_graft_ticks(10)
        .build()
        .map_err(|e| e.to_string())
}

/// The sequence number in the id of a message.
pub(crate) fn sequence_number(id: &MessageId) -> Option<u64> {
    id.0.last_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

/// How neighbours are weighed. Who brings messages first is worth keeping, who brings invalid ones or breaks the rules is
/// not; who brings nothing is only worth less than the others, because on a quiet topic nobody brings anything. Neighbours
/// behind one address are not held against each other: members have certificates.
fn scoring() -> (gossipsub::PeerScoreParams, gossipsub::PeerScoreThresholds) {
    let params = gossipsub::PeerScoreParams {
        topic_score_cap: 100.0,
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -10.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.95,
        slow_peer_weight: 0.0,
        retain_score: Duration::from_secs(600),
        ..gossipsub::PeerScoreParams::default()
    };
    let thresholds = gossipsub::PeerScoreThresholds {
        gossip_threshold: -50.0,
        publish_threshold: -100.0,
        graylist_threshold: -200.0,
        accept_px_threshold: 1000.0,
        // A mesh whose middle neighbour brings nothing first looks for better ones.
        opportunistic_graft_threshold: 1.0,
    };
    (params, thresholds)
}

/// What a topic's messages weigh, where neighbours are scored.
pub(crate) fn topic_scoring() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 30.0,
        first_message_deliveries_weight: 1.0,
        first_message_deliveries_decay: 0.98,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: 0.95,
        ..gossipsub::TopicScoreParams::default()
    }
}
