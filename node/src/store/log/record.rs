//! The bytes of a log: records, and the mark behind the last one.
//!
//! All numbers are little-endian. A record is
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of the data |
//! | 4 | CRC32C, seeded with the log's identity, over all other bytes of the record |
//! | 8 | sequence number |
//! | 4 | how many records of the same group, written and synced together, precede it |
//! | 4 | how many records of the same append follow it |
//! | 32 | leaf hash: SHA-256 of a zero byte and the data |
//! | … | data |
//!
//! The group tells damage from a torn tail: a group is only written after the one before it was synced, so a bad record
//! followed by a good one of a later group had been acknowledged. The append count lets recovery drop an append that
//! reached the disk only in part. The mark says up to which record the log was synced; it is written after the sync and
//! overwritten by the next group, so it proves the last group whole unless the power went.

use super::super::merkle::Hash;

/// How long a record's data may be.
pub const RECORD_BYTES_MAX: usize = 16 << 20;
/// What a record takes beyond its data.
pub const RECORD_HEADER_BYTES: usize = 56;

/// The length of a mark.
pub(super) const MARK_BYTES: usize = 24;
/// How a mark begins. Its first four bytes are no length a record can have.
const MARK_MAGIC: [u8; 8] = *b"\xff\xff\xff\xffWMRK";

/// Identifies a log: a hash of the store's owner and the log's name. No record of another log passes for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LogId(pub(super) Hash);

impl LogId {
    fn seed(&self) -> u32 {
        crc32c::crc32c(&self.0)
    }
}

/// A record's header as it was read, plausible but not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) data_bytes: usize,
    pub(super) crc: u32,
    pub(super) seq: u64,
    pub(super) group: u32,
    pub(super) remaining: u32,
    pub(super) leaf: Hash,
}

impl Header {
    /// Reads a header; `None` when the bytes cannot be one.
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let (bytes, _) = bytes.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let data_bytes = u32_at(bytes, 0)? as usize;
        let header = Header {
            data_bytes,
            crc: u32_at(bytes, 4)?,
            seq: u64_at(bytes, 8)?,
            group: u32_at(bytes, 16)?,
            remaining: u32_at(bytes, 20)?,
            leaf: bytes[24..].try_into().ok()?,
        };
        (data_bytes <= RECORD_BYTES_MAX && u64::from(header.group) <= header.seq).then_some(header)
    }

    /// The length of the whole record.
    pub(super) fn record_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.data_bytes
    }

    /// The first sequence number of the record's group: everything before it was synced before this was written.
    pub(super) fn group_first_seq(&self) -> u64 {
        self.seq - u64::from(self.group)
    }

    /// Whether the whole record, header and data, is what was written to this log.
    pub(super) fn matches(&self, id: LogId, record: &[u8]) -> bool {
        record.len() == self.record_bytes() && checksum(id, record) == self.crc
    }
}

/// Appends a record to a buffer.
pub(super) fn encode(buffer: &mut Vec<u8>, id: LogId, header: &Header, data: &[u8]) {
    let start = buffer.len();
    let length = u32::try_from(data.len()).expect("invariant: the length was checked against its limit");
    buffer.extend_from_slice(&length.to_le_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&header.seq.to_le_bytes());
    buffer.extend_from_slice(&header.group.to_le_bytes());
    buffer.extend_from_slice(&header.remaining.to_le_bytes());
    buffer.extend_from_slice(&header.leaf);
    buffer.extend_from_slice(data);
    let crc = checksum(id, &buffer[start..]);
    buffer[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(id: LogId, record: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(id.seed(), &record[..4]);
    crc32c::crc32c_append(crc, &record[8..])
}

/// The mark that says that everything before `next_seq` is synced and ends here.
pub(super) fn encode_mark(id: LogId, next_seq: u64) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    mark[..8].copy_from_slice(&MARK_MAGIC);
    mark[8..16].copy_from_slice(&next_seq.to_le_bytes());
    let crc = crc32c::crc32c_append(id.seed(), &mark[..16]);
    mark[16..20].copy_from_slice(&crc.to_le_bytes());
    mark
}

/// What a mark says, or `None` when the bytes are none.
pub(super) fn parse_mark(id: LogId, bytes: &[u8]) -> Option<u64> {
    let (mark, _) = bytes.split_first_chunk::<MARK_BYTES>()?;
    let next_seq = u64_at(mark, 8)?;
    (*mark == encode_mark(id, next_seq)).then_some(next_seq)
}

/// A number out of a buffer, `None` beyond its end.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// A number out of a buffer, `None` beyond its end.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
