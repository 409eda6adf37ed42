//! Strict, deterministic CBOR.
//!
//! Promises: [`decode`] refuses anything longer than its limit before reading it, nested deeper than
//! [`limits::NESTING_MAX`](crate::limits::NESTING_MAX), with bytes left over, or not in the one shape that [`encode`] writes
//! (definite lengths, shortest integers, no maps, tags or floats). So nothing can be allocated that the sender did not pay for in bytes.
//!
//! Not promised: that unknown trailing fields survive. They are ignored, which is how later versions add optional ones.

pub(crate) mod bounded;
pub mod frame;
mod scan;
#[cfg(test)]
mod tests;

use std::error::Error as _;

use minicbor::{Decode, Encode};

use crate::error::{DecodeError, at_most};

/// Something that travels: its name in errors, its size, and what must hold beyond its shape.
pub trait Wire: Sized + Encode<()> + for<'b> Decode<'b, ()> {
    /// What error messages call it.
    const WHAT: &'static str;
    /// The longest encoding that is read or written.
    const BYTES_MAX: usize;

    /// What must hold beyond the shape: names, counts, ranges.
    fn check(&self) -> Result<(), DecodeError> {
        Ok(())
    }

    /// Looks at the bytes before they are decoded, for instance at a version number.
    fn check_bytes(bytes: &[u8]) -> Result<(), DecodeError> {
        let _ = bytes;
        Ok(())
    }

    /// About how many bytes the encoding has, where that is known beforehand: so much room is made for it.
    fn bytes_expected(&self) -> usize {
        0
    }

    /// The encoding, without checks: for values that are known to be valid.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes_expected());
        append(self, &mut bytes);
        bytes
    }

    /// The encoding of a value that may have been put together by an application: refused here rather than by the receiver.
    fn to_checked_bytes(&self) -> Result<Vec<u8>, DecodeError> {
        self.check()?;
        let bytes = self.to_bytes();
        at_most(Self::WHAT, bytes.len(), Self::BYTES_MAX)?;
        Ok(bytes)
    }

    /// [`Wire::from_bytes`] of bytes that are not needed any more: a kind that is mostly one string of bytes keeps them for it.
    fn from_vec(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        Self::from_bytes(&bytes)
    }

    /// Reads and checks what a peer sent.
    fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        at_most(Self::WHAT, bytes.len(), Self::BYTES_MAX)?;
        Self::check_bytes(bytes)?;
        let value: Self = decode(bytes, Self::BYTES_MAX, Self::WHAT)?;
        value.check()?;
        Ok(value)
    }
}

/// Encodes deterministically: equal values, equal bytes.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("invariant: writing to a Vec does not fail")
}

/// Encodes behind what is in `bytes` already.
pub(crate) fn append<T: Encode<()>>(value: &T, bytes: &mut Vec<u8>) {
    minicbor::encode(value, bytes).expect("invariant: writing to a Vec does not fail");
}

/// Decodes exactly one value of at most `limit` bytes; `what` names it in errors.
pub fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8], limit: usize, what: &'static str) -> Result<T, DecodeError> {
    at_most(what, bytes.len(), limit)?;
    scan::scan(bytes).map_err(|reason| DecodeError::malformed(what, reason))?;
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|error| convert(&error, what))?;
    if decoder.position() != bytes.len() {
        return Err(DecodeError::malformed(what, "it has more parts than were read"));
    }
    Ok(value)
}

/// The same, of which one string of bytes is left where it is: `read` reads an array's entries, the string with [`Left::take`].
pub(crate) fn decode_around<T>(
    bytes: Vec<u8>,
    limit: usize,
    what: &'static str,
    read: impl FnOnce(&mut minicbor::Decoder<'_>, &mut Left) -> Result<T, minicbor::decode::Error>,
) -> Result<(T, Vec<u8>), DecodeError> {
    at_most(what, bytes.len(), limit)?;
    scan::scan(&bytes).map_err(|reason| DecodeError::malformed(what, reason))?;
    let mut left = Left(0..0);
    let mut decoder = minicbor::Decoder::new(&bytes);
    let value = read(&mut decoder, &mut left).map_err(|error| convert(&error, what))?;
    if decoder.position() != bytes.len() {
        return Err(DecodeError::malformed(what, "it has more parts than were read"));
    }
    let mut bytes = bytes;
    bytes.truncate(left.0.end);
    bytes.drain(..left.0.start);
    Ok((value, bytes))
}

/// Reads an array of at least so many entries, with `read`; what later versions put behind them is passed over.
pub(crate) fn entries<T>(
    decoder: &mut minicbor::Decoder<'_>,
    least: u64,
    read: impl FnOnce(&mut minicbor::Decoder<'_>) -> Result<T, minicbor::decode::Error>,
) -> Result<T, minicbor::decode::Error> {
    let Some(more) = decoder.array()?.and_then(|count| count.checked_sub(least)) else {
        return Err(minicbor::decode::Error::message("it has too few parts"));
    };
    let value = read(decoder)?;
    for _ in 0..more {
        decoder.skip()?;
    }
    Ok(value)
}

/// Where the string is that [`decode_around`] leaves.
pub(crate) struct Left(std::ops::Range<usize>);

impl Left {
    /// It comes next.
    pub(crate) fn take(&mut self, decoder: &mut minicbor::Decoder<'_>) -> Result<(), minicbor::decode::Error> {
        let length = decoder.bytes()?.len();
        self.0 = decoder.position() - length..decoder.position();
        Ok(())
    }
}

/// A field's own [`DecodeError`] travels inside the decoder's error; anything else is a malformed `what`.
fn convert(error: &minicbor::decode::Error, what: &'static str) -> DecodeError {
    match error.source().and_then(|source| source.downcast_ref::<DecodeError>()) {
        Some(own) => own.clone(),
        None => DecodeError::malformed(what, error.to_string()),
    }
}
