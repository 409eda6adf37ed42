//! Who belongs to the mesh, and who may do what.
//!
//! Promises: membership rests on certificates signed by the mesh's root key or by somebody it delegated to; a revocation
//! is by public key, is durable before it is acted on, and no certificate outweighs it; between members of different
//! roles everything is denied that no grant allows ([`guard`]); what another node says of a third is believed only if
//! the third one's own signature carries it ([`directory`]).
//!
//! Does not promise that a member is honest, nor that a node which can talk to nobody learns of a revocation.

mod authority;
mod by_key;
pub mod directory;
pub mod guard;
mod invites;
pub mod keyfile;
pub mod passphrase;
mod pending;
pub mod promotion;
mod revoke;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU64},
    time::Duration,
};

pub(crate) use authority::ProofVerdict;
pub use authority::{CERTIFICATE_TTL, FoundOptions, IssueOptions, default_name};
use by_key::{ByKey, Keyed};
pub use directory::DIRECTORY_MAX;
pub use guard::{Decision, Rule};
pub use invites::{Invitation, InviteOptions};
pub use pending::PendingMember;
pub use promotion::Promise;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use weft_protocol::{
    CapabilityToken, Chain, Membership, MeshId, PeerId, PublicKey, RevocationSet, SecretKey, Wire as _,
};

use crate::{
    error::NodeError,
    platform::{Clock, Entropy, Sharing, share},
    store::Keyspace,
};

/// Whether anyone with an address may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeshKind {
    /// A certificate is needed.
    Private,
    /// Anyone may come; revoked keys may not.
    Open,
}

/// The mesh this node belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshInfo {
    /// Derived from `root`.
    pub id: MeshId,
    /// The key that signs the first certificates.
    pub root: PublicKey,
    /// Private or open.
    pub kind: MeshKind,
}

/// How far this node has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Belongs to no mesh yet.
    Outside,
    /// Asked to be let into a private mesh and waits for somebody's approval.
    Pending(MeshId),
    /// A member.
    Member(MeshInfo),
}

const KEY_MESH: &[u8] = b"mesh";
const KEY_CHAIN: &[u8] = b"chain";
const PREFIX_REVOCATION: &[u8] = b"revocation/";
const PREFIX_RECORD: &[u8] = b"record/";
const PREFIX_INVITE: &[u8] = b"invite/";
const PREFIX_TOKEN: &[u8] = b"token/";
const PREFIX_ADOPTED: &[u8] = b"adopted/";
const PREFIX_PROMISE: &[u8] = b"promise/";
/// One page of a scan at start.
const SCAN_PAGE: usize = 512;

impl Keyed for Arc<Membership> {
    fn key(&self) -> PublicKey {
        self.key
    }
}

#[derive(Default)]
struct State {
    mesh: Option<MeshInfo>,
    chain: Chain,
    own: Option<Arc<Membership>>,
    revocations: Option<RevocationSet>,
    /// Members whose proof we have verified, by certificate or by record.
    members: ByKey<Arc<Membership>>,
    records: ByKey<directory::Entry>,
    /// Those whose records are in the store.
    stored: BTreeSet<PublicKey>,
    /// Grows with each change of `records`; a listener that knows an older one is told what came since.
    version: u64,
    records_digest: Option<[u8; 32]>,
    tokens: Vec<CapabilityToken>,
    /// New chains for members whose issuer was revoked.
    adopted: HashMap<PublicKey, Chain>,
    /// Grants that await their member's next certificate.
    promises: BTreeMap<PublicKey, Vec<weft_protocol::Grant>>,
    pending: HashMap<PeerId, pending::Waiting>,
    asking: Option<MeshId>,
}

struct Inner {
    key: SecretKey,
    public: PublicKey,
    peer: PeerId,
    root: Option<SecretKey>,
    certificate_ttl_ms: u64,
    directory_max: usize,
    keyspace: Keyspace,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    sharing: Arc<dyn Sharing>,
    state: Mutex<State>,
    /// Serialises read-decide-write sequences that end in the store.
    writing: tokio::sync::Mutex<()>,
    changed: watch::Sender<u64>,
    /// Turns to ask neighbours for records.
    pulls: tokio::sync::Semaphore,
    /// Pages that brought something new.
    pages_pulled: AtomicU64,
    standing: watch::Sender<Standing>,
    revoked: watch::Sender<u64>,
    granted: watch::Sender<u64>,
}

/// A cloneable handle on the node's trust.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

/// What [`Trust::open`] needs.
pub struct TrustParts {
    /// The node's key.
    pub key: SecretKey,
    /// The mesh's root key, where it lies on this machine.
    pub root: Option<SecretKey>,
    /// How long the certificates live that this node issues, when nothing else is said.
    pub certificate_ttl: Duration,
    /// Members whose records are kept.
    pub directory_max: usize,
    /// Where everything is kept.
    pub keyspace: Keyspace,
    /// The calendar, for validity.
    pub clock: Arc<dyn Clock>,
    /// For serials, nonces and secrets.
    pub entropy: Arc<dyn Entropy>,
    /// For what all members know.
    pub sharing: Arc<dyn Sharing>,
}

impl Trust {
    /// Reads what is known from the store.
    ///
    /// # Errors
    /// When the store fails, or holds what this version cannot read.
    pub async fn open(parts: TrustParts) -> Result<Trust, NodeError> {
        let TrustParts {
            key,
            root,
            certificate_ttl,
            directory_max,
            keyspace,
            clock,
            entropy,
            sharing,
        } = parts;
        let mut state = State::default();
        if let Some(bytes) = keyspace.get(KEY_MESH).await? {
            let mesh: MeshInfo = serde_json::from_slice(&bytes).map_err(|e| unreadable("mesh", &e))?;
            let mut revocations = RevocationSet::new(mesh.root);
            let stored = scan(&keyspace, PREFIX_REVOCATION).await?;
            let notices = stored
                .iter()
                .filter_map(|(_, v)| weft_protocol::RevocationNotice::from_bytes(v).ok());
            revocations.extend(notices);
            state.revocations = Some(revocations);
            state.mesh = Some(mesh);
        }
        if let Some(bytes) = keyspace.get(KEY_CHAIN).await? {
            state.chain = Chain::from_bytes(&bytes).map_err(|e| unreadable("certificate", &e))?;
        }
        for (_, bytes) in scan(&keyspace, PREFIX_TOKEN).await? {
            state.tokens.extend(CapabilityToken::from_bytes(&bytes).ok());
        }
        for (_, bytes) in scan(&keyspace, PREFIX_ADOPTED).await? {
            if let Ok(chain) = Chain::from_bytes(&bytes)
                && let Some(leaf) = chain.peek_leaf()
            {
                state.adopted.insert(leaf.subject, chain);
            }
        }
        state.restore_promises(&keyspace).await?;
        let public = key.public();
        let standing = state.mesh.clone().map_or(Standing::Outside, Standing::Member);
        let trust = Trust(Arc::new(Inner {
            public,
            peer: public.peer_id(),
            key,
            root,
            certificate_ttl_ms: u64::try_from(certificate_ttl.as_millis()).unwrap_or(u64::MAX),
            directory_max: directory_max.max(1),
            keyspace: keyspace.clone(),
            clock,
            entropy,
            sharing,
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::new(()),
            changed: watch::Sender::new(0),
            pulls: tokio::sync::Semaphore::new(directory::PULLS_MAX),
            pages_pulled: AtomicU64::new(0),
            standing: watch::Sender::new(standing),
            revoked: watch::Sender::new(0),
            granted: watch::Sender::new(0),
        }));
        trust.verify_own();
        for (_, bytes) in scan(&keyspace, PREFIX_RECORD).await? {
            trust.restore_record(&bytes);
        }
        Ok(trust)
    }

    /// This node.
    pub fn local_peer(&self) -> PeerId {
        self.0.peer
    }

    /// This node's public key.
    pub fn public_key(&self) -> PublicKey {
        self.0.public
    }

    /// The mesh this node belongs to.
    pub fn mesh(&self) -> Option<MeshInfo> {
        self.state().mesh.clone()
    }

    /// This node's certificates, root first; empty in an open mesh.
    pub fn chain(&self) -> Chain {
        self.state().chain.clone()
    }

    /// What this node's certificates say, as long as they are valid.
    pub fn own_membership(&self) -> Option<Arc<Membership>> {
        self.state().own.clone()
    }

    /// Follows this node's way into the mesh.
    pub fn watch_standing(&self) -> watch::Receiver<Standing> {
        self.0.standing.subscribe()
    }

    /// Changes whenever a record of the directory does; the value is a version that only rises.
    pub fn watch_records(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Signs something with this node's key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn sign<T: weft_protocol::Payload>(
        &self,
        value: &T,
    ) -> Result<weft_protocol::Signed<T>, weft_protocol::DecodeError> {
        weft_protocol::Signed::sign(value, &self.0.key)
    }

    /// Signs a text in a form that others have specified.
    pub(crate) fn sign_note(&self, sign: impl FnOnce(&SecretKey) -> String) -> String {
        sign(&self.0.key)
    }

    /// Changes whenever a revocation is learned.
    pub fn watch_revocations(&self) -> watch::Receiver<u64> {
        self.0.revoked.subscribe()
    }

    /// Changes whenever a capability is kept.
    pub(crate) fn watch_tokens(&self) -> watch::Receiver<u64> {
        self.0.granted.subscribe()
    }

    /// The calendar's time.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_unix_ms()
    }

    /// Whether a key is revoked.
    pub fn is_revoked(&self, key: &PublicKey) -> bool {
        self.state().is_revoked(key)
    }

    /// Whether `peer` is a member whose proof we have seen and whose certificates are valid now.
    pub fn is_member(&self, peer: &PeerId) -> bool {
        self.with_member(peer, |_| ()).is_some()
    }

    /// Whether a peer has shown its membership before, here or by its record; in an open mesh not everybody has.
    pub(crate) fn has_met(&self, peer: &PeerId) -> bool {
        let met = PublicKey::from_peer_id(peer).is_some_and(|key| self.state().members.contains_key(&key));
        met && self.is_member(peer)
    }

    /// What is proven of a peer.
    pub fn member(&self, peer: &PeerId) -> Option<Membership> {
        self.with_member(peer, Membership::clone)
    }

    pub(super) fn with_member<T>(&self, peer: &PeerId, look: impl FnOnce(&Membership) -> T) -> Option<T> {
        let key = PublicKey::from_peer_id(peer)?;
        let now_ms = self.now_ms();
        let state = self.state();
        if state.is_revoked(&key) {
            return None;
        }
        let Some(member) = state.members.get(&key) else {
            // In an open mesh everybody belongs, whether the directory has room for it or not.
            let mesh = state.mesh.as_ref().filter(|mesh| mesh.kind == MeshKind::Open)?;
            return Some(look(&authority::open_member(mesh, key, "", now_ms)));
        };
        let until_ms = member
            .not_after_ms
            .saturating_add(weft_protocol::limits::CLOCK_SKEW_MS_MAX);
        (now_ms <= until_ms).then(|| look(member))
    }

    /// Sixteen random bytes.
    pub(crate) fn nonce(&self) -> [u8; 16] {
        self.random()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves data that is still whole: every change is one assignment.
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A membership as it is kept.
    fn kept(&self, member: Membership) -> Arc<Membership> {
        share(&*self.0.sharing, member)
    }

    fn random<const N: usize>(&self) -> [u8; N] {
        crate::platform::random(&*self.0.entropy)
    }

    fn set_standing(&self, standing: Standing) {
        self.0.standing.send_if_modified(|old| {
            let modified = *old != standing;
            *old = standing;
            modified
        });
    }
}

impl State {
    fn is_revoked(&self, key: &PublicKey) -> bool {
        self.revocations.as_ref().is_some_and(|r| r.contains(key))
    }
}

/// All entries below a prefix, page by page.
async fn scan(keyspace: &Keyspace, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, NodeError> {
    let mut all: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let after = all.last().map(|(key, _)| key.clone());
        let page = keyspace.scan_prefix(prefix, after.as_deref(), SCAN_PAGE).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn keyed(prefix: &[u8], id: &[u8]) -> Vec<u8> {
    [prefix, id].concat()
}

fn unreadable(what: &str, error: &dyn std::fmt::Display) -> NodeError {
    NodeError::corrupt(format!("the stored {what} cannot be read: {error}"))
        .with_hint("run `weft doctor`; a backup of the data directory, or a new `weft join`, mends it")
}

impl crate::error::Kind for weft_protocol::TrustError {
    fn kind(&self) -> crate::error::ErrorKind {
        match self {
            weft_protocol::TrustError::Decode(error) => crate::error::Kind::kind(error),
            _ => crate::error::ErrorKind::Denied,
        }
    }
}

impl crate::error::Kind for crate::store::StoreError {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::store::StoreError::kind(self)
    }

    fn hint(&self) -> Option<String> {
        crate::store::StoreError::hint(self)
    }
}

impl crate::error::Kind for weft_protocol::DecodeError {
    fn kind(&self) -> crate::error::ErrorKind {
        crate::error::ErrorKind::Invalid
    }
}
