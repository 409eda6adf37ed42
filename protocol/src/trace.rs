//! W3C trace context: the one header that is understood, the other that is carried.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

use crate::error::DecodeError;
use crate::limits::TRACESTATE_BYTES_MAX;
use crate::text::serde_as_text;

const WHAT: &str = "traceparent";

/// A `traceparent`: which trace, which span, and whether it is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace, not all zero.
    pub trace_id: [u8; 16],
    /// The calling span, not all zero.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceParent {
    /// Whether the caller records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

impl FromStr for TraceParent {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        let refuse = |reason: &str| DecodeError::invalid(WHAT, reason);
        let bytes = text.as_bytes();
        // A later version may add fields after these 55 characters; 256 is room for that and no more.
        if bytes.len() < 55 || bytes.len() > 256 {
            return Err(refuse("it is not 55 characters long"));
        }
        if bytes[2] != b'-' || bytes[35] != b'-' || bytes[52] != b'-' {
            return Err(refuse("its dashes are not where they belong"));
        }
        let [version] = hex(&bytes[0..2])?;
        if version == 0xff || (version == 0 && bytes.len() != 55) || (bytes.len() > 55 && bytes[55] != b'-') {
            return Err(refuse("its version is not valid"));
        }
        let [flags] = hex(&bytes[53..55])?;
        let parent = Self {
            trace_id: hex(&bytes[3..35])?,
            span_id: hex(&bytes[36..52])?,
            flags,
        };
        if parent.trace_id == [0; 16] || parent.span_id == [0; 8] {
            return Err(refuse("an identifier is all zero"));
        }
        Ok(parent)
    }
}

fn hex<const N: usize>(text: &[u8]) -> Result<[u8; N], DecodeError> {
    let bytes = HEXLOWER
        .decode(text)
        .map_err(|_| DecodeError::invalid(WHAT, "it is not lower-case hex"))?;
    bytes
        .try_into()
        .map_err(|_| DecodeError::invalid(WHAT, "a field has the wrong length"))
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{}-{}-{:02x}",
            HEXLOWER.encode(&self.trace_id),
            HEXLOWER.encode(&self.span_id),
            self.flags
        )
    }
}

serde_as_text!(TraceParent);

/// Checks a `tracestate`: bounded, printable ASCII.
pub fn check_tracestate(text: &str) -> Result<(), DecodeError> {
    crate::error::at_most("tracestate", text.len(), TRACESTATE_BYTES_MAX)?;
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(DecodeError::invalid(
            "tracestate",
            "it contains other than printable ASCII",
        ))
    }
}
