//! Who of this node's connections subscribes to what: a trie of tokens, and what it says of a subject.
//!
//! Promises: a lookup costs what matches, not what is subscribed; what was looked up stays usable without a lock until the generation
//! changes. Decisions only: nothing is sent from here.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use weft_protocol::Pattern;

use super::outbox::Outbox;

/// One subscription of one connection.
#[derive(Debug)]
pub(super) struct Sub {
    /// Whose it is.
    pub(super) to: Arc<Outbox>,
    /// What the client calls it.
    pub(super) sid: Box<[u8]>,
    /// What it selects.
    pub(super) pattern: Pattern,
    /// Its queue group.
    pub(super) queue: Option<Box<str>>,
    /// Messages after which it ends; 0: never.
    max: AtomicU64,
    delivered: AtomicU64,
    ended: AtomicBool,
}

/// What to do with a message that a subscription selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send it.
    Send,
    /// Send it, and the subscription is over.
    Last,
    /// It was over before.
    Over,
}

impl Sub {
    pub(super) fn new(to: Arc<Outbox>, sid: &[u8], pattern: Pattern, queue: Option<&str>) -> Arc<Self> {
        Arc::new(Sub {
            to,
            sid: sid.into(),
            pattern,
            queue: queue.map(Into::into),
            max: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// Limits it to so many messages in all. Whether it is over by that.
    pub(super) fn limit(&self, max: u64) -> bool {
        self.max.store(max, Ordering::Relaxed);
        let over = self.delivered.load(Ordering::Relaxed) >= max;
        if over {
            self.ended.store(true, Ordering::Relaxed);
        }
        over
    }

    /// Counts one message.
    pub(super) fn take_turn(&self) -> Turn {
        if self.ended.load(Ordering::Relaxed) {
            return Turn::Over;
        }
        let delivered = self.delivered.fetch_add(1, Ordering::Relaxed) + 1;
        match self.max.load(Ordering::Relaxed) {
            0 => Turn::Send,
            max if delivered < max => Turn::Send,
            max => {
                self.ended.store(true, Ordering::Relaxed);
                if delivered == max { Turn::Last } else { Turn::Over }
            }
        }
    }

    /// Whether no message comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// The subscriptions that one subject selects.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// Each gets the message.
    pub(super) plain: Vec<Arc<Sub>>,
    /// One of each group gets it.
    pub(super) groups: Vec<Vec<Arc<Sub>>>,
}

#[derive(Debug, Default)]
struct Level {
    tokens: HashMap<Box<str>, Level>,
    here: Vec<Arc<Sub>>,
    tail: Vec<Arc<Sub>>,
}

impl Level {
    fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.here.is_empty() && self.tail.is_empty()
    }

    fn insert(&mut self, sub: &Arc<Sub>) {
        let mut level = self;
        for token in sub.pattern.as_str().split('.') {
            if token == ">" {
                level.tail.push(Arc::clone(sub));
                return;
            }
            level = level.tokens.entry(token.into()).or_default();
        }
        level.here.push(Arc::clone(sub));
    }

    /// Whether it was there.
    fn remove(&mut self, mut tokens: std::str::Split<'_, char>, sub: &Arc<Sub>) -> bool {
        let take = |list: &mut Vec<Arc<Sub>>| {
            let found = list.iter().position(|s| Arc::ptr_eq(s, sub));
            // The order among subscriptions means nothing.
            found.map(|at| list.swap_remove(at)).is_some()
        };
        match tokens.next() {
            None => take(&mut self.here),
            Some(">") => take(&mut self.tail),
            Some(token) => {
                let Some(below) = self.tokens.get_mut(token) else {
                    return false;
                };
                let removed = below.remove(tokens, sub);
                if below.is_empty() {
                    self.tokens.remove(token);
                }
                removed
            }
        }
    }

    fn collect(&self, tokens: &[&str], wild_allowed: bool, found: &mut Vec<Arc<Sub>>) {
        let Some((token, rest)) = tokens.split_first() else {
            found.extend(self.here.iter().cloned());
            return;
        };
        if wild_allowed {
            found.extend(self.tail.iter().cloned());
            if let Some(below) = self.tokens.get("*") {
                below.collect(rest, true, found);
            }
        }
        if let Some(below) = self.tokens.get(*token) {
            below.collect(rest, true, found);
        }
    }
}

/// All subscriptions of this node's connections.
#[derive(Debug, Default)]
pub(super) struct Router {
    root: RwLock<Level>,
    generation: AtomicU64,
    len: AtomicU64,
}

impl Router {
    /// Changes with every subscription that comes or goes.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn insert(&self, sub: &Arc<Sub>) {
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        root.insert(sub);
        self.len.fetch_add(1, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether it was there.
    pub(super) fn remove(&self, sub: &Arc<Sub>) -> bool {
        sub.end();
        let mut root = self.root.write().unwrap_or_else(PoisonError::into_inner);
        let removed = root.remove(sub.pattern.as_str().split('.'), sub);
        if removed {
            self.len.fetch_sub(1, Ordering::Relaxed);
            self.generation.fetch_add(1, Ordering::Release);
        }
        removed
    }

    /// What a subject selects now. Wildcards do not reach a reserved first token, as everywhere in the mesh.
    pub(super) fn matching(&self, subject: &str) -> Matched {
        let tokens: Vec<&str> = subject.split('.').collect();
        let mut found = Vec::new();
        self.root.read().unwrap_or_else(PoisonError::into_inner).collect(
            &tokens,
            !subject.starts_with('$'),
            &mut found,
        );
        let mut matched = Matched::default();
        let mut places: HashMap<Box<str>, usize> = HashMap::new();
        for sub in found {
            match sub.queue.clone() {
                None => matched.plain.push(sub),
                Some(queue) => {
                    let place = *places.entry(queue).or_insert_with(|| {
                        matched.groups.push(Vec::new());
                        matched.groups.len() - 1
                    });
                    matched.groups[place].push(sub);
                }
            }
        }
        matched
    }
}
