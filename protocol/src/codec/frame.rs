//! Length-prefixed frames on slices: an unsigned varint (LEB128, as libp2p uses it), then the body.

use crate::error::{DecodeError, at_most};

/// The longest prefix that is read: five bytes of seven bits carry any `u32`.
pub const PREFIX_BYTES_MAX: usize = 5;

/// Body with its length in front.
pub fn encode(body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + PREFIX_BYTES_MAX);
    append(body, &mut frame);
    frame
}

/// What stands in front of a body of this length.
pub(crate) fn prefix(length: usize) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(PREFIX_BYTES_MAX);
    append_prefix(length, &mut prefix);
    prefix
}

/// Appends the body with its length in front to `frames`.
pub fn append(body: &[u8], frames: &mut Vec<u8>) {
    append_prefix(body.len(), frames);
    frames.extend_from_slice(body);
}

/// Appends the prefix of a body of this length, which the caller appends next.
pub(crate) fn append_prefix(length: usize, frames: &mut Vec<u8>) {
    let mut left = length as u64;
    loop {
        let low = (left & 0x7f) as u8;
        left >>= 7;
        if left == 0 {
            frames.push(low);
            break;
        }
        frames.push(low | 0x80);
    }
}

/// Reads the prefix at the start of `bytes`: `None` while it is incomplete, else (length of the body, length of the prefix).
/// The length is checked against `limit`, so that the caller can reserve it.
pub fn decode_prefix(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, DecodeError> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(PREFIX_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if index > 0 && *byte == 0 {
                return Err(DecodeError::malformed(
                    "frame",
                    "its length is not in the shortest form",
                ));
            }
            let length = usize::try_from(value).unwrap_or(usize::MAX);
            at_most("frame", length, limit)?;
            return Ok(Some((length, index + 1)));
        }
    }
    if bytes.len() >= PREFIX_BYTES_MAX {
        return Err(DecodeError::malformed("frame", "its length takes more than five bytes"));
    }
    Ok(None)
}
