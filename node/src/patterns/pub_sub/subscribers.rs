//! The subscriptions of this node: which of them a message is for, and what each was too slow for.
//!
//! Decisions without I/O. One that does not read in time loses its own messages, which are counted, and is told so before it hears
//! anything else; nobody waits for it but the publishers that speak to this node directly, and those only for a moment.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;
use weft_protocol::{
    Pattern, PeerId, Shards, Subject,
    limits::FRAME_PUBLICATIONS_MAX,
    patterns::pub_sub::{SHARDS, interest::Wanted},
};

use super::{core::Received, handle::Delivery, trie::SubjectTrie};

/// Messages waiting for one subscriber; beyond it they are dropped for this one, and counted.
pub(super) const SUBSCRIBER_QUEUE_MAX: usize = 4096;
/// Bytes of messages that wait for subscribers, and of those kept for who comes back. Beyond it only who has nothing waiting
/// gets more, and beyond twice as many nobody.
pub(super) const HELD_BYTES_MAX: usize = 32 << 20;

/// Where a subscriber's deliveries go.
pub(super) type Sink = mpsc::Sender<Delivery>;

/// How many a subscriber has lost and was not told of yet. Whoever tells it takes the number.
pub(super) type Lost = Arc<AtomicU64>;

struct Subscriber {
    wanted: Wanted,
    sink: Sink,
    lost: Lost,
    /// It was waited for in vain, and is not again before it has caught up.
    is_slow: bool,
}

impl Subscriber {
    /// Tells it what it has lost; whether there is nothing left to tell.
    fn tell_loss(&self) -> bool {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let told = lost == 0 || self.sink.try_send(Delivery::Dropped(lost)).is_ok();
        if !told {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
        told
    }
}

/// What came of offering something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) delivered: u64,
    pub(super) dropped: u64,
}

/// Whom a subject selects.
#[derive(Debug, Default)]
pub(super) struct Matched {
    plain: Vec<u64>,
    groups: BTreeMap<String, Vec<u64>>,
}

impl Matched {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.groups.is_empty()
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Subscribers {
    by_id: BTreeMap<u64, Subscriber>,
    trie: SubjectTrie,
    /// What the last subject selected: the next message is often on the same.
    last: Option<(Subject, Arc<Matched>)>,
    next_id: u64,
    turn: usize,
    /// Those that were offered something, while somebody is going to ask.
    touched: Option<Vec<u64>>,
}

/// Says of a message and a queue group whether it is this node that takes it.
pub(super) trait Takes {
    /// Whether it does.
    fn takes(&self, received: &Received, group: &str) -> bool;
}

impl Subscribers {
    /// Takes a subscription in. What is counted in `lost` its reader takes when it has read everything; what comes before that tells it too.
    pub(super) fn insert(&mut self, wanted: Wanted, sink: Sink, lost: Lost) -> u64 {
        self.next_id += 1;
        self.trie.insert(&wanted.pattern, self.next_id);
        let subscriber = Subscriber {
            wanted,
            sink,
            lost,
            is_slow: false,
        };
        self.by_id.insert(self.next_id, subscriber);
        self.last = None;
        self.next_id
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some(gone) = self.by_id.remove(&id) {
            self.trie.remove(&gone.wanted.pattern, id);
            self.last = None;
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// What is subscribed to.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.by_id.values().map(|s| &s.wanted)
    }

    /// Whom a subject selects, if anybody.
    pub(super) fn matched(&mut self, subject: &Subject) -> Option<Arc<Matched>> {
        if let Some((last, matched)) = &self.last
            && last == subject
        {
            return Some(Arc::clone(matched)).filter(|matched| !matched.is_empty());
        }
        let mut found = Vec::new();
        self.trie.matching(subject, &mut found);
        found.sort_unstable();
        let mut matched = Matched::default();
        for id in found {
            match self.by_id.get(&id).and_then(|s| s.wanted.group.clone()) {
                None => matched.plain.push(id),
                Some(group) => matched.groups.entry(group).or_default().push(id),
            }
        }
        let matched = Arc::new(matched);
        self.last = Some((subject.clone(), Arc::clone(&matched)));
        Some(matched).filter(|matched| !matched.is_empty())
    }

    /// Hands a message to those whom its subject selects.
    pub(super) fn deliver(
        &mut self,
        matched: &Matched,
        received: &Arc<Received>,
        held_bytes: usize,
        who: &impl Takes,
    ) -> Offered {
        let mut offered = Offered::default();
        for id in &matched.plain {
            self.offer(*id, Delivery::Message(Arc::clone(received)), held_bytes, &mut offered);
        }
        for (group, members) in &matched.groups {
            if !who.takes(received, group) {
                continue;
            }
            let start = self.turn_for(members, received);
            // One that has no room leaves it to another.
            let able = (0..members.len()).map(|at| members[(start + at) % members.len()]);
            let chosen = able
                .clone()
                .find(|id| self.has_room(*id))
                .or_else(|| able.clone().next());
            if let Some(id) = chosen {
                self.offer(id, Delivery::Message(Arc::clone(received)), held_bytes, &mut offered);
            }
        }
        offered
    }

    /// Where the members of a group are begun with: by the message's key, if the group has one, else each in turn.
    fn turn_for(&mut self, members: &[u64], received: &Received) -> usize {
        let name = members.iter().find_map(|id| self.by_id.get(id)?.wanted.key.as_deref());
        match name.map(|name| received.publication.message.extension(name).unwrap_or_default()) {
            Some(key) => super::pick::spread(key, members.iter().map(|id| id.to_be_bytes())),
            None => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % members.len().max(1)
            }
        }
    }

    fn has_room(&self, id: u64) -> bool {
        self.by_id
            .get(&id)
            .is_some_and(|s| s.lost.load(Ordering::Relaxed) == 0 && s.sink.capacity() > 0)
    }

    /// Tells those whose subjects may be among them that messages are lost.
    pub(super) fn tell_gap(&mut self, shard: u16, publisher: PeerId, first: u64, last: u64) -> Offered {
        let mut offered = Offered::default();
        let elsewhere = |p: &Pattern| matches!(p.shards(SHARDS), Shards::One(own) if own != shard % SHARDS);
        let told: Vec<u64> = self
            .by_id
            .iter()
            .filter(|(_, s)| !elsewhere(&s.wanted.pattern))
            .map(|(id, _)| *id)
            .collect();
        for id in told {
            self.offer(id, Delivery::Gap { publisher, first, last }, 0, &mut offered);
        }
        offered
    }

    fn offer(&mut self, id: u64, delivery: Delivery, held_bytes: usize, offered: &mut Offered) {
        let Some(subscriber) = self.by_id.get_mut(&id) else {
            return;
        };
        if let Some(touched) = self.touched.as_mut().filter(|touched| touched.last() != Some(&id)) {
            touched.push(id);
        }
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
        if !has_room || !subscriber.tell_loss() || subscriber.sink.try_send(delivery).is_err() {
            subscriber.lost.fetch_add(weight, Ordering::Relaxed);
            offered.dropped += weight;
            // One that has read everything waits, and would not look.
            if subscriber.sink.capacity() == subscriber.sink.max_capacity() {
                subscriber.tell_loss();
            }
        } else if is_message {
            offered.delivered += 1;
        }
    }

    /// From now on it is noted who is offered something, until [`Subscribers::take_tight`].
    pub(super) fn note_touched(&mut self) {
        self.touched = Some(Vec::new());
    }

    /// Of those that were offered something meanwhile, the ones that may not have room for what comes next, and are worth
    /// waiting for.
    pub(super) fn take_tight(&mut self) -> Vec<(u64, Sink)> {
        let mut touched = self.touched.take().unwrap_or_default();
        touched.sort_unstable();
        touched.dedup();
        let mut tight = Vec::new();
        for id in touched {
            let Some(subscriber) = self.by_id.get_mut(&id) else {
                continue;
            };
            let capacity = subscriber.sink.capacity();
            subscriber.is_slow &= capacity < subscriber.sink.max_capacity();
            if capacity < FRAME_PUBLICATIONS_MAX && !subscriber.is_slow && !subscriber.sink.is_closed() {
                tight.push((id, subscriber.sink.clone()));
            }
        }
        tight
    }

    /// This one was waited for long enough.
    pub(super) fn give_up_on(&mut self, id: u64) {
        if let Some(subscriber) = self.by_id.get_mut(&id) {
            subscriber.is_slow = true;
        }
    }
}
