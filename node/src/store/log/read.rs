//! Reading a log. Readers never wait for the writer's sync; they see what was durable when they asked.

use super::super::error::{Result, StoreError};
use super::core::{Core, Segment};
use super::record::{Header, RECORD_HEADER_BYTES};
use super::segment::{self, Index};
use super::window::{Found, Window};
use crate::platform::disk::{DiskFile, OpenMode};
use bytes::Bytes;
use std::io;
use std::sync::{Arc, PoisonError};

/// How much is read from the disk at once: four records of 64 KiB, and what is around them.
const CHUNK_BYTES: usize = (256 << 10) + 4096;

/// A record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number; the first record of a log has 0.
    pub seq: u64,
    /// What was appended. Records of one answer share memory; copy what you keep for long.
    pub data: Bytes,
}

/// What the last reads left behind, to spare the next ones the search.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The sealed segment read last.
    sealed: Option<(u64, Arc<dyn DiskFile>, Arc<Index>)>,
    /// Where a read that ended at this record of this segment would go on.
    next: Option<Place>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    segment: u64,
    seq: u64,
    offset: u64,
}

/// An answer in the making.
struct Answer {
    /// Where the first chunk is read to.
    buffer: Vec<u8>,
    records: Vec<Record>,
    records_max: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Answer {
    fn is_full(&self) -> bool {
        self.records.len() >= self.records_max || (!self.records.is_empty() && self.bytes >= self.bytes_max)
    }

    fn takes(&self, data_bytes: usize) -> bool {
        self.records.len() < self.records_max && (self.records.is_empty() || self.bytes + data_bytes <= self.bytes_max)
    }
}

impl Core {
    /// A buffer for a read of at most so many bytes. To be made by who asks: the threads that block are many and change, and what they
    /// allocated the allocator keeps for each.
    pub(super) fn buffer(bytes_max: usize) -> Vec<u8> {
        Vec::with_capacity(bytes_max.saturating_add(RECORD_HEADER_BYTES).min(CHUNK_BYTES))
    }

    /// Records from `from_seq` on, within the limits, but at least one if there is one. Blocks.
    pub(super) fn read(
        &self,
        from_seq: u64,
        records_max: usize,
        bytes_max: usize,
        buffer: Vec<u8>,
    ) -> Result<Vec<Record>> {
        let mut answer = Answer {
            buffer,
            records: Vec::new(),
            records_max,
            bytes: 0,
            bytes_max,
        };
        let mut seq = from_seq;
        while !answer.is_full() {
            let Some(segment) = self.segment_of(seq)? else { break };
            match self.read_segment(&segment, seq, &mut answer) {
                Ok(()) => {}
                // What was read before the damage is good; the next call, which begins at the damage, tells of it.
                Err(_) if !answer.records.is_empty() => break,
                Err(error) => return Err(self.unless_truncated(seq, error)),
            }
            let next = answer.records.last().map_or(seq, |record| record.seq + 1);
            if next < segment.next_seq {
                break;
            }
            seq = next;
        }
        Ok(answer.records)
    }

    fn segment_of(&self, seq: u64) -> Result<Option<Segment>> {
        let view = self.read_view();
        let first_seq = view.first_seq();
        if seq < first_seq {
            return Err(StoreError::Truncated {
                log: self.name.clone(),
                seq,
                first_seq,
            });
        }
        if seq >= view.next_seq {
            return Ok(None);
        }
        let at = view
            .segments
            .partition_point(|segment| segment.first_seq <= seq)
            .saturating_sub(1);
        let segment = &view.segments[at];
        if seq >= segment.next_seq {
            let last = view
                .segments
                .get(at + 1)
                .map_or(view.next_seq, |segment| segment.first_seq)
                - 1;
            let reason = "the segments behind it are missing";
            return Err(self.corrupt(&segment.path, segment.data_end, reason, Some((seq, last))));
        }
        Ok(Some(segment.clone()))
    }

    fn read_segment(&self, segment: &Segment, from_seq: u64, answer: &mut Answer) -> Result<()> {
        let (file, index) = self.open_for_reading(segment)?;
        let failed = StoreError::io("read", &segment.path);
        match self.walk(&*file, &index, segment, from_seq, answer) {
            Ok(result) => result,
            Err(error) => Err(failed(error)),
        }
    }

    fn open_for_reading(&self, segment: &Segment) -> Result<(Arc<dyn DiskFile>, Arc<Index>)> {
        if let Some((first_seq, file, index)) = &self.lock_cache().sealed
            && *first_seq == segment.first_seq
            && segment.trailer.is_some()
        {
            return Ok((Arc::clone(file), Arc::clone(index)));
        }
        let file = self
            .shared
            .disk
            .open(&segment.path, OpenMode::READ)
            .map_err(StoreError::io("open", &segment.path))?;
        let Some(trailer) = segment.trailer else {
            return Ok((file, Arc::clone(&segment.index)));
        };
        let footer = segment::read_footer(&*file, &trailer).map_err(StoreError::io("read", &segment.path))?;
        // Without its index a segment is read from its beginning.
        let index = Arc::new(footer.map(|footer| footer.index).unwrap_or_default());
        self.lock_cache().sealed = Some((segment.first_seq, Arc::clone(&file), Arc::clone(&index)));
        Ok((file, index))
    }

    /// Goes to `from_seq` and takes records until the answer is full or the segment ends.
    fn walk(
        &self,
        file: &dyn DiskFile,
        index: &Index,
        segment: &Segment,
        from_seq: u64,
        answer: &mut Answer,
    ) -> io::Result<Result<()>> {
        let offset = match self.find(file, index, segment, from_seq)? {
            Ok(offset) => offset,
            Err(error) => return Ok(Err(error)),
        };
        let mut place = Place {
            segment: segment.first_seq,
            seq: from_seq,
            offset,
        };
        while place.seq < segment.next_seq && !answer.is_full() {
            let wanted = answer
                .bytes_max
                .saturating_sub(answer.bytes)
                .saturating_add(RECORD_HEADER_BYTES);
            let taken = self.take_chunk(file, segment, &mut place, wanted.min(CHUNK_BYTES), answer)?;
            if taken == 0 {
                break;
            }
        }
        let short = answer.records.is_empty() && answer.records_max > 0;
        if short {
            return Ok(Err(self.damage_at(file, segment, place)?));
        }
        self.lock_cache().next = Some(place);
        Ok(Ok(()))
    }

    /// Where a record begins.
    fn find(&self, file: &dyn DiskFile, index: &Index, segment: &Segment, seq: u64) -> io::Result<Result<u64>> {
        if let Some(place) = self.lock_cache().next
            && (place.segment, place.seq) == (segment.first_seq, seq)
        {
            return Ok(Ok(place.offset));
        }
        let beginning = (segment.first_seq, segment::header_bytes(segment.first_seq));
        let (at, offset) = segment::nearest(index, seq).unwrap_or(beginning);
        let mut place = Place {
            segment: segment.first_seq,
            seq: at,
            offset,
        };
        let mut window = Window::new(file, self.id, segment.data_end);
        while place.seq < seq {
            let header = Header::parse(window.bytes(place.offset, RECORD_HEADER_BYTES)?);
            if let Some(header) = header.filter(|header| header.seq == place.seq) {
                place.seq += 1;
                place.offset += header.record_bytes() as u64;
                continue;
            }
            match window.find(place.offset, place.seq)? {
                Some(Found::Record { header, offset }) if header.seq <= seq => {
                    (place.seq, place.offset) = (header.seq, offset);
                }
                _ => return Ok(Err(self.damage_at(file, segment, place)?)),
            }
        }
        Ok(Ok(place.offset))
    }

    /// Takes records out of one stretch of the file; gives how many.
    fn take_chunk(
        &self,
        file: &dyn DiskFile,
        segment: &Segment,
        place: &mut Place,
        wanted: usize,
        answer: &mut Answer,
    ) -> io::Result<usize> {
        let buffer = std::mem::take(&mut answer.buffer);
        let mut chunk = read_chunk(file, segment, place.offset, wanted.max(RECORD_HEADER_BYTES), buffer)?;
        if let Some(header) = Header::parse(&chunk)
            && header.record_bytes() > chunk.len()
        {
            chunk = read_chunk(file, segment, place.offset, header.record_bytes(), Vec::new())?;
        }
        let (mut at, mut taken) = (0, 0);
        while place.seq < segment.next_seq {
            let Some(header) = Header::parse(&chunk[at..]).filter(|header| header.seq == place.seq) else {
                break;
            };
            let end = at + header.record_bytes();
            let whole = chunk.get(at..end).is_some_and(|record| header.matches(self.id, record));
            if !whole || !answer.takes(header.data_bytes) {
                break;
            }
            let data = chunk.slice(at + RECORD_HEADER_BYTES..end);
            answer.bytes += data.len();
            answer.records.push(Record { seq: place.seq, data });
            place.seq += 1;
            place.offset += header.record_bytes() as u64;
            (at, taken) = (end, taken + 1);
        }
        Ok(taken)
    }

    /// The error for a record that is not there where it should be.
    fn damage_at(&self, file: &dyn DiskFile, segment: &Segment, place: Place) -> io::Result<StoreError> {
        let mut window = Window::new(file, self.id, segment.data_end);
        let next = match window.find(place.offset, place.seq + 1)? {
            Some(Found::Record { header, .. }) => header.seq,
            _ => segment.next_seq,
        };
        let lost = Some((place.seq, next - 1));
        Ok(self.corrupt(
            &segment.path,
            place.offset,
            "a record does not match its checksum",
            lost,
        ))
    }

    /// A read that lost a race against the removal of its segment says so, not that a file is missing.
    fn unless_truncated(&self, seq: u64, error: StoreError) -> StoreError {
        let first_seq = self.read_view().first_seq();
        if seq < first_seq {
            StoreError::Truncated {
                log: self.name.clone(),
                seq,
                first_seq,
            }
        } else {
            error
        }
    }

    /// Where a record begins, for cutting the log there. Blocks.
    pub(super) fn offset_of(&self, segment: &Segment, seq: u64) -> Result<u64> {
        let (file, index) = self.open_for_reading(segment)?;
        self.find(&*file, &index, segment, seq)
            .map_err(StoreError::io("read", &segment.path))?
    }

    /// Forgets what earlier reads found, after the log was cut.
    pub(super) fn forget_cached(&self) {
        *self.lock_cache() = Cache::default();
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_chunk(
    file: &dyn DiskFile,
    segment: &Segment,
    offset: u64,
    count: usize,
    mut chunk: Vec<u8>,
) -> io::Result<Bytes> {
    let left = usize::try_from(segment.data_end.saturating_sub(offset)).unwrap_or(usize::MAX);
    chunk.resize(count.min(left), 0);
    let read = file.read_at(&mut chunk, offset)?;
    chunk.truncate(read);
    // What is handed out is kept as long as any record of it.
    if chunk.len() < chunk.capacity() / 2 {
        chunk.shrink_to_fit();
    }
    Ok(Bytes::from(chunk))
}
