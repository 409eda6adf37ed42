//! What a verified chain says.

use crate::capability::{Grant, Verb, covered, permits};
use crate::error::TrustError;
use crate::ident::{MeshId, PeerId, PublicKey};
use crate::name::{ROLE_TOKEN, role_subject};
use crate::subject::Subject;

/// A member, as its verified chain describes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Membership {
    /// The mesh it belongs to.
    pub mesh: MeshId,
    /// Its key.
    pub key: PublicKey,
    /// Its libp2p identity.
    #[serde(serialize_with = "crate::text::display")]
    pub peer_id: PeerId,
    /// What people call it.
    pub name: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// From when the whole chain is valid, unix milliseconds.
    pub not_before_ms: u64,
    /// Until when the whole chain is valid, unix milliseconds.
    pub not_after_ms: u64,
    /// Who signed its own certificate.
    pub issuer: PublicKey,
    /// When its own certificate was made, unix milliseconds.
    pub issued_at_ms: u64,
    /// The keys of the chain, the one next to the root first, its own last: if one is revoked, it is no longer a member.
    pub path: Vec<PublicKey>,
}

impl Membership {
    /// Whether it may do this by its certificate alone.
    pub fn permits(&self, verb: Verb, subject: &Subject) -> bool {
        permits(&self.grants, verb, subject)
    }

    /// Whether it has this role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own == role)
    }

    /// Whether it may issue a certificate with these roles and grants; the error says what it lacks.
    pub fn can_issue(&self, roles: &[String], grants: &[Grant]) -> Result<(), TrustError> {
        check_may_issue(&self.key, &self.grants, roles, grants)
    }

    /// When to ask for a new certificate: after two thirds of the chain's life.
    pub fn renew_at_ms(&self) -> u64 {
        let life_ms = self.not_after_ms.saturating_sub(self.not_before_ms);
        self.not_before_ms.saturating_add(life_ms / 3 * 2)
    }
}

/// The rule of issuing: `invite` at all, `invite` on every role, and only grants that can be handed on.
pub(super) fn check_may_issue(
    issuer: &PublicKey,
    held: &[Grant],
    roles: &[String],
    grants: &[Grant],
) -> Result<(), TrustError> {
    let invites = |grant: &Grant| grant.verbs.contains(Verb::Invite) && grant.resource.reaches(ROLE_TOKEN);
    if !held.iter().any(invites) {
        return Err(TrustError::not_authorised(
            *issuer,
            "it lacks the verb invite on any role",
        ));
    }
    for role in roles {
        if !permits(held, Verb::Invite, &role_subject(role)?) {
            return Err(TrustError::not_authorised(
                *issuer,
                format!("it lacks the verb invite on role.{role}"),
            ));
        }
    }
    match grants.iter().find(|grant| !covered(held, grant)) {
        Some(grant) => Err(TrustError::not_authorised(
            *issuer,
            format!("it cannot hand on {grant}"),
        )),
        None => Ok(()),
    }
}
