//! Assembles a node and takes it down.
//!
//! Start: store, trust, mesh, patterns by layer. Stop: the reverse, each step with a deadline.

use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;
use weft_protocol::{PublicKey, SecretKey};

use crate::{
    context::Context,
    error::NodeError,
    mesh::{self, DriverParts, Mesh, MeshConfig},
    pattern::{DynPattern, Handles, Pattern},
    platform::Platform,
    store::{Store, StoreOptions},
    tasks::Tasks,
    telemetry::metrics::Metrics,
    trust::{CERTIFICATE_TTL, DIRECTORY_MAX, Standing, Trust, TrustParts},
};

/// How long each step of the way down may take.
const STOP_STEP: Duration = Duration::from_secs(5);
/// Between two looks at what needs care: the address book, records, certificates.
const CARE_EVERY: Duration = Duration::from_secs(5);
/// Members that come together are written together.
const CARE_GATHER: Duration = Duration::from_millis(500);
/// Between two tries to renew a certificate.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Members whose addresses are remembered.
const ADDRESS_BOOK_MAX: usize = 10_000;

/// What a node is made of, beyond its patterns.
pub struct NodeOptions {
    /// The node's key.
    pub key: SecretKey,
    /// The mesh's root key, where it lies on this machine.
    pub root: Option<SecretKey>,
    /// Where the store is, on the platform's disk.
    pub store_dir: PathBuf,
    /// Memory for the store's pages, bytes.
    pub store_cache_bytes: usize,
    /// Bytes at which a segment of a log is closed and the next one begun.
    pub store_segment_bytes: u64,
    /// How long the certificates live that this node issues, when nothing else is said.
    pub certificate_ttl: Duration,
    /// Members whose records are kept. Of a private mesh a node believes only those.
    pub directory_max: usize,
    /// The mesh.
    pub mesh: MeshConfig,
    /// Where metrics are registered.
    pub metrics: Metrics,
}

impl NodeOptions {
    /// A node without a root key, everything else as `weft run` has it when nothing is configured.
    pub fn new(key: SecretKey, store_dir: impl Into<PathBuf>, mesh: MeshConfig) -> Self {
        let store = StoreOptions::default();
        NodeOptions {
            key,
            root: None,
            store_dir: store_dir.into(),
            store_cache_bytes: store.cache_bytes,
            store_segment_bytes: store.segment_bytes,
            certificate_ttl: CERTIFICATE_TTL,
            directory_max: DIRECTORY_MAX,
            mesh,
            metrics: Metrics::new(),
        }
    }
}

/// Patterns to come, in the order in which they start.
#[derive(Default)]
pub struct NodeBuilder {
    patterns: Vec<(TypeId, DynPattern)>,
}

/// A running node. Dropped, it ends like one that was killed: [`stop`](Node::stop) says good-bye, and waits for what is under way.
pub struct Node {
    mesh: Mesh,
    trust: Trust,
    store: Store,
    tasks: Tasks,
    metrics: Metrics,
    handles: Handles,
    started: Instant,
    started_at_ms: u64,
}

impl NodeBuilder {
    /// Adds a pattern. One that stands on another comes after it.
    #[must_use]
    pub fn pattern<P: Pattern>(mut self, pattern: P) -> Self {
        self.patterns.push((TypeId::of::<P>(), DynPattern::new(pattern)));
        self
    }

    /// Starts the node.
    ///
    /// # Errors
    /// When the store cannot be opened, a chosen address cannot be listened on, or a pattern does not start.
    pub async fn start(self, platform: Arc<dyn Platform>, options: NodeOptions) -> Result<Node, NodeError> {
        let NodeOptions {
            key,
            root,
            store_dir,
            store_cache_bytes,
            store_segment_bytes,
            certificate_ttl,
            directory_max,
            mesh: mesh_config,
            metrics,
        } = options;
        let store_options = StoreOptions {
            owner: *key.public().as_bytes(),
            cache_bytes: store_cache_bytes,
            segment_bytes: store_segment_bytes,
            ..StoreOptions::default()
        };
        let store = Store::open(platform.disk(), &store_dir, store_options).await?;
        let tasks = platform.tasks();
        let parts = TrustParts {
            key: SecretKey::from_bytes(&key.to_bytes()),
            root,
            certificate_ttl,
            directory_max,
            keyspace: store.keyspace("trust"),
            clock: platform.clock(),
            entropy: platform.entropy(),
            sharing: platform.sharing(),
        };
        let trust = Trust::open(parts).await?;
        let book = AddressBook {
            keyspace: store.keyspace("address_book"),
        };
        book.note_ways_in(&mesh_config).await?;
        let address_book = book.load(&trust).await?;
        let mut doors = HashMap::new();
        let mut pattern_doors = HashMap::new();
        for (_, pattern) in &self.patterns {
            let (door, theirs) = mesh::Door::new(pattern.id);
            if doors.insert(pattern.id.to_owned(), door).is_some() {
                return Err(NodeError::invalid(format!("two patterns are called {}", pattern.id)));
            }
            pattern_doors.insert(pattern.id, theirs);
        }
        let driver = DriverParts {
            key,
            config: mesh_config,
            trust: trust.clone(),
            tasks: tasks.clone(),
            doors,
            metrics: metrics.clone(),
            address_book,
        };
        let mesh = mesh::start(&*platform, driver)?;
        let mut node = Node {
            mesh,
            trust,
            store,
            tasks,
            metrics,
            handles: Handles::default(),
            started: Instant::now(),
            started_at_ms: platform.clock().now_unix_ms(),
        };
        for (type_id, pattern) in self.patterns {
            let Some(doors) = pattern_doors.remove(pattern.id) else {
                continue;
            };
            let context = Context {
                pattern: pattern.id,
                mesh: node.mesh.clone(),
                doors,
                keyspace: node.store.keyspace(pattern.id),
                store: node.store.clone(),
                clock: platform.clock(),
                entropy: platform.entropy(),
                sharing: platform.sharing(),
                tasks: node.tasks.child(),
                metrics: node.metrics.clone(),
                handles: node.handles.clone(),
            };
            let handle = (pattern.start)(context).await?;
            node.handles.insert(type_id, handle);
        }
        node.tasks
            .spawn_vital("care", care(node.mesh.clone(), node.trust.clone(), book));
        Ok(node)
    }
}

impl Node {
    /// Begins a node without patterns.
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Who belongs, and who may what.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The spawner of everything this node runs.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// How long the node has run.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// When it started, Unix milliseconds.
    pub fn started_at_ms(&self) -> u64 {
        self.started_at_ms
    }

    /// The handle of a pattern this node was built with.
    pub fn handle<P: Pattern>(&self) -> Option<P::Handle> {
        self.handles.get::<P>()
    }

    /// Whether it listens and belongs to a mesh.
    pub fn is_ready(&self) -> bool {
        self.mesh.state().listening && matches!(*self.trust.watch_standing().borrow(), Standing::Member(_))
    }

    /// Waits until it listens and belongs to a mesh. Cancel-safe.
    ///
    /// Of a node that nobody lets in, this waits for ever: give it a deadline.
    pub async fn wait_ready(&self) {
        let (mut standing, mut state) = (self.trust.watch_standing(), self.mesh.watch_state());
        // Both are closed only when the node is stopping.
        let _ = standing.wait_for(|s| matches!(s, Standing::Member(_))).await;
        let _ = state.wait_for(|s| s.listening).await;
    }

    /// Where it listens, each address ending in `/p2p/ID`: what another node takes to begin with.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        let peer = self.mesh.local_peer();
        let listen = self.mesh.state().listen;
        listen
            .into_iter()
            .filter_map(|address| address.with_p2p(peer).ok())
            .collect()
    }

    /// Stops: what came last goes first. Returns whether everything ended in time.
    pub async fn stop(&self) -> bool {
        let persisted = self.trust.persist_records().await;
        if let Err(error) = persisted {
            tracing::warn!(%error, "the directory was not saved");
        }
        let stopped = tokio::time::timeout(STOP_STEP, self.mesh.stop()).await.is_ok();
        // Connections get a moment to say good-bye.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ended = self.tasks.stop(STOP_STEP).await;
        let closed = tokio::time::timeout(STOP_STEP, self.store.close()).await;
        stopped && ended && matches!(closed, Ok(Ok(())))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Addresses of members, for the time after a restart.
struct AddressBook {
    keyspace: crate::store::Keyspace,
}

impl AddressBook {
    /// The ways the user showed us are kept before they are gone: a node that is killed right after it joined comes
    /// back without being told again.
    async fn note_ways_in(&self, config: &MeshConfig) -> Result<(), NodeError> {
        let mut ways: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
        for address in &config.bootstrap {
            if let Some(peer) = mesh::peer_of(address) {
                ways.entry(peer).or_default().push(address.clone());
            }
        }
        if let Some(ticket) = &config.ticket {
            ways.entry(ticket.issuer.peer_id())
                .or_default()
                .extend(ticket.addresses.iter().cloned());
        }
        let mut batch = crate::store::Batch::new();
        for (peer, addresses) in ways {
            // What was learned since is better.
            if self.keyspace.get(&peer.to_bytes()).await?.is_none() {
                let value = serde_json::to_vec(&addresses).map_err(|e| NodeError::internal(e.to_string()))?;
                batch = batch.put(peer.to_bytes(), value);
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            Ok(self.keyspace.commit(batch).await?)
        }
    }

    /// Where members were, but for those who are revoked.
    async fn load(&self, trust: &Trust) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, NodeError> {
        let is_revoked = |peer: &PeerId| PublicKey::from_peer_id(peer).is_some_and(|key| trust.is_revoked(&key));
        let mut all = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.keyspace.scan_prefix(b"", after.as_deref(), 512).await?;
            let Some((last, _)) = page.last() else { return Ok(all) };
            after = Some(last.clone());
            for (key, value) in page {
                if let (Ok(peer), Ok(addresses)) = (PeerId::from_bytes(&key), serde_json::from_slice(&value))
                    && !is_revoked(&peer)
                {
                    all.push((peer, addresses));
                }
            }
            if all.len() >= ADDRESS_BOOK_MAX {
                return Ok(all);
            }
        }
    }

    /// Remembers where the connected members are; only what changed is written.
    async fn save(&self, mesh: &Mesh, known: &mut HashMap<PeerId, Vec<Multiaddr>>) -> Result<(), NodeError> {
        let mut batch = crate::store::Batch::new();
        for (peer, info) in mesh.peers().all() {
            let dialled = info
                .connections
                .values()
                .filter(|c| !c.inbound)
                .map(|c| c.address.clone());
            let mut addresses: Vec<Multiaddr> = dialled.collect();
            addresses.extend(mesh.trust().record(&peer).map(|r| r.addresses).unwrap_or_default());
            addresses.sort();
            addresses.dedup();
            if addresses.is_empty() || known.get(&peer) == Some(&addresses) {
                continue;
            }
            let value = serde_json::to_vec(&addresses).map_err(|e| NodeError::internal(e.to_string()))?;
            batch = batch.put(peer.to_bytes(), value);
            known.insert(peer, addresses);
        }
        for revocation in mesh.trust().revocations() {
            let peer = revocation.subject.peer_id();
            if known.remove(&peer).is_some() {
                batch = batch.delete(peer.to_bytes());
            }
        }
        if batch.is_empty() {
            Ok(())
        } else {
            Ok(self.keyspace.commit(batch).await?)
        }
    }
}

/// What needs care while the node runs.
async fn care(mesh: Mesh, trust: Trust, book: AddressBook) {
    let mut known = HashMap::new();
    let mut renew_after = Instant::now();
    let mut peers = mesh.peers().watch();
    loop {
        // Who has just come is remembered soon.
        let _ = tokio::time::timeout(CARE_EVERY, peers.changed()).await;
        tokio::time::sleep(CARE_GATHER).await;
        peers.mark_unchanged();
        if let Err(error) = trust.persist_records().await {
            tracing::warn!(%error, "the directory was not saved");
        }
        if let Err(error) = book.save(&mesh, &mut known).await {
            tracing::warn!(%error, "the address book was not saved");
        }
        if Instant::now() >= renew_after && trust.renew_at_ms().is_some_and(|at| trust.now_ms() >= at) {
            renew_after = Instant::now() + RENEW_EVERY;
            renew(&mesh, &trust).await;
        }
    }
}

/// Renews our certificate: by the root key, if it is here, else by whoever of the connected members can.
async fn renew(mesh: &Mesh, trust: &Trust) {
    match trust.renew_by_root().await {
        Ok(true) => return tracing::info!("certificate renewed by the root key"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "the root key here could not renew our certificate"),
    }
    let mut refusals = Vec::new();
    let issuer = trust.own_membership().map(|m| m.issuer.peer_id());
    let mut peers: Vec<PeerId> = mesh.peers().all().into_keys().collect();
    peers.sort_by_key(|peer| (Some(*peer) != issuer, *peer));
    for peer in peers.into_iter().take(16) {
        match mesh.renew_at(peer).await {
            Ok(()) => return tracing::info!(%peer, "certificate renewed"),
            Err(error) => refusals.push(format!("{peer}: {error}")),
        }
    }
    tracing::warn!(tried = ?refusals, "certificate not renewed: no connected member could; trying again");
}
