//! What the handle and the tasks share: subscribers, the order of lines, the frames kept for others.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::metrics::counter::Counter;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use weft_protocol::{
    CapabilityToken, MeshId, Pattern, PeerId, Subject, Verb, Wire as _,
    limits::CLOCK_SKEW_MS_MAX,
    patterns::presence::EPOCH_MAX,
    patterns::pub_sub::{
        self, Attributes, DIRECT, Frame, Line, SHARDS,
        hop::Trace,
        interest::{Interest, Wanted},
        repair::{Digest, Head},
    },
};

use super::{
    cache::{Bytes, Facts, FrameCache, Kept},
    digest::Digests,
    handle::{Delivery, Subscription},
    hops::Hops,
    interest::{Audience, Interests},
    order::{Arrived, Freshness, Orders, Step, Want},
    parts::{Parts, permitted},
    pick,
    queue::{Sink, queue},
    received::{Received, Run, stretches},
    retained::{self, Retained},
    subscribers::{HELD_BYTES_MAX, Offered, SUBSCRIBER_QUEUE_MAX, Subscribers, Takes},
    taken::Taken,
    window::ReplayWindow,
};
use crate::{
    mesh::{Mesh, Noted, Validation},
    platform::{Clock, Entropy, Sharing, random, share},
    telemetry::metrics::{Dropped, Metrics},
};

/// Subscriptions at once that the local API gives.
pub(super) const SUBSCRIPTIONS_MAX: usize = 16_384;

pub(super) struct State {
    pub(super) subscribers: Subscribers,
    orders: Orders<Parts>,
    /// What was taken in of what each member hands over directly.
    pub(super) direct: BTreeMap<PeerId, Taken>,
    pub(super) window: ReplayWindow,
    /// Frames of others, and of this node.
    pub(super) cache: [FrameCache; 2],
    digests: Digests,
    pub(super) retained: Retained,
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
    /// Changes with every subscription that comes or goes.
    wanted_version: AtomicU64,
    /// Lines went on.
    pub(super) progress: watch::Sender<u64>,
    pub(super) published: Counter,
    pub(super) received: Counter,
    delivered: Counter,
    pub(super) repaired: Counter,
    gaps: Counter,
    pub(super) dropped: Dropped,
    pub(super) hops: Hops,
    /// Retained values are to be written down.
    pub(super) retained_changed: Notify,
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
    pub(super) orders: Orders<Parts>,
    pub(super) differing: mpsc::Sender<PeerId>,
    pub(super) hops: Hops,
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
            hops,
        } = parts;
        let digests = Digests::new(clock.now_unix_ms());
        let state = State {
            subscribers: Subscribers::default(),
            orders,
            direct: BTreeMap::new(),
            window: ReplayWindow::default(),
            cache: Default::default(),
            digests,
            retained: Retained::default(),
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
            wanted_version: AtomicU64::new(0),
            progress: watch::Sender::new(0),
            published: subsystem.counter("published", "Messages published by this node"),
            received: subsystem.counter("received", "Messages of other nodes that were found good"),
            delivered: subsystem.counter("delivered", "Messages handed to subscribers of this node"),
            repaired: subsystem.counter("repaired", "Frames that gossip did not bring and that were fetched"),
            gaps: subsystem.counter("gaps", "Messages of other nodes that could not be had any more"),
            dropped,
            hops,
            retained_changed: Notify::new(),
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
        self.subscribe_as(Wanted::plain(pattern, self.clock.now_unix_ms()), resume)
    }

    pub(super) fn subscribe_as(self: &Arc<Self>, wanted: Wanted, resume: Option<&str>) -> Subscription {
        let mut state = self.lock();
        let (missed, lost) = match resume.map(|cursor| self.position(cursor)) {
            Some(Some(number)) => state.window.after(number, &wanted.pattern, self.mesh_id()),
            // A cursor of an earlier run: how much was missed cannot be known.
            Some(None) => (Vec::new(), 1),
            None => (Vec::new(), 0),
        };
        let messages: usize = missed.iter().map(|run| run.len()).sum();
        let (sink, reader) = queue(SUBSCRIBER_QUEUE_MAX.max(messages + 1));
        if lost > 0 {
            sink.put(Delivery::Dropped(lost), lost);
        }
        for run in &missed {
            sink.put_run(run, 0, run.len(), usize::MAX);
        }
        let id = state.subscribers.insert(wanted, sink);
        self.note_wanted();
        Subscription {
            id,
            reader,
            hub: Arc::clone(self),
            past: None,
            pace: None,
        }
    }

    fn note_wanted(&self) {
        self.wanted_version.fetch_add(1, Ordering::Relaxed);
        self.wanted.notify_one();
    }

    pub(super) fn subscriptions(&self) -> usize {
        self.lock().subscribers.len()
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        self.lock().subscribers.remove(id);
        self.note_wanted();
    }

    /// Hands this node's subscribers, and nobody else, what a member left to be said when it is gone. It has a place of its own: a run of that
    /// member that is beyond those in which it publishes, which are times, and a number in it.
    pub(super) fn hand_here(
        &self,
        publisher: PeerId,
        (epoch, number): (u64, u64),
        attributes: Attributes,
        data: &[u8],
    ) {
        let shard = attributes.subject.shard(SHARDS);
        let frame = Frame {
            epoch: EPOCH_MAX | epoch,
            shard,
            first_seq: number.saturating_add(1),
            before_ms: 0,
            runs: vec![pub_sub::Run {
                attributes: Cow::Owned(attributes),
                data: vec![data],
            }],
        };
        let Some(line) = Line::new(&publisher, frame.epoch, shard) else {
            return;
        };
        let bytes = frame.to_bytes();
        let Ok(frame) = Frame::read(&bytes) else { return };
        if !self.may_publish(&publisher, &frame) {
            self.dropped.add("publication", "denied", 1);
            return;
        }
        let (facts, stretches) = (Facts::of(&frame), stretches(frame, &bytes));
        let kept = Kept::new(line, &facts, Arc::new(bytes.into()));
        let is_welcome = permitted(|subject: &Subject, tokens: &[CapabilityToken]| {
            self.mesh
                .trust()
                .check(&publisher, Verb::Publish, subject, tokens)
                .allowed
        });
        self.deliver(&mut self.lock(), Parts::new(kept, stretches, is_welcome));
    }

    /// Nothing more comes: who reads has what waits, and then the end.
    pub(super) fn close(&self) {
        self.lock().subscribers.close();
    }

    /// How many subscriptions of this node a subject selects.
    pub(super) fn subscribed_to(&self, subject: &Subject) -> usize {
        self.lock()
            .subscribers
            .wanted()
            .filter(|w| w.pattern.matches(subject))
            .count()
    }

    /// What the subscribers of this node want.
    pub(super) fn interest(&self) -> Interest {
        Interest::covering(self.lock().subscribers.wanted())
    }

    /// Changes with what anybody is known to want.
    pub(super) fn wanted_version(&self) -> (u64, u64) {
        let own = self.wanted_version.load(Ordering::Relaxed);
        (own, Interests::version(self.mesh.trust()))
    }

    /// Who wants a subject, and in which way.
    pub(super) fn audience(&self, subject: &Subject) -> Audience {
        self.interests.audience(self.mesh.trust(), &self.interest(), subject)
    }

    /// The members that want a subject, this node among them.
    pub(super) fn interested(&self, subject: &Subject) -> Vec<PeerId> {
        let mut wanting = self.interests.of(self.mesh.trust(), subject);
        if self.lock().subscribers.wanted().any(|w| w.pattern.matches(subject)) {
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
    pub(super) fn went_out(&self, frame: &Frame<'_>, data: &[u8], gossip_seq: u64) {
        let Some(line) = self.own_line(frame.shard) else { return };
        self.published.inc_by(frame.len() as u64);
        let kept = Kept::new(line, &Facts::of(frame), self.shared(data)).gossiped(gossip_seq, None);
        if let Some(parts) = Parts::own(kept) {
            self.take(parts, frame.before_ms);
        }
    }

    /// Judges a frame of another node, and delivers what is in it here.
    pub(super) fn take_in(&self, source: PeerId, from: PeerId, data: &[u8], signed: (u64, &[u8])) -> Validation {
        let Ok(frame) = Frame::read(data) else {
            return Validation::Reject;
        };
        if frame.shard >= DIRECT {
            return Validation::Reject;
        }
        let Some(line) = Line::new(&source, frame.epoch, frame.shard) else {
            return Validation::Ignore;
        };
        if !self.may_publish(&source, &frame) {
            return Validation::Ignore;
        }
        let trust = self.mesh.trust();
        let welcome = permitted(|subject: &Subject, tokens: &[CapabilityToken]| {
            trust.check(&source, Verb::Publish, subject, tokens).allowed
        });
        let (count, before_ms) = (frame.len() as u64, frame.before_ms);
        let kept = Kept::new(line, &Facts::of(&frame), self.shared(data))
            .gossiped(signed.0, Some(self.shared(signed.1)))
            .handed_by(&from);
        match self.take(Parts::new(kept, stretches(frame, data), welcome), before_ms) {
            Freshness::Fresh => {
                self.received.inc_by(count);
                Validation::Accept
            }
            Freshness::Stale | Freshness::Old => Validation::Ignore,
        }
    }

    pub(super) fn may_publish(&self, source: &PeerId, frame: &Frame<'_>) -> bool {
        let trust = self.mesh.trust();
        let may = |subject: &Subject, tokens: &[CapabilityToken]| trust.may_publish(source, subject, tokens).allowed;
        let mut may = permitted(may);
        let all = frame.runs.iter().all(|run| may(&run.attributes));
        if !all {
            tracing::info!(peer = %source, shard = frame.shard, "publications were denied");
        }
        all
    }

    pub(super) fn received(&self) -> u64 {
        self.received.get()
    }

    /// The subscribers that may not have room for what comes next, and are worth waiting for.
    pub(super) fn take_tight(&self) -> Vec<(u64, Sink)> {
        self.lock().subscribers.take_tight()
    }

    /// This subscriber was waited for long enough.
    pub(super) fn give_up_on(&self, id: u64) {
        self.lock().subscribers.give_up_on(id);
    }

    /// Whether the messages that wait for subscribers are so many bytes that some may be dropped.
    pub(super) fn is_heavy(&self) -> bool {
        self.lock().window.held_bytes() > HELD_BYTES_MAX / 4 * 3
    }

    fn take(&self, parts: Parts, before_ms: u64) -> Freshness {
        let now = Instant::now();
        let kept = Arc::clone(&parts.kept);
        let line = *kept.line();
        let carries = !parts.stretches.is_empty();
        let to_retain = retained::candidates(&parts);
        let arrived = Arrived {
            line,
            first_seq: kept.first_seq(),
            before_ms,
            bytes: kept.data.len(),
            items: parts,
            from: kept.from(),
        };
        let mut steps = Vec::new();
        let mut state = self.lock();
        let freshness = state.orders.take(arrived, now, &mut steps);
        if carries && freshness == Freshness::Fresh {
            let own = usize::from(line.publisher() == self.mesh.local_peer());
            if state.cache[own].insert(Arc::clone(&kept), now) {
                let seqs = (kept.first_seq(), kept.last_seq);
                let now_ms = self.clock.now_unix_ms();
                state.digests.add(&line, seqs, kept.made_ms, now_ms);
            }
            if !to_retain.is_empty() {
                let latest_ms = self.clock.now_unix_ms() + CLOCK_SKEW_MS_MAX;
                if state
                    .retained
                    .take(&kept, to_retain, latest_ms, &self.mesh.local_peer())
                {
                    self.retained_changed.notify_one();
                }
            }
        }
        let went_on = self.perform(&mut state, steps);
        drop(state);
        self.note_progress(went_on);
        self.lacks.notify_one();
        freshness
    }

    /// What is missing now. What was missing for too long is told to the subscribers.
    pub(super) fn due(&self) -> (Vec<Want>, Option<Instant>) {
        let mut state = self.lock();
        let mut steps = Vec::new();
        let wants = state.orders.due(Instant::now(), &mut steps);
        let went_on = self.perform(&mut state, steps);
        let next_due = state.orders.next_due();
        drop(state);
        self.note_progress(went_on);
        (wants, next_due)
    }

    /// Whether lines went on; then [`Hub::note_progress`].
    fn perform(&self, state: &mut State, steps: Vec<Step<Parts>>) -> bool {
        let went_on = !steps.is_empty();
        for step in steps {
            match step {
                Step::Run { items, .. } => self.deliver(state, items),
                Step::Gap {
                    line,
                    first_seq,
                    last_seq,
                } => self.tell_gap(state, line.shard, line.publisher(), (first_seq, last_seq)),
            }
        }
        went_on
    }

    /// Not under the lock: who waits for progress looks at the state while it holds the channel's own.
    fn note_progress(&self, went_on: bool) {
        if went_on {
            self.progress.send_modify(|n| *n += 1);
        }
    }

    pub(super) fn deliver(&self, state: &mut State, parts: Parts) {
        let (mut source, mut offered) = (None, Offered::default());
        for (stretch, is_welcome) in parts.stretches {
            if !is_welcome {
                self.dropped.add("publication", "denied", stretch.len() as u64);
                continue;
            }
            if let Some(trace) = Trace::of(&stretch.attributes) {
                let source = state.window.source(&parts.kept, self.mesh_id());
                self.note_hop(state, trace, Run::new(source, stretch.clone(), 0));
                if trace.is_only {
                    continue;
                }
            }
            let count = stretch.len() as u32;
            let first_number = state.window.note(&parts.kept, stretch.first_index(), count);
            let Some(matched) = state.subscribers.matched(&stretch.attributes.subject) else {
                continue;
            };
            let source = source.get_or_insert_with(|| state.window.source(&parts.kept, self.mesh_id()));
            let run = Run::new(Arc::clone(source), stretch, first_number);
            let held_bytes = state.window.held_bytes();
            offered += state.subscribers.deliver(&matched, &run, held_bytes, self);
        }
        self.count(offered);
    }

    /// A traced message was taken in. Who traces more than one at once is told of the first.
    fn note_hop(&self, state: &mut State, trace: Trace, run: Arc<Run>) {
        let Some(received) = run.get(0) else { return };
        let matched = state.subscribers.matched(received.subject());
        let subscriptions = matched.map_or(0, |matched| matched.len());
        self.hops.note(trace, received, self.clock.now_unix_ms(), subscriptions);
    }

    pub(super) fn count(&self, offered: Offered) {
        self.delivered.inc_by(offered.delivered);
        if offered.dropped > 0 {
            self.dropped.add("subscriber", "slow", offered.dropped);
        }
    }

    pub(super) fn tell_gap(&self, state: &mut State, shard: u16, publisher: PeerId, (first, last): (u64, u64)) {
        self.gaps.inc_by(last - first + 1);
        tracing::warn!(%publisher, shard, first, last, "messages are lost: nobody has them any more");
        let offered = state.subscribers.tell_gap(shard, publisher, first, last);
        self.count(offered);
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

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Takes for Hub {
    fn local(&self) -> PeerId {
        self.mesh.local_peer()
    }

    fn settles(&self, received: &Received, group: &str) -> bool {
        let local = self.local();
        let mut members = self.interests.group(self.mesh.trust(), received.subject(), group);
        members.push(local);
        members.sort_unstable();
        members.dedup();
        let key = format!("{}/{}", received.publisher(), received.id());
        members.get(pick::spread(&key, members.iter().map(|peer| peer.to_bytes()))) == Some(&local)
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
