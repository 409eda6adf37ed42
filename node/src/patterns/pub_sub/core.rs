//! What is new, what matches, what is remembered: decisions without I/O.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{Pattern, PeerId, patterns::pub_sub::Publication};

/// Sequences of one publisher that may come out of order and still be told from a replay.
const WINDOW: u64 = 1024;
/// Publishers remembered; the one unheard of for longest makes room.
const PUBLISHERS_MAX: usize = 16_384;
/// Messages kept for subscribers that come back, and their bytes together.
pub(super) const REPLAY_MESSAGES_MAX: usize = 4096;
pub(super) const REPLAY_BYTES_MAX: usize = 8 << 20;

/// Whether a message was seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// Seen already, or older than the window: a replay, or a very late one.
    Stale,
    /// From before the publisher's last restart.
    OldBoot,
}

#[derive(Debug)]
struct Publisher {
    boot: u64,
    highest: u64,
    /// One bit for each of the last [`WINDOW`] sequences.
    seen: [u64; (WINDOW / 64) as usize],
    used: u64,
}

/// Tells new messages from old ones, per publisher.
#[derive(Debug, Default)]
pub(super) struct ReplayGuard {
    publishers: HashMap<PeerId, Publisher>,
    uses: u64,
}

impl ReplayGuard {
    /// Judges a sequence and remembers it.
    pub(super) fn judge(&mut self, source: PeerId, boot: u64, sequence: u64) -> Freshness {
        self.uses += 1;
        if self.publishers.len() >= PUBLISHERS_MAX && !self.publishers.contains_key(&source) {
            let oldest = self
                .publishers
                .iter()
                .min_by_key(|(_, p)| p.used)
                .map(|(peer, _)| *peer);
            if let Some(oldest) = oldest {
                self.publishers.remove(&oldest);
            }
        }
        let fresh = || Publisher {
            boot,
            highest: 0,
            seen: [0; (WINDOW / 64) as usize],
            used: 0,
        };
        let publisher = self.publishers.entry(source).or_insert_with(fresh);
        publisher.used = self.uses;
        if boot < publisher.boot {
            return Freshness::OldBoot;
        }
        if boot > publisher.boot {
            *publisher = Publisher {
                used: self.uses,
                ..fresh()
            };
        }
        publisher.take(sequence)
    }
}

impl Publisher {
    fn take(&mut self, sequence: u64) -> Freshness {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            if ahead >= WINDOW {
                self.seen = [0; (WINDOW / 64) as usize];
            } else {
                for passed in self.highest + 1..=sequence {
                    self.set(passed, false);
                }
            }
            self.highest = sequence;
        } else if self.highest - sequence >= WINDOW || self.get(sequence) {
            return Freshness::Stale;
        }
        self.set(sequence, true);
        Freshness::Fresh
    }

    fn get(&self, sequence: u64) -> bool {
        let bit = sequence % WINDOW;
        self.seen[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    fn set(&mut self, sequence: u64, value: bool) {
        let bit = sequence % WINDOW;
        let word = &mut self.seen[(bit / 64) as usize];
        if value {
            *word |= 1 << (bit % 64)
        } else {
            *word &= !(1 << (bit % 64))
        }
    }
}

/// Bytes of messages that somebody holds. Counted down when the last one lets go.
#[derive(Debug)]
struct Held {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A message as it was received, numbered by this node.
#[derive(Debug)]
pub struct Received {
    /// Rises by one with each message this node took in.
    pub number: u64,
    /// Who published it.
    pub publisher: PeerId,
    /// The neighbour that handed it to this node; this node itself, if it published it.
    pub from: PeerId,
    /// The message.
    pub publication: Publication,
    held: Held,
}

/// The last messages, for subscribers that come back.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    messages: VecDeque<Arc<Received>>,
    bytes: usize,
    next: u64,
    held: Arc<AtomicUsize>,
}

impl ReplayWindow {
    /// Numbers and keeps a message.
    pub(super) fn push(&mut self, publisher: PeerId, from: PeerId, publication: Publication) -> Arc<Received> {
        self.next += 1;
        let bytes = publication.message.data.len() + 512;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            bytes,
            all: Arc::clone(&self.held),
        };
        let received = Arc::new(Received {
            number: self.next,
            publisher,
            from,
            publication,
            held,
        });
        self.bytes += size(&received);
        self.messages.push_back(received.clone());
        while self.messages.len() > REPLAY_MESSAGES_MAX || self.bytes > REPLAY_BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.bytes -= size(&oldest);
        }
        received
    }

    /// Bytes of all messages that are kept here or wait for a subscriber.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// What matches and came after `number`, and how many are gone from the window that may have matched.
    pub(super) fn after(&self, number: u64, pattern: &Pattern) -> (Vec<Arc<Received>>, u64) {
        let oldest = self.messages.front().map_or(self.next + 1, |m| m.number);
        let lost = oldest.saturating_sub(number.saturating_add(1));
        let matching = self
            .messages
            .iter()
            .filter(|m| m.number > number && matches(pattern, &m.publication));
        (matching.cloned().collect(), lost)
    }
}

pub(super) fn matches(pattern: &Pattern, publication: &Publication) -> bool {
    publication.subject().is_ok_and(|subject| pattern.matches(subject))
}

fn size(received: &Received) -> usize {
    received.held.bytes
}
