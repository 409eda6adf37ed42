//! A segment file: a header, records, and behind a sealed one's records a footer.
//!
//! The header names the format, the log and the first record, and carries the hash tree's frontier before it, so the
//! root survives the removal of older segments. The footer carries a sparse index, the frontier behind the last record,
//! and at the very end of the file a trailer of fixed length by which it is found.

use super::super::merkle::{Frontier, Hash};
use super::record::{LogId, u32_at, u64_at};
use crate::platform::disk::DiskFile;
use std::io;

/// How a segment's name ends.
const SUFFIX: &str = ".seg";
const DIGITS: usize = 20;

const MAGIC: [u8; 8] = *b"WEFTLOG\0";
const VERSION: u32 = 1;
const FIXED_HEADER_BYTES: usize = 56;
const PEAK_BYTES: usize = 32;
const PEAKS_MAX: usize = 64;

/// How a footer begins. Its first four bytes are no length a record can have.
const FOOTER_MAGIC: [u8; 8] = *b"\xff\xff\xff\xffWFTR";
const TRAILER_MAGIC: [u8; 8] = *b"WEFTSEAL";
const TRAILER_BYTES: usize = 48;
const INDEX_ENTRY_BYTES: usize = 16;
/// More than a segment of the largest size can need.
const FOOTER_BYTES_MAX: usize = 16 << 20;

/// How far apart the entries of the sparse index lie.
pub(super) const INDEX_STEP_BYTES: u64 = 64 << 10;

/// Where some records begin: sequence number and offset, rising.
pub(super) type Index = Vec<(u64, u64)>;

/// The name of the segment that begins with this record.
pub(super) fn file_name(first_seq: u64) -> String {
    format!("{first_seq:0DIGITS$}{SUFFIX}")
}

/// The first record of the segment of this name, `None` when it is no segment's name.
pub(super) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// How long the header of a segment is that begins with this record.
pub(super) fn header_bytes(first_seq: u64) -> u64 {
    (FIXED_HEADER_BYTES + Frontier::peaks_of(first_seq) * PEAK_BYTES + 4) as u64
}

/// The header of a segment that begins where the frontier ends.
pub(super) fn encode_header(id: LogId, frontier: &Frontier) -> Vec<u8> {
    let mut header = Vec::with_capacity(FIXED_HEADER_BYTES + frontier.peaks().len() * PEAK_BYTES + 4);
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(frontier.peaks().len() as u32).to_le_bytes());
    header.extend_from_slice(&id.0);
    header.extend_from_slice(&frontier.count().to_le_bytes());
    frontier.peaks().iter().for_each(|peak| header.extend_from_slice(peak));
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
}

/// What a segment's header says, or why it is none. The outer error is the disk's.
pub(super) fn read_header(file: &dyn DiskFile, id: LogId, first_seq: u64) -> io::Result<Result<Frontier, String>> {
    let mut buffer = vec![0; header_bytes(first_seq) as usize];
    let count = file.read_at(&mut buffer, 0)?;
    Ok(parse_header(&buffer[..count], id, first_seq))
}

fn parse_header(bytes: &[u8], id: LogId, first_seq: u64) -> Result<Frontier, String> {
    if !bytes.starts_with(&MAGIC) {
        return Err("it does not begin as a segment".to_string());
    }
    // The version comes first: a later one may have laid out the rest differently.
    match u32_at(bytes, 8) {
        Some(VERSION) => {}
        Some(found) => {
            return Err(format!(
                "it is of segment version {found}, this program knows {VERSION}"
            ));
        }
        None => return Err("its header is cut short".to_string()),
    }
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or("its header is cut short")?;
    if body.len() as u64 + 4 != header_bytes(first_seq) || crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return Err("its header does not match its checksum".to_string());
    }
    if body[16..48] != id.0 {
        return Err("it belongs to another log or another node".to_string());
    }
    if u64_at(body, 48) != Some(first_seq) {
        return Err("its header names another first record than its file name".to_string());
    }
    let peaks: Vec<Hash> = body[FIXED_HEADER_BYTES..].as_chunks::<PEAK_BYTES>().0.to_vec();
    Frontier::from_peaks(first_seq, peaks).ok_or("its header has too few hashes".to_string())
}

/// What stands at the very end of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    /// Where the records end and the footer begins.
    pub(super) data_end: u64,
    /// The first record of the segment.
    pub(super) first_seq: u64,
    /// The record after the last one of the segment.
    pub(super) next_seq: u64,
    body_bytes: u32,
    body_crc: u32,
}

/// What a sealed segment's footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) index: Index,
    pub(super) frontier: Frontier,
}

/// The footer, with its trailer, of a segment whose records end at `data_end`.
pub(super) fn encode_footer(id: LogId, first_seq: u64, data_end: u64, footer: &Footer) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&FOOTER_MAGIC);
    bytes.extend_from_slice(&(footer.index.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(footer.frontier.peaks().len() as u32).to_le_bytes());
    for (seq, offset) in &footer.index {
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
    }
    footer
        .frontier
        .peaks()
        .iter()
        .for_each(|peak| bytes.extend_from_slice(peak));
    let (body_bytes, body_crc) = (bytes.len() as u32, crc32c::crc32c(&bytes));
    let trailer_at = bytes.len();
    bytes.extend_from_slice(&data_end.to_le_bytes());
    bytes.extend_from_slice(&first_seq.to_le_bytes());
    bytes.extend_from_slice(&footer.frontier.count().to_le_bytes());
    bytes.extend_from_slice(&body_bytes.to_le_bytes());
    bytes.extend_from_slice(&body_crc.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&id.0), &bytes[trailer_at..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&TRAILER_MAGIC);
    bytes
}

/// The trailer of a sealed segment, `None` when the segment is not sealed or its trailer is damaged.
pub(super) fn read_trailer(file: &dyn DiskFile, id: LogId, first_seq: u64) -> io::Result<Option<Trailer>> {
    let file_bytes = file.len()?;
    let Some(at) = file_bytes.checked_sub(TRAILER_BYTES as u64) else {
        return Ok(None);
    };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_exact_at(&mut bytes, at)?;
    Ok(parse_trailer(&bytes, id, first_seq, file_bytes))
}

fn parse_trailer(bytes: &[u8; TRAILER_BYTES], id: LogId, first_seq: u64, file_bytes: u64) -> Option<Trailer> {
    let trailer = Trailer {
        data_end: u64_at(bytes, 0)?,
        first_seq: u64_at(bytes, 8)?,
        next_seq: u64_at(bytes, 16)?,
        body_bytes: u32_at(bytes, 24)?,
        body_crc: u32_at(bytes, 28)?,
    };
    let crc = crc32c::crc32c_append(crc32c::crc32c(&id.0), &bytes[..32]);
    let ends = trailer
        .data_end
        .checked_add(u64::from(trailer.body_bytes))?
        .checked_add(TRAILER_BYTES as u64)?;
    let holds = u32_at(bytes, 32)? == crc
        && bytes[36..40] == [0; 4]
        && bytes[40..] == TRAILER_MAGIC
        && ends == file_bytes
        && trailer.first_seq == first_seq
        && trailer.next_seq >= first_seq
        && trailer.data_end >= header_bytes(first_seq);
    holds.then_some(trailer)
}

/// The footer of a sealed segment, `None` when it is damaged.
pub(super) fn read_footer(file: &dyn DiskFile, trailer: &Trailer) -> io::Result<Option<Footer>> {
    let count = trailer.body_bytes as usize;
    if count > FOOTER_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; count];
    if file.read_at(&mut bytes, trailer.data_end)? < count || crc32c::crc32c(&bytes) != trailer.body_crc {
        return Ok(None);
    }
    Ok(parse_footer(&bytes, trailer.next_seq))
}

/// The trailer of a sealed segment, `None` also when the footer before it is damaged.
pub(super) fn read_whole_trailer(file: &dyn DiskFile, id: LogId, first_seq: u64) -> io::Result<Option<Trailer>> {
    let Some(trailer) = read_trailer(file, id, first_seq)? else {
        return Ok(None);
    };
    Ok(read_footer(file, &trailer)?.map(|_| trailer))
}

fn parse_footer(bytes: &[u8], next_seq: u64) -> Option<Footer> {
    let entries = u32_at(bytes, 8)? as usize;
    let peaks = u32_at(bytes, 12)? as usize;
    let body = bytes.get(16..)?;
    if !bytes.starts_with(&FOOTER_MAGIC)
        || peaks > PEAKS_MAX
        || body.len() != entries.checked_mul(INDEX_ENTRY_BYTES)? + peaks * PEAK_BYTES
    {
        return None;
    }
    let (entries, peaks) = body.split_at(entries * INDEX_ENTRY_BYTES);
    let index: Option<Index> = entries
        .as_chunks::<INDEX_ENTRY_BYTES>()
        .0
        .iter()
        .map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?)))
        .collect();
    let frontier = Frontier::from_peaks(next_seq, peaks.as_chunks::<PEAK_BYTES>().0.to_vec())?;
    Some(Footer {
        index: index?,
        frontier,
    })
}

/// The index entry from which to walk to a record: the last one not beyond it.
pub(super) fn nearest(index: &[(u64, u64)], seq: u64) -> Option<(u64, u64)> {
    index
        .partition_point(|(first, _)| *first <= seq)
        .checked_sub(1)
        .map(|at| index[at])
}

/// Notes a record in an index when the last entry lies far enough back.
pub(super) fn note(index: &mut Index, seq: u64, offset: u64) {
    if index.last().is_none_or(|(_, last)| offset >= last + INDEX_STEP_BYTES) {
        index.push((seq, offset));
    }
}
