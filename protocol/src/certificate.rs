//! Who belongs to a mesh: certificates from the root key down to a member.
//!
//! The root signs the first certificate; its subject may sign the next if it holds the verb `invite`, and so on. [`Chain::verify`] walks
//! from the root and accepts a link only if its signer is the subject before it, hands on no more than it holds, and gives only roles on
//! which it holds `invite` (the resource of that grant is matched against `role.<name>`, so an inviter can be held to certain roles; a
//! certificate without roles needs an `invite` that could match some role). Holding a role oneself gives no right to pass it on.
//! The validity of a chain is the intersection over its links; no key occurs twice; none may be revoked.
//!
//! Promises: [`Chain::issue`] makes only chains that verify. Not promised: that the peer at the other end holds the member's key; the
//! connection's handshake shows that.

mod chain;
mod membership;
#[cfg(test)]
mod tests;

use minicbor::{Decode, Encode};

pub use chain::{CertificateRequest, Chain};
pub(crate) use chain::{check_window, check_window_order};
pub use membership::Membership;

use crate::capability::{Grant, check_grants};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::ident::{MeshId, PublicKey};
use crate::limits::{CERTIFICATE_BYTES_MAX, GRANTS_MAX, LABELS_MAX, ROLES_MAX};
use crate::name::{check_distinct, check_name, check_role};
use crate::signed::Payload;

/// One link: its signer says who the subject is and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Certificate {
    /// The mesh it is for.
    #[n(0)]
    pub mesh: MeshId,
    /// Whose certificate it is.
    #[n(1)]
    pub subject: PublicKey,
    /// What people call the node.
    #[n(2)]
    pub name: String,
    /// Its roles.
    #[cbor(n(3), decode_with = "bounded::list::<{ ROLES_MAX }, _, _>")]
    pub roles: Vec<String>,
    /// Free labels, vouched for by the issuer.
    #[cbor(n(4), decode_with = "bounded::list::<{ LABELS_MAX }, _, _>")]
    pub labels: Vec<(String, String)>,
    /// What it may do.
    #[cbor(n(5), decode_with = "bounded::list::<{ GRANTS_MAX }, _, _>")]
    pub grants: Vec<Grant>,
    /// When it was made, unix milliseconds.
    #[n(6)]
    pub issued_at_ms: u64,
    /// From when it is valid, unix milliseconds.
    #[n(7)]
    pub not_before_ms: u64,
    /// Until when it is valid, unix milliseconds.
    #[n(8)]
    pub not_after_ms: u64,
    /// Makes two otherwise equal certificates different.
    #[cbor(n(9), with = "minicbor::bytes")]
    #[serde(with = "crate::text::hex16")]
    pub serial: [u8; 16],
}

impl Wire for Certificate {
    const WHAT: &'static str = "certificate";
    const BYTES_MAX: usize = CERTIFICATE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        check_name("name", &self.name)?;
        at_most("roles", self.roles.len(), ROLES_MAX)?;
        self.roles.iter().try_for_each(|role| check_role(role))?;
        check_distinct("roles", self.roles.iter().map(String::as_str))?;
        at_most("labels", self.labels.len(), LABELS_MAX)?;
        for (key, value) in &self.labels {
            check_name("label", key)?;
            check_name("label value", value)?;
        }
        check_distinct("labels", self.labels.iter().map(|(key, _)| key.as_str()))?;
        check_grants(&self.grants)?;
        check_window_order(Self::WHAT, self.not_before_ms, self.not_after_ms)
    }
}

impl Payload for Certificate {
    const DOMAIN: &'static str = "certificate";
}
