//! What was published before a subscription began: asked of this node's own memory and of other members', and told first.
//!
//! Promises: nothing is believed that its publisher has not signed, or handed over itself; of each line what was before comes in its
//! order and before what comes later, and nothing twice; what turns up too late to be told in its order is named as lost. Does not
//! promise more than members keep, which is minutes ([`PAST_MAX`]), nor what went directly to others from a publisher that this node is
//! not connected to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::{
    CapabilityToken, Pattern, PeerId, Subject, Verb,
    limits::ORIGINALS_MAX,
    patterns::pub_sub::{
        DIRECT, Frame, Line, Run, SHARDS,
        hop::Trace,
        repair::{Original, PastFrame, PastPlace, RepairReply, RepairRequest},
        topic,
    },
    subject::Shards,
};

use super::{
    cache::{CACHE_AGE, Facts, FrameCache, Kept},
    handle::Delivery,
    hub::Hub,
    order,
    parts::permitted,
    received::{self, Received, Stretch, stretches},
    repair::{FETCH_BYTES_MAX, ask, original},
    retained::is_retained,
};
use crate::mesh::{self, MeshError};

/// As long as frames are kept.
pub const PAST_MAX: Duration = CACHE_AGE;
/// Messages of before for one subscription; the latest ones.
pub(super) const PAST_MESSAGES_MAX: usize = 4096;
/// Members that are asked, besides this node.
const ASKED_MAX: usize = 8;
/// Answers of one of them, and bytes of its messages.
const PAGES_MAX: usize = 64;
const MEMBER_BYTES_MAX: usize = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after a subscription began something of before may still arrive: as long as it is fetched, and some more.
const ECHO: Duration = order::PATIENCE.saturating_mul(4);

/// Which of the messages that were published before a subscription it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// The last one on each subject: also when it was long ago, if its publisher wanted it to be retained.
    LastOfEach,
    /// The last ones, so many.
    Last(usize),
    /// Those that were made in this time before now, by their publishers' calendars.
    Within(Duration),
}

impl Past {
    fn since_ms(self, now_ms: u64) -> u64 {
        let age = match self {
            Past::Within(age) => age.min(PAST_MAX),
            Past::Last(_) => PAST_MAX,
            // What was retained may be of any age.
            Past::LastOfEach => return 0,
        };
        now_ms.saturating_sub(age.as_millis() as u64)
    }

    /// What of all that was found is told.
    fn choose(self, messages: &mut Vec<Received>, now_ms: u64) {
        let since_ms = self.since_ms(now_ms);
        messages.retain(|m| made_ms(m) >= since_ms && !m.is_expired(now_ms));
        match self {
            Past::LastOfEach => {
                let last: BTreeMap<_, _> = messages.iter().map(|m| (m.subject().clone(), place(m))).collect();
                // One that takes a retained value back is none.
                let is_value = |m: &Received| !m.data().is_empty() || !is_retained(m.attributes());
                messages.retain(|m| last.get(m.subject()) == Some(&place(m)) && is_value(m));
            }
            Past::Last(count) => drop(messages.drain(..messages.len().saturating_sub(count))),
            Past::Within(_) => {}
        }
        messages.drain(..messages.len().saturating_sub(PAST_MESSAGES_MAX));
    }
}

fn made_ms(received: &Received) -> u64 {
    received.attributes().time_ms.unwrap_or(0)
}

fn place(received: &Received) -> (Line, u64) {
    (*received.line(), received.sequence())
}

/// What a subscription still has to tell of before, and how far that went.
#[derive(Debug)]
pub(super) struct Recollection {
    messages: VecDeque<Received>,
    /// The number of the last one of each line.
    reached: BTreeMap<Line, u64>,
    /// Which were found: told, or not wanted.
    found: BTreeSet<(Line, u64)>,
    until: Instant,
}

impl Recollection {
    /// Of these messages; the subscription began after a number of this node's.
    pub(super) fn of(messages: impl IntoIterator<Item = Received>, past: Past, now_ms: u64, number: u64) -> Self {
        let mut found = Found::default();
        found.extend(messages);
        let places = found.0.keys().copied().collect();
        let mut messages = found.in_order();
        past.choose(&mut messages, now_ms);
        let mut reached = BTreeMap::new();
        for message in &messages {
            // They are in the order of their line.
            reached.insert(*message.line(), message.sequence());
        }
        Recollection {
            messages: messages.into_iter().map(|message| message.numbered(number)).collect(),
            reached,
            found: places,
            until: Instant::now() + ECHO,
        }
    }

    pub(super) fn next(&mut self) -> Option<Delivery> {
        self.messages.pop_front().map(Delivery::Message)
    }

    /// What becomes of a delivery that comes after them: what was found already is left out, and what has its place among them is
    /// named as lost, because it would turn the order around.
    pub(super) fn pass(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Delivery::Message(received) = &delivery else {
            return Some(delivery);
        };
        let (line, seq) = place(received);
        if self.found.remove(&(line, seq)) {
            return None;
        }
        match self.reached.get(&line) {
            Some(reached) if seq < *reached => Some(Delivery::Gap {
                publisher: received.publisher(),
                first: seq,
                last: seq,
            }),
            _ => Some(delivery),
        }
    }

    /// Whether nothing of before can come any more.
    pub(super) fn is_over(&self) -> bool {
        self.messages.is_empty() && Instant::now() >= self.until
    }
}

/// Everything that matches, by place.
#[derive(Default)]
struct Found(BTreeMap<(Line, u64), Received>);

impl Extend<Received> for Found {
    fn extend<I: IntoIterator<Item = Received>>(&mut self, messages: I) {
        for received in messages {
            self.0.entry(place(&received)).or_insert(received);
        }
    }
}

impl Found {
    /// In the order of their times, and of each line in its own.
    fn in_order(self) -> Vec<Received> {
        let (mut ordered, mut line, mut latest_ms) = (Vec::with_capacity(self.0.len()), None, 0);
        for ((of, _), received) in self.0 {
            if line != Some(of) {
                (line, latest_ms) = (Some(of), 0);
            }
            // A calendar that was set back must not turn a line around.
            latest_ms = made_ms(&received).max(latest_ms);
            ordered.push((latest_ms, received));
        }
        // Stable: those of a line that have one time stay as they are.
        ordered.sort_by_key(|(time_ms, _)| *time_ms);
        ordered.into_iter().map(|(_, received)| received).collect()
    }
}

/// Gathers what a subscription wants of before. It all gets the number after which the subscription began: who comes back after any of
/// it is told what came since.
pub(super) async fn recollect(hub: &Hub, pattern: &Pattern, past: Past, number: u64) -> Recollection {
    let now_ms = hub.clock.now_unix_ms();
    let mut found = hub.remembered(pattern);
    found.extend(hub.retained(pattern));
    let members: Vec<PeerId> = hub.mesh.peers().ids().into_iter().take(ASKED_MAX).collect();
    let asked = members
        .into_iter()
        .map(|peer| of_member(hub, peer, pattern, past.since_ms(now_ms)));
    for messages in futures::future::join_all(asked).await {
        found.extend(messages);
    }
    Recollection::of(found, past, now_ms, number)
}

/// What one member has, page by page; the latest of it, if it has very much or stops answering.
async fn of_member(hub: &Hub, peer: PeerId, pattern: &Pattern, since_ms: u64) -> Vec<Received> {
    let (mut messages, mut bytes, mut before) = (Vec::new(), 0, None);
    for _ in 0..PAGES_MAX {
        let page = match page(hub, peer, pattern, since_ms, before).await {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%peer, %error, "a member did not tell what was before");
                break;
            }
        };
        bytes += page.bytes;
        messages.extend(page.messages);
        before = page.earliest;
        if before.is_none() || messages.len() >= PAST_MESSAGES_MAX || bytes > MEMBER_BYTES_MAX {
            break;
        }
    }
    messages
}

#[derive(Default)]
struct Page {
    messages: Vec<Received>,
    /// Of the frames that they are in.
    bytes: usize,
    /// Where the next one begins, if there is one.
    earliest: Option<PastPlace>,
}

async fn page(
    hub: &Hub,
    peer: PeerId,
    pattern: &Pattern,
    since_ms: u64,
    before: Option<PastPlace>,
) -> Result<Page, MeshError> {
    let request = RepairRequest::Past {
        pattern: pattern.clone(),
        since_ms,
        before,
    };
    let broken = |reason: &str| MeshError::Broken {
        peer,
        reason: reason.to_owned(),
    };
    let RepairReply::Past { frames, more } = ask(hub, peer, &request, PATIENCE).await? else {
        return Err(broken("it was asked what was before, and answers something else"));
    };
    let mut page = Page::default();
    for frame in frames {
        let bytes = frame.original.data.len();
        let (place, messages) =
            read(hub, peer, pattern, frame).ok_or_else(|| broken("what it says was before nobody signed"))?;
        if page.earliest.or(before).is_some_and(|later| place >= later) || place.made_ms < since_ms {
            return Err(broken("what it says was before is in no order"));
        }
        page.earliest = Some(place);
        page.bytes += if messages.is_empty() { 0 } else { bytes };
        page.messages.extend(messages);
    }
    page.earliest = page.earliest.filter(|_| more);
    Ok(page)
}

/// What of a frame matches and may be published, and the frame's place; `None` if it is not its publisher's.
pub(super) fn read(hub: &Hub, peer: PeerId, pattern: &Pattern, past: PastFrame) -> Option<(PastPlace, Vec<Received>)> {
    let line = past.line;
    let (source, is_direct) = (line.publisher(), past.is_direct());
    let original = mesh::Original {
        source,
        sequence_number: past.original.gossip_seq,
        topic: topic(&hub.mesh_id()?, line.shard),
        data: past.original.data,
        signature: past.original.signature,
    };
    let is_own = if is_direct { source == peer } else { original.verify() };
    let frame = Frame::read(&original.data).ok()?;
    if !is_own || (frame.epoch, frame.shard) != (line.epoch, line.shard) {
        return None;
    }
    let facts = Facts::of(&frame);
    let place = PastPlace {
        made_ms: facts.made_ms,
        line,
        first_seq: facts.first_seq,
    };
    let stretches = stretches(frame, &original.data);
    let kept = Kept::new(line, &facts, Arc::new(original.data.into())).handed_by(&peer);
    Some((place, hub.recalled(Arc::new(kept), stretches, pattern)))
}

/// What this node has of before, for one that asks.
pub(super) fn answer(hub: &Hub, pattern: &Pattern, since_ms: u64, before: Option<PastPlace>) -> RepairReply {
    let (mut frames, mut bytes, mut more) = (Vec::new(), 0, false);
    for (_, kept) in hub.kept_before(pattern, since_ms, before) {
        // Read outside the lock: there may be thousands.
        let frame = Frame::read(&kept.data);
        let matches = |run: &Run<'_>| pattern.matches(&run.attributes.subject);
        if !frame.is_ok_and(|frame| frame.runs.iter().any(matches)) {
            continue;
        }
        bytes += kept.data.len();
        more = frames.len() >= ORIGINALS_MAX || bytes > FETCH_BYTES_MAX && !frames.is_empty();
        if more {
            break;
        }
        frames.extend(frame_of(hub, &kept));
    }
    RepairReply::Past { frames, more }
}

fn frame_of(hub: &Hub, kept: &Kept) -> Option<PastFrame> {
    let line = *kept.line();
    let original = match line.shard {
        DIRECT.. => Original {
            gossip_seq: 0,
            data: kept.data.to_vec(),
            signature: Vec::new(),
        },
        _ => original(hub, kept)?,
    };
    Some(PastFrame { line, original })
}

impl Hub {
    /// What this node itself remembers of these subjects.
    fn remembered(&self, pattern: &Pattern) -> Vec<Received> {
        let (runs, _) = self.lock().window.after(0, pattern, self.mesh_id());
        runs.iter().flat_map(|run| run.messages()).collect()
    }

    /// What is retained of these subjects.
    fn retained(&self, pattern: &Pattern) -> Vec<Received> {
        let frames: Vec<Arc<Kept>> = self.lock().retained.matching(pattern).cloned().collect();
        let of_frame = |kept: Arc<Kept>| {
            let found = Frame::read(&kept.data).map(|frame| stretches(frame, &kept.data));
            self.recalled(kept, found.unwrap_or_default(), pattern)
        };
        frames.into_iter().flat_map(of_frame).collect()
    }

    /// The number of the last message that this node took in.
    pub(super) fn last_number(&self) -> u64 {
        self.lock().window.last()
    }

    /// What of a frame that another member handed over is on these subjects, and may be published.
    fn recalled(&self, kept: Arc<Kept>, stretches: Vec<Stretch>, pattern: &Pattern) -> Vec<Received> {
        let (trust, publisher) = (self.mesh.trust(), kept.line().publisher());
        if !trust.is_member(&publisher) {
            return Vec::new();
        }
        let mut is_welcome = permitted(|subject: &Subject, tokens: &[CapabilityToken]| {
            trust.may_publish(&publisher, subject, tokens).allowed
                && trust.check(&publisher, Verb::Publish, subject, tokens).allowed
        });
        let matching = stretches.into_iter().filter(|stretch| {
            let attributes = &stretch.attributes;
            let is_only_traced = Trace::of(attributes).is_some_and(|trace| trace.is_only);
            pattern.matches(&attributes.subject) && !is_only_traced && is_welcome(attributes)
        });
        let matching: Vec<Stretch> = matching.collect();
        let source = self.lock().window.source(&kept, self.mesh_id());
        let runs = matching
            .into_iter()
            .map(|stretch| received::Run::new(Arc::clone(&source), stretch, 0));
        runs.flat_map(|run| run.messages().collect::<Vec<_>>()).collect()
    }

    /// Frames that may hold something on these subjects, from this time on and before this place: those that went by gossip, and of
    /// this node's own those that did not. The latest first.
    fn kept_before(&self, pattern: &Pattern, since_ms: u64, before: Option<PastPlace>) -> Vec<(PastPlace, Arc<Kept>)> {
        let (local, shards) = (self.mesh.local_peer(), pattern.shards(SHARDS));
        let place = |kept: &Kept| PastPlace {
            made_ms: kept.made_ms,
            line: *kept.line(),
            first_seq: kept.first_seq(),
        };
        let is_asked = |kept: &Kept| {
            let is_of_shard = match shards {
                Shards::One(shard) => kept.line().shard % SHARDS == shard,
                Shards::All => true,
            };
            is_of_shard && kept.made_ms >= since_ms && before.is_none_or(|before| place(kept) < before)
        };
        let mut found: Vec<(PastPlace, Arc<Kept>)> = {
            let state = self.lock();
            let gossiped = state.cache.iter().flat_map(FrameCache::all);
            let own = |kept: &&Arc<Kept>| kept.line().shard >= DIRECT && kept.line().publisher() == local;
            let own = state.window.frames().filter(own);
            let all = gossiped.chain(own).chain(state.retained.matching(pattern));
            let asked = all.filter(|kept| is_asked(kept));
            asked.map(|kept| (place(kept), Arc::clone(kept))).collect()
        };
        found.sort_unstable_by_key(|(place, _)| Reverse(*place));
        found.dedup_by_key(|(place, _)| *place);
        found
    }
}
