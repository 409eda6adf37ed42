//! Revocation: by public key, durable before it is acted on, for good.

use weft_protocol::{PeerId, PublicKey, Revocation, RevocationNotice, Wire as _};

use super::{
    IssueOptions, Keyed as _, PREFIX_ADOPTED, PREFIX_PROMISE, PREFIX_RECORD, PREFIX_REVOCATION, Trust,
    authority::may_revoke, keyed,
};
use crate::{error::NodeError, store::Batch};

/// What a revocation did.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// Who was revoked.
    pub peer: PeerId,
    /// When, Unix milliseconds.
    pub revoked_at_ms: u64,
    /// Members the revoked one had admitted, who have new certificates from this node.
    pub adopted: Vec<PeerId>,
}

impl Trust {
    /// Revokes a member. Those it had admitted get certificates of this node's, so that they are not cut off with it.
    ///
    /// # Errors
    /// `Denied` when this node may not revoke; `Conflict` when the key is revoked already, by the root or by this node; `Invalid` for oneself.
    pub async fn revoke(&self, peer: &PeerId, reason: &str) -> Result<Revoked, NodeError> {
        let mesh = self
            .mesh()
            .ok_or_else(|| NodeError::denied("this node belongs to no mesh"))?;
        let key = PublicKey::from_peer_id(peer)
            .ok_or_else(|| NodeError::invalid(format!("{peer} is not the id of an Ed25519 key")))?;
        if key == self.0.public {
            return Err(NodeError::invalid("a node cannot revoke itself").with_hint("ask another administrator"));
        }
        let by_root = self.0.root.as_ref().filter(|root| root.public() == mesh.root);
        // The root's word stands for good. Another's may turn out void, so it keeps nobody from saying the same.
        let signer = by_root.map_or(self.0.public, |root| root.public());
        if self.has_revoked(&signer, &key) || self.has_revoked(&mesh.root, &key) {
            return Err(NodeError::conflict(format!("{peer} is revoked already")));
        }
        if by_root.is_none() && !self.own_membership().is_some_and(|own| may_revoke(&own)) {
            return Err(NodeError::denied("this node may not revoke members")
                .with_hint("the `admin` right is needed: `weft cap explain self admin mesh.revocation`"));
        }
        let revocation = Revocation {
            mesh: mesh.id,
            subject: key,
            reason: reason.chars().take(200).collect(),
            revoked_at_ms: self.now_ms(),
            nonce: self.random(),
        };
        let notice = match by_root {
            Some(root) => RevocationNotice::sign(&weft_protocol::Chain::default(), root, &revocation)?,
            None => RevocationNotice::sign(&self.chain(), &self.0.key, &revocation)?,
        };
        let orphans = self.admitted_by(&key);
        self.learn_revocations(vec![notice]).await?;
        if !self.is_revoked(&key) {
            return Err(NodeError::denied(
                "the revocation does not count: this node is itself revoked by an earlier one",
            ));
        }
        let mut adopted = Vec::new();
        for (orphan, options, name) in orphans {
            match self.issue(orphan, &name, &options) {
                Ok(chain) => {
                    self.0
                        .keyspace
                        .put(keyed(PREFIX_ADOPTED, orphan.as_bytes()), chain.to_bytes())
                        .await?;
                    self.state().adopted.insert(orphan, chain);
                    adopted.push(orphan.peer_id());
                }
                Err(error) => {
                    tracing::warn!(peer = %orphan.peer_id(), %error, "cannot take over a member of the revoked one")
                }
            }
        }
        Ok(Revoked {
            peer: *peer,
            revoked_at_ms: revocation.revoked_at_ms,
            adopted,
        })
    }

    /// Takes in notices from elsewhere; each is verified. Returns how many were new.
    ///
    /// # Errors
    /// What the store says: a notice that is not durable is not acted on.
    pub(crate) async fn learn_revocations(&self, notices: Vec<RevocationNotice>) -> Result<usize, NodeError> {
        if notices.is_empty() || self.mesh().is_none() {
            return Ok(0);
        }
        let _writing = self.0.writing.lock().await;
        let (fresh, next) = {
            let state = self.state();
            let Some(current) = state.revocations.as_ref() else {
                return Ok(0);
            };
            let mut next = current.clone();
            let known: std::collections::HashSet<[u8; 32]> = current.iter().map(RevocationNotice::id).collect();
            let (_, errors) = next.extend(notices);
            for error in errors {
                tracing::debug!(%error, "a revocation was not accepted");
            }
            let fresh: Vec<RevocationNotice> = next.iter().filter(|n| !known.contains(&n.id())).cloned().collect();
            (fresh, next)
        };
        if fresh.is_empty() {
            return Ok(0);
        }
        let mut batch = Batch::new();
        for notice in &fresh {
            batch = batch.put(keyed(PREFIX_REVOCATION, &notice.id()), notice.to_bytes());
        }
        for key in next.keys() {
            batch = batch.delete(keyed(PREFIX_RECORD, key.as_bytes()));
            batch = batch.delete(keyed(PREFIX_PROMISE, key.as_bytes()));
        }
        self.0.keyspace.commit(batch).await?;
        {
            let mut state = self.state();
            state.revocations = Some(next);
            let state = &mut *state;
            let revocations = state.revocations.as_ref();
            let revoked = |key: &PublicKey| revocations.is_some_and(|r| r.contains(key));
            // Whoever was admitted by a revoked key must show another certificate.
            state
                .members
                .retain(|m| !revoked(&m.key) && !m.path.iter().any(revoked) && !revoked(&m.issuer));
            let members = &state.members;
            state.records.retain(|entry| members.contains_key(&entry.key()));
            state.adopted.retain(|key, _| !revoked(key));
            state.promises.retain(|key, _| !revoked(key));
            state.records_digest = None;
        }
        self.verify_own();
        for notice in &fresh {
            if let Ok(revocation) = notice.notice.peek() {
                tracing::info!(peer = %revocation.subject.peer_id(), reason = %revocation.reason, "a member is revoked");
            }
        }
        self.0.revoked.send_modify(|n| *n += 1);
        self.touch();
        Ok(fresh.len())
    }

    /// All notices, in an order that is the same on every node.
    pub(crate) fn revocation_notices(&self) -> Vec<RevocationNotice> {
        self.state()
            .revocations
            .as_ref()
            .map(|r| r.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The digest of the set of notices.
    pub(crate) fn revocations_digest(&self) -> [u8; 32] {
        self.state()
            .revocations
            .as_ref()
            .map_or([0; 32], weft_protocol::RevocationSet::digest)
    }

    /// The revocations that count.
    pub fn revocations(&self) -> Vec<Revocation> {
        self.state()
            .revocations
            .as_ref()
            .map(|r| r.counting().map(|(r, _)| r.clone()).collect())
            .unwrap_or_default()
    }

    /// Whether a revocation of `subject` by `signer` counts.
    fn has_revoked(&self, signer: &PublicKey, subject: &PublicKey) -> bool {
        let state = self.state();
        let mut counting = state.revocations.iter().flat_map(|set| set.counting());
        counting.any(|(revocation, by)| by == *signer && revocation.subject == *subject)
    }

    /// The living members whose certificate rests on `issuer`.
    fn admitted_by(&self, issuer: &PublicKey) -> Vec<(PublicKey, IssueOptions, String)> {
        let state = self.state();
        let mut all: Vec<_> = state
            .members
            .iter()
            .filter(|m| m.key != *issuer && (m.issuer == *issuer || m.path.contains(issuer)) && m.key != self.0.public)
            .map(|m| {
                let options = IssueOptions {
                    roles: m.roles.clone(),
                    labels: m.labels.clone(),
                    // What a revoked issuer handed on beyond plain membership is not handed on again.
                    grants: Vec::new(),
                    ttl_ms: None,
                };
                (m.key, options, m.name.clone())
            })
            .collect();
        all.sort_by_key(|(key, _, _)| *key);
        all
    }
}
