//! Whose key no longer counts.
//!
//! A revocation names a public key, never a certificate: whoever holds the key is out, whatever certificates it collects. It is signed
//! by the root or by a member with the verb `admin` on [`REVOKE_RESOURCE`], whose chain was valid at the time the revocation names, so that
//! the later expiry of that chain does not undo it. Nobody can revoke the root, nor a key its own authority rests on.
//!
//! # Revocations by revoked admins
//!
//! Nodes learn of revocations in different orders and must agree all the same, so whether one counts is a function of the *set*, not of
//! the order of arrival. [`RevocationSet`] keeps every authentic notice. A notice has a *rank*, the number of certificates between the
//! root and its signer (the root's own have rank 0), and a *time*, `revoked_at_ms`. A notice is **void** if a notice that counts
//! revokes its signer, or a key its signer's authority rests on, and
//!
//! - has a smaller rank and is not later, or
//! - has the same rank and is earlier.
//!
//! Every other notice counts. As only smaller (rank, time) can void, sorting by that and deciding in order decides each notice once.
//! What follows from the rule:
//!
//! - What an admin revoked before its own revocation stands; what it signs as of then does not.
//! - A thief of an admin's key can date a notice back, but not before the certificate of that admin. The root (or an admin nearer to
//!   the root) answers with a revocation dated before that, which voids everything the key ever signed, and repeats what was right.
//! - Two admins of one rank that revoke each other at the same millisecond are both out.
//! - Nobody farther from the root can void the word of somebody nearer, whatever dates it uses.
//!
//! The set is bounded. If there are more, the ones with the smallest (rank, time, id) are kept, again a function of the set: a flood
//! from one admin cannot keep out the root's answer.

mod set;
#[cfg(test)]
pub(crate) mod tests;

use minicbor::{Decode, Encode};
use sha2::{Digest as _, Sha256};

pub use set::{Inserted, RevocationSet};

use crate::capability::Verb;
use crate::certificate::{Chain, check_window};
use crate::codec::Wire;
use crate::error::{DecodeError, TrustError};
use crate::ident::{MeshId, PublicKey, SecretKey};
use crate::limits::{CLOCK_SKEW_MS_MAX, REASON_BYTES_MAX, REVOCATION_BYTES_MAX, REVOCATION_NOTICE_BYTES_MAX};
use crate::name::check_text;
use crate::signed::{Payload, Signed};
use crate::subject::Subject;

/// The subject on which the verb `admin` is needed to revoke; `>` matches it, a grant of all verbs on somebody's own subjects does not.
pub const REVOKE_RESOURCE: &str = "mesh.revocation";

fn revoke_subject() -> Subject {
    REVOKE_RESOURCE.parse().expect("invariant: the constant is a subject")
}

/// The statement that a key no longer counts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
pub struct Revocation {
    /// The mesh it is for.
    #[n(0)]
    pub mesh: MeshId,
    /// The key.
    #[n(1)]
    pub subject: PublicKey,
    /// Why, for people.
    #[n(2)]
    pub reason: String,
    /// Since when what the key signs as an admin is void, unix milliseconds.
    #[n(3)]
    pub revoked_at_ms: u64,
    /// Makes two otherwise equal revocations different.
    #[cbor(n(4), with = "minicbor::bytes")]
    #[serde(with = "crate::text::hex16")]
    pub nonce: [u8; 16],
}

impl Wire for Revocation {
    const WHAT: &'static str = "revocation";
    const BYTES_MAX: usize = REVOCATION_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        check_text("reason", &self.reason, REASON_BYTES_MAX)
    }
}

impl Payload for Revocation {
    const DOMAIN: &'static str = "revocation";
}

/// A revocation with the certificates of its signer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RevocationNotice {
    /// The chain of the signer; empty if that is the root.
    #[n(0)]
    pub authority: Chain,
    /// The signed statement.
    #[n(1)]
    pub notice: Signed<Revocation>,
}

impl RevocationNotice {
    /// Signs a revocation. `authority` is the signer's chain, empty if `signer` is the root key.
    pub fn sign(authority: &Chain, signer: &SecretKey, revocation: &Revocation) -> Result<Self, TrustError> {
        let notice = Self {
            authority: authority.clone(),
            notice: Signed::sign(revocation, signer)?,
        };
        let root = authority.root().unwrap_or_else(|| signer.public());
        notice.verify(&root, &MeshId::from_root(&root), &|_| false)?;
        Ok(notice)
    }

    /// Verifies signature and authority as of the time the revocation names. `is_revoked` is asked about the keys of the authority;
    /// a [`RevocationSet`] decides that by its own rule and does not ask.
    pub fn verify(
        &self,
        root: &PublicKey,
        mesh: &MeshId,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Revocation, TrustError> {
        self.authenticate(root, mesh, is_revoked)
            .map(|(revocation, _)| revocation)
    }

    /// SHA-256 of the whole notice.
    pub fn id(&self) -> [u8; 32] {
        Sha256::digest(self.to_bytes()).into()
    }

    /// The revocation and the keys its authority rests on, the signer's last; none if that is the root.
    fn authenticate(
        &self,
        root: &PublicKey,
        mesh: &MeshId,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<(Revocation, Vec<PublicKey>), TrustError> {
        let signer = self.notice.signer();
        let revocation = self.notice.open()?;
        if revocation.mesh != *mesh || *mesh != MeshId::from_root(root) {
            return Err(TrustError::WrongMesh {
                expected: *mesh,
                got: revocation.mesh,
            });
        }
        if revocation.subject == *root {
            return Err(TrustError::not_authorised(signer, "nobody can revoke the root"));
        }
        if self.authority.is_empty() {
            if signer != *root {
                let reason = "it is not signed by the root and has no certificates";
                return Err(TrustError::BrokenChain { link: 0, reason });
            }
            return Ok((revocation, Vec::new()));
        }
        let admin = self.authority.authenticate(root, mesh, is_revoked)?;
        if admin.key != signer {
            let reason = "it is not signed by the member whose certificates it carries";
            return Err(TrustError::BrokenChain {
                link: self.authority.0.len(),
                reason,
            });
        }
        check_window(
            admin.not_before_ms,
            admin.not_after_ms,
            revocation.revoked_at_ms,
            CLOCK_SKEW_MS_MAX,
        )?;
        if !admin.permits(Verb::Admin, &revoke_subject()) {
            return Err(TrustError::not_authorised(
                signer,
                format!("it lacks the verb admin on {REVOKE_RESOURCE}"),
            ));
        }
        if admin.path.contains(&revocation.subject) && revocation.subject != signer {
            return Err(TrustError::not_authorised(
                signer,
                "it cannot revoke a key its own authority rests on",
            ));
        }
        Ok((revocation, admin.path))
    }
}

impl Wire for RevocationNotice {
    const WHAT: &'static str = "revocation notice";
    const BYTES_MAX: usize = REVOCATION_NOTICE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        self.authority.check()
    }
}
