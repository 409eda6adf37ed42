//! Invitation tickets: what somebody is given to join a mesh.
//!
//! A ticket names the mesh, its root key, who will issue the certificate and where to reach it, and holds a secret that is redeemed
//! once. Whoever has it can use it, so it is short-lived and shown to nobody else: its `Debug` leaves the secret out.

mod redemption;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};
use multiaddr::Multiaddr;
pub use redemption::{Redemption, TicketKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, TrustError};
use crate::ident::{MeshId, PublicKey};
use crate::limits::TICKET_BYTES_MAX;
use crate::name::check_role;
use crate::record::check_addresses;
use crate::text;

/// The version of [`Ticket`] that is spoken here.
pub const TICKET_VERSION: u16 = 1;

const TEXT_PREFIX: &str = "weft1";

/// The secret of a ticket; wiped when dropped, never shown, compared in constant time.
#[derive(Clone, Zeroize, ZeroizeOnDrop, Encode, Decode)]
#[cbor(transparent)]
pub struct TicketSecret(#[cbor(n(0), with = "minicbor::bytes")] [u8; 16]);

impl TicketSecret {
    /// A secret from bytes of a good source of randomness.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be hashed or sent.
    pub fn expose(&self) -> &[u8; 16] {
        &self.0
    }
}

impl PartialEq for TicketSecret {
    fn eq(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(other.0).fold(0, |bits, (a, b)| bits | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl Eq for TicketSecret {}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketSecret(…)")
    }
}

/// An invitation into a mesh.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ticket {
    /// [`TICKET_VERSION`].
    #[n(0)]
    pub version: u16,
    /// The mesh.
    #[n(1)]
    pub mesh: MeshId,
    /// Its root key.
    #[n(2)]
    pub root: PublicKey,
    /// Who redeems the ticket.
    #[n(3)]
    pub issuer: PublicKey,
    /// Where the issuer, or another way into the mesh, can be reached.
    #[cbor(n(4), with = "bounded::addresses")]
    pub addresses: Vec<Multiaddr>,
    /// What shows the right to join.
    #[n(5)]
    pub secret: TicketSecret,
    /// The role that the new member will have.
    #[n(6)]
    pub role: String,
    /// Until when it can be redeemed, unix milliseconds.
    #[n(7)]
    pub not_after_ms: u64,
}

impl Ticket {
    /// Reads the text form, `weft1…`; white space and upper case are tolerated.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        Self::from_bytes(&text::decode(TEXT_PREFIX, text, Self::BYTES_MAX, Self::WHAT)?)
    }

    /// Whether it can still be redeemed.
    pub fn check_time(&self, now_ms: u64) -> Result<(), TrustError> {
        if now_ms >= self.not_after_ms {
            return Err(TrustError::Expired {
                not_after_ms: self.not_after_ms,
                now_ms,
            });
        }
        Ok(())
    }
}

impl Wire for Ticket {
    const WHAT: &'static str = "ticket";
    const BYTES_MAX: usize = TICKET_BYTES_MAX;

    /// The version comes first in every version.
    fn check_bytes(bytes: &[u8]) -> Result<(), DecodeError> {
        let mut decoder = minicbor::Decoder::new(bytes);
        match decoder.array().and_then(|_| decoder.u64()) {
            Ok(got) if got != u64::from(TICKET_VERSION) => Err(DecodeError::Version {
                what: Self::WHAT,
                supported: TICKET_VERSION,
                got,
            }),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.version != TICKET_VERSION {
            let got = u64::from(self.version);
            return Err(DecodeError::Version {
                what: Self::WHAT,
                supported: TICKET_VERSION,
                got,
            });
        }
        if self.mesh != MeshId::from_root(&self.root) {
            return Err(DecodeError::invalid(
                Self::WHAT,
                "its mesh does not belong to its root key",
            ));
        }
        check_role(&self.role)?;
        check_addresses(&self.addresses)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode(TEXT_PREFIX, &self.to_bytes()))
    }
}

impl FromStr for Ticket {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        Self::from_text(text)
    }
}
