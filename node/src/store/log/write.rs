//! Changing a log: appending groups, sealing segments, removing records at either end.

use super::super::error::{Result, StoreError, is_full};
use super::super::group::Work;
use super::super::merkle::{Frontier, Hash};
use super::core::{Core, Segment, Tail};
use super::open::create_segment;
use super::record::{self, Header, MARK_BYTES, RECORD_HEADER_BYTES, encode_mark};
use super::registry::{self, Entry};
use super::segment::{self, Footer, Index};
use super::survey::{Question, survey};
use crate::platform::disk::OpenMode;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How much memory the writer keeps for its next group.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

/// Records on their way to the disk.
#[derive(Debug)]
pub(in crate::store) struct Append {
    /// With their leaf hashes, which the callers compute beside each other while the writer waits for the disk.
    pub(super) records: Vec<(Hash, Bytes)>,
    /// The sequence number the first of them must get, if that was said.
    pub(super) at: Option<u64>,
    pub(super) reply: oneshot::Sender<Result<u64>>,
}

/// A group laid out for the disk.
struct Group {
    /// None where the append was to begin elsewhere: it is not in the group.
    first_seqs: Vec<Option<u64>>,
    next_seq: u64,
    frontier: Frontier,
    /// Where each record begins, relative to the group, for the index.
    starts: Vec<(u64, u64)>,
}

impl Work for Core {
    type Job = Append;

    fn run(&self, jobs: Vec<Append>) {
        let outcome = self.append_group(&jobs);
        // A caller that went away does not take its answer; the records are appended all the same.
        match outcome {
            Ok(seqs) => jobs.into_iter().zip(seqs).for_each(|(job, seq)| {
                let elsewhere = || StoreError::Elsewhere {
                    log: self.name.clone(),
                    expected: job.at.unwrap_or_default(),
                };
                let _ = job.reply.send(seq.ok_or_else(elsewhere));
            }),
            Err(error) => jobs.into_iter().for_each(|job| {
                let _ = job.reply.send(Err(error.clone()));
            }),
        }
    }
}

impl Core {
    /// Appends, with one write and one sync; gives the first sequence number of each append. Blocks.
    fn append_group(&self, appends: &[Append]) -> Result<Vec<Option<u64>>> {
        let mut tail = self.lock_tail();
        self.shared.sound()?;
        if let Some(error) = &tail.refused {
            return Err(error.clone());
        }
        let mut buffer = std::mem::take(&mut tail.buffer);
        buffer.clear();
        let group = self.lay_out(appends, &mut buffer, &tail);
        let written = self.write_group(&mut tail, &buffer, &group);
        buffer.shrink_to(KEPT_BUFFER_BYTES);
        tail.buffer = buffer;
        written.map(|()| group.first_seqs)
    }

    fn lay_out(&self, appends: &[Append], buffer: &mut Vec<u8>, tail: &Tail) -> Group {
        let mut group = Group {
            first_seqs: Vec::with_capacity(appends.len()),
            next_seq: tail.next_seq,
            frontier: tail.frontier.clone(),
            starts: Vec::new(),
        };
        for Append { records, at, .. } in appends {
            if at.is_some_and(|at| at != group.next_seq) {
                group.first_seqs.push(None);
                continue;
            }
            group.first_seqs.push(Some(group.next_seq));
            for (index, (leaf, data)) in records.iter().enumerate() {
                let header = Header {
                    data_bytes: data.len(),
                    crc: 0,
                    seq: group.next_seq,
                    group: (group.next_seq - tail.next_seq) as u32,
                    remaining: (records.len() - 1 - index) as u32,
                    leaf: *leaf,
                };
                segment::note(&mut group.starts, group.next_seq, buffer.len() as u64);
                record::encode(buffer, self.id, &header, data);
                group.frontier.push(*leaf);
                group.next_seq += 1;
            }
        }
        group
    }

    fn write_group(&self, tail: &mut Tail, bytes: &[u8], group: &Group) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.shared.room_for(bytes.len() as u64, &tail.path)?;
        let grown = tail.end.saturating_add(bytes.len() as u64);
        if tail.file.is_some() && tail.next_seq > tail.first_seq && grown > self.shared.options.segment_bytes {
            self.seal(tail)?;
        }
        if tail.file.is_none() {
            self.begin_segment(tail)?;
        }
        let file = Arc::clone(tail.file.as_ref().expect("invariant: a segment was begun just above"));
        self.write_or_roll_back(tail, bytes)?;
        self.fill_ahead(tail, grown)?;
        if let Err(error) = file.sync_data() {
            return Err(self.failed("sync", tail, &error));
        }
        let start = tail.end;
        tail.end += bytes.len() as u64;
        tail.next_seq = group.next_seq;
        tail.frontier = group.frontier.clone();
        // Only a hint for the next start, so whether it can be written does not matter.
        let _ = file.write_at(&encode_mark(self.id, tail.next_seq), tail.end);
        self.publish(tail, |index| {
            group
                .starts
                .iter()
                .for_each(|(seq, offset)| segment::note(index, *seq, start + offset));
        });
        Ok(())
    }

    /// Writes at the end of the tail. When there is no room, the file is as before.
    fn write_or_roll_back(&self, tail: &mut Tail, bytes: &[u8]) -> Result<()> {
        let file = tail.file.as_ref().expect("invariant: the caller has a segment");
        match file.write_at(bytes, tail.end) {
            Ok(()) => Ok(()),
            Err(error) if is_full(&error) => {
                file.set_len(tail.end)
                    .map_err(|error| self.failed("cut", tail, &error))?;
                tail.file_bytes = tail.end;
                let available_bytes = self.shared.disk.available_bytes(&self.dir).unwrap_or(0);
                let needed_bytes = self.shared.options.reserve_bytes.saturating_add(bytes.len() as u64);
                Err(StoreError::Full {
                    path: tail.path.clone(),
                    available_bytes,
                    needed_bytes,
                })
            }
            Err(error) => Err(self.failed("write", tail, &error)),
        }
    }

    /// Puts zeros behind what was just written, so that the next syncs need not make the file longer.
    fn fill_ahead(&self, tail: &mut Tail, end: u64) -> Result<()> {
        const AHEAD_BYTES_MIN: u64 = 16 << 10;
        let options = &self.shared.options;
        tail.file_bytes = tail.file_bytes.max(end);
        if end + MARK_BYTES as u64 <= tail.file_bytes {
            return Ok(());
        }
        let step = end
            .max(AHEAD_BYTES_MIN)
            .min(options.ahead_bytes)
            .min(options.segment_bytes.saturating_sub(end));
        let file = tail.file.as_ref().expect("invariant: the caller has a segment");
        let zeros = vec![0; step as usize];
        match file.write_at(&zeros, end) {
            Ok(()) => tail.file_bytes = end + step,
            // A part of them is as good; the next write that needs room tells of it.
            Err(error) if is_full(&error) => {}
            Err(error) => return Err(self.failed("write", tail, &error)),
        }
        Ok(())
    }

    /// Writes the footer; the segment is never written again.
    fn seal(&self, tail: &mut Tail) -> Result<()> {
        let index = {
            let view = self.read_view();
            view.segments
                .last()
                .map(|segment| Arc::clone(&segment.index))
                .unwrap_or_default()
        };
        let footer = Footer {
            index: index.to_vec(),
            frontier: tail.frontier.clone(),
        };
        let bytes = segment::encode_footer(self.id, tail.first_seq, tail.end, &footer);
        // The trailer is found at the very end of the file.
        let file = tail.file.as_ref().expect("invariant: the caller has a segment");
        file.set_len(tail.end)
            .map_err(|error| self.failed("cut", tail, &error))?;
        tail.file_bytes = tail.end;
        self.write_or_roll_back(tail, &bytes)?;
        let file = tail.file.take().expect("invariant: the caller has a segment");
        if let Err(error) = file.sync_data() {
            return Err(self.failed("sync", tail, &error));
        }
        let trailer = segment::read_trailer(&*file, self.id, tail.first_seq);
        let trailer = trailer.map_err(|error| self.failed("read", tail, &error))?;
        if let Some(segment) = self.change_view().segments.last_mut() {
            segment.trailer = trailer;
            segment.index = Arc::default();
        }
        self.register(self.read_view().first_seq(), tail.next_seq)
    }

    fn begin_segment(&self, tail: &mut Tail) -> Result<()> {
        let first_seq = tail.next_seq;
        let (file, path) = match create_segment(&self.shared, &self.dir, self.id, &tail.frontier) {
            Ok(created) => created,
            // Nothing is acknowledged in a file whose header is not synced; the next append makes it anew.
            Err(StoreError::Io { source, path, .. }) if is_full(&source) => {
                let available_bytes = self.shared.disk.available_bytes(&self.dir).unwrap_or(0);
                return Err(StoreError::Full {
                    path,
                    available_bytes,
                    needed_bytes: self.shared.options.reserve_bytes,
                });
            }
            Err(error) => return Err(self.shared.fail(error.to_string())),
        };
        tail.file = Some(file);
        tail.path = path.clone();
        tail.first_seq = first_seq;
        tail.end = segment::header_bytes(first_seq);
        tail.file_bytes = tail.end;
        let data_end = tail.end;
        self.change_view().segments.push(Segment {
            first_seq,
            next_seq: first_seq,
            path,
            data_end,
            trailer: None,
            index: Arc::default(),
        });
        Ok(())
    }

    fn publish(&self, tail: &Tail, note: impl FnOnce(&mut Index)) {
        let mut view = self.change_view();
        view.next_seq = tail.next_seq;
        view.frontier = tail.frontier.clone();
        if let Some(segment) = view.segments.last_mut() {
            segment.next_seq = tail.next_seq;
            segment.data_end = tail.end;
            note(Arc::make_mut(&mut segment.index));
        }
        drop(view);
        self.grown.send_replace(tail.next_seq);
    }

    /// Removes the segments that lie wholly before `seq`; gives the first record that is left. Blocks.
    pub(super) fn truncate_before(&self, seq: u64) -> Result<u64> {
        let tail = self.lock_tail();
        self.shared.sound()?;
        let (gone, first_seq) = {
            let view = self.read_view();
            let followed = view.segments.len().saturating_sub(1);
            let count = view.segments[..followed]
                .iter()
                .take_while(|segment| segment.next_seq <= seq)
                .count();
            (view.segments[..count].to_vec(), view.segments[count].first_seq)
        };
        if gone.is_empty() {
            return Ok(first_seq);
        }
        // First the registry, so that files missing after a power cut are known to have been removed on purpose.
        self.register(first_seq, tail.next_seq)?;
        self.change_view().segments.drain(..gone.len());
        for segment in &gone {
            self.shared
                .disk
                .remove_file(&segment.path)
                .map_err(StoreError::io("remove", &segment.path))?;
        }
        self.shared
            .disk
            .sync_dir(&self.dir)
            .map_err(StoreError::io("sync the folder", &self.dir))?;
        Ok(first_seq)
    }

    /// Removes the records from `seq` on. Blocks.
    pub(super) fn truncate_from(&self, seq: u64) -> Result<()> {
        let mut tail = self.lock_tail();
        self.shared.sound()?;
        if let Some(error) = &tail.refused {
            return Err(error.clone());
        }
        let (first_seq, next_seq) = {
            let view = self.read_view();
            (view.first_seq(), view.next_seq)
        };
        if seq >= next_seq {
            return Ok(());
        }
        if seq < first_seq {
            return Err(StoreError::Truncated {
                log: self.name.clone(),
                seq,
                first_seq,
            });
        }
        // First the registry, so that what is missing after a power cut is known to have been removed on purpose.
        self.register(first_seq, seq)?;
        let cut = self.cut(&mut tail, seq);
        // Halfway through, memory and disk may disagree; a new start finds the records there are.
        cut.map_err(|error| self.shared.fail(error.to_string()))
    }

    fn cut(&self, tail: &mut Tail, seq: u64) -> Result<()> {
        let segments = self.read_view().segments.clone();
        let at = segments
            .partition_point(|segment| segment.first_seq <= seq)
            .saturating_sub(1);
        let kept = &segments[at];
        // The newest first, each removal durable before the next, so the log never has a hole.
        for segment in segments[at + 1..].iter().rev() {
            self.shared
                .disk
                .remove_file(&segment.path)
                .map_err(StoreError::io("remove", &segment.path))?;
            self.shared
                .disk
                .sync_dir(&self.dir)
                .map_err(StoreError::io("sync the folder", &self.dir))?;
        }
        let failed = |action| StoreError::io(action, &kept.path);
        let file = self
            .shared
            .disk
            .open(&kept.path, OpenMode::WRITE)
            .map_err(failed("open"))?;
        let frontier = segment::read_header(&*file, self.id, kept.first_seq).map_err(failed("read"))?;
        let frontier = frontier.map_err(|reason| self.corrupt(&kept.path, 0, &reason, None))?;
        let end = self.offset_of(kept, seq)?;
        let question = Question {
            file: &*file,
            id: self.id,
            frontier: Some(frontier),
            first_seq: kept.first_seq,
            start: segment::header_bytes(kept.first_seq),
            end,
            acknowledged: seq,
        };
        let survey = survey(question).map_err(failed("read"))?;
        let Some(frontier) = survey.frontier.filter(|frontier| frontier.count() == seq) else {
            return Err(self.corrupt(&kept.path, end, "a record before the cut is damaged", None));
        };
        file.set_len(end).map_err(failed("cut"))?;
        file.sync_data().map_err(failed("sync"))?;
        let _ = file.write_at(&encode_mark(self.id, seq), end);
        tail.file = Some(file);
        tail.path = kept.path.clone();
        tail.first_seq = kept.first_seq;
        tail.next_seq = seq;
        (tail.end, tail.file_bytes) = (end, end);
        tail.frontier = frontier.clone();
        let mut view = self.change_view();
        view.segments.truncate(at + 1);
        view.next_seq = seq;
        view.frontier = frontier;
        if let Some(segment) = view.segments.last_mut() {
            (segment.next_seq, segment.data_end, segment.trailer) = (seq, end, None);
            segment.index = Arc::new(survey.index);
        }
        drop(view);
        self.forget_cached();
        self.grown.send_replace(seq);
        Ok(())
    }

    /// Notes in the state where the log begins and ends. Blocks.
    fn register(&self, first_seq: u64, durable_seq: u64) -> Result<()> {
        registry::put(&self.state, &self.name, Entry { first_seq, durable_seq })
    }

    /// What to note in the state when the store is closed in good order, if anything was written. Blocks.
    pub(in crate::store) fn entry_at_close(&self) -> Option<(String, Entry)> {
        let tail = self.lock_tail();
        let entry = Entry {
            first_seq: self.read_view().first_seq(),
            durable_seq: tail.next_seq,
        };
        tail.refused.is_none().then(|| (self.name.clone(), entry))
    }

    /// Refuses every further append. Blocks while one is being written.
    pub(in crate::store) fn retire(&self, error: StoreError) {
        self.lock_tail().refused = Some(error);
    }

    fn failed(&self, action: &str, tail: &Tail, error: &std::io::Error) -> StoreError {
        self.shared
            .fail(format!("cannot {action} {}: {error}", tail.path.display()))
    }
}

/// What an append weighs in the queue.
pub(super) fn weight(records: &[Bytes]) -> usize {
    records.iter().map(|data| data.len() + RECORD_HEADER_BYTES).sum()
}
