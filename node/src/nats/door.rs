//! What the connections of the door share, and the way between them and the mesh.
//!
//! A message of a client goes to this node's clients directly, and to the mesh once. What comes from the mesh goes to this node's clients.
//! While no member is connected and no other application of this node subscribes, nothing goes to the mesh: there would be nobody.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use weft_protocol::{PeerId, Subject, patterns::nats::NatsItem};

use super::{
    Settings,
    auth::Credentials,
    headers,
    interest::{Elsewhere, Interests},
    jetstream::JetStream,
    metrics::NatsMetrics,
    outbox::{Outgoing, Touched, Unread},
    peers::Peers,
    replies::{self, Found, Replies},
    router::{Matched, Router, Sub, Turn},
    services,
};
use crate::{
    mesh::Mesh,
    patterns::{
        event_sourcing::EventSourcingHandle,
        pub_sub::{Delivery, PubSubHandle, PublishError, Received, Subscription},
        request_response::RequestResponseHandle,
    },
    platform::Entropy,
    tasks::Tasks,
    telemetry::trace,
};

/// Questions that wait for the mesh at once; beyond them their connections are not read.
const QUESTIONS_MAX: usize = 1024;
/// How long a message is offered to a mesh that is busy.
const MESH_PATIENCE: Duration = Duration::from_secs(2);
const MESH_PAUSE: Duration = Duration::from_millis(5);
/// Messages taken from the mesh before their receivers are woken.
const BURST: usize = 128;
/// How often the addresses of other doors are looked for, at most.
const ADDRESSES_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether anybody still listens.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of long payloads that are being received at once, by all connections.
const LONG_BYTES_MAX: usize = 64 << 20;
/// Everything; reserved subjects are not among it.
const ALL: &str = ">";

/// Whom a message is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    /// Plain subscriptions.
    pub(super) plain: bool,
    /// One of each queue group.
    pub(super) groups: bool,
    /// Only this group.
    pub(super) only: Option<&'a str>,
    /// The connection that does not want its own messages.
    pub(super) not: Option<u64>,
}

impl Scope<'_> {
    /// Everybody.
    pub(super) const ALL: Scope<'static> = Scope {
        plain: true,
        groups: true,
        only: None,
        not: None,
    };
}

/// See the module.
pub(super) struct Door {
    pub(super) settings: Settings,
    pub(super) credentials: Option<Credentials>,
    pub(super) mesh: Mesh,
    pub(super) calls: RequestResponseHandle,
    messages: PubSubHandle,
    pub(super) jetstream: Option<JetStream>,
    pub(super) tasks: Tasks,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) router: Router,
    pub(super) interests: Interests,
    pub(super) elsewhere: Elsewhere,
    /// Where clients are told that they may go, this door first.
    pub(super) addresses: watch::Sender<Vec<String>>,
    pub(super) replies: Replies,
    pub(super) peers: Arc<Peers>,
    pub(super) unread: Arc<Unread>,
    pub(super) questions: Arc<Semaphore>,
    /// In units of 1 KiB.
    long: Arc<Semaphore>,
    pub(super) metrics: NatsMetrics,
    /// Whether this door takes in what comes from the mesh.
    listening: Mutex<bool>,
    is_listening: AtomicBool,
    services: RwLock<(u64, Arc<HashSet<String>>)>,
    turn: AtomicUsize,
}

/// The parts of a door.
pub(super) struct DoorParts {
    pub(super) settings: Settings,
    pub(super) credentials: Option<Credentials>,
    pub(super) mesh: Mesh,
    pub(super) calls: RequestResponseHandle,
    pub(super) messages: PubSubHandle,
    pub(super) streams: Option<EventSourcingHandle>,
    pub(super) tasks: Tasks,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) metrics: NatsMetrics,
}

impl Door {
    pub(super) fn new(parts: DoorParts) -> Arc<Self> {
        let DoorParts {
            settings,
            credentials,
            mesh,
            calls,
            messages,
            streams,
            tasks,
            entropy,
            metrics,
        } = parts;
        Arc::new(Door {
            unread: Unread::new(settings.pending_bytes_max, settings.pending_bytes_total_max),
            settings,
            credentials,
            calls,
            messages,
            jetstream: streams.map(JetStream::new),
            router: Router::default(),
            interests: Interests::default(),
            elsewhere: Elsewhere::new(mesh.clone()),
            addresses: watch::Sender::default(),
            replies: Replies::new(mesh.local_peer(), Arc::clone(&entropy)),
            peers: Peers::new(mesh.clone(), tasks.clone(), metrics.dropped.clone()),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            long: Arc::new(Semaphore::new(LONG_BYTES_MAX >> 10)),
            listening: Mutex::new(false),
            is_listening: AtomicBool::new(false),
            services: RwLock::new((u64::MAX, Arc::default())),
            turn: AtomicUsize::new(0),
            mesh,
            tasks,
            entropy,
            metrics,
        })
    }

    /// Keeps the addresses of doors as the mesh has them, if this one is among them.
    pub(super) async fn keep_addresses(self: Arc<Self>) {
        let own = self.settings.advertise.as_deref();
        let (mut records, mut revocations) = (self.elsewhere.watch(), self.mesh.trust().watch_revocations());
        loop {
            let fresh = self.elsewhere.addresses(own);
            self.addresses.send_if_modified(|known| {
                let is_new = *known != fresh;
                *known = fresh;
                is_new
            });
            let changed = tokio::select! {
                changed = records.changed() => changed,
                changed = revocations.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            tokio::time::sleep(ADDRESSES_PAUSE).await;
        }
    }

    /// Takes a subscription in. What comes from the mesh after this returns reaches it.
    pub(super) fn subscribe(self: &Arc<Self>, sub: &Arc<Sub>) {
        self.router.insert(sub);
        self.metrics.subscriptions.inc();
        self.interests.add(sub);
        if !self.interests.is_empty() {
            self.listen();
        }
    }

    /// Ends a subscription; more than once is once.
    pub(super) fn unsubscribe(&self, sub: &Arc<Sub>) {
        if self.router.remove(sub) {
            self.metrics.subscriptions.dec();
            self.interests.remove(sub);
        }
    }

    /// Hands a message to the subscriptions it selects. How many got it.
    pub(super) fn deliver(
        &self,
        matched: &Matched,
        message: &Outgoing<'_>,
        scope: Scope<'_>,
        touched: &mut Touched,
    ) -> u32 {
        let mut reached = 0;
        let wanted = |sub: &Arc<Sub>| scope.not != Some(sub.to.id);
        if scope.plain {
            for sub in matched.plain.iter().filter(|sub| wanted(sub)) {
                reached += u32::from(self.hand(sub, message, touched));
            }
        }
        for group in matched.groups.iter().filter(|_| scope.groups) {
            let name = group.first().and_then(|sub| sub.queue.as_deref());
            if scope.only.is_some() && scope.only != name {
                continue;
            }
            let start = self.next_turn();
            let members = (0..group.len()).map(|at| &group[(start + at) % group.len()]);
            let mut able = members.filter(|sub| wanted(sub));
            reached += u32::from(able.any(|sub| self.hand(sub, message, touched)));
        }
        self.metrics.delivered.inc_by(u64::from(reached));
        reached
    }

    fn hand(&self, sub: &Arc<Sub>, message: &Outgoing<'_>, touched: &mut Touched) -> bool {
        let turn = sub.take_turn();
        if turn == Turn::Over {
            return false;
        }
        let taken = sub.to.message(&sub.sid, message);
        touched.add(&sub.to);
        if turn == Turn::Last {
            self.unsubscribe(sub);
        }
        taken
    }

    /// Room for a long payload; nothing when the connection is cut before there is some.
    pub(super) async fn room_for(&self, bytes: usize, cut: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.min(LONG_BYTES_MAX) >> 10).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = cut.cancelled() => None,
            room = Arc::clone(&self.long).acquire_many_owned(units) => room.ok(),
        }
    }

    /// A number that is another one each time.
    pub(super) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether nobody beyond this door could want a message.
    pub(super) fn is_alone(&self) -> bool {
        let own = usize::from(self.is_listening.load(Ordering::Relaxed));
        self.mesh.peers().is_empty() && self.messages.subscriptions() <= own
    }

    /// Whether a Weft service answers to this subject, as far as the directory knows.
    pub(super) fn is_service(&self, subject: &str) -> bool {
        let version = *self.elsewhere.watch().borrow();
        let current = {
            let known = self.services.read().unwrap_or_else(PoisonError::into_inner);
            (known.0 == version).then(|| Arc::clone(&known.1))
        };
        let names = current.unwrap_or_else(|| {
            let fresh: Arc<HashSet<String>> = Arc::new(services::subjects(&self.calls).collect());
            *self.services.write().unwrap_or_else(PoisonError::into_inner) = (version, Arc::clone(&fresh));
            fresh
        });
        names.contains(subject)
    }

    /// Publishes a client's message in the mesh. Waits while the mesh is busy, but not for ever.
    pub(super) async fn publish(
        &self,
        subject: &Subject,
        reply: Option<&str>,
        block: &[u8],
        payload: &[u8],
        is_plain: bool,
    ) {
        let span = match headers::field(block, "traceparent") {
            Some(parent) => {
                let span = tracing::info_span!("publish", subject = subject.as_str(), trace_id = tracing::field::Empty);
                trace::continue_from(&span, Some(parent), headers::field(block, "tracestate"));
                span
            }
            None => tracing::Span::none(),
        };
        let give_up = tokio::time::Instant::now() + MESH_PATIENCE;
        loop {
            let options = headers::to_mesh(block, reply, is_plain);
            let sent = self
                .messages
                .publish(subject, payload.to_vec(), options)
                .instrument(span.clone());
            match sent.await {
                Ok(_) => return,
                Err(PublishError::Busy(_)) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(MESH_PAUSE).await;
                }
                Err(error) => {
                    self.metrics.dropped.inc("nats_mesh", "refused");
                    tracing::debug!(%error, subject = subject.as_str(), "a NATS client's message did not leave this node");
                    return;
                }
            }
        }
    }

    /// Sends an answer where its subject leads: to this node's clients, to a call, or to the node that asked.
    pub(super) async fn answer(&self, subject: &str, headers: &[u8], payload: &[u8]) {
        let Some((peer, id)) = replies::parse(subject) else {
            self.deliver_answer(subject, headers, payload);
            return;
        };
        if peer == self.mesh.local_peer() {
            self.take_reply(&id, headers, payload);
            return;
        }
        let item = NatsItem::Reply {
            id,
            headers: headers.to_vec(),
            payload: payload.to_vec(),
        };
        self.peers.send(peer, item).await;
    }

    /// An answer to what this node asked. How many subscriptions it reached.
    pub(super) fn take_reply(&self, id: &replies::ReplyId, headers: &[u8], payload: &[u8]) -> u32 {
        match self.replies.find(id) {
            Some(Found::Subject(subject)) => self.deliver_answer(&subject, headers, payload),
            Some(Found::Call(call)) => u32::from(call.send((headers.to_vec(), payload.to_vec())).is_ok()),
            None => {
                self.metrics.dropped.inc("nats_replies", "unknown");
                0
            }
        }
    }

    /// Hands an answer to the clients that wait for it.
    pub(super) fn deliver_answer(&self, subject: &str, headers: &[u8], payload: &[u8]) -> u32 {
        let message = Outgoing {
            subject,
            reply: None,
            headers,
            payload,
        };
        self.deliver(
            &self.router.matching(subject),
            &message,
            Scope::ALL,
            &mut Touched::default(),
        )
    }

    /// What another node's door sent.
    pub(super) fn take_item(&self, from: PeerId, item: &NatsItem) -> u32 {
        match item {
            NatsItem::Reply { id, headers, payload } => self.take_reply(id, headers, payload),
            NatsItem::Deliver {
                subject,
                reply,
                group,
                headers,
                payload,
            } => {
                let message = Outgoing {
                    subject: subject.as_str(),
                    reply: reply.as_ref().map(Subject::as_str),
                    headers,
                    payload,
                };
                let scope = Scope {
                    plain: group.is_none(),
                    only: group.as_deref(),
                    ..Scope::ALL
                };
                tracing::trace!(peer = %from, subject = subject.as_str(), "from another NATS door");
                self.deliver(
                    &self.router.matching(subject.as_str()),
                    &message,
                    scope,
                    &mut Touched::default(),
                )
            }
        }
    }

    /// Begins to take in what comes from the mesh, unless that is so already.
    fn listen(self: &Arc<Self>) {
        if self.is_listening.load(Ordering::Acquire) {
            return;
        }
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(all) = ALL.parse() else { return };
        if !*listening {
            *listening = true;
            let subscription = self.messages.subscribe(all, None);
            self.is_listening.store(true, Ordering::Release);
            let this = Arc::clone(self);
            self.tasks
                .spawn("nats-mesh", async move { this.follow(subscription).await });
        }
    }

    /// Takes in what comes, until nobody listens any more.
    async fn follow(self: Arc<Self>, mut subscription: Subscription) {
        let mut cache = HashMap::new();
        loop {
            let delivery = tokio::time::timeout(LOOK, subscription.next()).await;
            let mut touched = Touched::default();
            match delivery {
                Ok(Some(delivery)) => self.take_in(delivery, &mut cache, &mut touched),
                Ok(None) => return,
                Err(_) => {
                    let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
                    if self.interests.is_empty() {
                        *listening = false;
                        self.is_listening.store(false, Ordering::Release);
                        return;
                    }
                }
            }
            for _ in 0..BURST {
                match subscription.next().now_or_never() {
                    Some(Some(delivery)) => self.take_in(delivery, &mut cache, &mut touched),
                    _ => break,
                }
            }
        }
    }

    fn take_in(&self, delivery: Delivery, cache: &mut MatchCache, touched: &mut Touched) {
        match delivery {
            Delivery::Message(received) => self.take_message(&received, cache, touched),
            Delivery::Dropped(count) => {
                self.metrics.dropped.add("nats_mesh", "slow", count);
                tracing::warn!(
                    count,
                    "messages of the mesh were lost to NATS clients: they came faster than they were read"
                );
            }
            Delivery::Gap { publisher, first, last } => {
                self.metrics.dropped.add("nats_mesh", "gap", last - first + 1);
                tracing::warn!(%publisher, first, last, "messages of the mesh were lost to NATS clients: no member has them any more");
            }
        }
    }

    fn take_message(&self, received: &Received, cache: &mut MatchCache, touched: &mut Touched) {
        let subject = received.subject().as_str();
        let came = headers::from_mesh(received);
        // This door's own messages went to its clients when they were published.
        if came.from_door && received.publisher() == self.mesh.local_peer() {
            return;
        }
        let generation = self.router.generation();
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        let known = cache.get(subject).filter(|(of, _)| *of == generation);
        let matched = match known {
            Some((_, matched)) => Arc::clone(matched),
            None => {
                let matched = Arc::new(self.router.matching(subject));
                cache.insert(subject.into(), (generation, Arc::clone(&matched)));
                matched
            }
        };
        let outgoing = Outgoing {
            subject,
            reply: came.reply.as_deref(),
            headers: &came.headers,
            payload: received.data(),
        };
        let scope = Scope {
            groups: !came.is_plain,
            ..Scope::ALL
        };
        self.deliver(&matched, &outgoing, scope, touched);
    }
}

/// What subjects selected, and in which generation.
type MatchCache = HashMap<Box<str>, (u64, Arc<Matched>)>;
/// Subjects of which it is remembered.
const CACHE_MAX: usize = 1024;
