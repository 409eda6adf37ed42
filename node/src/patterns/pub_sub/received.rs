//! Messages as subscribers get them: the data stay in the frame that brought them, what they have in common is there once.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{
    MeshId, PeerId, Subject,
    patterns::pub_sub::{Attributes, Frame, Line, MESSAGE_KIND, message_id},
};

use super::{cache::Kept, priority::Priority};
use crate::patterns::cloud_event::{EXPIRY, parse_time};

/// What a frame costs besides its bytes, a run besides what its attributes say, and each of its messages.
const SOURCE_BYTES: usize = 256;
const RUN_BYTES: usize = 512;
const MESSAGE_BYTES: usize = 8;

/// Bytes that subscribers hold. Counted down when the last one lets go.
#[derive(Debug)]
struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Held {
    fn new(bytes: usize, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(bytes, Ordering::Relaxed);
        let all = Arc::clone(all);
        Held { bytes, all }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A frame of which subscribers have messages: all of it stays as long as any of them does.
#[derive(Debug)]
pub(super) struct Source {
    kept: Arc<Kept>,
    publisher: PeerId,
    from: PeerId,
    mesh: Option<MeshId>,
    held: Held,
}

impl Source {
    /// Of a frame. `all` counts what subscribers hold.
    pub(super) fn new(kept: Arc<Kept>, mesh: Option<MeshId>, all: &Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Source {
            held: Held::new(kept.data.len() + SOURCE_BYTES, all),
            publisher: kept.line().publisher(),
            from: kept.from(),
            kept,
            mesh,
        })
    }
}

/// Publications of a frame in a row that have everything in common but their data.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) attributes: Attributes,
    /// Where in the frame the data of each are.
    data: Vec<Range<u32>>,
    /// The place in the frame of the first one.
    first_index: u32,
    /// From when on they are of no use to anybody, Unix milliseconds by their publisher's calendar.
    expires_ms: Option<u64>,
}

impl Stretch {
    pub(super) fn len(&self) -> usize {
        self.data.len()
    }

    pub(super) fn first_index(&self) -> u32 {
        self.first_index
    }

    /// Whether the last one has no data.
    pub(super) fn ends_empty(&self) -> bool {
        self.data.last().is_none_or(Range::is_empty)
    }

    /// Leaves out the first ones.
    pub(super) fn skip(&mut self, count: usize) {
        self.data.drain(..count);
        self.first_index += count as u32;
    }

    /// Leaves out all but the first ones.
    pub(super) fn truncate(&mut self, count: usize) {
        self.data.truncate(count);
    }
}

/// What is in a frame that was read in `bytes`.
pub(super) fn stretches(frame: Frame<'_>, bytes: &[u8]) -> Vec<Stretch> {
    let base = bytes.as_ptr().addr();
    let place = |data: &[u8]| {
        // What is empty may be anywhere. A frame is far shorter than 4 GiB.
        let start = if data.is_empty() {
            0
        } else {
            data.as_ptr().addr() - base
        };
        start as u32..(start + data.len()) as u32
    };
    let mut first_index = 0;
    let of_run = |run: weft_protocol::patterns::pub_sub::Run<'_>| {
        let data: Vec<Range<u32>> = run.data.iter().map(|data| place(data)).collect();
        let attributes = run.attributes.into_owned();
        let stretch = Stretch {
            expires_ms: attributes.extension(EXPIRY).and_then(parse_time),
            attributes,
            data,
            first_index,
        };
        first_index += stretch.len() as u32;
        stretch
    };
    frame.runs.into_iter().map(of_run).collect()
}

/// Messages in a row, with their common attributes and their numbers.
#[derive(Debug)]
pub(super) struct Run {
    source: Arc<Source>,
    stretch: Stretch,
    /// This node's number of the first one.
    first_number: u64,
    priority: Priority,
    _held: Held,
}

impl Run {
    pub(super) fn new(source: Arc<Source>, stretch: Stretch, first_number: u64) -> Arc<Self> {
        let bytes = RUN_BYTES + stretch.attributes.bytes() + stretch.len() * MESSAGE_BYTES;
        Arc::new(Run {
            _held: Held::new(bytes, &source.held.all),
            priority: Priority::of(&stretch.attributes),
            source,
            stretch,
            first_number,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.stretch.len()
    }

    pub(super) fn attributes(&self) -> &Attributes {
        &self.stretch.attributes
    }

    pub(super) fn priority(&self) -> Priority {
        self.priority
    }

    pub(super) fn line(&self) -> &Line {
        self.source.kept.line()
    }

    /// The number of one of its messages in its line.
    pub(super) fn sequence(&self, index: usize) -> u64 {
        let index = self.stretch.first_index + index as u32;
        self.source.kept.first_seq() + u64::from(index)
    }

    /// One of its messages.
    pub(super) fn get(self: &Arc<Self>, index: usize) -> Option<Received> {
        (index < self.len()).then(|| Received {
            number: self.first_number + index as u64,
            index: index as u32,
            run: Arc::clone(self),
        })
    }

    /// All of them.
    pub(super) fn messages(self: &Arc<Self>) -> impl Iterator<Item = Received> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

/// A message as it was received, numbered by this node. To clone one costs little; as long as there is one, the frame that brought
/// it stays in memory.
#[derive(Debug, Clone)]
pub struct Received {
    run: Arc<Run>,
    index: u32,
    number: u64,
}

impl Received {
    /// Rises by one with each message this node took in. What a subscription is told of before has the number after which it began.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The same with another number.
    pub(super) fn numbered(self, number: u64) -> Self {
        Received { number, ..self }
    }

    /// Who published it.
    pub fn publisher(&self) -> PeerId {
        self.run.source.publisher
    }

    /// The neighbour that handed it to this node; this node itself, if it published it.
    pub fn from(&self) -> PeerId {
        self.run.source.from
    }

    pub(super) fn line(&self) -> &Line {
        self.run.line()
    }

    /// Its number among those of its publisher's run and its subject's shard; rises by one with each.
    pub fn sequence(&self) -> u64 {
        self.run.sequence(self.index as usize)
    }

    /// What it says.
    pub fn data(&self) -> &[u8] {
        let place = self.run.stretch.data.get(self.index as usize);
        let range = place.map_or(0..0, |place| place.start as usize..place.end as usize);
        self.run.source.kept.data.get(range).unwrap_or_default()
    }

    /// What it is about, when it was made, of which type its data are, and its extensions.
    pub fn attributes(&self) -> &Attributes {
        &self.run.stretch.attributes
    }

    /// Whether it is of no use to anybody any more, as its publisher said: see [`PublishOptions::expires_in`](super::PublishOptions).
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.run
            .stretch
            .expires_ms
            .is_some_and(|expires_ms| expires_ms <= now_ms)
    }

    /// The subject it was published on.
    pub fn subject(&self) -> &Subject {
        &self.attributes().subject
    }

    /// Its id: unique among those of its publisher.
    pub fn id(&self) -> String {
        message_id(self.line(), self.sequence())
    }

    /// Where it comes from, a URI reference.
    pub fn source(&self) -> String {
        match self.run.source.mesh {
            Some(mesh) => format!("mesh://{mesh}/{}", self.publisher()),
            None => format!("mesh:///{}", self.publisher()),
        }
    }

    /// What kind of event it is (`type` in CloudEvents).
    pub fn kind(&self) -> &'static str {
        MESSAGE_KIND
    }
}

/// A message from nowhere.
#[cfg(test)]
pub(crate) fn received(attributes: Attributes, data: &[u8]) -> Received {
    use super::cache::Facts;
    let shard = attributes.subject.shard(weft_protocol::patterns::pub_sub::SHARDS);
    let publisher = weft_protocol::SecretKey::from_bytes(&[9; 32]).public().peer_id();
    let run = weft_protocol::patterns::pub_sub::Run {
        attributes: std::borrow::Cow::Owned(attributes),
        data: vec![data],
    };
    let frame = Frame {
        epoch: 5,
        shard,
        first_seq: 7,
        before_ms: 0,
        runs: vec![run],
    };
    let bytes = frame.to_bytes();
    let frame = Frame::read(&bytes).unwrap();
    let (facts, mut stretches) = (Facts::of(&frame), stretches(frame, &bytes));
    let kept = Kept::new(Line::new(&publisher, 5, shard).unwrap(), &facts, Arc::new(bytes.into()));
    let source = Source::new(Arc::new(kept), None, &Arc::default());
    Run::new(source, stretches.remove(0), 1).get(0).unwrap()
}
