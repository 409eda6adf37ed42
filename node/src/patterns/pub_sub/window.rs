//! The last messages, for subscribers that come back. Decisions without I/O.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use weft_protocol::{MeshId, Pattern, patterns::pub_sub::Frame};

use super::{
    cache::Kept,
    received::{Run, Source, Stretch, stretches},
};

/// Messages kept for subscribers that come back, and their bytes together.
pub(super) const REPLAY_MESSAGES_MAX: usize = 4096;
pub(super) const REPLAY_BYTES_MAX: usize = 8 << 20;
/// What a note of them costs besides the frame.
const NOTE_BYTES: usize = 256;

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

    /// Those of its messages that match and come after `number`, each stretch with the number of its first.
    fn read(&self, number: u64, pattern: &Pattern) -> Vec<(Stretch, u64)> {
        let known = number.saturating_add(1).saturating_sub(self.first_number);
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        if known >= self.count {
            return Vec::new();
        }
        // It was read once to be taken in.
        let frame = Frame::read(&self.kept.data).ok();
        let all = frame.map_or_else(Vec::new, |frame| stretches(frame, &self.kept.data));
        let (first, end) = (self.first_index + known, self.first_index + self.count);
        let wanted = all.into_iter().filter_map(|mut stretch| {
            let before = first.saturating_sub(stretch.first_index()) as usize;
            let left = end.saturating_sub(stretch.first_index()) as usize;
            if before >= stretch.len() || left <= before || !pattern.matches(&stretch.attributes.subject) {
                return None;
            }
            stretch.truncate(left);
            stretch.skip(before);
            let number = self.first_number + u64::from(stretch.first_index() - self.first_index);
            Some((stretch, number))
        });
        wanted.collect()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    notes: VecDeque<Note>,
    messages: usize,
    bytes: usize,
    next: u64,
    held: Arc<AtomicUsize>,
}

impl ReplayWindow {
    /// Numbers messages that follow each other in a frame, and notes where they are: from which place on, and how many. The number of
    /// the first one.
    pub(super) fn note(&mut self, kept: &Arc<Kept>, first_index: u32, count: u32) -> u64 {
        let first_number = self.next + 1;
        self.next += u64::from(count);
        self.messages += count as usize;
        match self.notes.back_mut().filter(|last| last.goes_on(kept, first_index)) {
            Some(last) => last.count += count,
            None => {
                let note = Note {
                    first_number,
                    first_index,
                    count,
                    kept: Arc::clone(kept),
                };
                self.bytes += note.bytes();
                self.notes.push_back(note);
            }
        }
        while self.messages > REPLAY_MESSAGES_MAX || self.bytes > REPLAY_BYTES_MAX {
            self.drop_oldest();
        }
        first_number
    }

    /// Lets go of the oldest: of as many as are too many, or of all that are in the oldest frame, if it is bytes that are too many.
    fn drop_oldest(&mut self) {
        let Some(oldest) = self.notes.front_mut() else {
            self.messages = 0;
            return;
        };
        let count = match u32::try_from(self.messages.saturating_sub(REPLAY_MESSAGES_MAX)) {
            Ok(too_many @ 1..) => oldest.count.min(too_many),
            _ => oldest.count,
        };
        oldest.first_number += u64::from(count);
        oldest.first_index += count;
        oldest.count -= count;
        self.messages -= count as usize;
        if oldest.count == 0 {
            self.bytes -= oldest.bytes();
            self.notes.pop_front();
        }
    }

    /// What a frame is for subscribers.
    pub(super) fn source(&self, kept: &Arc<Kept>, mesh: Option<MeshId>) -> Arc<Source> {
        Source::new(Arc::clone(kept), mesh, &self.held)
    }

    /// The number of the last message.
    pub(super) fn last(&self) -> u64 {
        self.next
    }

    /// The frames in which they are, some more than once.
    pub(super) fn frames(&self) -> impl Iterator<Item = &Arc<Kept>> {
        self.notes.iter().map(|note| &note.kept)
    }

    /// Bytes of all frames that are kept here or of which subscribers have messages.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + self.held.load(Ordering::Relaxed)
    }

    /// What matches and came after `number`, and how many are gone from the window that may have matched.
    pub(super) fn after(&self, number: u64, pattern: &Pattern, mesh: Option<MeshId>) -> (Vec<Arc<Run>>, u64) {
        let oldest = self.notes.front().map_or(self.next + 1, |note| note.first_number);
        let lost = oldest.saturating_sub(number.saturating_add(1));
        let mut matching = Vec::new();
        for note in &self.notes {
            let mut source = None;
            for (stretch, number) in note.read(number, pattern) {
                let source = source.get_or_insert_with(|| self.source(&note.kept, mesh));
                matching.push(Run::new(Arc::clone(source), stretch, number));
            }
        }
        (matching, lost)
    }
}
