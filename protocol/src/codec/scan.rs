//! A look at the whole encoding before anything is decoded: one pass, no allocation, no recursion.

use crate::limits::NESTING_MAX;

/// `Ok` if `bytes` are exactly one deterministic CBOR value within the nesting limit.
pub(super) fn scan(bytes: &[u8]) -> Result<(), String> {
    // How many values are still missing on each level; level 0 is the one top-level value.
    let mut missing = [0u64; NESTING_MAX + 1];
    missing[0] = 1;
    let mut level = 0usize;
    let mut at = 0usize;
    loop {
        while missing[level] == 0 {
            if level == 0 {
                return if at == bytes.len() {
                    Ok(())
                } else {
                    Err(format!("{} bytes left over", bytes.len() - at))
                };
            }
            level -= 1;
        }
        missing[level] -= 1;
        let (major, argument, after) = head(bytes, at)?;
        at = after;
        match major {
            0 | 1 => {}
            2 | 3 => {
                let left = (bytes.len() - at) as u64;
                if argument > left {
                    return Err(format!("a string of {argument} bytes where {left} are left"));
                }
                at += argument as usize;
            }
            4 => {
                // Every entry takes at least a byte, so a longer array is a lie.
                let left = (bytes.len() - at) as u64;
                if argument > left {
                    return Err(format!("an array of {argument} entries where {left} bytes are left"));
                }
                if level == NESTING_MAX {
                    return Err(format!("nested deeper than {NESTING_MAX}"));
                }
                level += 1;
                missing[level] = argument;
            }
            7 if (20..=22).contains(&argument) => {}
            _ => return Err(format!("a value of kind {major} at byte {}", at - 1)),
        }
    }
}

/// Reads the initial byte and its argument: (major type, argument, position after).
fn head(bytes: &[u8], at: usize) -> Result<(u8, u64, usize), String> {
    let first = *bytes.get(at).ok_or_else(|| String::from("the end is missing"))?;
    let (major, info) = (first >> 5, first & 0x1f);
    let width = match info {
        0..=23 => return Ok((major, u64::from(info), at + 1)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return Err(format!("an indefinite length at byte {at}")),
    };
    if major == 7 {
        return Err(format!("a float or simple value at byte {at}"));
    }
    let raw = bytes
        .get(at + 1..at + 1 + width)
        .ok_or_else(|| String::from("the end is missing"))?;
    let argument = raw.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
    let least = match width {
        1 => 24,
        2 => 1 << 8,
        4 => 1 << 16,
        _ => 1u64 << 32,
    };
    if argument < least {
        return Err(format!("an integer that is not in its shortest form at byte {at}"));
    }
    Ok((major, argument, at + 1 + width))
}
