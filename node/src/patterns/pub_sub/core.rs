//! What matches, what is remembered of the messages that were handed on: decisions without I/O.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{Pattern, PeerId, patterns::pub_sub::Publication};

/// Messages kept for subscribers that come back, and their bytes together.
pub(super) const REPLAY_MESSAGES_MAX: usize = 4096;
pub(super) const REPLAY_BYTES_MAX: usize = 8 << 20;

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
    /// Its number among those of its publisher's run and its subject's shard; rises by one with each.
    pub sequence: u64,
    /// The message.
    pub publication: Publication,
    held: Held,
}

/// Where a message comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) publisher: PeerId,
    pub(super) from: PeerId,
    pub(super) sequence: u64,
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
    pub(super) fn push(&mut self, origin: Origin, publication: Publication) -> Arc<Received> {
        self.next += 1;
        let bytes = publication.message.data.len() + 512;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        let held = Held {
            bytes,
            all: Arc::clone(&self.held),
        };
        let received = Arc::new(Received {
            number: self.next,
            publisher: origin.publisher,
            from: origin.from,
            sequence: origin.sequence,
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
