//! Field decoders that look at a count before they reserve memory.

use minicbor::decode::{Decode, Decoder, Error};
use multiaddr::Multiaddr;

use crate::error::DecodeError;
use crate::ident::PublicKey;
use crate::limits::{ADDRESS_BYTES_MAX, ADDRESSES_MAX};

/// A list of at most `MAX` entries.
pub(crate) fn list<'b, const MAX: usize, Ctx, T: Decode<'b, Ctx>>(
    decoder: &mut Decoder<'b>,
    context: &mut Ctx,
) -> Result<Vec<T>, Error> {
    let count = count(decoder, MAX)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(T::decode(decoder, context)?);
    }
    Ok(entries)
}

/// A list of at most `MAX` pairs of a key and a number, without the cost of checking that each key is a point of the curve.
pub(crate) fn known<const MAX: usize, Ctx>(
    decoder: &mut Decoder<'_>,
    _: &mut Ctx,
) -> Result<Vec<(PublicKey, u64)>, Error> {
    let count = count(decoder, MAX)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        if decoder.array()? != Some(2) {
            return Err(Error::message("a pair of other than two parts"));
        }
        let key = decoder
            .bytes()?
            .try_into()
            .map_err(|_| Error::message("a public key of other than 32 bytes"))?;
        entries.push((PublicKey::unchecked(key), decoder.u64()?));
    }
    Ok(entries)
}

/// A list of at most `MAX` byte strings.
pub(crate) mod blobs {
    use minicbor::decode::{Decoder, Error};
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn decode<Ctx, const MAX: usize>(decoder: &mut Decoder<'_>, _: &mut Ctx) -> Result<Vec<Vec<u8>>, Error> {
        let count = super::count(decoder, MAX)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            entries.push(decoder.bytes()?.to_vec());
        }
        Ok(entries)
    }

    pub(crate) fn encode<Ctx, W: Write>(
        entries: &[Vec<u8>],
        encoder: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.array(entries.len() as u64)?;
        for entry in entries {
            encoder.bytes(entry)?;
        }
        Ok(())
    }
}

/// A list of at most `MAX` byte strings that stay where they are.
pub(crate) fn slices<'b, const MAX: usize, Ctx>(
    decoder: &mut Decoder<'b>,
    _: &mut Ctx,
) -> Result<Vec<&'b [u8]>, Error> {
    let count = count(decoder, MAX)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(decoder.bytes()?);
    }
    Ok(entries)
}

/// Writes what [`slices`] reads.
pub(crate) fn encode_slices<Ctx, W: minicbor::encode::Write>(
    entries: &[&[u8]],
    encoder: &mut minicbor::Encoder<W>,
    _: &mut Ctx,
) -> Result<(), minicbor::encode::Error<W::Error>> {
    encoder.array(entries.len() as u64)?;
    for entry in entries {
        encoder.bytes(entry)?;
    }
    Ok(())
}

/// A list of multiaddresses in their binary form.
pub(crate) mod addresses {
    use super::*;
    use minicbor::encode::{self, Encoder, Write};

    pub(crate) fn decode<Ctx>(decoder: &mut Decoder<'_>, _: &mut Ctx) -> Result<Vec<Multiaddr>, Error> {
        let count = count(decoder, ADDRESSES_MAX)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = decoder.bytes()?;
            if bytes.len() > ADDRESS_BYTES_MAX {
                let error = DecodeError::TooLarge {
                    what: "address",
                    limit: ADDRESS_BYTES_MAX,
                    got: bytes.len(),
                };
                return Err(Error::custom(error));
            }
            let address = Multiaddr::try_from(bytes.to_vec())
                .map_err(|error| Error::custom(DecodeError::malformed("address", error.to_string())))?;
            entries.push(address);
        }
        Ok(entries)
    }

    pub(crate) fn encode<Ctx, W: Write>(
        entries: &[Multiaddr],
        encoder: &mut Encoder<W>,
        _: &mut Ctx,
    ) -> Result<(), encode::Error<W::Error>> {
        encoder.array(entries.len() as u64)?;
        for entry in entries {
            encoder.bytes(entry.as_ref())?;
        }
        Ok(())
    }
}

/// The length of a list that is at most so long.
pub(crate) fn count(decoder: &mut Decoder<'_>, limit: usize) -> Result<usize, Error> {
    let count = decoder
        .array()?
        .ok_or_else(|| Error::message("a list of indefinite length"))?;
    if count > limit as u64 {
        return Err(Error::message(format!(
            "a list of {count} entries, the limit is {limit}"
        )));
    }
    Ok(count as usize)
}
