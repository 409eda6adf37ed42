//! May WHO do VERB on WHAT? Deny is the default between members of different roles.
//!
//! The rules, in this order: a node may do anything to itself; a key that is revoked or not a member may do nothing;
//! members that share a role may do [`ROLE_VERBS`] with each other; the grants in a member's certificate count; the
//! capabilities it presents count; everything else is denied.

use weft_protocol::{
    Audience, CapabilityRequest, CapabilityToken, Effective, Grant, Membership, PeerId, PublicKey, Subject, Verb,
    Verbs, Wire as _,
};

use super::{
    MeshKind, PREFIX_TOKEN, Trust, keyed,
    promotion::{CERTIFICATE_VERBS, needs_certificate},
};
use crate::error::NodeError;

/// What members that share a role may do with each other.
pub const ROLE_VERBS: [Verb; 7] = [
    Verb::Publish,
    Verb::Subscribe,
    Verb::Call,
    Verb::Serve,
    Verb::Append,
    Verb::Read,
    Verb::Run,
];
/// Capabilities a node keeps.
pub const TOKENS_MAX: usize = 1024;

/// The rule that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A node may do anything to itself.
    #[serde(rename = "self")]
    Itself,
    /// Both have a role in common.
    SameRole,
    /// The certificate grants it.
    Grant,
    /// A presented capability grants it.
    Capability,
    /// Nothing allows it.
    None,
    /// The key is revoked.
    Revoked,
    /// The key is no member's.
    NotAMember,
}

/// The guard's word, and why.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// The rule that decided.
    pub rule: Rule,
    /// What was looked at, for people.
    pub because: Vec<String>,
}

impl Decision {
    fn new(allowed: bool, rule: Rule, because: impl Into<String>) -> Self {
        Decision {
            allowed,
            rule,
            because: vec![because.into()],
        }
    }
}

/// A capability as this node keeps it.
#[derive(Debug, Clone)]
pub struct HeldToken {
    /// The token itself.
    pub token: CapabilityToken,
    /// What it comes to, where it verifies now.
    pub effective: Effective,
}

fn shared_role<'a>(member: &'a Membership, own_roles: &[String]) -> Option<&'a String> {
    member.roles.iter().find(|role| own_roles.contains(role))
}

/// The decision where a role that both have is enough.
fn free_by_role(member: &Membership, own_roles: &[String], verb: Verb) -> Option<Decision> {
    let role = shared_role(member, own_roles).filter(|_| ROLE_VERBS.contains(&verb))?;
    let because = format!("both have the role {role}, within which {verb} is free");
    Some(Decision::new(true, Rule::SameRole, because))
}

impl Trust {
    /// Decides what a peer may do here, given the capabilities it presents.
    pub fn check(&self, peer: &PeerId, verb: Verb, resource: &Subject, presented: &[CapabilityToken]) -> Decision {
        if *peer == self.0.peer {
            return Decision::new(true, Rule::Itself, "a node may do anything to itself");
        }
        let Some(key) = PublicKey::from_peer_id(peer) else {
            return Decision::new(false, Rule::NotAMember, "only Ed25519 keys can be members");
        };
        if self.is_revoked(&key) {
            return Decision::new(false, Rule::Revoked, format!("{peer} is revoked"));
        }
        let own = self.own_membership();
        let own_roles = own.as_ref().map(|m| m.roles.as_slice()).unwrap_or_default();
        // What most acts rest on, without a copy of all that is known of the member.
        let free = self.with_member(peer, |member| free_by_role(member, own_roles, verb));
        match free {
            None => Decision::new(
                false,
                Rule::NotAMember,
                format!("{peer} has shown no valid certificate"),
            ),
            Some(Some(decision)) => decision,
            Some(None) => match self.member(peer) {
                Some(member) => self.decide(&member, own_roles, verb, resource, presented),
                None => Decision::new(false, Rule::NotAMember, format!("{peer} is no member any more")),
            },
        }
    }

    fn decide(
        &self,
        member: &Membership,
        own_roles: &[String],
        verb: Verb,
        resource: &Subject,
        presented: &[CapabilityToken],
    ) -> Decision {
        if let Some(decision) = free_by_role(member, own_roles, verb) {
            return decision;
        }
        let what = format!("{verb} on {}", resource.as_str());
        let mut because = Vec::new();
        because.push(if shared_role(member, own_roles).is_none() {
            format!("no role in common: it has {:?}, this node {own_roles:?}", member.roles)
        } else {
            format!("{verb} is not free between members of one role")
        });
        if let Some(grant) = member.grants.iter().find(|g| g.permits(verb, resource)) {
            return Decision::new(true, Rule::Grant, format!("its certificate grants {}", describe(grant)));
        }
        because.push(format!(
            "none of the {} grants in its certificate covers {what}",
            member.grants.len()
        ));
        for token in presented {
            match self.effective(token) {
                Ok(e) if e.is_for(&member.key, &member.roles) && e.permits(verb, resource) => {
                    let issuer = e.issuer.peer_id();
                    return Decision::new(
                        true,
                        Rule::Capability,
                        format!("a capability from {issuer} grants {what}"),
                    );
                }
                Ok(e) if !e.is_for(&member.key, &member.roles) => {
                    because.push("a presented capability is for somebody else".to_owned());
                }
                Ok(_) => because.push(format!("a presented capability does not cover {what}")),
                Err(error) => because.push(format!("a presented capability does not verify: {error}")),
            }
        }
        if presented.is_empty() {
            because.push("no capability was presented".to_owned());
        }
        Decision {
            allowed: false,
            rule: Rule::None,
            because,
        }
    }

    /// Whether a member may publish on a subject at all, for somebody: what a node that only passes a message on asks.
    pub fn may_publish(&self, peer: &PeerId, subject: &Subject, presented: &[CapabilityToken]) -> Decision {
        let Some(member) = self.member(peer) else {
            return Decision::new(
                false,
                Rule::NotAMember,
                format!("{peer} has shown no valid certificate"),
            );
        };
        // Within its own roles everyone may publish; who has none needs a grant.
        let roles = member.roles.clone();
        self.decide(&member, &roles, Verb::Publish, subject, presented)
    }

    /// The same decision as [`Trust::check`], with the capabilities this node knows of, for `weft cap explain`. Of the verbs that
    /// only certificates carry it says what the certificates say.
    pub fn explain(&self, peer: &PeerId, verb: Verb, resource: &Subject) -> Decision {
        let mut decision = if CERTIFICATE_VERBS.contains(&verb) {
            self.explain_authority(peer, verb, resource)
        } else {
            let tokens: Vec<CapabilityToken> = self.state().tokens.clone();
            self.check(peer, verb, resource, &tokens)
        };
        if self.mesh().is_some_and(|m| m.kind == MeshKind::Open) {
            decision
                .because
                .push("the mesh is open: everyone who connects has the role member".to_owned());
        }
        decision
    }

    /// What every member with this role may do at this node, its certificate apart.
    pub fn explain_role(&self, role: &str, verb: Verb, resource: &Subject) -> Decision {
        let what = format!("{verb} on {}", resource.as_str());
        if CERTIFICATE_VERBS.contains(&verb) {
            let because = format!("{verb} rests on each member's certificate; no role carries it");
            return Decision::new(false, Rule::None, because);
        }
        let own_roles = self.own_membership().map(|m| m.roles.clone()).unwrap_or_default();
        if own_roles.iter().any(|own| own == role) && ROLE_VERBS.contains(&verb) {
            let because = format!("this node has the role {role} too, within which {verb} is free");
            return Decision::new(true, Rule::SameRole, because);
        }
        let is_for_role = |audience: &Audience| matches!(audience, Audience::Role(name) if name == role);
        for held in self.tokens() {
            if is_for_role(&held.effective.audience) && held.effective.permits(verb, resource) {
                let because = format!("a capability from {} grants {what}", held.effective.issuer.peer_id());
                return Decision::new(true, Rule::Capability, because);
            }
        }
        Decision {
            allowed: false,
            rule: Rule::None,
            because: vec![
                format!("this node does not have the role {role}; it has {own_roles:?}"),
                format!("no capability for role:{role} that this node knows covers {what}"),
            ],
        }
    }

    /// Grants a capability to `audience`; one that this node holds itself is handed on where its depth allows that.
    ///
    /// # Errors
    /// `Invalid` for a verb that only certificates carry, see [`Trust::promise`]; `Denied` when this node may not grant it; `Busy`
    /// when too many are kept.
    pub async fn grant(&self, audience: Audience, verbs: Verbs, request: GrantRequest) -> Result<HeldToken, NodeError> {
        let mesh = self
            .mesh()
            .ok_or_else(|| NodeError::denied("this node belongs to no mesh"))?;
        if needs_certificate(verbs) {
            return Err(NodeError::invalid(format!("a capability cannot carry {verbs}")));
        }
        let now_ms = self.now_ms();
        let grant = Grant::new(verbs, request.resource, request.depth);
        let request = CapabilityRequest {
            audience,
            grants: vec![grant.clone()],
            not_before_ms: now_ms,
            not_after_ms: now_ms.saturating_add(request.ttl_ms),
        };
        let by_root = self.0.root.as_ref().filter(|root| root.public() == mesh.root);
        let token = match by_root {
            Some(root) => {
                CapabilityToken::issue(&weft_protocol::Chain::default(), root, request, self.random(), now_ms)?
            }
            None => self.grant_as_member(&grant, request)?,
        };
        self.keep(token).await
    }

    /// By our certificate; where that does not allow it, by a capability of ours.
    fn grant_as_member(&self, grant: &Grant, request: CapabilityRequest) -> Result<CapabilityToken, NodeError> {
        let (key, now_ms) = (&self.0.key, self.now_ms());
        let denied = match CapabilityToken::issue(&self.chain(), key, request.clone(), self.random(), now_ms) {
            Ok(token) => return Ok(token),
            Err(denied) => denied,
        };
        let held = self.tokens();
        let ours = held
            .iter()
            .filter(|held| held.effective.audience == Audience::Key(self.0.public))
            .find(|held| weft_protocol::capability::covered(&held.effective.grants, grant));
        match ours {
            Some(held) => Ok(held.token.delegate(key, request, self.random(), now_ms)?),
            None => Err(NodeError::from(denied)
                .with_hint("`weft cap explain self grant WHAT` says what this node's certificate allows it to grant")),
        }
    }

    /// Keeps a capability, ours to present or of our making.
    ///
    /// # Errors
    /// `Denied` when it does not verify; `Busy` when [`TOKENS_MAX`] are kept.
    pub async fn keep(&self, token: CapabilityToken) -> Result<HeldToken, NodeError> {
        let effective = self.effective(&token)?;
        let _writing = self.0.writing.lock().await;
        if self.state().tokens.contains(&token) {
            return Ok(HeldToken { token, effective });
        }
        if self.state().tokens.len() >= TOKENS_MAX {
            return Err(NodeError::busy(format!(
                "this node keeps {TOKENS_MAX} capabilities already"
            )));
        }
        self.0
            .keyspace
            .put(keyed(PREFIX_TOKEN, &token_id(&token)), token.to_bytes())
            .await?;
        self.state().tokens.push(token.clone());
        self.0.granted.send_modify(|n| *n += 1);
        Ok(HeldToken { token, effective })
    }

    /// The capabilities this node keeps and that verify now.
    pub fn tokens(&self) -> Vec<HeldToken> {
        let tokens = self.state().tokens.clone();
        tokens
            .into_iter()
            .filter_map(|token| {
                Some(HeldToken {
                    effective: self.effective(&token).ok()?,
                    token,
                })
            })
            .collect()
    }

    /// The capabilities to present for an act of ours.
    pub(crate) fn to_present(&self, verb: Verb, resource: &Subject) -> Vec<Vec<u8>> {
        if self.state().tokens.is_empty() {
            return Vec::new();
        }
        let roles = self.own_membership().map(|m| m.roles.clone()).unwrap_or_default();
        self.tokens()
            .iter()
            .filter(|t| t.effective.is_for(&self.0.public, &roles) && t.effective.permits(verb, resource))
            .take(weft_protocol::limits::CAPABILITIES_MAX.min(1))
            .map(|t| t.token.to_bytes())
            .collect()
    }

    /// The capabilities a member should have from us, by its key or its roles.
    pub(crate) fn tokens_for(&self, peer: &PeerId) -> Vec<CapabilityToken> {
        let Some(member) = self.member(peer) else {
            return Vec::new();
        };
        let tokens = self.tokens();
        tokens
            .into_iter()
            .filter(|t| t.effective.is_for(&member.key, &member.roles))
            .map(|t| t.token)
            .collect()
    }

    fn effective(&self, token: &CapabilityToken) -> Result<Effective, NodeError> {
        let mesh = self
            .mesh()
            .ok_or_else(|| NodeError::denied("this node belongs to no mesh"))?;
        Ok(token.verify(&mesh.root, &mesh.id, self.now_ms(), &|k| self.is_revoked(k))?)
    }
}

/// What a capability is to allow.
#[derive(Debug, Clone)]
pub struct GrantRequest {
    /// The subjects it covers.
    pub resource: weft_protocol::Pattern,
    /// How often it may be handed on.
    pub depth: u8,
    /// How long it holds, milliseconds.
    pub ttl_ms: u64,
}

/// A short stable name of a capability.
pub fn token_id(token: &CapabilityToken) -> [u8; 16] {
    use sha2::Digest as _;
    let hash: [u8; 32] = sha2::Sha256::digest(token.to_bytes()).into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

pub(super) fn describe(grant: &Grant) -> String {
    format!("{} on {}", grant.verbs, grant.resource)
}
