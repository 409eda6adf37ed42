//! What the handle and the tasks share: subscribers, the order of lines, the frames kept for others.

use std::sync::{Arc, Mutex, MutexGuard};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use weft_protocol::{
    CapabilityToken, MeshId, Pattern, PeerId, Shards, Subject, Verb, Wire as _,
    patterns::pub_sub::{
        Frame, Line, Publication, SHARDS,
        interest::Interest,
        repair::{Digest, Head},
    },
};

use super::{
    cache::{Bytes, FrameCache, Kept},
    core::{Numbered, Origin, ReplayWindow, matches},
    digest::Digests,
    handle::{Delivery, Subscription},
    interest::Interests,
    order::{Arrived, Freshness, Orders, Step, Want},
};
use crate::{
    mesh::{Mesh, Noted, Validation},
    platform::{Clock, Entropy, Sharing, random, share},
    telemetry::metrics::{Dropped, Metrics},
};

/// Messages waiting for one subscriber; beyond it they are dropped for this one, and counted.
const SUBSCRIBER_QUEUE_MAX: usize = 1024;
/// Bytes of messages that wait for subscribers, and of those kept for who comes back. Beyond it only who has nothing waiting
/// gets more, and beyond twice as many nobody.
const HELD_BYTES_MAX: usize = 32 << 20;
/// Subscriptions at once that the local API gives.
pub(super) const SUBSCRIPTIONS_MAX: usize = 16_384;

struct Subscriber {
    id: u64,
    pattern: Pattern,
    sink: mpsc::Sender<Delivery>,
    dropped: u64,
}

/// A publication on its way to subscribers.
#[derive(Debug)]
pub(super) struct Item {
    publication: Publication,
    /// The frame it is in, and at which place.
    kept: Arc<Kept>,
    index: usize,
    /// Whether its publisher may publish it here.
    is_welcome: bool,
}

pub(super) struct State {
    subscribers: Vec<Subscriber>,
    orders: Orders<Item>,
    window: ReplayWindow,
    /// Frames of others, and of this node.
    cache: [FrameCache; 2],
    digests: Digests,
    next_id: u64,
}

/// See the module.
pub(super) struct Hub {
    pub(super) mesh: Mesh,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) sharing: Arc<dyn Sharing>,
    /// Tells this run's messages and cursors from an earlier run's.
    pub(super) epoch: u64,
    state: Mutex<State>,
    /// Something may be missing.
    pub(super) lacks: Notify,
    /// Members that have other frames than this node.
    differing: mpsc::Sender<PeerId>,
    /// Subscriptions came or went.
    pub(super) wanted: Notify,
    pub(super) interests: Interests,
    /// Lines went on.
    pub(super) progress: watch::Sender<u64>,
    published: Counter,
    received: Counter,
    delivered: Counter,
    pub(super) repaired: Counter,
    gaps: Counter,
    pub(super) dropped: Dropped,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("subscribers", &self.lock().subscribers.len())
            .finish()
    }
}

/// What a hub is made of.
pub(super) struct HubParts {
    pub(super) mesh: Mesh,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) sharing: Arc<dyn Sharing>,
    pub(super) epoch: u64,
    pub(super) orders: Orders<Item>,
    pub(super) differing: mpsc::Sender<PeerId>,
}

impl Hub {
    pub(super) fn new(parts: HubParts, metrics: &Metrics) -> Self {
        let HubParts {
            mesh,
            clock,
            entropy,
            sharing,
            epoch,
            orders,
            differing,
        } = parts;
        let digests = Digests::new(clock.now_unix_ms());
        let state = State {
            subscribers: Vec::new(),
            orders,
            window: ReplayWindow::default(),
            cache: Default::default(),
            digests,
            next_id: 0,
        };
        let dropped = metrics.dropped().clone();
        metrics.subsystem("pub_sub", |subsystem| Hub {
            mesh,
            clock,
            entropy,
            sharing,
            epoch,
            state: Mutex::new(state),
            lacks: Notify::new(),
            differing,
            wanted: Notify::new(),
            interests: Interests::default(),
            progress: watch::Sender::new(0),
            published: subsystem.counter("published", "Messages published by this node"),
            received: subsystem.counter("received", "Messages of other nodes that were found good"),
            delivered: subsystem.counter("delivered", "Messages handed to subscribers of this node"),
            repaired: subsystem.counter("repaired", "Frames that gossip did not bring and that were fetched"),
            gaps: subsystem.counter("gaps", "Messages of other nodes that could not be had any more"),
            dropped,
        })
    }

    /// A random part of a time.
    pub(super) fn jitter(&self, most: std::time::Duration) -> std::time::Duration {
        let dice = u32::from_be_bytes(random(&*self.entropy));
        most.mul_f64(f64::from(dice) / f64::from(u32::MAX))
    }

    pub(super) fn own_line(&self, shard: u16) -> Option<Line> {
        Line::new(&self.mesh.local_peer(), self.epoch, shard)
    }

    /// Bytes as they are kept.
    pub(super) fn shared(&self, bytes: &[u8]) -> Bytes {
        share(&*self.sharing, bytes.into())
    }

    /// The mesh this node belongs to.
    pub(super) fn mesh_id(&self) -> Option<MeshId> {
        self.mesh.trust().mesh().map(|mesh| mesh.id)
    }

    pub(super) fn subscribe(self: &Arc<Self>, pattern: Pattern, resume: Option<&str>) -> Subscription {
        let mut state = self.lock();
        let (missed, lost) = match resume.map(|cursor| self.position(cursor)) {
            Some(Some(number)) => state.window.after(number, &pattern, |publisher| self.source(publisher)),
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
        self.wanted.notify_one();
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
        self.wanted.notify_one();
    }

    /// What the subscribers of this node want.
    pub(super) fn interest(&self) -> Interest {
        Interest::covering(self.lock().subscribers.iter().map(|s| &s.pattern))
    }

    /// The members that want a subject, this node among them.
    pub(super) fn interested(&self, subject: &Subject) -> Vec<PeerId> {
        let mut wanting = self.interests.of(self.mesh.trust(), subject);
        if self.lock().subscribers.iter().any(|s| s.pattern.matches(subject)) {
            wanting.push(self.mesh.local_peer());
        }
        wanting
    }

    pub(super) fn cursor(&self, number: u64) -> String {
        format!("{:x}-{number}", self.epoch)
    }

    fn position(&self, cursor: &str) -> Option<u64> {
        let (epoch, number) = cursor.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        (u64::from_str_radix(epoch, 16).ok()? == self.epoch).then_some(number)
    }

    /// A frame of this node's own has gone out: keeps it, and hands it to the subscribers here.
    pub(super) fn went_out(&self, frame: Frame, kept: Kept) {
        let Some(line) = self.own_line(frame.shard) else { return };
        self.published.inc_by(frame.publications.len() as u64);
        self.take(line, self.mesh.local_peer(), frame, kept, |_| true);
    }

    /// Judges a frame of another node, and delivers what is in it here.
    pub(super) fn take_in(&self, source: PeerId, from: PeerId, data: &[u8], signed: (u64, &[u8])) -> Validation {
        let Ok(frame) = Frame::from_bytes(data) else {
            return Validation::Reject;
        };
        let Some(line) = Line::new(&source, frame.epoch, frame.shard) else {
            return Validation::Ignore;
        };
        let trust = self.mesh.trust();
        let may = |subject: &Subject, tokens: &[CapabilityToken]| trust.may_publish(&source, subject, tokens).allowed;
        if !frame.publications.iter().all(permitted(may)) {
            tracing::info!(peer = %source, shard = frame.shard, "publications were denied");
            return Validation::Ignore;
        }
        let welcome = permitted(|subject: &Subject, tokens: &[CapabilityToken]| {
            trust.check(&source, Verb::Publish, subject, tokens).allowed
        });
        let (count, kept) = (
            frame.publications.len() as u64,
            Kept::new(self.shared(data), (signed.0, self.shared(signed.1))),
        );
        match self.take(line, from, frame, kept, welcome) {
            Freshness::Fresh => {
                self.received.inc_by(count);
                Validation::Accept
            }
            Freshness::Stale | Freshness::Old => Validation::Ignore,
        }
    }

    fn take(
        &self,
        line: Line,
        from: PeerId,
        frame: Frame,
        kept: Kept,
        mut is_welcome: impl FnMut(&Publication) -> bool,
    ) -> Freshness {
        let now = Instant::now();
        let seqs = (frame.first_seq, frame.last_seq());
        let made_ms = frame.publications.last().and_then(|p| p.message.time_ms).unwrap_or(0);
        let kept = Arc::new(kept);
        let item = |(index, publication): (usize, Publication)| Item {
            is_welcome: is_welcome(&publication),
            publication,
            kept: Arc::clone(&kept),
            index,
        };
        let arrived = Arrived {
            line,
            first_seq: frame.first_seq,
            before_ms: frame.before_ms,
            bytes: kept.data.len(),
            items: frame.publications.into_iter().enumerate().map(item).collect(),
            from,
        };
        let carries = !arrived.items.is_empty();
        let mut steps = Vec::new();
        let mut state = self.lock();
        let freshness = state.orders.take(arrived, now, &mut steps);
        if carries && freshness == Freshness::Fresh {
            let own = usize::from(line.publisher() == self.mesh.local_peer());
            if state.cache[own].insert(line, seqs, made_ms, kept, now) {
                state.digests.add(&line, seqs, made_ms, self.clock.now_unix_ms());
            }
        }
        self.perform(&mut state, steps);
        drop(state);
        self.lacks.notify_one();
        freshness
    }

    /// What is missing now. What was missing for too long is told to the subscribers.
    pub(super) fn due(&self) -> (Vec<Want>, Option<Instant>) {
        let mut state = self.lock();
        let mut steps = Vec::new();
        let wants = state.orders.due(Instant::now(), &mut steps);
        self.perform(&mut state, steps);
        (wants, state.orders.next_due())
    }

    fn perform(&self, state: &mut State, steps: Vec<Step<Item>>) {
        if steps.is_empty() {
            return;
        }
        for step in steps {
            match step {
                Step::Run {
                    line,
                    first_seq,
                    items,
                    from,
                } => self.deliver_run(state, &line, first_seq, items, from),
                Step::Gap {
                    line,
                    first_seq,
                    last_seq,
                } => self.deliver_gap(state, &line, first_seq, last_seq),
            }
        }
        self.progress.send_modify(|n| *n += 1);
    }

    /// How the messages of a publisher name where they come from.
    fn source(&self, publisher: &PeerId) -> String {
        match self.mesh_id() {
            Some(mesh) => format!("mesh://{mesh}/{publisher}"),
            None => format!("mesh:///{publisher}"),
        }
    }

    fn deliver_run(&self, state: &mut State, line: &Line, first_seq: u64, items: Vec<Item>, from: PeerId) {
        let mut source = None;
        for (item, sequence) in items.into_iter().zip(first_seq..) {
            if !item.is_welcome {
                self.dropped.inc("publication", "denied");
                continue;
            }
            let Item {
                publication,
                kept,
                index,
                ..
            } = item;
            let origin = Origin {
                line: *line,
                from,
                kept,
                index,
            };
            let number = state.window.note(origin);
            if !state.subscribers.iter().any(|s| matches(&s.pattern, &publication)) {
                continue;
            }
            let numbered = Numbered {
                number,
                sequence,
                publication,
            };
            let source = source.get_or_insert_with(|| self.source(&line.publisher()));
            let received = state.window.receive(numbered, line, from, source);
            let held_bytes = state.window.held_bytes();
            for subscriber in &mut state.subscribers {
                if matches(&subscriber.pattern, &received.publication) {
                    self.offer(subscriber, Delivery::Message(Arc::clone(&received)), held_bytes);
                }
            }
        }
    }

    fn deliver_gap(&self, state: &mut State, line: &Line, first: u64, last: u64) {
        let publisher = line.publisher();
        self.gaps.inc_by(last - first + 1);
        tracing::warn!(%publisher, shard = line.shard, first, last, "messages are lost: nobody has them any more");
        for subscriber in &mut state.subscribers {
            if matches!(subscriber.pattern.shards(SHARDS), Shards::One(shard) if shard != line.shard) {
                continue;
            }
            self.offer(subscriber, Delivery::Gap { publisher, first, last }, 0);
        }
    }

    fn offer(&self, subscriber: &mut Subscriber, delivery: Delivery, held_bytes: usize) {
        let has_room = match held_bytes {
            0..HELD_BYTES_MAX => true,
            _ if held_bytes < HELD_BYTES_MAX * 2 => subscriber.sink.capacity() == subscriber.sink.max_capacity(),
            _ => false,
        };
        let (is_message, weight) = match &delivery {
            Delivery::Gap { first, last, .. } => (false, last - first + 1),
            _ => (true, 1),
        };
        // It hears of its loss before it hears anything else.
        let loss = (subscriber.dropped > 0).then_some(Delivery::Dropped(subscriber.dropped));
        let told = has_room && loss.is_none_or(|loss| subscriber.sink.try_send(loss).is_ok());
        if told {
            subscriber.dropped = 0;
        }
        if !told || subscriber.sink.try_send(delivery).is_err() {
            subscriber.dropped += weight;
            self.dropped.add("subscriber", "slow", weight);
        } else if is_message {
            self.delivered.inc();
        }
    }

    /// How far the lines were followed that changed lately.
    pub(super) fn heads(&self, most: usize) -> (u64, Vec<Head>) {
        let state = self.lock();
        let head = |(line, last_seq)| Head {
            line,
            last_seq,
            first_seq: 0,
        };
        let heads = state.orders.heads(Instant::now(), most).into_iter().map(head);
        (state.orders.since_ms(), heads.collect())
    }

    /// How far this node has followed the lines beyond what a member says, who follows since a time.
    pub(super) fn heads_beyond(&self, theirs: &[Head], since_ms: u64, most: usize) -> Vec<Head> {
        let theirs: std::collections::BTreeMap<Line, u64> = theirs.iter().map(|h| (h.line, h.last_seq)).collect();
        let state = self.lock();
        let ours = state.orders.heads(Instant::now(), most);
        let beyond = ours
            .into_iter()
            .filter(|(line, last)| theirs.get(line).is_none_or(|theirs| theirs < last));
        let first = |line: Line, last: u64| {
            let kept = state.cache.iter().find_map(|cache| cache.first_since(line, since_ms));
            kept.unwrap_or(last + 1)
        };
        beyond
            .map(|(line, last_seq)| Head {
                line,
                last_seq,
                first_seq: first(line, last_seq),
            })
            .collect()
    }

    /// What is to be fetched from who has followed so far: the first number.
    pub(super) fn behind(&self, head: &Head) -> Option<u64> {
        if head.line.publisher() == self.mesh.local_peer() {
            return None;
        }
        self.lock().orders.behind(head)
    }

    pub(super) fn followed(&self, line: &Line) -> Option<u64> {
        self.lock().orders.followed(line)
    }

    /// Frames kept here that hold any of these publications.
    pub(super) fn kept(&self, line: Line, seqs: (u64, u64), most: usize, bytes_max: usize) -> Vec<Arc<Kept>> {
        let own = usize::from(line.publisher() == self.mesh.local_peer());
        let mut state = self.lock();
        state.cache[own].trim(Instant::now());
        state.cache[own].range(line, seqs.0, seqs.1, most, bytes_max)
    }

    /// The lines whose position changed since the last call.
    pub(super) fn take_dirty(&self) -> Vec<(Line, Option<u64>)> {
        self.lock().orders.take_dirty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Noted for Hub {
    fn note(&self) -> Vec<u8> {
        self.lock().digests.digest(self.clock.now_unix_ms()).to_bytes()
    }

    fn heard(&self, peer: &PeerId, note: &[u8]) {
        if Digest::from_bytes(note).is_ok_and(|theirs| self.lock().digests.differs(&theirs)) {
            // When many differ, the others say so again with their next probe.
            let _ = self.differing.try_send(*peer);
        }
    }
}

/// A judge of publications that asks once for those in a row that have one subject and show no capability.
fn permitted(ask: impl Fn(&Subject, &[CapabilityToken]) -> bool) -> impl FnMut(&Publication) -> bool {
    let mut last: Option<(Subject, bool)> = None;
    move |publication| {
        let Ok(subject) = publication.subject() else {
            return false;
        };
        if let Some((known, answer)) = &last
            && known == subject
            && publication.capability.is_empty()
        {
            return *answer;
        }
        let tokens = publication.capability.iter();
        let tokens: Vec<CapabilityToken> = tokens.filter_map(|b| CapabilityToken::from_bytes(b).ok()).collect();
        let answer = ask(subject, &tokens);
        if publication.capability.is_empty() {
            last = Some((subject.clone(), answer));
        }
        answer
    }
}
