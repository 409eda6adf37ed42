//! Which publications are new, which come next, which are missing: decisions without I/O, told the time.
//!
//! Promises: of each [`Line`] every publication is handed on once and in its order; what is known to exist and does not come is
//! wanted again and again for [`PATIENCE`], and then named as a gap; what comes later than that, or twice, is refused.
//!
//! A line that is met for the first time begins with its first publication if its publisher started after this node
//! began to follow, or is known from an earlier run; otherwise with the first one that was made since.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::{
    PeerId,
    patterns::pub_sub::{Line, repair::Head},
};

/// How long a missing publication holds back those behind it.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// What overtook another on a different way is soon followed by it.
const FIRST_WAIT: Duration = Duration::from_millis(120);
/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Lines followed; those that were quiet for longest make room.
const LINES_MAX: usize = 65_536;
/// Bytes of publications that wait for earlier ones, of one line and together. What does not fit is fetched again.
const PARKED_LINE_BYTES_MAX: usize = 4 << 20;
const PARKED_BYTES_MAX: usize = 8 << 20;
/// A line that was quiet for so long is not compared any more.
pub(super) const HEAD_AGE: Duration = Duration::from_secs(600);

/// Whether a frame was worth something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Fresh,
    /// Nothing in it is new: it was here already, or its gap has been named.
    Stale,
    /// Of a run of its publisher that is over for long.
    Old,
}

/// Publications in a row.
pub(super) trait Items {
    /// How many.
    fn count(&self) -> usize;

    /// Leaves out the first ones; fewer than all.
    fn skip(&mut self, count: usize);
}

/// A frame as far as order goes.
#[derive(Debug)]
pub(super) struct Arrived<T> {
    pub(super) line: Line,
    pub(super) first_seq: u64,
    pub(super) before_ms: u64,
    pub(super) items: T,
    pub(super) bytes: usize,
    pub(super) from: PeerId,
}

/// What is to be done next, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    /// Hand these on; they are numbered from `first_seq`.
    Run { line: Line, first_seq: u64, items: T },
    /// These will not come.
    Gap { line: Line, first_seq: u64, last_seq: u64 },
}

/// What is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Want {
    pub(super) line: Line,
    pub(super) from_seq: u64,
    pub(super) to_seq: u64,
    /// How often it was asked for before.
    pub(super) tries: u32,
    /// Who handed over what comes behind it.
    pub(super) hint: Option<PeerId>,
}

#[derive(Debug)]
struct Parked<T> {
    items: T,
    before_ms: u64,
    bytes: usize,
    from: PeerId,
    at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Lack {
    /// The last one that was missing when this was noted.
    to: u64,
    since: Instant,
    retry: Instant,
    tries: u32,
}

#[derive(Debug)]
struct Track<T> {
    /// The number of the next publication to hand on.
    next: u64,
    /// The last one known to exist, from what its publisher signed.
    last: u64,
    /// It is not known yet with which publication our time began; `next` means nothing.
    young: bool,
    parked: BTreeMap<u64, Parked<T>>,
    parked_bytes: usize,
    changed: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Orders<T> {
    /// When this node began to follow.
    since_ms: u64,
    lines: BTreeMap<Line, Track<T>>,
    /// Of these something is missing.
    lacking: BTreeMap<Line, Lack>,
    parked_bytes: usize,
    dirty: BTreeSet<Line>,
}

impl<T: Items> Orders<T> {
    pub(super) fn new(since_ms: u64) -> Self {
        Orders {
            since_ms,
            lines: BTreeMap::new(),
            lacking: BTreeMap::new(),
            parked_bytes: 0,
            dirty: BTreeSet::new(),
        }
    }

    pub(super) fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// Takes up a line where an earlier run of this node left it.
    pub(super) fn restore(&mut self, line: Line, next: u64, now: Instant) {
        self.lines.insert(line, Track::new(next.max(1), false, now));
    }

    /// The number up to which a line was handed on.
    pub(super) fn followed(&self, line: &Line) -> Option<u64> {
        self.lines.get(line).filter(|t| !t.young).map(|t| t.next - 1)
    }

    /// Takes in a frame; what is to be done follows in `steps`.
    pub(super) fn take(&mut self, arrived: Arrived<T>, now: Instant, steps: &mut Vec<Step<T>>) -> Freshness {
        let line = arrived.line;
        if self.is_over(&line) {
            return Freshness::Old;
        }
        let since_ms = self.since_ms;
        if !self.lines.contains_key(&line) {
            self.begin(line, now);
        }
        let Some(track) = self.lines.get_mut(&line) else {
            return Freshness::Old;
        };
        let last_seq = (arrived.first_seq - 1).saturating_add(arrived.items.count() as u64);
        let news = last_seq > track.last;
        track.last = track.last.max(last_seq);
        let freshness = if arrived.items.count() == 0 {
            if track.young && track.parked.is_empty() && arrived.before_ms < since_ms {
                (track.young, track.next) = (false, arrived.first_seq);
                self.dirty.insert(line);
            }
            if last_seq < track.last {
                Freshness::Stale
            } else {
                Freshness::Fresh
            }
        } else if !track.young && last_seq < track.next || track.parked.contains_key(&arrived.first_seq) {
            Freshness::Stale
        } else {
            let fits = track.parked_bytes + arrived.bytes <= PARKED_LINE_BYTES_MAX
                && self.parked_bytes + arrived.bytes <= PARKED_BYTES_MAX;
            let is_next = !track.young && arrived.first_seq <= track.next;
            if is_next || fits || track.young && arrived.before_ms < since_ms {
                track.parked_bytes += arrived.bytes;
                self.parked_bytes += arrived.bytes;
                track.parked.insert(
                    arrived.first_seq,
                    Parked {
                        items: arrived.items,
                        before_ms: arrived.before_ms,
                        bytes: arrived.bytes,
                        from: arrived.from,
                        at: now,
                    },
                );
            }
            Freshness::Fresh
        };
        if news || freshness == Freshness::Fresh {
            track.changed = now;
        }
        self.advance(line, now, steps);
        freshness
    }

    /// What is to be asked for now. What was missing for too long becomes a gap.
    pub(super) fn due(&mut self, now: Instant, steps: &mut Vec<Step<T>>) -> Vec<Want> {
        let mut wants = Vec::new();
        let due: Vec<(Line, Lack)> = self
            .lacking
            .iter()
            .filter(|(_, lack)| lack.retry <= now)
            .map(|(line, lack)| (*line, *lack))
            .collect();
        for (line, lack) in due {
            let Some(track) = self.lines.get_mut(&line) else {
                continue;
            };
            let Some((from_seq, to_seq)) = track.missing() else {
                continue;
            };
            if now.saturating_duration_since(lack.since) >= PATIENCE {
                (track.young, track.next) = (false, to_seq + 1);
                self.lacking.remove(&line);
                steps.push(Step::Gap {
                    line,
                    first_seq: from_seq,
                    last_seq: to_seq,
                });
                self.dirty.insert(line);
                self.advance(line, now, steps);
                self.inherit(&line, now);
                continue;
            }
            wants.push(Want {
                line,
                from_seq,
                to_seq,
                tries: lack.tries,
                hint: track.parked.first_key_value().map(|(_, parked)| parked.from),
            });
            let wait = (FIRST_WAIT * 2_u32.saturating_pow(lack.tries + 1)).min(WAIT_MAX);
            let later = Lack {
                retry: now + wait,
                tries: lack.tries + 1,
                ..lack
            };
            self.lacking.insert(line, later);
        }
        wants
    }

    /// When [`Orders::due`] has something to say again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lacking.values().map(|lack| lack.retry).min()
    }

    /// What of a line that somebody has followed so far is to be fetched from it: the first number.
    pub(super) fn behind(&self, head: &Head) -> Option<u64> {
        match self.lines.get(&head.line) {
            Some(track) if !track.young => (track.next <= head.last_seq).then_some(track.next),
            _ if self.is_over(&head.line) => None,
            _ if self.is_whole(&head.line) => (head.last_seq > 0).then_some(1),
            _ => (head.first_seq > 0 && head.first_seq <= head.last_seq).then_some(head.first_seq),
        }
    }

    /// How far the lines were followed that changed lately, the latest first.
    pub(super) fn heads(&self, now: Instant, most: usize) -> Vec<(Line, u64)> {
        let lately = self
            .lines
            .iter()
            .filter(|(_, track)| now.saturating_duration_since(track.changed) < HEAD_AGE);
        let mut heads: Vec<(Instant, Line, u64)> = lately
            .filter(|(_, track)| !track.young && track.next > 1)
            .map(|(line, track)| (track.changed, *line, track.next - 1))
            .collect();
        heads.sort_unstable_by(|a, b| (b.0, a.1).cmp(&(a.0, b.1)));
        heads.truncate(most);
        heads.into_iter().map(|(_, line, last)| (line, last)).collect()
    }

    /// The lines whose position changed since the last call, with the next number; none: the line is forgotten.
    pub(super) fn take_dirty(&mut self) -> Vec<(Line, Option<u64>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let position = |line: &Line| self.lines.get(line).filter(|t| !t.young).map(|t| t.next);
        dirty.into_iter().map(|line| (line, position(&line))).collect()
    }

    /// Whether its publisher has started at least twice since.
    fn is_over(&self, line: &Line) -> bool {
        let (first, last) = line.bounds();
        let newest = self.lines.range(first..=last).next_back();
        if newest.is_none_or(|(newest, _)| line.epoch >= newest.epoch) {
            return false;
        }
        let of_run = place(line, line.epoch, 0)..=place(line, line.epoch, u16::MAX);
        self.lines.range(of_run).next().is_none()
    }

    /// Whether the whole line is of our time.
    fn is_whole(&self, line: &Line) -> bool {
        let (first, _) = line.bounds();
        let run = place(line, line.epoch, 0);
        line.epoch >= self.since_ms || self.lines.range(first..run).next().is_some()
    }

    fn begin(&mut self, line: Line, now: Instant) {
        let whole = self.is_whole(&line);
        let (first, last) = line.bounds();
        let mut runs: Vec<u64> = self.lines.range(first..=last).map(|(line, _)| line.epoch).collect();
        runs.dedup();
        // The run before this one may still have something to say; those before that have not.
        if let Some(kept) = runs.last().filter(|newest| **newest < line.epoch) {
            let over: Vec<Line> = self
                .lines
                .range(first..place(&line, *kept, 0))
                .map(|(line, _)| *line)
                .collect();
            over.iter().for_each(|line| self.forget(line));
        }
        if self.lines.len() >= LINES_MAX {
            let mut quiet: Vec<(Instant, Line)> = self.lines.iter().map(|(l, t)| (t.changed, *l)).collect();
            quiet.sort_unstable();
            quiet
                .iter()
                .take(LINES_MAX / 16)
                .for_each(|(_, line)| self.forget(line));
        }
        self.lines.insert(line, Track::new(1, !whole, now));
    }

    /// After a gap the next one is not waited for from the start: what stands behind it has waited already.
    fn inherit(&mut self, line: &Line, now: Instant) {
        let Some(track) = self.lines.get(line) else { return };
        if let (Some(lack), Some((_, parked))) = (self.lacking.get_mut(line), track.parked.first_key_value()) {
            (lack.since, lack.retry) = (parked.at, now);
        }
    }

    fn forget(&mut self, line: &Line) {
        if let Some(track) = self.lines.remove(line) {
            self.parked_bytes -= track.parked_bytes;
        }
        self.lacking.remove(line);
        self.dirty.insert(*line);
    }

    /// Hands on what is in order now, and notes what is missing.
    fn advance(&mut self, line: Line, now: Instant, steps: &mut Vec<Step<T>>) {
        let Some(track) = self.lines.get_mut(&line) else { return };
        let before = track.next;
        if track.young
            && let Some((first, parked)) = track.parked.first_key_value()
            && parked.before_ms < self.since_ms
        {
            (track.young, track.next) = (false, *first);
        }
        while !track.young
            && let Some(entry) = track.parked.first_entry()
            && *entry.key() <= track.next
        {
            let (first, mut parked) = entry.remove_entry();
            track.parked_bytes -= parked.bytes;
            self.parked_bytes -= parked.bytes;
            let known = usize::try_from(track.next - first).unwrap_or(usize::MAX);
            if known >= parked.items.count() {
                continue;
            }
            parked.items.skip(known);
            let first_seq = track.next;
            track.next += parked.items.count() as u64;
            steps.push(Step::Run {
                line,
                first_seq,
                items: parked.items,
            });
        }
        if track.next != before {
            self.dirty.insert(line);
        }
        if track.parked.is_empty() {
            // A map that was emptied keeps room for eleven, and most lines never have anything parked for long.
            track.parked = BTreeMap::new();
        }
        if let Some((_, to)) = track.missing() {
            let fresh = Lack {
                to,
                since: now,
                retry: now + FIRST_WAIT,
                tries: 0,
            };
            // A young line is followed backwards.
            let went_back = |lack: &Lack| track.young && to < lack.to;
            if track.next != before || self.lacking.get(&line).is_none_or(went_back) {
                self.lacking.insert(line, fresh);
            }
        } else {
            self.lacking.remove(&line);
        }
    }
}

/// Another line of the same publisher.
fn place(line: &Line, epoch: u64, shard: u16) -> Line {
    let mut other = *line;
    (other.epoch, other.shard) = (epoch, shard);
    other
}

impl<T> Track<T> {
    fn new(next: u64, young: bool, now: Instant) -> Self {
        Track {
            next,
            last: next - 1,
            young,
            parked: BTreeMap::new(),
            parked_bytes: 0,
            changed: now,
        }
    }

    /// The first stretch that is missing.
    fn missing(&self) -> Option<(u64, u64)> {
        let first_parked = self.parked.first_key_value().map(|(first, _)| *first);
        let to = first_parked.map_or(self.last, |first| first - 1);
        // Of a young line it is known only that the one before is missing.
        let from = if self.young { to } else { self.next };
        (from >= 1 && from <= to).then_some((from, to))
    }
}
