//! A payload with a signature.
//!
//! Promises: [`Signed::open`] verifies the bytes that were received, in the payload's own domain, and decodes only then. A signature
//! over one kind of payload never counts for another.
//!
//! Not promised: that the signer had the right to say it. That is what [`crate::certificate`], [`crate::capability`] and
//! [`crate::revocation`] decide.

#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use minicbor::decode::{Decode, Decoder, Error};
use minicbor::encode::{self, Encode, Encoder, Write};
use sha2::{Digest as _, Sha256};

use crate::codec::Wire;
use crate::error::{DecodeError, TrustError};
use crate::ident::{PublicKey, SecretKey};

/// Something that is signed.
pub trait Payload: Wire {
    /// Keeps the signatures of different kinds of payload apart.
    const DOMAIN: &'static str;
}

/// Bytes, the key that signed them, the signature. `T` says what the bytes are.
pub struct Signed<T> {
    /// Shared by clones: what is signed is passed on again and again.
    payload: Arc<[u8]>,
    signer: PublicKey,
    signature: [u8; 64],
    kind: PhantomData<fn() -> T>,
}

impl<T: Payload> Signed<T> {
    /// Encodes, checks and signs.
    pub fn sign(value: &T, secret: &SecretKey) -> Result<Self, DecodeError> {
        let payload = value.to_checked_bytes()?;
        let signature = secret.sign(T::DOMAIN, &payload);
        Ok(Self {
            payload: payload.into(),
            signer: secret.public(),
            signature,
            kind: PhantomData,
        })
    }

    /// Verifies the signature, then decodes.
    pub fn open(&self) -> Result<T, TrustError> {
        if !self.signer.verify(T::DOMAIN, &self.payload, &self.signature) {
            return Err(TrustError::BadSignature { what: T::WHAT });
        }
        Ok(T::from_bytes(&self.payload)?)
    }

    /// Decodes without verifying: for display and routing, never for a decision.
    pub fn peek(&self) -> Result<T, DecodeError> {
        T::from_bytes(&self.payload)
    }
}

impl<T> Signed<T> {
    /// Who claims to have signed; proved only by [`Signed::open`].
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The signed bytes as received.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// SHA-256 of the payload.
    pub fn id(&self) -> [u8; 32] {
        Sha256::digest(&self.payload).into()
    }
}

/// What the envelope adds to its payload: two keys' worth of bytes and their CBOR heads.
pub const ENVELOPE_BYTES_MAX: usize = 128;

impl<T: Payload> Wire for Signed<T> {
    const WHAT: &'static str = T::WHAT;
    const BYTES_MAX: usize = T::BYTES_MAX + ENVELOPE_BYTES_MAX;
}

impl<C, T> Encode<C> for Signed<T> {
    fn encode<W: Write>(&self, encoder: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        encoder
            .array(3)?
            .bytes(&self.payload)?
            .bytes(self.signer.as_bytes())?
            .bytes(&self.signature)?
            .ok()
    }
}

impl<'b, C, T: Payload> Decode<'b, C> for Signed<T> {
    fn decode(decoder: &mut Decoder<'b>, context: &mut C) -> Result<Self, Error> {
        // Exactly three: an envelope with room for more would have more than one encoding.
        if decoder.array()? != Some(3) {
            return Err(Error::message("an envelope of other than three parts"));
        }
        let payload = decoder.bytes()?;
        if payload.len() > T::BYTES_MAX {
            let error = DecodeError::TooLarge {
                what: T::WHAT,
                limit: T::BYTES_MAX,
                got: payload.len(),
            };
            return Err(Error::custom(error));
        }
        let payload = payload.into();
        let signer = PublicKey::decode(decoder, context)?;
        let signature = decoder
            .bytes()?
            .try_into()
            .map_err(|_| Error::message("a signature of other than 64 bytes"))?;
        Ok(Self {
            payload,
            signer,
            signature,
            kind: PhantomData,
        })
    }
}

// By hand, because deriving would ask the same of `T`, which is not even there.
impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            payload: Arc::clone(&self.payload),
            signer: self.signer,
            signature: self.signature,
            kind: PhantomData,
        }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.payload == other.payload && self.signer == other.signer && self.signature == other.signature
    }
}

impl<T> Eq for Signed<T> {}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("signer", &self.signer)
            .field("id", &crate::text::base32(&self.id()[..5]))
            .field("bytes", &self.payload.len())
            .finish()
    }
}
