//! Nodes in one process, for tests: a real network on loopback, a disk in memory, a calendar that can be moved.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use libp2p::identity::Keypair;
use weft_protocol::{Multiaddr, SecretKey};

use crate::{
    mesh::{MeshConfig, RelayConfig, RelayUse},
    node::{Node, NodeBuilder, NodeOptions},
    platform::{
        Clock, Entropy, Network, NetworkLimits, Platform, RealPlatform,
        disk::{Disk, MemoryDisk},
    },
    store::{Store, StoreOptions},
    trust::{CERTIFICATE_TTL, DIRECTORY_MAX, FoundOptions, MeshKind, Standing, Trust, TrustParts},
};

/// How long a condition may take to come true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A calendar that stands where it is put, or goes on from there.
pub(crate) struct ManualClock {
    put_ms: AtomicU64,
    began: Option<tokio::time::Instant>,
}

impl ManualClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.put_ms.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_unix_ms(&self) -> u64 {
        let passed_ms = self.began.map_or(0, |began| began.elapsed().as_millis() as u64);
        self.put_ms.load(Ordering::SeqCst) + passed_ms
    }
}

/// The real network, everything else of the test's making.
pub(crate) struct TestPlatform {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) disk: MemoryDisk,
}

impl TestPlatform {
    /// Its calendar stands.
    pub(crate) fn new() -> Arc<TestPlatform> {
        Self::with(None)
    }

    /// Its calendar goes on.
    pub(crate) fn going_on() -> Arc<TestPlatform> {
        Self::with(Some(tokio::time::Instant::now()))
    }

    fn with(began: Option<tokio::time::Instant>) -> Arc<TestPlatform> {
        let now_ms = RealPlatform.clock().now_unix_ms();
        Arc::new(TestPlatform {
            clock: Arc::new(ManualClock {
                put_ms: AtomicU64::new(now_ms),
                began,
            }),
            disk: MemoryDisk::new(),
        })
    }
}

impl Platform for TestPlatform {
    fn network(&self, key: &Keypair, limits: &NetworkLimits) -> io::Result<Network> {
        RealPlatform.network(key, limits)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.clock.clone()
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        RealPlatform.entropy()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }
}

pub(crate) fn mesh_config(name: &str, bootstrap: Vec<Multiaddr>, transport: &str) -> MeshConfig {
    let listen = match transport {
        "quic" => "/ip4/127.0.0.1/udp/0/quic-v1",
        "ws" => "/ip4/127.0.0.1/tcp/0/ws",
        _ => "/ip4/127.0.0.1/tcp/0",
    };
    MeshConfig {
        listen: vec![listen.parse().unwrap()],
        bootstrap,
        relay: RelayConfig {
            server_always: true,
            client: RelayUse::Off,
            ..RelayConfig::default()
        },
        ..MeshConfig::on_loopback(name)
    }
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes(&[seed; 32])
}

/// Starts a node; with `found`, the founder of a mesh of that kind.
pub(crate) async fn start(builder: NodeBuilder, seed: u8, mesh: MeshConfig, found: Option<MeshKind>) -> Node {
    start_on(TestPlatform::going_on(), builder, seed, mesh, found).await
}

/// The same on a platform that may have carried the node before.
pub(crate) async fn start_on(
    platform: Arc<TestPlatform>,
    builder: NodeBuilder,
    seed: u8,
    mesh: MeshConfig,
    found: Option<MeshKind>,
) -> Node {
    start_as(
        platform,
        builder,
        seed,
        NodeOptions::new(key(seed), "/store", mesh),
        found,
    )
    .await
}

/// The same with other options.
pub(crate) async fn start_as(
    platform: Arc<TestPlatform>,
    builder: NodeBuilder,
    seed: u8,
    options: NodeOptions,
    found: Option<MeshKind>,
) -> Node {
    let name = options.mesh.name.clone();
    let node = builder.start(platform, options).await.unwrap();
    if let Some(kind) = found {
        node.trust()
            .found(&key(seed ^ 0x80), FoundOptions { kind, name })
            .await
            .unwrap();
    }
    let mut state = node.mesh().watch_state();
    tokio::time::timeout(PATIENCE, state.wait_for(|s| s.listening))
        .await
        .unwrap()
        .unwrap();
    node
}

/// The node's first address, with its id.
pub(crate) fn address(node: &Node) -> Multiaddr {
    node.mesh().state().listen[0]
        .clone()
        .with_p2p(node.mesh().local_peer())
        .unwrap()
}

pub(crate) async fn member(node: &Node) {
    let mut standing = node.trust().watch_standing();
    tokio::time::timeout(PATIENCE, standing.wait_for(|s| matches!(s, Standing::Member(_))))
        .await
        .unwrap()
        .unwrap();
}

/// Waits until the node is connected to so many members.
pub(crate) async fn peers(node: &Node, count: usize) {
    let mut changed = node.mesh().peers().watch();
    let wait = async {
        while node.mesh().peers().len() < count {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

/// Waits until something holds, looking again and again.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, wait).await.is_ok(),
        "never came true: {what}"
    );
}

/// What trust alone stands on, without a network.
pub(crate) async fn trust_parts(seed: u8, platform: &TestPlatform) -> TrustParts {
    let key = key(seed);
    let options = StoreOptions {
        owner: *key.public().as_bytes(),
        ..StoreOptions::default()
    };
    let dir = PathBuf::from(format!("/trust-{seed}"));
    let store = Store::open(platform.disk(), &dir, options).await.unwrap();
    TrustParts {
        key,
        root: None,
        certificate_ttl: CERTIFICATE_TTL,
        directory_max: DIRECTORY_MAX,
        keyspace: store.keyspace("trust"),
        clock: platform.clock(),
        entropy: platform.entropy(),
        sharing: platform.sharing(),
    }
}

/// Trust alone, without a network.
pub(crate) async fn trust(seed: u8, platform: &TestPlatform) -> Trust {
    Trust::open(trust_parts(seed, platform).await).await.unwrap()
}
