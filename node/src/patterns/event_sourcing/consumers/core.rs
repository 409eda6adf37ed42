//! What a consumer hands out, to whom again, and when: no disk, no network, told the time.
//!
//! A record is *new* until it was reached; then it is *ready*, *pending* (handed out), *waiting* (to be handed out again) or *held* (one of the
//! same key comes first); in the end it is *done*, and perhaps a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use minicbor::{Decode, Encode};
use tokio::time::Instant;
use weft_protocol::patterns::event_sourcing::consumer::{ConsumerOptions, DeadLetter, Handed, Order, Settlement};

/// Records that are held because one of their key comes first; with more, nothing new is reached.
const HELD_MAX: usize = 10_000;

/// What is kept of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Saved {
    /// How it was defined.
    #[n(0)]
    pub(super) options: ConsumerOptions,
    /// Every record up to this position is done, but those that are tried again.
    #[n(1)]
    pub(super) settled: u64,
    /// Records behind it that are done: the first and the last of each run.
    #[n(2)]
    pub(super) done: Vec<(u64, u64)>,
    /// Records to be handed out again.
    #[n(3)]
    pub(super) tried: Vec<Tried>,
    /// How many dead letters there are.
    #[n(4)]
    pub(super) dead: u32,
}

impl Saved {
    /// The first position that it may still ask for.
    pub(super) fn needed(&self) -> u64 {
        let tried = self.tried.iter().map(|tried| tried.position).min();
        tried.unwrap_or(u64::MAX).min(self.settled + 1)
    }
}

/// A record to be handed out again.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Tried {
    #[n(0)]
    pub(super) position: u64,
    /// How often it was handed out.
    #[n(1)]
    pub(super) deliveries: u32,
    /// What keeps it in order.
    #[n(2)]
    pub(super) key: Option<u64>,
}

/// Positions that are done: a floor, and runs above it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Done {
    floor: u64,
    runs: BTreeMap<u64, u64>,
}

impl Done {
    fn contains(&self, position: u64) -> bool {
        position <= self.floor || self.run_of(position).is_some()
    }

    fn run_of(&self, position: u64) -> Option<(u64, u64)> {
        let (first, last) = self.runs.range(..=position).next_back()?;
        (*last >= position).then_some((*first, *last))
    }

    fn insert(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.max(self.floor + 1), last);
        if first > last {
            return;
        }
        // The run before, and those that it reaches.
        if let Some((before, end)) = self
            .runs
            .range(..first)
            .next_back()
            .map(|(first, last)| (*first, *last))
            && end + 1 >= first
        {
            first = before;
            last = last.max(end);
        }
        while let Some((next, end)) = self.runs.range(first..).next().map(|(first, last)| (*first, *last))
            && next <= last + 1
        {
            self.runs.remove(&next);
            last = last.max(end);
        }
        if first == self.floor + 1 {
            self.runs.remove(&first);
            self.floor = last;
        } else {
            self.runs.insert(first, last);
        }
    }
}

#[derive(Debug, Clone)]
struct Open {
    /// How often it was handed out.
    deliveries: u32,
    key: Option<u64>,
    state: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Ready,
    /// Until then.
    Pending(Instant),
    /// Until then.
    Waiting(Instant),
    Held,
}

/// A consumer.
#[derive(Debug)]
pub(super) struct Core {
    options: ConsumerOptions,
    done: Done,
    /// The last position that was looked at.
    reached: u64,
    open: BTreeMap<u64, Open>,
    /// Of each key, the records that are open, in their order.
    keys: HashMap<u64, VecDeque<u64>>,
    ready: BTreeSet<u64>,
    /// When something is due.
    due: BTreeSet<(Instant, u64)>,
    pending: usize,
    dead: u32,
}

impl Core {
    pub(super) fn new(options: ConsumerOptions, begin: u64) -> Self {
        Self::of(Saved {
            options,
            settled: begin,
            done: Vec::new(),
            tried: Vec::new(),
            dead: 0,
        })
    }

    /// After a restart: what was pending is handed out again.
    pub(super) fn of(saved: Saved) -> Self {
        let Saved {
            options,
            settled,
            done,
            tried,
            dead,
        } = saved;
        let mut core = Core {
            options,
            done: Done {
                floor: settled,
                runs: done.into_iter().collect(),
            },
            reached: settled,
            open: BTreeMap::new(),
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            due: BTreeSet::new(),
            pending: 0,
            dead,
        };
        for Tried {
            position,
            deliveries,
            key,
        } in tried
        {
            core.open_one(position, deliveries, key);
        }
        core
    }

    pub(super) fn saved(&self) -> Saved {
        let tried = self.open.iter().filter(|(position, open)| {
            // What was not handed out yet, and lies before it, would be forgotten.
            open.deliveries > 0 || self.done.contains(**position)
        });
        Saved {
            options: self.options.clone(),
            settled: self.done.floor,
            done: self.done.runs.iter().map(|(first, last)| (*first, *last)).collect(),
            tried: tried
                .map(|(position, open)| Tried {
                    position: *position,
                    deliveries: open.deliveries,
                    key: open.key,
                })
                .collect(),
            dead: self.dead,
        }
    }

    pub(super) fn options(&self) -> &ConsumerOptions {
        &self.options
    }

    pub(super) fn settled(&self) -> u64 {
        self.done.floor
    }

    pub(super) fn reached(&self) -> u64 {
        self.reached
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
    }

    pub(super) fn waiting(&self) -> usize {
        self.open.len() - self.pending
    }

    pub(super) fn dead(&self) -> u32 {
        self.dead
    }

    /// Whether new records may be looked at.
    pub(super) fn has_room(&self) -> bool {
        self.pending < self.options.pending_max as usize
            && self.open.len() < self.options.pending_max as usize + HELD_MAX
    }

    /// A record behind the last one that was looked at: what keeps it in order, if it is meant.
    pub(super) fn offer(&mut self, position: u64, meant: Option<Option<u64>>) {
        self.pass(position.saturating_sub(1));
        if position <= self.reached {
            return;
        }
        self.reached = position;
        if self.done.contains(position) || self.open.contains_key(&position) {
            return;
        }
        match meant {
            Some(key) => self.open_one(position, 0, key),
            None => self.done.insert(position, position),
        }
    }

    /// Nothing that is meant lies up to this position, behind what was looked at.
    pub(super) fn pass(&mut self, last: u64) {
        if last > self.reached {
            // What is tried again stays open all the same.
            self.done.insert(self.reached + 1, last);
            self.reached = last;
        }
    }

    fn open_one(&mut self, position: u64, deliveries: u32, key: Option<u64>) {
        let key = key.filter(|_| self.options.order == Order::Key);
        let is_first = key.is_none_or(|key| {
            let line = self.keys.entry(key).or_default();
            line.push_back(position);
            line.len() == 1
        });
        let state = if is_first { Standing::Ready } else { Standing::Held };
        if is_first {
            self.ready.insert(position);
        }
        self.open.insert(position, Open { deliveries, key, state });
    }

    /// What is due becomes ready, or a dead letter.
    pub(super) fn tick(&mut self, now: Instant, now_ms: u64) -> Vec<DeadLetter> {
        let mut dead = Vec::new();
        while let Some((at, position)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, position));
            let Some(open) = self.open.get(&position) else { continue };
            match open.state {
                Standing::Pending(_) => {
                    let reason = "it was not settled in time".to_owned();
                    dead.extend(self.fail(position, None, reason, now, now_ms));
                }
                Standing::Waiting(_) => self.make_ready(position),
                Standing::Ready | Standing::Held => {}
            }
        }
        dead
    }

    fn make_ready(&mut self, position: u64) {
        if let Some(open) = self.open.get_mut(&position) {
            open.state = Standing::Ready;
            self.ready.insert(position);
        }
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Hands out what is ready, the first positions first.
    pub(super) fn take(&mut self, most: usize, now: Instant) -> Vec<Handed> {
        let mut handed = Vec::new();
        let until = now + Duration::from_millis(self.options.ack_wait_ms);
        let in_order = self.options.order == Order::Stream;
        if in_order && self.pending > 0 {
            return handed;
        }
        while handed.len() < most && self.pending < self.options.pending_max as usize {
            let Some(position) = self.ready.first().copied() else {
                break;
            };
            // One before it waits to be handed out again.
            if in_order
                && self
                    .open
                    .range(..position)
                    .any(|(_, open)| open.state != Standing::Pending(until))
            {
                break;
            }
            self.ready.remove(&position);
            let Some(open) = self.open.get_mut(&position) else {
                continue;
            };
            open.deliveries += 1;
            open.state = Standing::Pending(until);
            self.due.insert((until, position));
            self.pending += 1;
            let delivery = open.deliveries;
            handed.push(Handed { position, delivery });
        }
        handed
    }

    /// Settles a record that was handed out; whether it was. What was handed out again meanwhile is not settled by who had it before.
    pub(super) fn settle(
        &mut self,
        handed: Handed,
        settlement: &Settlement,
        now: Instant,
        now_ms: u64,
    ) -> Option<Option<DeadLetter>> {
        let open = self.open.get_mut(&handed.position)?;
        let Standing::Pending(until) = open.state else {
            return None;
        };
        if open.deliveries != handed.delivery {
            return None;
        }
        self.due.remove(&(until, handed.position));
        match settlement {
            Settlement::Longer => {
                let until = now + Duration::from_millis(self.options.ack_wait_ms);
                open.state = Standing::Pending(until);
                self.due.insert((until, handed.position));
                Some(None)
            }
            Settlement::Done => {
                self.close(handed.position);
                Some(None)
            }
            Settlement::Again { pause_ms, reason } => {
                Some(self.fail(handed.position, *pause_ms, reason.clone(), now, now_ms))
            }
            Settlement::Unseen => {
                open.deliveries -= 1;
                self.pending -= 1;
                self.make_ready(handed.position);
                Some(None)
            }
            Settlement::Dead { reason } => Some(Some(self.bury(handed.position, reason.clone(), now_ms))),
        }
    }

    /// A record that was handed out was not dealt with.
    fn fail(
        &mut self,
        position: u64,
        pause_ms: Option<u64>,
        reason: String,
        now: Instant,
        now_ms: u64,
    ) -> Option<DeadLetter> {
        let open = self.open.get_mut(&position)?;
        if self.options.deliver_max.is_some_and(|most| open.deliveries >= most) {
            return Some(self.bury(position, reason, now_ms));
        }
        let backoff = &self.options.backoff_ms;
        let own = backoff
            .get(open.deliveries.saturating_sub(1) as usize)
            .or(backoff.last());
        let pause = Duration::from_millis(pause_ms.or(own.copied()).unwrap_or(0));
        open.state = Standing::Waiting(now + pause);
        self.pending -= 1;
        self.due.insert((now + pause, position));
        None
    }

    fn bury(&mut self, position: u64, reason: String, now_ms: u64) -> DeadLetter {
        let deliveries = self.open.get(&position).map_or(0, |open| open.deliveries);
        self.close(position);
        self.dead += 1;
        DeadLetter {
            position,
            deliveries,
            reason,
            since_ms: now_ms,
        }
    }

    /// It is done: the next of its key comes.
    fn close(&mut self, position: u64) {
        let Some(open) = self.open.remove(&position) else {
            return;
        };
        if let Standing::Pending(_) = open.state {
            self.pending -= 1;
        }
        self.done.insert(position, position);
        let Some(key) = open.key else { return };
        let Some(line) = self.keys.get_mut(&key) else { return };
        line.retain(|other| *other != position);
        match line.front().copied() {
            Some(next) => {
                if self.open.get(&next).is_some_and(|open| open.state == Standing::Held) {
                    self.make_ready(next);
                }
            }
            None => {
                self.keys.remove(&key);
            }
        }
    }

    /// What was taken and could not be given: as if it was not taken.
    pub(super) fn untake(&mut self, handed: &[Handed]) {
        for Handed { position, delivery } in handed {
            let Some(open) = self.open.get_mut(position) else {
                continue;
            };
            if let Standing::Pending(until) = open.state
                && open.deliveries == *delivery
            {
                open.deliveries -= 1;
                open.state = Standing::Ready;
                self.due.remove(&(until, *position));
                self.pending -= 1;
                self.ready.insert(*position);
            }
        }
    }

    /// A dead letter is not kept any more.
    pub(super) fn forget_dead(&mut self) {
        self.dead = self.dead.saturating_sub(1);
    }

    /// A dead letter is handed out again, as if it never was. False when it is open already.
    pub(super) fn revive(&mut self, position: u64, key: Option<u64>) -> bool {
        self.dead = self.dead.saturating_sub(1);
        if self.open.contains_key(&position) {
            return false;
        }
        self.open_one(position, 0, key);
        true
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
