//! Rights that only certificates carry, for members that have one already.
//!
//! Whether somebody may admit, grant or revoke is read from the chain of certificates, on every node and without asking anybody; a
//! capability is no link of that chain. So such a right is given by a new certificate: a node that may issue it *promises* the
//! right and hands the new certificate over as soon as the two are connected. What is kept is the grant, not the finished
//! certificate, so that a renewal in between loses nothing.
//!
//! Promises: a promise is durable before it is acted on, outlives restarts of both sides, and ends when the member has what was
//! promised, or is revoked. A member takes a certificate in place of a valid one only if that takes nothing from it.
//!
//! Does not promise that the right can be taken back otherwise than by revoking the member.

#[cfg(test)]
mod tests;

use std::hash::{Hash as _, Hasher as _};

use weft_protocol::{
    Chain, Grant, Membership, PeerId, PublicKey, Subject, Verb, Verbs, Wire as _, limits::CLOCK_SKEW_MS_MAX,
    revocation::REVOKE_RESOURCE,
};

use super::{
    IssueOptions, KEY_CHAIN, PREFIX_PROMISE, State, Trust,
    guard::{Decision, Rule, describe},
    keyed, scan, unreadable,
};
use crate::{
    error::NodeError,
    store::{Batch, Keyspace},
};

/// The verbs that a capability cannot carry.
pub const CERTIFICATE_VERBS: [Verb; 3] = [Verb::Invite, Verb::Grant, Verb::Admin];
/// Members to whom something is promised at once.
pub(crate) const PROMISES_MAX: usize = 1000;

/// Whether one of the verbs needs a certificate.
pub fn needs_certificate(verbs: Verbs) -> bool {
    CERTIFICATE_VERBS.iter().any(|verb| verbs.contains(*verb))
}

/// What a member will find in its next certificate.
#[derive(Debug, Clone)]
pub struct Promise {
    /// Whose.
    pub peer: PeerId,
    /// What it will be granted.
    pub grants: Vec<Grant>,
    /// Until when the certificate will be valid, Unix milliseconds.
    pub not_after_ms: u64,
}

impl Trust {
    /// Promises a right to a member; its new certificate is handed over once it is connected.
    ///
    /// # Errors
    /// `NotFound` for somebody who is no known member; `Denied` when this node may not issue such a certificate; `Invalid` for a
    /// resource on which the verb means nothing.
    pub async fn promise(&self, peer: &PeerId, grant: Grant) -> Result<Promise, NodeError> {
        check_resource(&grant)?;
        if *peer == self.0.peer {
            return Err(NodeError::invalid("a node cannot extend its own certificate")
                .with_hint("ask a member that holds the right, or use the machine on which the root key lies"));
        }
        let member = self.member(peer).ok_or_else(|| {
            NodeError::not_found(format!("{peer} is no member this node knows")).with_hint(
                "the right goes into a certificate: `weft member approve ID --grant …` gives one to a newcomer",
            )
        })?;
        let _writing = self.0.writing.lock().await;
        let mut grants = self.state().promises.get(&member.key).cloned().unwrap_or_default();
        if !grants.contains(&grant) {
            grants.push(grant);
        }
        // What cannot be issued is refused now and not when the member comes.
        let chain = self.extended(&member, &grants)?;
        if self.state().promises.len() >= PROMISES_MAX && !self.state().promises.contains_key(&member.key) {
            return Err(NodeError::busy(format!(
                "{PROMISES_MAX} members have yet to fetch a promised certificate"
            )));
        }
        let encoded = serde_json::to_vec(&grants).map_err(|e| NodeError::internal(e.to_string()))?;
        let batch = Batch::new().put(keyed(PREFIX_PROMISE, member.key.as_bytes()), encoded);
        self.0.keyspace.commit(batch).await?;
        self.state().promises.insert(member.key, grants.clone());
        self.0.granted.send_modify(|n| *n += 1);
        Ok(Promise {
            peer: *peer,
            grants,
            not_after_ms: chain.peek_leaf().map_or(0, |leaf| leaf.not_after_ms),
        })
    }

    /// What is promised and not yet handed over.
    pub fn promises(&self) -> Vec<Promise> {
        let promises: Vec<_> = {
            let state = self.state();
            state.promises.iter().map(|(k, g)| (*k, g.clone())).collect()
        };
        let promise = |(key, grants): (PublicKey, Vec<Grant>)| {
            let peer = key.peer_id();
            let not_after_ms = self.member(&peer).map_or(0, |member| member.not_after_ms);
            Promise {
                peer,
                grants,
                not_after_ms,
            }
        };
        promises.into_iter().map(promise).collect()
    }

    /// The certificate to hand to a peer now, and a name of what it promises; nothing when nothing is promised, or it has it.
    pub(crate) async fn promised(&self, peer: &PeerId) -> Option<(u64, Chain)> {
        let key = PublicKey::from_peer_id(peer)?;
        let grants = self.state().promises.get(&key).cloned()?;
        let member = self.member(peer)?;
        if grants.iter().all(|grant| holds(&member, grant)) {
            self.fulfilled(&key).await;
            return None;
        }
        match self.extended(&member, &grants) {
            Ok(chain) => {
                let mut name = std::hash::DefaultHasher::new();
                grants.hash(&mut name);
                Some((name.finish(), chain))
            }
            Err(error) => {
                tracing::warn!(%peer, %error, "what was promised to a member cannot be issued");
                None
            }
        }
    }

    /// The member has acknowledged `chain`, durably.
    pub(crate) async fn handed_over(&self, peer: &PeerId, chain: &Chain) {
        let (Some(key), Some(mesh)) = (PublicKey::from_peer_id(peer), self.mesh()) else {
            return;
        };
        let verified = chain.verify(&mesh.root, &mesh.id, self.now_ms(), CLOCK_SKEW_MS_MAX, &|k| {
            self.is_revoked(k)
        });
        if let Some(member) = verified.ok().filter(|member| member.key == key) {
            let member = self.kept(member);
            self.state().members.insert(member);
            self.fulfilled(&key).await;
        }
    }

    /// Forgets a promise that was kept. Should the store fail, it is found kept again after the next start.
    async fn fulfilled(&self, key: &PublicKey) {
        let _writing = self.0.writing.lock().await;
        let known = self.state().promises.get(key).cloned();
        let (Some(grants), Some(member)) = (known, self.member(&key.peer_id())) else {
            return;
        };
        // Another promise may have been made meanwhile.
        if !grants.iter().all(|grant| holds(&member, grant)) {
            return;
        }
        self.state().promises.remove(key);
        if let Err(error) = self.0.keyspace.delete(keyed(PREFIX_PROMISE, key.as_bytes())).await {
            tracing::warn!(%error, "a kept promise could not be forgotten");
        }
    }

    /// A certificate like the member's own, with more rights.
    fn extended(&self, member: &Membership, more: &[Grant]) -> Result<Chain, NodeError> {
        let remaining_ms = member.not_after_ms.saturating_sub(self.now_ms());
        let options = IssueOptions {
            roles: member.roles.clone(),
            labels: member.labels.clone(),
            grants: member.grants.iter().chain(more).cloned().collect(),
            ttl_ms: Some(self.0.certificate_ttl_ms.max(remaining_ms)),
        };
        let chain = self.issue(member.key, &member.name, &options)?;
        let ends_ms = chain.peek_leaf().map_or(0, |leaf| leaf.not_after_ms);
        if ends_ms < member.not_after_ms {
            return Err(NodeError::denied(
                "this node's own certificate ends before the member's, so it cannot replace that",
            )
            .with_hint(format!("grant it on {}, which issued it", member.issuer.peer_id())));
        }
        Ok(chain)
    }

    /// Takes a certificate in place of our own, durably, if it takes nothing from us.
    ///
    /// # Errors
    /// `Denied` when it does not verify, is another's, or gives less than a valid one we have.
    pub(crate) async fn replace_certificate(&self, chain: Chain) -> Result<(), NodeError> {
        let mesh = self
            .mesh()
            .ok_or_else(|| NodeError::denied("this node belongs to no mesh"))?;
        let _writing = self.0.writing.lock().await;
        let new = chain.verify(&mesh.root, &mesh.id, self.now_ms(), CLOCK_SKEW_MS_MAX, &|k| {
            self.is_revoked(k)
        })?;
        if new.key != self.0.public {
            return Err(NodeError::denied("the certificate was issued to another key"));
        }
        self.verify_own();
        if let Some(own) = self.own_membership()
            && let Err(lost) = keeps(&own, &new)
        {
            return Err(NodeError::denied(format!(
                "the certificate gives less than the one it would replace: {lost}"
            )));
        }
        let batch = Batch::new().put(KEY_CHAIN, chain.to_bytes());
        self.0.keyspace.commit(batch).await?;
        self.state().chain = chain;
        self.verify_own();
        // Our record carries the chain, so it is made anew at the next look.
        Ok(())
    }

    /// Explains a verb that only certificates carry.
    pub(super) fn explain_authority(&self, peer: &PeerId, verb: Verb, resource: &Subject) -> Decision {
        let what = format!("{verb} on {}", resource.as_str());
        let decided = |allowed, rule, because| Decision { allowed, rule, because };
        let no = |rule, text: String| decided(false, rule, vec![text]);
        let Some(key) = PublicKey::from_peer_id(peer) else {
            return no(Rule::NotAMember, "only Ed25519 keys can be members".to_owned());
        };
        if self.is_revoked(&key) {
            return no(Rule::Revoked, format!("{peer} is revoked"));
        }
        let root_is_here = |mesh: &super::MeshInfo| self.0.root.as_ref().is_some_and(|r| r.public() == mesh.root);
        if key == self.0.public && verb != Verb::Invite && self.mesh().as_ref().is_some_and(root_is_here) {
            let text = "the mesh's root key lies on this machine, and it may".to_owned();
            return decided(true, Rule::Grant, vec![text]);
        }
        let Some(member) = self.member(peer) else {
            return no(Rule::NotAMember, format!("{peer} has shown no valid certificate"));
        };
        if let Some(grant) = member.grants.iter().find(|g| g.permits(verb, resource)) {
            let text = format!("its certificate grants {}", describe(grant));
            return decided(true, Rule::Grant, vec![text]);
        }
        let mut because = vec![
            format!(
                "none of the {} grants in its certificate covers {what}",
                member.grants.len()
            ),
            format!("{verb} rests on the certificate alone; no role and no capability carries it"),
        ];
        let promised = self.state().promises.get(&key).cloned().unwrap_or_default();
        if let Some(grant) = promised.iter().find(|g| g.permits(verb, resource)) {
            because.push(format!(
                "{} is promised: it gets a certificate with it when it next connects to this node",
                describe(grant)
            ));
        }
        decided(false, Rule::None, because)
    }
}

impl State {
    /// Reads the promises at start.
    pub(super) async fn restore_promises(&mut self, keyspace: &Keyspace) -> Result<(), NodeError> {
        for (key, bytes) in scan(keyspace, PREFIX_PROMISE).await? {
            let grants: Vec<Grant> = serde_json::from_slice(&bytes).map_err(|e| unreadable("promise", &e))?;
            let raw = key.get(PREFIX_PROMISE.len()..).and_then(|k| k.try_into().ok());
            if let Some(key) = raw.and_then(|raw: [u8; 32]| PublicKey::from_bytes(raw).ok()) {
                self.promises.insert(key, grants);
            }
        }
        Ok(())
    }
}

fn holds(member: &Membership, grant: &Grant) -> bool {
    member.grants.iter().any(|g| includes(g, grant))
}

/// Whether `held` is worth at least as much as `other`.
pub(super) fn includes(held: &Grant, other: &Grant) -> bool {
    held.contains(other) && held.depth >= other.depth
}

/// Whether a certificate gives all that another gave; the error names what it does not. Otherwise any member that may admit could
/// take rights away from one that stands above it, or let its membership run out.
fn keeps(old: &Membership, new: &Membership) -> Result<(), String> {
    if let Some(role) = old.roles.iter().find(|role| !new.has_role(role)) {
        return Err(format!("the role {role}"));
    }
    if let Some(grant) = old.grants.iter().find(|grant| !holds(new, grant)) {
        return Err(format!("the right to {}", describe(grant)));
    }
    if old.name != new.name || old.labels != new.labels {
        return Err("its name or its labels".to_owned());
    }
    if new.not_after_ms < old.not_after_ms {
        return Err("some of its time".to_owned());
    }
    Ok(())
}

/// A right on something that is never asked about would look given and be none.
fn check_resource(grant: &Grant) -> Result<(), NodeError> {
    let nothing = |verb: Verb, hint: &str| {
        NodeError::invalid(format!("{verb} on {} allows nothing", grant.resource)).with_hint(hint)
    };
    // `all` is meant for whatever it makes sense.
    if grant.verbs == Verbs::ALL {
        return Ok(());
    }
    if grant.verbs.contains(Verb::Invite) && !grant.resource.reaches("role") {
        return Err(nothing(
            Verb::Invite,
            "what can be given is a role: invite role.member, or invite 'role.>'",
        ));
    }
    let revoking = Subject::reserved(REVOKE_RESOURCE).map_err(NodeError::from)?;
    if grant.verbs.contains(Verb::Admin) && !grant.resource.matches(&revoking) {
        return Err(nothing(Verb::Admin, "who may revoke has admin mesh.revocation"));
    }
    Ok(())
}
