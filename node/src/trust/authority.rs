//! Founding, joining, proving, issuing, renewing.

use std::time::Duration;

use weft_protocol::{
    CertificateRequest, Chain, Grant, Membership, MeshId, PeerId, PublicKey, SecretKey, TrustError, Verb, Wire as _,
    admission::AdmissionRefusal, limits::CLOCK_SKEW_MS_MAX,
};

use super::{KEY_CHAIN, KEY_MESH, MeshInfo, MeshKind, Standing, Trust, promotion::includes};
use crate::{error::NodeError, store::Batch};

/// The role of everyone who is given no other.
pub(crate) const ROLE_MEMBER: &str = "member";
/// The role that carries every right, the right to admit and to revoke included.
pub(crate) const ROLE_ADMIN: &str = "admin";
/// How long a certificate lives when nothing else is said: 90 days, renewed after 60.
pub const CERTIFICATE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// The founder's certificate, which the root key on the same disk renews: a year.
const FOUNDER_TTL_MS: u64 = 365 * 24 * 3600 * 1000;
/// How often the founder's rights can be handed on.
const FOUNDER_DEPTH: u8 = 6;
/// Certificates are valid from a little before their making, for clocks that lag.
const BACKDATE_MS: u64 = CLOCK_SKEW_MS_MAX;

/// How to found a mesh.
#[derive(Debug, Clone)]
pub struct FoundOptions {
    /// Private or open.
    pub kind: MeshKind,
    /// The founder's name.
    pub name: String,
}

/// What a new member's certificate is to say.
#[derive(Debug, Clone, Default)]
pub struct IssueOptions {
    /// Empty: `member`.
    pub roles: Vec<String>,
    /// Free key-value pairs, for placement.
    pub labels: Vec<(String, String)>,
    /// Rights beyond those between members of one role.
    pub grants: Vec<Grant>,
    /// Milliseconds; what the node was told when absent, see [`TrustParts`](super::TrustParts). Never beyond the issuer's own.
    pub ttl_ms: Option<u64>,
}

/// What became of a peer's proof.
pub(crate) enum ProofVerdict {
    Member,
    /// A certificate the peer does not have yet: its old issuer was revoked, and we took it over.
    Adopted(Chain),
    Refused(AdmissionRefusal, String),
}

impl Trust {
    /// Founds a mesh, of which this node becomes the first member.
    ///
    /// # Errors
    /// `Conflict` when the node belongs to a mesh already; what the store says.
    pub async fn found(&self, root: &SecretKey, options: FoundOptions) -> Result<MeshInfo, NodeError> {
        let mesh = MeshInfo {
            id: MeshId::from_root(&root.public()),
            root: root.public(),
            kind: options.kind,
        };
        let request = CertificateRequest {
            subject: self.0.public,
            name: options.name,
            roles: vec![ROLE_ADMIN.to_owned(), ROLE_MEMBER.to_owned()],
            labels: Vec::new(),
            grants: vec![Grant::everything(FOUNDER_DEPTH)],
            not_before_ms: self.now_ms().saturating_sub(BACKDATE_MS),
            not_after_ms: self.now_ms() + FOUNDER_TTL_MS,
        };
        let chain = Chain::default().issue(root, request, self.random(), self.now_ms())?;
        self.enter(mesh.clone(), chain).await?;
        Ok(mesh)
    }

    /// Makes this node a member of `mesh`, durably.
    ///
    /// # Errors
    /// `Conflict` when the node belongs to another mesh; `Denied` when the chain does not make it a member.
    pub async fn enter(&self, mesh: MeshInfo, chain: Chain) -> Result<(), NodeError> {
        let _writing = self.0.writing.lock().await;
        if let Some(current) = self.mesh()
            && current.id != mesh.id
        {
            return Err(
                NodeError::conflict(format!("this node already belongs to {}", current.id))
                    .with_hint("use another --data-dir for another mesh"),
            );
        }
        if mesh.id != MeshId::from_root(&mesh.root) {
            return Err(NodeError::denied("the mesh's id does not belong to its root key"));
        }
        if mesh.kind == MeshKind::Private || !chain.is_empty() {
            let member = chain.verify(&mesh.root, &mesh.id, self.now_ms(), CLOCK_SKEW_MS_MAX, &|k| {
                self.is_revoked(k)
            })?;
            if member.key != self.0.public {
                return Err(NodeError::denied("the certificate was issued to another key"));
            }
        }
        let encoded = serde_json::to_vec(&mesh).map_err(|e| NodeError::internal(e.to_string()))?;
        let batch = Batch::new().put(KEY_MESH, encoded).put(KEY_CHAIN, chain.to_bytes());
        self.0.keyspace.commit(batch).await?;
        {
            let mut state = self.state();
            if state.revocations.is_none() {
                state.revocations = Some(weft_protocol::RevocationSet::new(mesh.root));
            }
            state.mesh = Some(mesh.clone());
            state.chain = chain;
            state.asking = None;
        }
        self.verify_own();
        self.set_standing(Standing::Member(mesh));
        Ok(())
    }

    /// The node waits for approval by somebody in `mesh`.
    pub(crate) fn set_pending(&self, mesh: MeshId) {
        if self.mesh().is_none() {
            self.set_standing(Standing::Pending(mesh));
        }
    }

    /// Re-reads what our own certificates say now.
    pub(crate) fn verify_own(&self) {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let Some(mesh) = state.mesh.clone() else { return };
        let own = if state.chain.is_empty() && mesh.kind == MeshKind::Open {
            Ok(open_member(&mesh, self.0.public, "", now_ms))
        } else {
            state
                .chain
                .verify(&mesh.root, &mesh.id, now_ms, CLOCK_SKEW_MS_MAX, &|k| {
                    state.is_revoked(k)
                })
        };
        match own {
            Ok(own) => {
                state.members.insert(self.kept(own.clone()));
                state.own = Some(std::sync::Arc::new(own));
            }
            Err(error) => {
                tracing::warn!(%error, "this node's own certificate is not valid");
                state.own = None;
            }
        }
    }

    /// Judges a peer's certificates; a member is remembered.
    pub(crate) fn verify_proof(&self, peer: &PeerId, mesh_id: &MeshId, chain: &Chain, name: &str) -> ProofVerdict {
        let refuse = |reason, detail: &str| ProofVerdict::Refused(reason, detail.to_owned());
        let Some(mesh) = self.mesh() else {
            return refuse(AdmissionRefusal::NotMember, "this node belongs to no mesh yet");
        };
        if mesh.id != *mesh_id {
            return refuse(
                AdmissionRefusal::WrongMesh,
                &format!("this node belongs to {}", mesh.id),
            );
        }
        let Some(key) = PublicKey::from_peer_id(peer) else {
            return refuse(AdmissionRefusal::NotMember, "only Ed25519 keys can be members");
        };
        let now_ms = self.now_ms();
        let mut state = self.state();
        if state.is_revoked(&key) {
            return refuse(AdmissionRefusal::Revoked, "this key is revoked");
        }
        let judged = if chain.is_empty() && mesh.kind == MeshKind::Open {
            Ok(open_member(&mesh, key, name, now_ms))
        } else {
            chain.verify(&mesh.root, &mesh.id, now_ms, CLOCK_SKEW_MS_MAX, &|k| {
                state.is_revoked(k)
            })
        };
        match judged {
            Ok(member) if member.key == key => {
                // In an open mesh anybody can come with ever new keys; what is known of them all alike needs no place.
                if mesh.kind == MeshKind::Private || state.members.len() < self.0.directory_max {
                    state.members.insert(self.kept(member));
                }
                ProofVerdict::Member
            }
            Ok(_) => refuse(AdmissionRefusal::NotMember, "the certificate was issued to another key"),
            Err(TrustError::Revoked { .. }) if state.adopted.contains_key(&key) => {
                ProofVerdict::Adopted(state.adopted.get(&key).cloned().unwrap_or_default())
            }
            Err(error) => refuse(refusal_of(&error), &error.to_string()),
        }
    }

    /// Issues a certificate to `subject`.
    ///
    /// # Errors
    /// `Denied` when this node may not admit, or not with these roles and rights.
    pub fn issue(&self, subject: PublicKey, name: &str, options: &IssueOptions) -> Result<Chain, NodeError> {
        let mut roles = if options.roles.is_empty() {
            vec![ROLE_MEMBER.to_owned()]
        } else {
            options.roles.clone()
        };
        let mut grants = options.grants.clone();
        let own = self
            .own_membership()
            .ok_or_else(|| NodeError::denied("this node has no valid certificate"))?;
        if roles.iter().any(|r| r == ROLE_ADMIN) {
            if !roles.iter().any(|r| r == ROLE_MEMBER) {
                roles.push(ROLE_MEMBER.to_owned());
            }
            let depth = own.grants.iter().map(|g| g.depth).max().unwrap_or(0);
            grants.push(Grant::everything(depth.saturating_sub(1)));
        }
        let now_ms = self.now_ms();
        let not_after_ms = now_ms
            .saturating_add(options.ttl_ms.unwrap_or(self.0.certificate_ttl_ms))
            .min(own.not_after_ms);
        let name = if name.is_empty() {
            default_name(&subject)
        } else {
            name.to_owned()
        };
        let labels = options.labels.clone();
        let grants = without_repetition(grants);
        let not_before_ms = now_ms.saturating_sub(BACKDATE_MS).max(own.not_before_ms);
        let request = CertificateRequest {
            subject,
            name,
            roles,
            labels,
            grants,
            not_before_ms,
            not_after_ms,
        };
        if self.is_revoked(&subject) {
            return Err(NodeError::denied(format!("{} is revoked", subject.peer_id())));
        }
        let serial = self.random();
        Ok(self.chain().issue(&self.0.key, request, serial, now_ms)?)
    }

    /// Whether this node may admit members with this role.
    pub fn may_admit(&self, roles: &[String]) -> bool {
        self.own_membership()
            .is_some_and(|own| own.can_issue(roles, &[]).is_ok())
    }

    /// A fresh certificate for a member whose own runs out, with the same name, roles, labels and rights.
    ///
    /// # Errors
    /// `Denied` when the member's chain is not valid, or holds more than this node can give.
    pub(crate) fn renew(&self, peer: &PeerId, chain: &Chain) -> Result<Chain, NodeError> {
        let mesh = self
            .mesh()
            .ok_or_else(|| NodeError::denied("this node belongs to no mesh"))?;
        let key = PublicKey::from_peer_id(peer).ok_or_else(|| NodeError::denied("not an Ed25519 key"))?;
        if let Some(adopted) = self.state().adopted.get(&key)
            && !self.is_revoked(&key)
        {
            return Ok(adopted.clone());
        }
        let member = chain.verify(&mesh.root, &mesh.id, self.now_ms(), CLOCK_SKEW_MS_MAX, &|k| {
            self.is_revoked(k)
        })?;
        if member.key != key {
            return Err(NodeError::denied("the certificate belongs to another key"));
        }
        let options = IssueOptions {
            roles: member.roles,
            labels: member.labels,
            grants: member.grants,
            ttl_ms: None,
        };
        self.issue(key, &member.name, &options)
    }

    /// Renews our own certificate with the root key, where it is on this machine.
    ///
    /// # Errors
    /// What the store says. `Ok(false)` when the root key is elsewhere.
    pub(crate) async fn renew_by_root(&self) -> Result<bool, NodeError> {
        let (Some(root), Some(mesh)) = (&self.0.root, self.mesh()) else {
            return Ok(false);
        };
        if root.public() != mesh.root {
            return Ok(false);
        }
        let Some(leaf) = self.chain().peek_leaf() else {
            return Ok(false);
        };
        let request = CertificateRequest {
            subject: self.0.public,
            name: leaf.name,
            roles: leaf.roles,
            labels: leaf.labels,
            grants: vec![Grant::everything(FOUNDER_DEPTH)],
            not_before_ms: self.now_ms().saturating_sub(BACKDATE_MS),
            not_after_ms: self.now_ms() + FOUNDER_TTL_MS,
        };
        let chain = Chain::default().issue(root, request, self.random(), self.now_ms())?;
        self.enter(mesh, chain).await?;
        Ok(true)
    }

    /// When to renew: two thirds into the life of our chain. `None` without certificates.
    pub fn renew_at_ms(&self) -> Option<u64> {
        let state = self.state();
        if state.chain.is_empty() {
            return None;
        }
        state.own.as_ref().map(|own| own.renew_at_ms())
    }
}

/// In an open mesh everyone is a plain member.
pub(super) fn open_member(mesh: &MeshInfo, key: PublicKey, name: &str, now_ms: u64) -> Membership {
    Membership {
        mesh: mesh.id,
        key,
        peer_id: key.peer_id(),
        name: name.to_owned(),
        roles: vec![ROLE_MEMBER.to_owned()],
        labels: Vec::new(),
        grants: Vec::new(),
        not_before_ms: 0,
        not_after_ms: u64::MAX,
        issuer: mesh.root,
        issued_at_ms: now_ms,
        path: Vec::new(),
    }
}

/// The membership of a node of an open mesh that we know by its record.
pub(super) fn open_membership(record: &weft_protocol::NodeRecord, key: PublicKey) -> Membership {
    let mesh = MeshInfo {
        id: record.mesh,
        root: key,
        kind: MeshKind::Open,
    };
    open_member(&mesh, key, &record.name, record.issued_at_ms)
}

/// Leaves out the grants that others include, so that renewals do not pile them up.
fn without_repetition(grants: Vec<Grant>) -> Vec<Grant> {
    let mut kept: Vec<Grant> = Vec::new();
    for grant in grants {
        if !kept.iter().any(|k| includes(k, &grant)) {
            kept.retain(|k| !includes(&grant, k));
            kept.push(grant);
        }
    }
    kept
}

fn refusal_of(error: &TrustError) -> AdmissionRefusal {
    match error {
        TrustError::WrongMesh { .. } => AdmissionRefusal::WrongMesh,
        TrustError::Expired { .. } => AdmissionRefusal::Expired,
        TrustError::NotYetValid { .. } => AdmissionRefusal::ClockSkew,
        TrustError::Revoked { .. } => AdmissionRefusal::Revoked,
        TrustError::Decode(_) => AdmissionRefusal::Malformed,
        _ => AdmissionRefusal::NotMember,
    }
}

/// A name for a node that was given none: the tail of its peer id.
pub fn default_name(key: &PublicKey) -> String {
    let id = key.peer_id().to_string();
    format!("node-{}", id[id.len().saturating_sub(6)..].to_lowercase())
}

/// Whether a membership lets its holder revoke.
pub(super) fn may_revoke(member: &Membership) -> bool {
    weft_protocol::Subject::reserved("mesh.revocation").is_ok_and(|subject| member.permits(Verb::Admin, &subject))
}
