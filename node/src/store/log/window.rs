//! Reading a segment through a moving buffer, and finding the next good record behind bad bytes.

use super::record::{Header, LogId, MARK_BYTES, RECORD_HEADER_BYTES, parse_mark};
use crate::platform::disk::DiskFile;
use std::io;

const STEP_BYTES: usize = 256 << 10;

/// The bytes of a file from its start to `end`, of which one stretch is in memory.
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    id: LogId,
    end: u64,
    start: u64,
    buffer: Vec<u8>,
}

/// Something in a segment that can be told from chance bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A record that matches its checksum.
    Record { header: Header, offset: u64 },
    /// A mark.
    Mark { next_seq: u64, offset: u64 },
}

impl Found {
    /// Where it ends.
    pub(super) fn end(&self) -> u64 {
        match self {
            Found::Record { header, offset } => offset + header.record_bytes() as u64,
            Found::Mark { offset, .. } => offset + MARK_BYTES as u64,
        }
    }
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn DiskFile, id: LogId, end: u64) -> Self {
        Window {
            file,
            id,
            end,
            start: 0,
            buffer: Vec::new(),
        }
    }

    /// Up to `count` bytes from `offset`; fewer only at the end.
    pub(super) fn bytes(&mut self, offset: u64, count: usize) -> io::Result<&[u8]> {
        let count = count.min(usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX));
        let held = self.start..self.start + self.buffer.len() as u64;
        if offset < held.start || offset + count as u64 > held.end {
            let step = count
                .max(STEP_BYTES)
                .min(usize::try_from(self.end - offset.min(self.end)).unwrap_or(usize::MAX));
            self.start = offset;
            self.buffer.resize(step, 0);
            let read = self.file.read_at(&mut self.buffer, offset)?;
            self.buffer.truncate(read);
        }
        let from = ((offset - self.start) as usize).min(self.buffer.len());
        Ok(&self.buffer[from..(from + count).min(self.buffer.len())])
    }

    /// The record at `offset`, if it matches its checksum.
    pub(super) fn record(&mut self, offset: u64) -> io::Result<Option<Header>> {
        let Some(header) = Header::parse(self.bytes(offset, RECORD_HEADER_BYTES)?) else {
            return Ok(None);
        };
        let id = self.id;
        let record = self.bytes(offset, header.record_bytes())?;
        Ok(header.matches(id, record).then_some(header))
    }

    /// The mark at `offset`, if there is one.
    pub(super) fn mark(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let id = self.id;
        Ok(parse_mark(id, self.bytes(offset, MARK_BYTES)?))
    }

    /// Where the zeros begin that reach to the end, not before `offset`.
    pub(super) fn trimmed_end(&mut self, offset: u64) -> io::Result<u64> {
        let (mut at, mut trimmed) = (offset, offset);
        while at < self.end {
            let bytes = self.bytes(at, STEP_BYTES)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                trimmed = at + last as u64 + 1;
            }
            at += bytes.len() as u64;
        }
        Ok(trimmed)
    }

    /// The first record from `seq` on, or mark beyond it, at or behind `offset`.
    pub(super) fn find(&mut self, offset: u64, seq: u64) -> io::Result<Option<Found>> {
        // No record can be further on than the bytes allow; that rules out almost every chance match before the
        // checksum has to be computed.
        let seq_max = seq.saturating_add((self.end.saturating_sub(offset)) / RECORD_HEADER_BYTES as u64 + 1);
        let mut at = offset;
        while at + MARK_BYTES as u64 <= self.end {
            let bytes = self.bytes(at, RECORD_HEADER_BYTES)?;
            let plausible = Header::parse(bytes).filter(|header| (seq..=seq_max).contains(&header.seq));
            let marklike = bytes.first() == Some(&0xff);
            if plausible.is_some()
                && let Some(header) = self.record(at)?
            {
                return Ok(Some(Found::Record { header, offset: at }));
            }
            if marklike
                && let Some(next_seq) = self.mark(at)?
                && next_seq > seq
            {
                return Ok(Some(Found::Mark { next_seq, offset: at }));
            }
            at += 1;
        }
        Ok(None)
    }
}
