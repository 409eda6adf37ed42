//! Walks through the records of one segment and says what is there, what is lost, and where the tail is torn.

use super::super::merkle::{Frontier, Hash};
use super::record::{Header, LogId, MARK_BYTES};
use super::segment::{self, Index};
use super::window::{Found, Window};
use crate::platform::disk::DiskFile;
use std::io;

/// What is asked about a segment.
pub(super) struct Question<'a> {
    pub(super) file: &'a dyn DiskFile,
    pub(super) id: LogId,
    /// The frontier before the first record; `None` when the header that should carry it is damaged.
    pub(super) frontier: Option<Frontier>,
    pub(super) first_seq: u64,
    /// Where the first record begins.
    pub(super) start: u64,
    /// Where to stop: the end of the file, or of a sealed segment's records.
    pub(super) end: u64,
    /// Records before this one are known to have been acknowledged.
    pub(super) acknowledged: u64,
}

/// Bytes that are not what was written, in a place that had been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) offset: u64,
    /// The first and the last lost record, `None` when bytes are wrong and no record is missing.
    pub(super) lost: Option<(u64, u64)>,
}

/// What a segment holds.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) index: Index,
    pub(super) next_seq: u64,
    /// Where the last record ends.
    pub(super) end: u64,
    pub(super) gaps: Vec<Gap>,
    /// The frontier behind the last record; `None` when a record before it is lost.
    pub(super) frontier: Option<Frontier>,
    /// Whether a mark proves the last record synced.
    pub(super) marked: bool,
    /// Where the last group begins.
    pub(super) group_start: u64,
    /// Bytes behind the last record that are neither mark nor record nor zeros.
    pub(super) torn_bytes: u64,
    /// Records that are whole, of an append that is not: they were never acknowledged.
    pub(super) dropped: u64,
    /// How many records are whole.
    pub(super) records: u64,
}

/// Surveys a segment. Damage is an answer; only the disk's own failure is an error.
pub(super) fn survey(question: Question<'_>) -> io::Result<Survey> {
    let mut walk = Walk::new(question);
    loop {
        while let Some(header) = walk.window.record(walk.offset)?.filter(|header| header.seq == walk.seq) {
            walk.take(&header);
        }
        if !walk.step_over_damage()? {
            return walk.finish();
        }
    }
}

struct Walk<'a> {
    question: Question<'a>,
    window: Window<'a>,
    offset: u64,
    seq: u64,
    index: Index,
    gaps: Vec<Gap>,
    frontier: Option<Frontier>,
    group_start: u64,
    /// Of the append the walk is in: its first record, where that begins, and the leaves so far.
    append: (u64, u64),
    leaves: Vec<Hash>,
    remaining: u32,
    records: u64,
}

impl<'a> Walk<'a> {
    fn new(mut question: Question<'a>) -> Self {
        let window = Window::new(question.file, question.id, question.end);
        let (offset, seq) = (question.start, question.first_seq);
        Walk {
            window,
            offset,
            seq,
            index: Vec::new(),
            gaps: Vec::new(),
            frontier: question.frontier.take(),
            group_start: offset,
            append: (seq, offset),
            leaves: Vec::new(),
            remaining: 0,
            records: 0,
            question,
        }
    }

    fn take(&mut self, header: &Header) {
        if header.group == 0 {
            self.group_start = self.offset;
        }
        // A group always begins with an append, also where the one before was cut short by `truncate_from`.
        if self.remaining == 0 || header.group == 0 {
            self.begin_append();
        }
        self.remaining = header.remaining;
        self.leaves.push(header.leaf);
        segment::note(&mut self.index, self.seq, self.offset);
        self.offset += header.record_bytes() as u64;
        self.seq += 1;
        self.records += 1;
    }

    fn begin_append(&mut self) {
        if let Some(frontier) = &mut self.frontier {
            self.leaves.iter().for_each(|leaf| frontier.push(*leaf));
        }
        self.leaves.clear();
        self.append = (self.seq, self.offset);
    }

    /// Goes on behind damage. `false`: nothing acknowledged follows.
    fn step_over_damage(&mut self) -> io::Result<bool> {
        let (seq, offset) = (self.seq, self.offset);
        let known = seq < self.question.acknowledged;
        let mut first = None;
        let mut at = offset;
        let mut proved = known;
        while let Some(found) = self.window.find(at, seq)? {
            first.get_or_insert(found);
            // A group is written after the one before it was synced, a mark after its own group was.
            proved |= match found {
                Found::Record { header, .. } => header.group_first_seq() > seq,
                Found::Mark { next_seq, .. } => next_seq > seq,
            };
            if proved {
                break;
            }
            at = found.end();
        }
        match first.filter(|_| proved) {
            Some(Found::Record {
                header,
                offset: resumed,
            }) => {
                self.lose(offset, seq, header.seq);
                (self.seq, self.offset) = (header.seq, resumed);
                self.group_start = resumed;
                self.begin_append();
                Ok(true)
            }
            Some(Found::Mark {
                next_seq,
                offset: marked_at,
            }) => {
                self.lose(offset, seq, next_seq.max(self.question.acknowledged));
                (self.seq, self.offset) = (next_seq.max(self.question.acknowledged), marked_at);
                self.begin_append();
                Ok(false)
            }
            None if known => {
                self.lose(offset, seq, self.question.acknowledged);
                (self.seq, self.offset) = (self.question.acknowledged, self.question.end);
                self.begin_append();
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn lose(&mut self, offset: u64, first: u64, next: u64) {
        self.frontier = None;
        self.remaining = 0;
        self.gaps.push(Gap {
            offset,
            lost: (next > first).then(|| (first, next - 1)),
        });
    }

    fn finish(mut self) -> io::Result<Survey> {
        let marked = self.window.mark(self.offset)? == Some(self.seq);
        let mut dropped = 0;
        if self.remaining > 0 && !marked && self.seq > self.question.acknowledged {
            dropped = self.seq - self.append.0;
            (self.seq, self.offset) = self.append;
            self.records -= dropped;
            self.leaves.clear();
            self.index.retain(|(seq, _)| *seq < self.append.0);
        }
        self.begin_append();
        let tail = if marked { MARK_BYTES as u64 } else { 0 };
        let torn_end = self.window.trimmed_end(self.offset + tail)?;
        Ok(Survey {
            index: self.index,
            next_seq: self.seq,
            end: self.offset,
            gaps: self.gaps,
            frontier: self.frontier,
            marked,
            group_start: self.group_start.min(self.offset),
            torn_bytes: torn_end.saturating_sub(self.offset + tail),
            dropped,
            records: self.records,
        })
    }
}
