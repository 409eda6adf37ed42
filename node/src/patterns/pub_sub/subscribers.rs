//! The subscriptions of this node: which of them a message is for, and what each was too slow for.
//!
//! Decisions without I/O. One that does not read in time loses its own messages, which are counted, and is told so before it hears
//! anything else; nobody waits for it but the publishers that speak to this node directly, and those only for a moment.

use std::{collections::BTreeMap, ops::AddAssign, sync::Arc};

use weft_protocol::{
    Pattern, PeerId, Shards, Subject,
    limits::FRAME_PUBLICATIONS_MAX,
    patterns::pub_sub::{DIRECT, Line, SHARDS, interest::Wanted},
};

use super::{
    handle::Delivery,
    priority::Priority,
    queue::Sink,
    received::{Received, Run},
    trie::SubjectTrie,
};

/// Messages waiting for one subscriber; beyond it they are dropped for this one, and counted.
pub(super) const SUBSCRIBER_QUEUE_MAX: usize = 4096;
/// Bytes of messages that wait for subscribers, and of those kept for who comes back. Beyond it only who has nothing waiting
/// gets more, and beyond twice as many nobody.
pub(super) const HELD_BYTES_MAX: usize = 32 << 20;

/// Lines of direct publications of which a subscriber's place is known, the last ones that it had something new of; of others what comes late
/// is lost to it.
const LINES_MAX: usize = 16;

struct Subscriber {
    wanted: Wanted,
    sink: Sink,
    /// How far it was handed what members hand over directly, for the lines that it had something of; no more than [`LINES_MAX`].
    lines: Vec<(Line, u64)>,
    /// It was waited for in vain, and is not again before it has caught up.
    is_slow: bool,
}

impl Subscriber {
    /// Notes how far a line is handed over, where its numbers have holes: on the others, what comes is always the next.
    fn note(&mut self, run: &Run, to: usize) {
        let line = run.line();
        if line.shard < DIRECT {
            return;
        }
        let last = run.sequence(to.saturating_sub(1));
        if let Some((_, known)) = self.lines.iter_mut().rev().find(|(known, _)| known == line) {
            *known = last.max(*known);
            return;
        }
        if self.lines.len() >= LINES_MAX {
            self.lines.remove(0);
        }
        self.lines.push((*line, last));
    }

    /// Whether it had something of a line behind a number. Once it has had more lines than are known, it may have of any other.
    fn is_beyond(&self, line: &Line, number: u64) -> bool {
        let known = self.lines.iter().find(|(known, _)| known == line);
        known.map_or(self.lines.len() >= LINES_MAX, |(_, last)| *last > number)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.sink.close();
    }
}

/// What came of offering something.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offered {
    pub(super) delivered: u64,
    pub(super) dropped: u64,
}

impl AddAssign for Offered {
    fn add_assign(&mut self, more: Self) {
        self.delivered += more.delivered;
        self.dropped += more.dropped;
    }
}

/// Whom a subject selects.
#[derive(Debug, Default)]
pub(super) struct Matched {
    plain: Vec<u64>,
    groups: BTreeMap<String, Vec<u64>>,
}

impl Matched {
    /// Those in no queue group.
    pub(super) fn plain(&self) -> &[u64] {
        &self.plain
    }

    /// How many subscriptions.
    pub(super) fn len(&self) -> usize {
        self.plain.len() + self.groups.values().map(Vec::len).sum::<usize>()
    }

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
    turn: u64,
    /// Those that were offered something, while somebody is going to ask.
    touched: Option<Vec<u64>>,
    /// The node is stopping.
    is_closed: bool,
}

/// Who takes what in a queue group.
pub(super) trait Takes {
    /// This node.
    fn local(&self) -> PeerId;

    /// Whether it is this node that takes a message whose publisher knew of no such group: those who have members of it settle it among
    /// themselves, by what each knows.
    fn settles(&self, received: &Received, group: &str) -> bool;
}

impl Subscribers {
    /// Takes a subscription in.
    pub(super) fn insert(&mut self, wanted: Wanted, sink: Sink) -> u64 {
        self.next_id += 1;
        if self.is_closed {
            sink.close();
            return self.next_id;
        }
        self.trie.insert(&wanted.pattern, self.next_id);
        let subscriber = Subscriber {
            wanted,
            sink,
            lines: Vec::new(),
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

    /// Lets go of all, and takes none in any more.
    pub(super) fn close(&mut self) {
        *self = Subscribers {
            next_id: self.next_id,
            is_closed: true,
            ..Subscribers::default()
        };
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

    /// Hands messages to those whom their subject selects.
    pub(super) fn deliver(
        &mut self,
        matched: &Matched,
        run: &Arc<Run>,
        held_bytes: usize,
        who: &impl Takes,
    ) -> Offered {
        let mut offered = Offered::default();
        for id in &matched.plain {
            offered += self.offer(*id, run, (0, run.len()), held_bytes);
        }
        for (group, members) in &matched.groups {
            // Whom its publisher picked takes it.
            let picked = run.attributes().is_for(group, &who.local());
            if picked == Some(false) {
                continue;
            }
            if let ([only], Some(true)) = (&members[..], picked) {
                offered += self.offer(*only, run, (0, run.len()), held_bytes);
                continue;
            }
            let mine = |index: usize| picked == Some(true) || run.get(index).is_some_and(|m| who.settles(&m, group));
            for index in (0..run.len()).filter(|index| mine(*index)) {
                if let Some(id) = self.choose(members, run) {
                    offered += self.offer(id, run, (index, index + 1), held_bytes);
                }
            }
        }
        offered
    }

    /// Whose turn it is, of any group. Numbers in a row would always meet the same member where groups take turns with each other; these do
    /// not (Knuth's MMIX generator, its upper half).
    fn next_turn(&mut self) -> usize {
        self.turn = self
            .turn
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.turn >> 32) as usize
    }

    /// The member of a group that takes a message next: by the message's key, if the group has one, else by lot. One that has no
    /// room leaves it to another.
    fn choose(&mut self, members: &[u64], run: &Run) -> Option<u64> {
        let name = members.iter().find_map(|id| self.by_id.get(id)?.wanted.key.as_deref());
        let start = match name.map(|name| run.attributes().extension(name).unwrap_or_default()) {
            Some(key) => super::pick::spread(key, members.iter().map(|id| id.to_be_bytes())),
            None => self.next_turn() % members.len().max(1),
        };
        let mut able = (0..members.len()).map(|at| members[(start + at) % members.len()]);
        let has_room = |id: &u64| self.by_id.get(id).is_some_and(|s| s.sink.room() > 0);
        able.clone().find(has_room).or_else(|| able.next())
    }

    /// Tells those whose subjects may be among them that messages are lost.
    pub(super) fn tell_gap(&mut self, shard: u16, publisher: PeerId, first: u64, last: u64) -> Offered {
        let mut offered = Offered::default();
        let elsewhere = |p: &Pattern| matches!(p.shards(SHARDS), Shards::One(own) if own != shard % SHARDS);
        for subscriber in self.by_id.values().filter(|s| !elsewhere(&s.wanted.pattern)) {
            let weight = last - first + 1;
            if !subscriber.sink.put(Delivery::Gap { publisher, first, last }, weight) {
                offered.dropped += weight;
            }
        }
        offered
    }

    /// Since when a subscription wants something, and whether it had, or may have had, something of a line behind a number.
    pub(super) fn standing(&self, id: u64, line: &Line, number: u64) -> Option<(u64, bool)> {
        self.by_id
            .get(&id)
            .map(|s| (s.wanted.since_ms, s.is_beyond(line, number)))
    }

    /// Tells one of them something of so many messages.
    pub(super) fn tell(&mut self, id: u64, delivery: Delivery, weight: u64) -> Offered {
        let is_told = self.by_id.get(&id).is_none_or(|s| s.sink.put(delivery, weight));
        Offered {
            delivered: 0,
            dropped: if is_told { 0 } else { weight },
        }
    }

    /// Hands one of them some of the messages of a run.
    pub(super) fn offer(&mut self, id: u64, run: &Arc<Run>, (from, to): (usize, usize), held_bytes: usize) -> Offered {
        let Some(subscriber) = self.by_id.get_mut(&id) else {
            return Offered::default();
        };
        subscriber.note(run, to);
        if let Some(touched) = self.touched.as_mut().filter(|touched| touched.last() != Some(&id)) {
            touched.push(id);
        }
        let allowed = match held_bytes {
            0..HELD_BYTES_MAX => usize::MAX,
            _ if held_bytes < HELD_BYTES_MAX * 2 && run.priority() == Priority::High => usize::MAX,
            _ if held_bytes < HELD_BYTES_MAX * 2 && subscriber.sink.is_empty() => usize::MAX,
            _ => 0,
        };
        let taken = subscriber.sink.put_run(run, from, to, allowed);
        Offered {
            delivered: taken as u64,
            dropped: (to - from - taken) as u64,
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
            subscriber.is_slow &= !subscriber.sink.is_empty();
            let is_tight = subscriber.sink.room() < FRAME_PUBLICATIONS_MAX;
            if is_tight && !subscriber.is_slow && !subscriber.sink.is_closed() {
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
