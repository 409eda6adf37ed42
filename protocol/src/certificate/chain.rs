//! Chains: walking them, and making them longer.

use minicbor::{Decode, Encode};

use super::membership::check_may_issue;
use super::{Certificate, Membership};
use crate::capability::Grant;
use crate::codec::{self, Wire, bounded};
use crate::error::{DecodeError, TrustError, at_most};
use crate::ident::{MeshId, PublicKey, SecretKey};
use crate::limits::{CHAIN_BYTES_MAX, CHAIN_LEN_MAX, CLOCK_SKEW_MS_MAX};
use crate::signed::Signed;

/// The certificates between the root and a member, the one next to the root first. Empty where none is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Chain(#[cbor(n(0), decode_with = "bounded::list::<{ CHAIN_LEN_MAX }, _, _>")] pub Vec<Signed<Certificate>>);

/// What an issuer decides about a new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Whose certificate it will be.
    pub subject: PublicKey,
    /// What people call the node.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// From when, unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, unix milliseconds; cut to the issuer's own end.
    pub not_after_ms: u64,
}

impl Chain {
    /// Whether there is no certificate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who signed the first link: the root, if the chain verifies.
    pub fn root(&self) -> Option<PublicKey> {
        self.0.first().map(Signed::signer)
    }

    /// The last link, decoded but not verified: for display and routing only.
    pub fn peek_leaf(&self) -> Option<Certificate> {
        self.0.last().and_then(|link| link.peek().ok())
    }

    /// Verifies the whole chain from `root`, at `now_ms`, with clocks up to `skew_ms` apart.
    pub fn verify(
        &self,
        root: &PublicKey,
        mesh: &MeshId,
        now_ms: u64,
        skew_ms: u64,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Membership, TrustError> {
        let member = self.authenticate(root, mesh, is_revoked)?;
        check_window(member.not_before_ms, member.not_after_ms, now_ms, skew_ms)?;
        Ok(member)
    }

    /// Everything that [`Chain::verify`] does except looking at the time.
    pub fn authenticate(
        &self,
        root: &PublicKey,
        mesh: &MeshId,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Membership, TrustError> {
        let rooted = MeshId::from_root(root);
        if *mesh != rooted {
            return Err(TrustError::WrongMesh {
                expected: *mesh,
                got: rooted,
            });
        }
        if self.0.len() > CHAIN_LEN_MAX {
            return Err(TrustError::ChainTooLong {
                limit: CHAIN_LEN_MAX,
                got: self.0.len(),
            });
        }
        let mut member: Option<Membership> = None;
        for (at, link) in self.0.iter().enumerate() {
            member = Some(follow(member, at, link, root, mesh, is_revoked)?);
        }
        member.ok_or(TrustError::BrokenChain {
            link: 0,
            reason: "there is no certificate",
        })
    }

    /// Makes the chain of a new member. `self` is the issuer's chain, empty if `issuer` is the root key itself. It refuses to exceed
    /// the issuer's authority; only the end of validity is cut to the issuer's own, so that renewals near its end still work.
    pub fn issue(
        &self,
        issuer: &SecretKey,
        request: CertificateRequest,
        serial: [u8; 16],
        now_ms: u64,
    ) -> Result<Chain, TrustError> {
        let root = self.root().unwrap_or_else(|| issuer.public());
        let mesh = MeshId::from_root(&root);
        let mut not_after_ms = request.not_after_ms;
        if !self.is_empty() {
            let own = self.verify(&root, &mesh, now_ms, CLOCK_SKEW_MS_MAX, &|_| false)?;
            not_after_ms = not_after_ms.min(own.not_after_ms);
        }
        let certificate = Certificate {
            mesh,
            subject: request.subject,
            name: request.name,
            roles: request.roles,
            labels: request.labels,
            grants: request.grants,
            issued_at_ms: now_ms,
            not_before_ms: request.not_before_ms,
            not_after_ms,
            serial,
        };
        let mut chain = self.clone();
        chain.0.push(Signed::sign(&certificate, issuer)?);
        // Making and checking are the same code, so they cannot disagree about what is allowed.
        chain.authenticate(&root, &mesh, &|_| false)?;
        chain.check()?;
        Ok(chain)
    }
}

/// One step of the walk: `issuer` is the member so far, `None` at the root.
fn follow(
    issuer: Option<Membership>,
    at: usize,
    link: &Signed<Certificate>,
    root: &PublicKey,
    mesh: &MeshId,
    is_revoked: &dyn Fn(&PublicKey) -> bool,
) -> Result<Membership, TrustError> {
    let signer = issuer.as_ref().map_or(*root, |member| member.key);
    if link.signer() != signer {
        let reason = if at == 0 {
            "it is not signed by the root"
        } else {
            "it is not signed by the subject of the link before"
        };
        return Err(TrustError::BrokenChain { link: at, reason });
    }
    let certificate = link.open()?;
    let key = certificate.subject;
    if certificate.mesh != *mesh {
        return Err(TrustError::WrongMesh {
            expected: *mesh,
            got: certificate.mesh,
        });
    }
    if is_revoked(&key) {
        return Err(TrustError::Revoked { key });
    }
    let (mut path, mut not_before_ms, mut not_after_ms) = (Vec::new(), 0, u64::MAX);
    if let Some(issuer) = issuer {
        check_may_issue(&issuer.key, &issuer.grants, &certificate.roles, &certificate.grants)?;
        (path, not_before_ms, not_after_ms) = (issuer.path, issuer.not_before_ms, issuer.not_after_ms);
    }
    if key == *root || path.contains(&key) {
        return Err(TrustError::DuplicateKey { key });
    }
    path.push(key);
    not_before_ms = not_before_ms.max(certificate.not_before_ms);
    not_after_ms = not_after_ms.min(certificate.not_after_ms);
    if not_before_ms >= not_after_ms {
        let reason = "it is never valid at the same time as the links before";
        return Err(TrustError::BrokenChain { link: at, reason });
    }
    Ok(Membership {
        mesh: *mesh,
        key,
        peer_id: key.peer_id(),
        name: certificate.name,
        roles: certificate.roles,
        labels: certificate.labels,
        grants: certificate.grants,
        not_before_ms,
        not_after_ms,
        issuer: signer,
        issued_at_ms: certificate.issued_at_ms,
        path,
    })
}

/// Whether `now_ms` is in `[not_before, not_after)`, each end stretched by `skew_ms`.
pub(crate) fn check_window(not_before_ms: u64, not_after_ms: u64, now_ms: u64, skew_ms: u64) -> Result<(), TrustError> {
    if not_before_ms >= not_after_ms || now_ms >= not_after_ms.saturating_add(skew_ms) {
        return Err(TrustError::Expired { not_after_ms, now_ms });
    }
    if now_ms.saturating_add(skew_ms) < not_before_ms {
        return Err(TrustError::NotYetValid { not_before_ms, now_ms });
    }
    Ok(())
}

/// A period of validity has to begin before it ends.
pub(crate) fn check_window_order(what: &'static str, not_before_ms: u64, not_after_ms: u64) -> Result<(), DecodeError> {
    if not_before_ms >= not_after_ms {
        let reason = format!("its validity ends ({not_after_ms} ms) before it begins ({not_before_ms} ms)");
        return Err(DecodeError::invalid(what, reason));
    }
    Ok(())
}

impl Wire for Chain {
    const WHAT: &'static str = "certificate chain";
    const BYTES_MAX: usize = CHAIN_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        at_most(Self::WHAT, self.0.len(), CHAIN_LEN_MAX)?;
        at_most(Self::WHAT, codec::encode(self).len(), CHAIN_BYTES_MAX)
    }
}
