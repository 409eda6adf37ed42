//! Capabilities: one signed link, and the chain of links from the root to the holder.

use std::fmt;
use std::str::FromStr;

use minicbor::{Decode, Encode};

use super::{Grant, Verb, check_grants, covered, permits};
use crate::certificate::{Chain, check_window, check_window_order};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, TrustError, at_most};
use crate::ident::{MeshId, PublicKey, SecretKey};
use crate::limits::{
    CAPABILITY_BYTES_MAX, CAPABILITY_LINKS_MAX, CAPABILITY_TOKEN_BYTES_MAX, CLOCK_SKEW_MS_MAX, GRANTS_MAX,
};
use crate::name::check_role;
use crate::signed::{Payload, Signed};
use crate::subject::Subject;
use crate::text;

const TEXT_PREFIX: &str = "weftcap1";

/// Who may use a capability.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The node with this key; it may also delegate.
    #[n(0)]
    Key(#[n(0)] PublicKey),
    /// Every member with this role; nobody can delegate it further.
    #[n(1)]
    Role(#[n(0)] String),
}

/// One link: its signer lets the audience use the grants.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Capability {
    /// The mesh it is for.
    #[n(0)]
    pub mesh: MeshId,
    /// Who may use it.
    #[n(1)]
    pub audience: Audience,
    /// For what.
    #[cbor(n(2), decode_with = "bounded::list::<{ GRANTS_MAX }, _, _>")]
    pub grants: Vec<Grant>,
    /// From when, unix milliseconds.
    #[n(3)]
    pub not_before_ms: u64,
    /// Until when, unix milliseconds.
    #[n(4)]
    pub not_after_ms: u64,
    /// Makes two otherwise equal capabilities different.
    #[cbor(n(5), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

impl Wire for Capability {
    const WHAT: &'static str = "capability";
    const BYTES_MAX: usize = CAPABILITY_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if let Audience::Role(role) = &self.audience {
            check_role(role)?;
        }
        check_grants(&self.grants)?;
        check_window_order(Self::WHAT, self.not_before_ms, self.not_after_ms)
    }
}

impl Payload for Capability {
    const DOMAIN: &'static str = "capability";
}

/// What the maker of a link decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapabilityRequest {
    /// Who may use it.
    pub audience: Audience,
    /// For what.
    pub grants: Vec<Grant>,
    /// From when, unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, unix milliseconds.
    pub not_after_ms: u64,
}

/// The links from an issuer to the holder, with the certificates that show the issuer's own right.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CapabilityToken {
    /// The chain of the first link's signer; empty if that is the root.
    #[n(0)]
    pub authority: Chain,
    /// The links, the issuer's first.
    #[cbor(n(1), decode_with = "bounded::list::<{ CAPABILITY_LINKS_MAX }, _, _>")]
    pub links: Vec<Signed<Capability>>,
}

/// What a token amounts to once everything has been verified.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Effective {
    /// The mesh it is for.
    pub mesh: MeshId,
    /// Who may use it.
    pub audience: Audience,
    /// For what.
    pub grants: Vec<Grant>,
    /// From when, over all links and certificates, unix milliseconds.
    pub not_before_ms: u64,
    /// Until when, over all links and certificates, unix milliseconds.
    pub not_after_ms: u64,
    /// Who signed the first link.
    pub issuer: PublicKey,
    /// Every key it depends on but the root: if one is revoked, it no longer counts.
    pub path: Vec<PublicKey>,
}

impl Effective {
    /// Whether the audience may do this.
    pub fn permits(&self, verb: Verb, subject: &Subject) -> bool {
        permits(&self.grants, verb, subject)
    }

    /// Whether the member with this key and these roles is the audience.
    pub fn is_for(&self, key: &PublicKey, roles: &[String]) -> bool {
        match &self.audience {
            Audience::Key(audience) => audience == key,
            Audience::Role(role) => roles.contains(role),
        }
    }

    fn narrow(&mut self, link: Capability) {
        self.not_before_ms = self.not_before_ms.max(link.not_before_ms);
        self.not_after_ms = self.not_after_ms.min(link.not_after_ms);
        self.audience = link.audience;
        self.grants = link.grants;
    }
}

impl CapabilityToken {
    /// Makes a token of one link. `authority` is the chain of the issuer, empty if `issuer` is the mesh's root key.
    pub fn issue(
        authority: &Chain,
        issuer: &SecretKey,
        request: CapabilityRequest,
        nonce: [u8; 16],
        now_ms: u64,
    ) -> Result<Self, TrustError> {
        let root = authority.root().unwrap_or_else(|| issuer.public());
        let token = Self {
            authority: authority.clone(),
            links: Vec::new(),
        };
        token.extend(&root, issuer, request, nonce, now_ms)
    }

    /// Adds a link that hands on the same or less. `holder` is the secret key of the audience of this token.
    pub fn delegate(
        &self,
        holder: &SecretKey,
        request: CapabilityRequest,
        nonce: [u8; 16],
        now_ms: u64,
    ) -> Result<Self, TrustError> {
        let first = self.links.first().ok_or(TrustError::BrokenChain {
            link: 0,
            reason: "there is no link",
        })?;
        let root = self.authority.root().unwrap_or_else(|| first.signer());
        self.extend(&root, holder, request, nonce, now_ms)
    }

    /// Signs one more link and keeps it only if the whole verifies: making and checking cannot disagree.
    fn extend(
        &self,
        root: &PublicKey,
        signer: &SecretKey,
        request: CapabilityRequest,
        nonce: [u8; 16],
        now_ms: u64,
    ) -> Result<Self, TrustError> {
        let mesh = MeshId::from_root(root);
        let CapabilityRequest {
            audience,
            grants,
            not_before_ms,
            not_after_ms,
        } = request;
        let link = Capability {
            mesh,
            audience,
            grants,
            not_before_ms,
            not_after_ms,
            nonce,
        };
        // A link for later is made now: it is judged at the first instant at which it is meant to hold.
        let judged_ms = now_ms.max(not_before_ms);
        let mut longer = self.clone();
        longer.links.push(Signed::sign(&link, signer)?);
        longer.verify(root, &mesh, judged_ms, &|_| false)?;
        at_most(Self::WHAT, longer.to_bytes().len(), Self::BYTES_MAX)?;
        Ok(longer)
    }

    /// Verifies everything back to `root`; clocks may be [`CLOCK_SKEW_MS_MAX`] apart.
    pub fn verify(
        &self,
        root: &PublicKey,
        mesh: &MeshId,
        now_ms: u64,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Effective, TrustError> {
        if self.links.len() > CAPABILITY_LINKS_MAX {
            return Err(TrustError::ChainTooLong {
                limit: CAPABILITY_LINKS_MAX,
                got: self.links.len(),
            });
        }
        let (first, later) = self.links.split_first().ok_or(TrustError::BrokenChain {
            link: 0,
            reason: "there is no link",
        })?;
        let mut effective = self.verify_first(first, root, mesh, now_ms, is_revoked)?;
        for (at, link) in later.iter().enumerate() {
            let Audience::Key(holder) = effective.audience else {
                return Err(TrustError::BrokenChain {
                    link: at + 1,
                    reason: "the link before is for a role",
                });
            };
            if link.signer() != holder {
                let reason = "it is not signed by the audience of the link before";
                return Err(TrustError::BrokenChain { link: at + 1, reason });
            }
            let capability = open_link(link, mesh)?;
            check_covered(&holder, &effective.grants, &capability.grants)?;
            effective.narrow(capability);
            note(&mut effective, is_revoked)?;
        }
        check_window(
            effective.not_before_ms,
            effective.not_after_ms,
            now_ms,
            CLOCK_SKEW_MS_MAX,
        )?;
        Ok(effective)
    }

    /// The first link rests on the root or on a member's certificates.
    fn verify_first(
        &self,
        first: &Signed<Capability>,
        root: &PublicKey,
        mesh: &MeshId,
        now_ms: u64,
        is_revoked: &dyn Fn(&PublicKey) -> bool,
    ) -> Result<Effective, TrustError> {
        let link = open_link(first, mesh)?;
        let issuer = first.signer();
        let (window, path) = if self.authority.is_empty() {
            if issuer != *root {
                let reason = "it is not signed by the root and has no certificates";
                return Err(TrustError::BrokenChain { link: 0, reason });
            }
            ((0, u64::MAX), Vec::new())
        } else {
            let member = self
                .authority
                .verify(root, mesh, now_ms, CLOCK_SKEW_MS_MAX, is_revoked)?;
            if member.key != issuer {
                let reason = "it is not signed by the member whose certificates it carries";
                return Err(TrustError::BrokenChain { link: 0, reason });
            }
            check_may_grant(&member.key, &member.grants, &link.grants)?;
            ((member.not_before_ms, member.not_after_ms), member.path)
        };
        let mut effective = Effective {
            mesh: *mesh,
            audience: link.audience.clone(),
            grants: Vec::new(),
            not_before_ms: window.0,
            not_after_ms: window.1,
            issuer,
            path,
        };
        effective.narrow(link);
        note(&mut effective, is_revoked)?;
        Ok(effective)
    }

    /// Reads the text form, `weftcap1…`.
    pub fn from_text(text: &str) -> Result<Self, DecodeError> {
        Self::from_bytes(&text::decode(TEXT_PREFIX, text, Self::BYTES_MAX, Self::WHAT)?)
    }
}

/// Adds a link's audience to the keys the token depends on.
fn note(effective: &mut Effective, is_revoked: &dyn Fn(&PublicKey) -> bool) -> Result<(), TrustError> {
    if let Audience::Key(key) = effective.audience {
        if is_revoked(&key) {
            return Err(TrustError::Revoked { key });
        }
        effective.path.push(key);
    }
    Ok(())
}

fn open_link(link: &Signed<Capability>, mesh: &MeshId) -> Result<Capability, TrustError> {
    let capability = link.open()?;
    if capability.mesh != *mesh {
        return Err(TrustError::WrongMesh {
            expected: *mesh,
            got: capability.mesh,
        });
    }
    Ok(capability)
}

fn check_covered(holder: &PublicKey, held: &[Grant], handed_on: &[Grant]) -> Result<(), TrustError> {
    match handed_on.iter().find(|grant| !covered(held, grant)) {
        Some(grant) => Err(TrustError::not_authorised(
            *holder,
            format!("it cannot hand on {grant}"),
        )),
        None => Ok(()),
    }
}

/// A member may hand on what it holds with enough depth, where it also holds the verb `grant`.
fn check_may_grant(key: &PublicKey, held: &[Grant], handed_on: &[Grant]) -> Result<(), TrustError> {
    check_covered(key, held, handed_on)?;
    let may = |grant: &Grant| {
        held.iter()
            .any(|h| h.verbs.contains(Verb::Grant) && h.resource.covers(&grant.resource))
    };
    match handed_on.iter().find(|grant| !may(grant)) {
        Some(grant) => Err(TrustError::not_authorised(
            *key,
            format!("it lacks the verb grant on {}", grant.resource),
        )),
        None => Ok(()),
    }
}

impl Wire for CapabilityToken {
    const WHAT: &'static str = "capability token";
    const BYTES_MAX: usize = CAPABILITY_TOKEN_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        if self.links.is_empty() {
            return Err(DecodeError::invalid(Self::WHAT, "there is no link"));
        }
        self.authority.check()
    }
}

impl fmt::Display for CapabilityToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::encode(TEXT_PREFIX, &self.to_bytes()))
    }
}

impl FromStr for CapabilityToken {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, DecodeError> {
        Self::from_text(text)
    }
}

text::serde_as_text!(CapabilityToken);
