//! How a value lies in the table: its checksum, then its bytes.
//!
//! redb checks its pages when the file is opened; the checksum here also covers what happens afterwards, and binds the
//! value to its keyspace and key, so a value can never be served in another's place.

const CRC_BYTES: usize = 4;

/// A value as it is stored.
pub(super) fn encode(table: &str, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(CRC_BYTES + value.len());
    stored.extend_from_slice(&checksum(table, key, value).to_le_bytes());
    stored.extend_from_slice(value);
    stored
}

/// The value that was stored, or `None` when it is not what was written.
pub(super) fn decode<'a>(table: &str, key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (crc, value) = stored.split_first_chunk::<CRC_BYTES>()?;
    (u32::from_le_bytes(*crc) == checksum(table, key, value)).then_some(value)
}

fn checksum(table: &str, key: &[u8], value: &[u8]) -> u32 {
    // The lengths keep "ab" + "c" apart from "a" + "bc".
    let mut crc = crc32c::crc32c(&(table.len() as u64).to_le_bytes());
    crc = crc32c::crc32c_append(crc, table.as_bytes());
    crc = crc32c::crc32c_append(crc, &(key.len() as u64).to_le_bytes());
    crc = crc32c::crc32c_append(crc, key);
    crc32c::crc32c_append(crc, value)
}
