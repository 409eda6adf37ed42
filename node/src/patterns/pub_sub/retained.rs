//! Retained values: of each subject the last message whose publisher wants it to be kept for those who come later.
//!
//! Promises: what this node published to be retained is on its disk when that is acknowledged, and it answers those who ask for the last
//! value, also after a restart. So does every other member that heard it, which writes it down a moment later: the value outlives
//! its publisher. An empty message takes it back. What is told is the publisher's own signed frame. Bounded, for all publishers and for each: of one
//! that retains too much the oldest go, and this node's own are refused.
//!
//! Does not promise that a member which was away for an empty message does not tell an older value: the latest that anybody has counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weft_protocol::{
    Pattern, PeerId, Subject, codec,
    patterns::pub_sub::{
        Attributes, Frame, Line,
        repair::{Original, PastFrame},
        topic,
    },
};

use super::{
    cache::{Facts, Kept},
    hub::Hub,
    parts::Parts,
    received::{Stretch, stretches},
    repair::original,
};
use crate::{
    mesh,
    store::{Batch, Keyspace, StoreError},
};

/// The extension attribute of a message that is to be kept.
pub(super) const RETAIN: &str = "weftretain";
/// Its value.
pub(super) const YES: &str = "true";
/// Subjects with a retained value, and bytes of their frames: of one publisher, and of all.
const OF_ONE_MAX: (usize, usize) = (1024, 4 << 20);
const OF_ALL_MAX: (usize, usize) = (8192, 16 << 20);
/// Where they are in the keyspace.
const PREFIX: &[u8] = b"retained/";
const PAGE: usize = 100;
/// A stored frame and what is around it.
const STORED_BYTES_MAX: usize = weft_protocol::limits::FRAME_BYTES_MAX + 512;

/// Whether its publisher wants a message to be kept.
pub(super) fn is_retained(attributes: &Attributes) -> bool {
    attributes.extension(RETAIN) == Some(YES)
}

/// What may be the value of a subject from now on.
#[derive(Debug)]
pub(super) struct Candidate {
    subject: Subject,
    made_ms: u64,
    seq: u64,
    is_empty: bool,
}

/// What a frame brings that is to be kept. Mostly nothing.
pub(super) fn candidates(parts: &Parts) -> Vec<Candidate> {
    let welcome = parts.stretches.iter().filter(|(_, is_welcome)| *is_welcome);
    of_stretches(&parts.kept, welcome.map(|(stretch, _)| stretch))
}

fn of_stretches<'a>(kept: &Kept, stretches: impl Iterator<Item = &'a Stretch>) -> Vec<Candidate> {
    let retained = stretches.filter(|stretch| stretch.len() > 0 && is_retained(&stretch.attributes));
    let candidate = |stretch: &Stretch| Candidate {
        subject: stretch.attributes.subject.clone(),
        made_ms: stretch.attributes.time_ms.unwrap_or(0),
        seq: kept.first_seq() + u64::from(stretch.first_index()) + stretch.len() as u64 - 1,
        is_empty: stretch.ends_empty(),
    };
    retained.map(candidate).collect()
}

#[derive(Debug, Clone)]
struct Value {
    made_ms: u64,
    /// Decides between two of one moment.
    place: (Line, u64),
    /// It takes back what was there.
    is_empty: bool,
    kept: Arc<Kept>,
}

impl Value {
    fn publisher(&self) -> PeerId {
        self.place.0.publisher()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Retained {
    values: BTreeMap<Subject, Value>,
    /// Of which subjects the disk has something else.
    dirty: BTreeSet<Subject>,
}

impl Retained {
    /// Takes in what a frame brought, unless it was made after `latest_ms`: a calendar that is far ahead would keep everybody else from the
    /// subject. Whether anything changed. What `own` node retains was acknowledged, and makes no room for others.
    pub(super) fn take(&mut self, kept: &Arc<Kept>, candidates: Vec<Candidate>, latest_ms: u64, own: &PeerId) -> bool {
        let before = self.dirty.len();
        for candidate in candidates {
            let Candidate {
                subject,
                made_ms,
                seq,
                is_empty,
            } = candidate;
            let value = Value {
                made_ms,
                place: (*kept.line(), seq),
                is_empty,
                kept: Arc::clone(kept),
            };
            let is_later = |known: &Value| (known.made_ms, known.place) < (value.made_ms, value.place);
            if made_ms > latest_ms || !self.values.get(&subject).is_none_or(is_later) {
                continue;
            }
            let publisher = value.publisher();
            self.values.insert(subject.clone(), value);
            self.dirty.insert(subject);
            let may_go = |value: &Value| value.is_empty || value.publisher() != *own;
            let is_alike = |value: &Value| value.publisher() == publisher && value.is_empty == is_empty;
            self.trim(|value| may_go(value) && is_alike(value), OF_ONE_MAX);
            self.trim(may_go, OF_ALL_MAX);
        }
        self.dirty.len() > before
    }

    /// Lets go of the oldest of some, as long as they are too many.
    fn trim(&mut self, is_meant: impl Fn(&Value) -> bool, most: (usize, usize)) {
        let (mut count, mut bytes) = self.extent(&is_meant);
        while count > most.0 || bytes > most.1 {
            let meant = self.values.iter().filter(|(_, value)| is_meant(value));
            let Some((subject, value)) = meant.min_by_key(|(_, value)| (value.made_ms, value.place)) else {
                return;
            };
            (count, bytes) = (count - 1, bytes - value.kept.data.len());
            let subject = subject.clone();
            self.values.remove(&subject);
            self.dirty.insert(subject);
        }
    }

    fn extent(&self, is_meant: impl Fn(&Value) -> bool) -> (usize, usize) {
        let meant = self.values.values().filter(|value| is_meant(value));
        meant.fold((0, 0), |(count, bytes), value| {
            (count + 1, bytes + value.kept.data.len())
        })
    }

    /// Whether a publisher can retain so many bytes more on a subject without another of its values going.
    pub(super) fn has_room(&self, publisher: &PeerId, subject: &Subject, bytes: usize) -> bool {
        let own = |value: &Value| value.publisher() == *publisher && !value.is_empty;
        let (count, held) = self.extent(own);
        let is_new = !self.values.get(subject).is_some_and(own);
        count + usize::from(is_new) <= OF_ONE_MAX.0 && held + bytes <= OF_ONE_MAX.1
    }

    /// When the value of a subject was made.
    pub(super) fn made_ms(&self, subject: &Subject) -> Option<u64> {
        Some(self.values.get(subject)?.made_ms)
    }

    /// The frames in which those of these subjects are, some more than once.
    pub(super) fn matching(&self, pattern: &Pattern) -> impl Iterator<Item = &Arc<Kept>> {
        let matching = self.values.iter().filter(|(subject, _)| pattern.matches(subject));
        matching.map(|(_, value)| &value.kept)
    }

    fn take_dirty(&mut self) -> Vec<(Subject, Option<Arc<Kept>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let now = |subject: Subject| {
            let kept = self.values.get(&subject).map(|value| Arc::clone(&value.kept));
            (subject, kept)
        };
        dirty.into_iter().map(now).collect()
    }
}

/// Writes them down.
#[derive(Debug)]
pub(super) struct Keeper {
    hub: Arc<Hub>,
    keyspace: Keyspace,
    /// Who waits for it, waits for what others began to write as well.
    writing: tokio::sync::Mutex<()>,
}

impl Keeper {
    pub(super) fn new(hub: Arc<Hub>, keyspace: Keyspace) -> Arc<Self> {
        Arc::new(Keeper {
            hub,
            keyspace,
            writing: tokio::sync::Mutex::new(()),
        })
    }

    /// Writes what has changed; durable when this returns.
    pub(super) async fn write(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let dirty = self.hub.lock().retained.take_dirty();
        let batch = dirty.iter().fold(Batch::new(), |batch, (subject, kept)| match kept {
            None => batch.delete(key(subject)),
            Some(kept) => match original(&self.hub, kept) {
                Some(original) => {
                    let line = *kept.line();
                    batch.put(key(subject), codec::encode(&PastFrame { line, original }))
                }
                // Only a node that is in no mesh cannot sign.
                None => batch,
            },
        });
        let written = self.keyspace.commit(batch).await;
        if written.is_err() {
            let subjects = dirty.into_iter().map(|(subject, _)| subject);
            self.hub.lock().retained.dirty.extend(subjects);
        }
        written
    }

    /// Reads what was there before this run.
    pub(super) async fn read(&self) -> Result<(), StoreError> {
        if self.hub.mesh_id().is_none() {
            return Ok(());
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.keyspace.scan_prefix(PREFIX, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                if self.restore(&value).is_none() {
                    tracing::warn!("what is stored of a retained value is of no use and is removed");
                    self.keyspace.delete(key).await?;
                }
            }
        }
        self.hub.lock().retained.dirty.clear();
        Ok(())
    }

    fn restore(&self, stored: &[u8]) -> Option<()> {
        let PastFrame { line, original } = codec::decode(stored, STORED_BYTES_MAX, "retained value").ok()?;
        let Original {
            gossip_seq,
            data,
            signature,
        } = original;
        let original = mesh::Original {
            source: line.publisher(),
            sequence_number: gossip_seq,
            topic: topic(&self.hub.mesh_id()?, line.shard),
            data,
            signature,
        };
        // What a disk gives back is checked as what a member says.
        if !original.verify() {
            return None;
        }
        let frame = Frame::read(&original.data).ok()?;
        let (facts, stretches) = (Facts::of(&frame), stretches(frame, &original.data));
        let kept = Kept::new(line, &facts, self.hub.shared(&original.data));
        let kept = Arc::new(kept.gossiped(gossip_seq, Some(self.hub.shared(&original.signature))));
        let candidates = of_stretches(&kept, stretches.iter());
        let own = self.hub.mesh.local_peer();
        // Its time was looked at when it came.
        self.hub.lock().retained.take(&kept, candidates, u64::MAX, &own);
        Some(())
    }

    /// Writes down what comes, until the node stops.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.hub.retained_changed.notified().await;
            tokio::time::sleep(WRITE_AFTER).await;
            if let Err(error) = self.write().await {
                tracing::warn!(%error, "retained values could not be written down");
            }
        }
    }
}

/// How long what others retain may wait to be written.
const WRITE_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

fn key(subject: &Subject) -> Vec<u8> {
    [PREFIX, subject.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use weft_protocol::{
        SecretKey,
        patterns::pub_sub::{Run, SHARDS},
    };

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    /// What a publisher retains on a subject, at a time, as its number.
    fn frame(publisher: u8, subject: &str, made_ms: u64, seq: u64, bytes: usize) -> (Arc<Kept>, Vec<Candidate>) {
        let mut attributes = Attributes::new(subject.parse().unwrap());
        attributes.time_ms = Some(made_ms);
        attributes.set_extension(RETAIN, YES);
        let shard = attributes.subject.shard(SHARDS);
        let data = vec![7; bytes];
        let frame = Frame {
            epoch: 5,
            shard,
            first_seq: seq,
            before_ms: 0,
            runs: vec![Run {
                attributes: Cow::Owned(attributes),
                data: vec![&data],
            }],
        };
        let encoded = frame.to_bytes();
        let line = Line::new(&SecretKey::from_bytes(&[publisher; 32]).public().peer_id(), 5, shard).unwrap();
        let kept = Arc::new(Kept::new(line, &Facts::of(&frame), Arc::new(encoded.clone().into())));
        let found = stretches(Frame::read(&encoded).unwrap(), &encoded);
        let candidates = of_stretches(&kept, found.iter());
        (kept, candidates)
    }

    fn take(retained: &mut Retained, frame: (Arc<Kept>, Vec<Candidate>)) -> bool {
        let own = SecretKey::from_bytes(&[9; 32]).public().peer_id();
        retained.take(&frame.0, frame.1, NOW_MS, &own)
    }

    #[test]
    fn the_latest_counts_whoever_said_it_and_in_whatever_order_it_came() {
        let mut retained = Retained::default();
        assert!(take(&mut retained, frame(1, "a", NOW_MS - 1, 3, 1)));
        retained.take_dirty();
        assert!(!take(&mut retained, frame(1, "a", NOW_MS - 2, 2, 1)), "an older one");
        assert!(!take(&mut retained, frame(1, "a", NOW_MS - 1, 3, 1)), "the same");
        assert!(take(&mut retained, frame(2, "a", NOW_MS, 1, 1)), "another's");
        let far = frame(3, "a", NOW_MS + 3, 1, 1);
        assert!(!take(&mut retained, far), "a calendar that is wrong");
        let publisher = retained
            .matching(&"a".parse().unwrap())
            .next()
            .unwrap()
            .line()
            .publisher();
        assert_eq!(publisher, SecretKey::from_bytes(&[2; 32]).public().peer_id());
    }

    #[test]
    fn a_publisher_that_retains_too_much_loses_its_own_oldest_and_nobody_elses() {
        let mut retained = Retained::default();
        take(&mut retained, frame(1, "mine", NOW_MS - 10_000, 1, 1));
        for n in 0..OF_ONE_MAX.0 as u64 + 5 {
            take(
                &mut retained,
                frame(2, &format!("theirs.{n}"), NOW_MS - 5000 + n, n + 1, 1),
            );
        }
        assert_eq!(retained.values.len(), OF_ONE_MAX.0 + 1);
        let has = |name: &str| retained.values.contains_key(&name.parse::<Subject>().unwrap());
        assert_eq!((has("mine"), has("theirs.4"), has("theirs.5")), (true, false, true));
        let dirty = retained.take_dirty();
        assert!(
            dirty
                .iter()
                .any(|(subject, kept)| subject.as_str() == "theirs.4" && kept.is_none())
        );
        // What this node retains makes no room.
        for n in 0..OF_ONE_MAX.0 as u64 + 5 {
            take(
                &mut retained,
                frame(9, &format!("own.{n}"), NOW_MS - 9000 + n, n + 1, 1),
            );
        }
        let own = retained
            .values
            .keys()
            .filter(|subject| subject.as_str().starts_with("own"));
        assert_eq!(own.count(), OF_ONE_MAX.0 + 5);
        // By bytes as well.
        for n in 0..6 {
            take(
                &mut retained,
                frame(3, &format!("large.{n}"), NOW_MS - 6 + n, n + 1, 1_000_000),
            );
        }
        let large = retained
            .values
            .keys()
            .filter(|subject| subject.as_str().starts_with("large"));
        assert_eq!(large.count(), 4);
    }
}
