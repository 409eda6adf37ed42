//! What applications ask pub/sub.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::time::Instant;
use weft_protocol::{
    Pattern, PeerId, Subject, Verb,
    limits::PUBLISH_BODY_BYTES_MAX,
    patterns::presence::Will,
    patterns::pub_sub::{
        Attributes, DIRECT,
        hop::{TRACE, Trace},
        interest::{Wanted, check_group},
        message_id,
    },
};

pub use super::received::Received;
use super::{
    feeds::Feeds,
    hops::Traced,
    hub::Hub,
    pace::Pace,
    past::{self, Past, Recollection},
    priority::{PRIORITY, Priority},
    publisher::{Outbox, ROOM_PATIENCE, Sending, Sent},
    queue::Reader,
    report::{self, Report, Trail},
    retained::{Keeper, RETAIN, YES, is_retained},
};
use crate::{
    error::{ErrorKind, Kind},
    local::rfc3339,
    mesh::MeshError,
    patterns::cloud_event::{EXPIRY, parse_time},
    platform::random,
    store::StoreError,
    telemetry::trace,
};

/// The extension attribute of a message that is said because who left it is gone.
pub(crate) const IS_WILL: &str = "weftwill";
/// The last millisecond of the year 9999, after which times have no common form.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Why a message could not be published.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// It exceeds a limit, or its subject is malformed.
    #[error("{0}")]
    Invalid(String),
    /// More is published than goes out.
    #[error("{0}")]
    Busy(String),
    /// It went out, but is not retained: it could not be written down.
    #[error("it was published, but cannot be retained: {0}")]
    NotKept(#[from] StoreError),
    /// The node is stopping, or belongs to no mesh yet.
    #[error("this node is stopping or belongs to no mesh yet")]
    Closed,
}

impl From<MeshError> for PublishError {
    fn from(error: MeshError) -> Self {
        match error {
            MeshError::Busy(detail) => PublishError::Busy(detail),
            MeshError::Invalid(detail) => PublishError::Invalid(detail),
            _ => PublishError::Closed,
        }
    }
}

impl Kind for PublishError {
    fn kind(&self) -> ErrorKind {
        match self {
            PublishError::Invalid(_) => ErrorKind::Invalid,
            PublishError::Busy(_) => ErrorKind::Busy,
            PublishError::NotKept(error) => error.kind(),
            PublishError::Closed => ErrorKind::Closed,
        }
    }
}

/// What goes with a message's data.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// The media type of the data.
    pub content_type: Option<String>,
    /// CloudEvents extensions: lower-case letters and digits.
    pub extensions: Vec<(String, String)>,
    /// How long it is of use: who would be handed it later, by the calendar of its node, is not. The extension `expirytime` says the same
    /// as a time.
    pub expires_in: Option<Duration>,
    /// Whether it overtakes others on its way out.
    pub priority: Priority,
    /// How long room in the queue is waited for when more is published than goes out, before it is refused as `Busy`; 5 s, if not given. Zero:
    /// rather lose it than wait.
    pub wait_for_room: Option<Duration>,
    /// Keep it as the last value of its subject, durably, for those who ask for it later ([`Past::LastOfEach`]), until another one, or an
    /// empty one, takes its place. The extension `weftretain` says the same.
    pub retain: bool,
}

/// What is known once a message is on its way.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The message's id.
    pub id: String,
    /// Its number among this node's messages of its subject's shard, since the node's start.
    pub sequence: u64,
    /// Connected members it was sent towards.
    pub peers: usize,
    /// Whether it went to the members that want it, and not by gossip.
    pub is_direct: bool,
    trail: Trail,
}

/// What a subscriber gets.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// A message.
    Message(Received),
    /// So many were lost because the subscriber was too slow, or away for too long.
    Dropped(u64),
    /// These messages of one publisher could not be had any more, from anybody. They may have been for this subscriber: they
    /// were on subjects that travel with its own.
    Gap {
        /// Who published them.
        publisher: PeerId,
        /// The number of the first one.
        first: u64,
        /// The number of the last one.
        last: u64,
    },
}

/// A message that is about to be sent: see [`PubSubHandle::enqueue`].
#[derive(Debug)]
pub struct Queued {
    sent: Vec<Sending>,
    /// Of what is to be retained.
    keeper: Option<Arc<Keeper>>,
}

impl Queued {
    /// What came of it: waits until it was handed over or refused, and what is retained is durable.
    ///
    /// # Errors
    /// `Busy` when it could not be handed over in time; `NotKept`.
    pub async fn receipt(self) -> Result<Receipt, PublishError> {
        let mut last = Err(PublishError::Closed);
        for sent in self.sent {
            let sent = sent.await.map_err(|_| PublishError::Closed)?;
            last = Ok(sent?);
        }
        let Sent { trail, peers } = last?;
        if let Some(keeper) = self.keeper {
            keeper.write().await?;
        }
        Ok(Receipt {
            id: message_id(&trail.line, trail.seq),
            sequence: trail.seq,
            peers,
            is_direct: trail.line.shard >= DIRECT,
            trail,
        })
    }
}

/// A subscription; it ends on drop.
#[derive(Debug)]
pub struct Subscription {
    pub(super) id: u64,
    pub(super) reader: Reader,
    pub(super) hub: Arc<Hub>,
    /// Of one that wanted what was before.
    pub(super) past: Option<Box<Recollection>>,
    /// Of one that wants at most so much.
    pub(super) pace: Option<(Box<Pace>, Duration)>,
}

impl Subscription {
    /// From now on at most one message of each subject in so long a time; the others of that time are left out, and counted in the metrics.
    /// The first one comes at once. What was before the subscription comes whole.
    pub fn at_most_every(mut self, pause: Duration) -> Self {
        self.pace = Some((Box::default(), pause));
        self
    }

    /// The next delivery; `None` when the node is stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            let (delivery, is_past) = self.next_of_all().await?;
            let Delivery::Message(received) = &delivery else {
                return Some(delivery);
            };
            let pace = self.pace.as_mut().filter(|_| !is_past);
            let left_out = if received.is_expired(self.hub.clock.now_unix_ms()) {
                "expired"
            } else if pace.is_some_and(|(pace, pause)| !pace.lets_through(received.subject(), *pause, Instant::now())) {
                "rate"
            } else {
                return Some(delivery);
            };
            self.hub.dropped.inc("message", left_out);
        }
    }

    /// The next delivery, and whether it was published before the subscription.
    async fn next_of_all(&mut self) -> Option<(Delivery, bool)> {
        loop {
            if let Some(before) = self.past.as_mut().and_then(|past| past.next()) {
                return Some((before, true));
            }
            let delivery = self.reader.next().await?;
            let Some(past) = &mut self.past else {
                return Some((delivery, false));
            };
            let passed = past.pass(delivery);
            if past.is_over() {
                self.past = None;
            }
            if let Some(delivery) = passed {
                return Some((delivery, false));
            }
        }
    }

    /// A delivery, if one is there.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.next().now_or_never().flatten()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self.id);
    }
}

/// A member that this node hands publications to directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectMember {
    /// Who.
    pub peer: PeerId,
    /// Whether there is a stream to it.
    pub is_open: bool,
    /// Whether it was waited for in vain, and loses what it does not take in.
    pub is_slow: bool,
    /// Whether it has not taken in everything yet.
    pub is_behind: bool,
}

/// A cloneable handle on pub/sub.
#[derive(Clone)]
pub struct PubSubHandle {
    pub(super) hub: Arc<Hub>,
    feeds: Arc<Feeds>,
    outbox: Outbox,
    pub(super) keeper: Arc<Keeper>,
    /// When something was published on each subject, by those who publish now and then.
    pace: Arc<Mutex<Pace>>,
}

impl PubSubHandle {
    pub(super) fn new(hub: Arc<Hub>, feeds: Arc<Feeds>, outbox: Outbox, keeper: Arc<Keeper>) -> Self {
        PubSubHandle {
            hub,
            feeds,
            outbox,
            keeper,
            pace: Arc::default(),
        }
    }

    /// Publishes a message, and waits until it was handed over. Messages whose subjects have the same first token arrive
    /// in the order in which they were handed in.
    ///
    /// Not cancel-safe: a cancelled publication may have been sent.
    ///
    /// # Errors
    /// `Invalid`; `Busy` when more is published than goes out; `Closed` when the node belongs to no mesh.
    pub async fn publish(
        &self,
        subject: &Subject,
        data: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<Receipt, PublishError> {
        self.enqueue(subject, data, options).await?.receipt().await
    }

    /// Hands a message in without waiting until it has gone out; waits only for room in the queue. What came of it is told
    /// by the answer, which can be looked at later: many messages share what one costs.
    ///
    /// # Errors
    /// As [`PubSubHandle::publish`].
    pub async fn enqueue(
        &self,
        subject: &Subject,
        data: impl Into<Bytes>,
        options: PublishOptions,
    ) -> Result<Queued, PublishError> {
        self.enqueue_all(subject, vec![data.into()], options).await
    }

    /// Hands in many messages on one subject at once, in their order. They share what an answer costs: it is that of the last one,
    /// or says that some were refused.
    ///
    /// # Errors
    /// As [`PubSubHandle::publish`]; then none of them goes out.
    pub async fn enqueue_all(
        &self,
        subject: &Subject,
        data: Vec<Bytes>,
        options: PublishOptions,
    ) -> Result<Queued, PublishError> {
        let trust = self.hub.mesh.trust();
        trust.mesh().ok_or(PublishError::Closed)?;
        let mut attributes = Attributes::new(subject.clone());
        let now_ms = self.hub.clock.now_unix_ms();
        attributes.time_ms = Some(now_ms);
        attributes.datacontenttype = options.content_type;
        for (name, value) in options.extensions {
            attributes.set_extension(&name, value);
        }
        if let Some(within) = options.expires_in {
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            attributes.set_extension(EXPIRY, rfc3339(now_ms.saturating_add(within_ms).min(LATEST_MS)));
        }
        if options.retain {
            attributes.set_extension(RETAIN, YES);
        }
        if options.priority != Priority::Normal {
            attributes.set_extension(PRIORITY, options.priority.as_str());
        }
        let expiry = attributes.extension(EXPIRY);
        if let Some(wrong) = expiry.filter(|text| parse_time(text).is_none()) {
            return Err(PublishError::Invalid(format!(
                "{EXPIRY} {wrong:?} is no time as in 2026-01-31T12:00:00Z"
            )));
        }
        if let Some(traceparent) = trace::traceparent() {
            attributes.set_extension("traceparent", traceparent);
        }
        attributes.capability = trust.to_present(Verb::Publish, subject);
        attributes.check().map_err(|e| PublishError::Invalid(e.to_string()))?;
        if let Some(data) = data.iter().find(|data| data.len() > PUBLISH_BODY_BYTES_MAX) {
            return Err(PublishError::Invalid(format!(
                "the message has {} bytes, the limit is {PUBLISH_BODY_BYTES_MAX}",
                data.len()
            )));
        }
        if data.is_empty() {
            return Err(PublishError::Invalid("there are no messages to publish".to_owned()));
        }
        let keeper = self.keeper_for(&attributes, &data)?;
        if keeper.is_some() {
            // Whoever's it is, and whatever calendars say: this one is later than the one that is known here.
            let known_ms = self.hub.lock().retained.made_ms(subject);
            attributes.time_ms = known_ms.map(|known_ms| known_ms.saturating_add(1)).max(Some(now_ms));
        }
        let patience = options.wait_for_room.unwrap_or(ROOM_PATIENCE);
        let sent = self.outbox.put(attributes, data, patience).await?;
        Ok(Queued { sent, keeper })
    }

    /// Who writes these down, if they are to be retained, and there is room.
    fn keeper_for(&self, attributes: &Attributes, data: &[Bytes]) -> Result<Option<Arc<Keeper>>, PublishError> {
        if !is_retained(attributes) {
            return Ok(None);
        }
        let bytes: usize = data.iter().map(Bytes::len).sum::<usize>() + attributes.bytes();
        // A value can be taken back in any case.
        if data.last().is_some_and(Bytes::is_empty) {
            return Ok(Some(Arc::clone(&self.keeper)));
        }
        if self
            .hub
            .lock()
            .retained
            .has_room(&self.local_peer(), &attributes.subject, bytes)
        {
            return Ok(Some(Arc::clone(&self.keeper)));
        }
        Err(PublishError::Busy(
            "this node retains as much as it may, 1024 values and 4 MiB; an empty retained message takes a value back"
                .to_owned(),
        ))
    }

    /// Whether a message on a subject comes sooner after another one than its publishers want; if not, the next one may.
    pub fn is_too_soon(&self, subject: &Subject, pause: Duration) -> bool {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let is_too_soon = !pace.lets_through(subject, pause, Instant::now());
        if is_too_soon {
            self.hub.dropped.inc("publication", "rate");
        }
        is_too_soon
    }

    /// Says who has a message that this node published: the members known to want it, and what became of it for each. Waits for
    /// those that have not confirmed it yet, for so long at most.
    pub async fn report(&self, subject: &Subject, receipt: &Receipt, within: Duration) -> Report {
        report::report(&self.hub, &self.feeds, subject, &receipt.trail, within).await
    }

    /// Publishes a message, and gathers what the nodes that it comes by say of it, for so long at most. With `is_only` it is for nobody's
    /// subscribers: only its way is of interest.
    ///
    /// # Errors
    /// As [`PubSubHandle::publish`].
    pub async fn trace(
        &self,
        subject: &Subject,
        data: impl Into<Bytes>,
        mut options: PublishOptions,
        (is_only, within): (bool, Duration),
    ) -> Result<Traced, PublishError> {
        let until = Instant::now() + within;
        let nonce = random(&*self.hub.entropy);
        options
            .extensions
            .push((TRACE.to_owned(), Trace { nonce, is_only }.value()));
        let mut waiting = self.hub.hops.wait_for(nonce)?;
        let receipt = self.publish(subject, data, options).await?;
        let members = receipt
            .trail
            .direct
            .as_ref()
            .map(|(members, _)| members.iter().copied());
        let expected = members.map(|members| members.chain([self.local_peer()]).collect());
        let hops = waiting.collect(expected, until).await;
        Ok(Traced { receipt, hops })
    }

    /// Subscribes. With `resume`, a [`PubSubHandle::cursor`] of before, what came since is delivered first, as far as the
    /// replay window reaches; what is gone from it is told as [`Delivery::Dropped`].
    pub fn subscribe(&self, pattern: Pattern, resume: Option<&str>) -> Subscription {
        self.hub.subscribe(pattern, resume)
    }

    /// Subscribes, and is told first of what was published before: as far as this node and members it is connected to still have it,
    /// which is for minutes ([`PAST_MAX`](super::PAST_MAX)), and at most 4,096 messages.
    pub async fn subscribe_with(&self, pattern: Pattern, past: Past) -> Subscription {
        let number = self.hub.last_number();
        // First: what comes while others are asked is not missed.
        let mut subscription = self.hub.subscribe(pattern.clone(), None);
        let recollection = past::recollect(&self.hub, &pattern, past, number).await;
        subscription.past = Some(Box::new(recollection));
        subscription
    }

    /// The members at which somebody subscribes to a subject, this node among them: as far as their records say, which reach
    /// everybody within seconds. Nobody: a message would reach no subscriber now. A member that died without a word counts
    /// until its record expires; one with very many subscriptions may be named for subjects it does not want.
    pub fn interested(&self, subject: &Subject) -> Vec<PeerId> {
        self.hub.interested(subject)
    }

    /// Subscribes as a member of a queue group: one member of the group, wherever it is, gets each message. With `key`, the name
    /// of an extension attribute, messages with the same value go to the same member, as long as it is there.
    ///
    /// # Errors
    /// `Invalid` for a name that is empty or too long.
    pub fn subscribe_in_group(
        &self,
        pattern: Pattern,
        group: &str,
        key: Option<&str>,
    ) -> Result<Subscription, PublishError> {
        for name in [Some(group), key].into_iter().flatten() {
            check_group(name).map_err(|e| PublishError::Invalid(e.to_string()))?;
        }
        let wanted = Wanted {
            pattern,
            group: Some(group.to_owned()),
            key: key.map(str::to_owned),
            since_ms: self.hub.clock.now_unix_ms(),
        };
        Ok(self.hub.subscribe_as(wanted, None))
    }

    /// The members that this node hands publications to directly: what few want does not go by gossip.
    pub fn direct_members(&self) -> Vec<DirectMember> {
        let member = |(peer, is_open, is_slow, is_behind)| DirectMember {
            peer,
            is_open,
            is_slow,
            is_behind,
        };
        self.feeds.standing().into_iter().map(member).collect()
    }

    /// The members at which a queue group has subscribers to a subject, this node perhaps among them.
    pub fn group_members(&self, subject: &Subject, group: &str) -> Vec<PeerId> {
        let mut audience = self.hub.audience(subject);
        audience
            .groups
            .remove(group)
            .map(|group| group.members)
            .unwrap_or_default()
    }

    /// Messages of other nodes that were taken in and found good.
    pub fn received(&self) -> u64 {
        self.hub.received()
    }

    /// Subscriptions of this node that a subject reaches.
    pub(crate) fn subscribed_here(&self, subject: &Subject) -> usize {
        self.hub.subscribed_to(subject)
    }

    /// Hands this node's subscribers, and nobody else, what a member left to be said when it is gone: of which of its runs, and its number there.
    pub(crate) fn hand_here(&self, publisher: PeerId, place: (u64, u64), will: Will) {
        let mut attributes = Attributes::new(will.subject);
        attributes.time_ms = Some(self.hub.clock.now_unix_ms());
        attributes.datacontenttype = will.datacontenttype;
        attributes.set_extension(IS_WILL, "true");
        self.hub.hand_here(publisher, place, attributes, &will.data);
    }

    /// Subscriptions that there are now.
    pub(crate) fn subscriptions(&self) -> usize {
        self.hub.subscriptions()
    }

    /// Names a received message so that a subscriber can come back after it.
    pub fn cursor(&self, received: &Received) -> String {
        self.hub.cursor(received.number())
    }

    /// This node.
    pub fn local_peer(&self) -> PeerId {
        self.hub.mesh.local_peer()
    }
}
