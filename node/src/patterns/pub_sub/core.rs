//! What matches, what is remembered of the messages that were handed on: decisions without I/O.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{
    Pattern, PeerId, Wire as _,
    patterns::pub_sub::{Frame, Line, Publication},
};

use super::cache::Kept;

/// Messages kept for subscribers that come back, and their bytes together.
pub(super) const REPLAY_MESSAGES_MAX: usize = 4096;
pub(super) const REPLAY_BYTES_MAX: usize = 8 << 20;
/// What a note of them costs besides the frame, and a message for subscribers besides its data.
const NOTE_BYTES: usize = 256;
const RECEIVED_BYTES: usize = 512;

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
    /// Rises by one with each message this node took in. What a subscription is told of before has the number after which it began.
    pub number: u64,
    /// Who published it.
    pub publisher: PeerId,
    /// The neighbour that handed it to this node; this node itself, if it published it.
    pub from: PeerId,
    /// Its number among those of its publisher's run and its subject's shard; rises by one with each.
    pub sequence: u64,
    /// The message.
    pub publication: Publication,
    pub(super) line: Line,
    _held: Held,
}

/// Messages that follow each other, in one frame and in this node's numbers. What they are is read in the frame.
#[derive(Debug)]
struct Note {
    first_number: u64,
    first_index: u32,
    count: u32,
    kept: Arc<Kept>,
}

impl Note {
    fn bytes(&self) -> usize {
        self.kept.data.len() + NOTE_BYTES
    }

    /// Whether a message is the next one.
    fn goes_on(&self, kept: &Arc<Kept>, index: u32) -> bool {
        Arc::ptr_eq(&self.kept, kept) && self.first_index + self.count == index
    }

    /// Its messages that come after `number`, each with its own.
    fn read(&self, number: u64) -> impl Iterator<Item = Numbered> {
        let known = number.saturating_add(1).saturating_sub(self.first_number);
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let (first_index, count) = (self.first_index as usize, self.count as usize);
        // It was read once to be taken in.
        let frame = Frame::from_bytes(&self.kept.data).ok().filter(|_| known < count);
        let first_seq = frame.as_ref().map_or(0, |frame| frame.first_seq);
        let publications = frame.into_iter().flat_map(|frame| frame.publications).enumerate();
        let first_number = self.first_number;
        publications
            .take(first_index.saturating_add(count))
            .skip(first_index.saturating_add(known))
            .map(move |(index, publication)| Numbered {
                number: first_number + (index - first_index) as u64,
                sequence: first_seq + index as u64,
                publication,
            })
    }
}

/// A message with its numbers.
#[derive(Debug)]
pub(super) struct Numbered {
    /// This node's.
    pub(super) number: u64,
    /// Its publisher's.
    pub(super) sequence: u64,
    pub(super) publication: Publication,
}

/// The last messages, for subscribers that come back: where they are kept.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    notes: VecDeque<Note>,
    messages: usize,
    bytes: usize,
    next: u64,
    held: Arc<AtomicUsize>,
}

impl ReplayWindow {
    /// Numbers a message, and notes where it is kept: in which frame, and at which place of it.
    pub(super) fn note(&mut self, kept: Arc<Kept>, index: u32) -> u64 {
        self.next += 1;
        self.messages += 1;
        match self.notes.back_mut().filter(|last| last.goes_on(&kept, index)) {
            Some(last) => last.count += 1,
            None => {
                let note = Note {
                    first_number: self.next,
                    first_index: index,
                    count: 1,
                    kept,
                };
                self.bytes += note.bytes();
                self.notes.push_back(note);
            }
        }
        while self.messages > REPLAY_MESSAGES_MAX || self.bytes > REPLAY_BYTES_MAX {
            self.drop_oldest();
        }
        self.next
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.notes.front_mut() else {
            self.messages = 0;
            return;
        };
        (oldest.first_number, oldest.first_index) = (oldest.first_number + 1, oldest.first_index + 1);
        oldest.count -= 1;
        self.messages -= 1;
        if oldest.count == 0 {
            self.bytes -= oldest.bytes();
            self.notes.pop_front();
        }
    }

    /// A message for subscribers, as it is once what was left out is put in.
    pub(super) fn receive(&self, numbered: Numbered, line: &Line, from: PeerId, source: &str) -> Arc<Received> {
        let Numbered {
            number,
            sequence,
            mut publication,
        } = numbered;
        publication.complete(source, line, sequence);
        let bytes = publication.message.data.len() + RECEIVED_BYTES;
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Arc::new(Received {
            number,
            publisher: line.publisher(),
            from,
            sequence,
            publication,
            line: *line,
            _held: Held {
                bytes,
                all: Arc::clone(&self.held),
            },
        })
    }

    /// The number of the last message.
    pub(super) fn last(&self) -> u64 {
        self.next
    }

    /// The frames in which they are, some more than once.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.notes.iter().map(|note| &note.kept)
    }

    /// Bytes of all messages that are kept here or wait for a subscriber.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + self.held.load(Ordering::Relaxed)
    }

    /// What matches and came after `number`, and how many are gone from the window that may have matched. `source` names
    /// a publisher.
    pub(super) fn after(
        &self,
        number: u64,
        pattern: &Pattern,
        source: impl Fn(&PeerId) -> String,
    ) -> (Vec<Arc<Received>>, u64) {
        let oldest = self.notes.front().map_or(self.next + 1, |note| note.first_number);
        let lost = oldest.saturating_sub(number.saturating_add(1));
        let mut matching = Vec::new();
        for note in &self.notes {
            let mut messages = note
                .read(number)
                .filter(|m| matches(pattern, &m.publication))
                .peekable();
            if messages.peek().is_some() {
                let (line, from) = (note.kept.line(), note.kept.from());
                let source = source(&line.publisher());
                matching.extend(messages.map(|m| self.receive(m, line, from, &source)));
            }
        }
        (matching, lost)
    }
}

pub(super) fn matches(pattern: &Pattern, publication: &Publication) -> bool {
    publication.subject().is_ok_and(|subject| pattern.matches(subject))
}
