//! The nodes: started, stopped, killed and started again on simulated platforms, all of one mesh.
//!
//! Promises: what runs is [`weft_node::Node`] as the program has it, with request-response and pub/sub; each node has a
//! key, a disk and a calendar that outlive its process; certificates are made beforehand by the mesh's root key, so that
//! joining costs what it costs a member and not more.
//!
//! Does not promise a local HTTP API: applications are inside this process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use libp2p::Multiaddr;
use tracing::Instrument as _;
use weft_node::{
    Node, NodeError, NodeOptions,
    config::{Config, Sources},
    launch::mesh_config,
    patterns::{
        batching::{Batching, BatchingHandle},
        event_sourcing::{EventSourcing, EventSourcingHandle},
        pub_sub::{PubSub, PubSubHandle},
        request_response::{RequestResponse, RequestResponseHandle},
    },
    platform::Clock as _,
    tasks::{Brake, Tasks},
    trust::{MeshInfo, MeshKind, Standing},
};
use weft_protocol::{CertificateRequest, Chain, MeshId, PeerId, SecretKey};

use crate::{
    attack::{Attacker, Behaviour},
    disk::SimDisk,
    network::{HostId, Network},
    platform::{SeededEntropy, SimParts, SimPlatform, SkewedClock},
    sharing::Shelf,
};

/// Memory for a node's pages: its state is small, and its disk is memory anyway.
const STORE_CACHE_BYTES: usize = 16 << 10;
/// How long certificates live.
const CERTIFICATE_TTL_MS: u64 = 90 * 24 * 3600 * 1000;
/// How far clocks may be behind when a certificate is shown.
const BACKDATE_MS: u64 = weft_protocol::limits::CLOCK_SKEW_MS_MAX;
/// For the tasks of one node to end after it was killed.
const REAP_TIME: Duration = Duration::from_secs(5);

/// What a node is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Its role; none: the default one.
    pub role: Option<String>,
    /// Configuration: key and value as text.
    pub config: BTreeMap<String, String>,
    /// The hosts whose addresses it knows at the start.
    pub neighbours: Vec<HostId>,
    /// Members it dials until it has so many connections, where the configuration says nothing.
    pub connection_target: usize,
    /// What its software calls itself; none: as it does.
    pub agent: Option<String>,
    /// Whether nodes score their gossip neighbours.
    pub scoring: bool,
    /// Members whose records it keeps at most; none: as many as a node does.
    pub directory_max: Option<usize>,
    /// How much its calendar is ahead.
    pub clock_skew_ms: i64,
    /// What it does instead of what it should; none: it is honest.
    pub attacks: Option<Arc<Behaviour>>,
}

/// A member of the fleet, running or not.
struct Member {
    plan: Plan,
    key: SecretKey,
    peer: PeerId,
    chain: Chain,
    disk: SimDisk,
    clock: Arc<SkewedClock>,
    boots: u32,
    /// At its last start its disk held no membership, though one was acknowledged before.
    forgot: bool,
    /// Its membership was acknowledged as durable.
    entered: bool,
    running: Option<Running>,
}

/// A node that runs.
#[derive(Clone)]
pub struct Running {
    /// The node.
    pub node: Arc<Node>,
    /// Its pub/sub; attackers have none.
    pub pub_sub: Option<PubSubHandle>,
    /// Its request-response.
    pub calls: Option<RequestResponseHandle>,
    /// Its queues, where the scenario has any.
    pub queues: Option<BatchingHandle>,
    /// Its streams, where the scenario has any.
    pub streams: Option<EventSourcingHandle>,
    /// For the application's own tasks: they end with the process.
    pub application: Tasks,
    /// Makes it stand still.
    pub brake: Arc<Brake>,
    /// Which start of this node it is, from 1.
    pub boot: u32,
}

/// See the module.
pub struct Fleet {
    network: Arc<Network>,
    seed: u64,
    mesh: MeshInfo,
    members: Vec<Member>,
    shelf: Arc<Shelf>,
    has_queues: bool,
    has_streams: bool,
}

/// The key of a host, from the run's seed.
fn key(seed: u64, host: HostId) -> SecretKey {
    SecretKey::from_bytes(&weft_node::platform::random(&SeededEntropy::new(
        seed,
        KEYS | u64::from(host),
    )))
}

/// The id of a host, from the run's seed.
pub fn peer_of(seed: u64, host: HostId) -> PeerId {
    key(seed, host).public().peer_id()
}

/// Streams of entropy for keys, apart from those of platforms.
const KEYS: u64 = 1 << 63;
const ROOT_KEY: u64 = 1 << 62;

impl Fleet {
    /// A fleet of which nothing runs yet. Host numbers are the places in `plans`.
    ///
    /// # Errors
    /// When a certificate cannot be made: a name or role that cannot be.
    pub fn new(network: Arc<Network>, seed: u64, open: bool, plans: Vec<Plan>) -> Result<Fleet, NodeError> {
        let root = SecretKey::from_bytes(&weft_node::platform::random(&SeededEntropy::new(seed, ROOT_KEY)));
        let mesh = MeshInfo {
            id: MeshId::from_root(&root.public()),
            root: root.public(),
            kind: if open { MeshKind::Open } else { MeshKind::Private },
        };
        let serials = SeededEntropy::new(seed, ROOT_KEY | 1);
        let now_ms = SkewedClock::new(0).now_unix_ms();
        let member = |(host, plan): (usize, Plan)| {
            let key = key(seed, host as HostId);
            let request = CertificateRequest {
                subject: key.public(),
                name: plan.name.clone(),
                roles: vec![plan.role.clone().unwrap_or_else(|| "member".to_owned())],
                labels: Vec::new(),
                grants: Vec::new(),
                not_before_ms: now_ms.saturating_sub(BACKDATE_MS),
                not_after_ms: now_ms + CERTIFICATE_TTL_MS,
            };
            let chain = if open {
                Chain::default()
            } else {
                Chain::default().issue(&root, request, weft_node::platform::random(&serials), now_ms)?
            };
            Ok(Member {
                peer: key.public().peer_id(),
                key,
                chain,
                disk: SimDisk::new(),
                clock: SkewedClock::new(plan.clock_skew_ms),
                boots: 0,
                forgot: false,
                entered: false,
                running: None,
                plan,
            })
        };
        let members = plans
            .into_iter()
            .enumerate()
            .map(member)
            .collect::<Result<_, NodeError>>()?;
        Ok(Fleet {
            network,
            seed,
            mesh,
            members,
            shelf: Arc::default(),
            has_queues: false,
            has_streams: false,
        })
    }

    /// Its nodes keep queues, too.
    pub fn with_queues(mut self) -> Fleet {
        self.has_queues = true;
        self
    }

    /// Its nodes keep streams, too: a pattern that costs memory, and changes what is on the wire.
    pub fn with_streams(mut self) -> Fleet {
        self.has_streams = true;
        self
    }

    /// How many there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A host's id.
    pub fn peer(&self, host: HostId) -> PeerId {
        self.members[host as usize].peer
    }

    /// The host's node, if it runs.
    pub fn running(&self, host: HostId) -> Option<&Running> {
        self.members.get(host as usize)?.running.as_ref()
    }

    /// Everybody who runs.
    pub fn all_running(&self) -> impl Iterator<Item = (HostId, &Running)> {
        let running = self.members.iter().enumerate();
        running.filter_map(|(host, member)| Some((host as HostId, member.running.as_ref()?)))
    }

    /// A running node of which a task has panicked: it only seems to live.
    pub fn panicked(&self) -> Option<HostId> {
        let mut broken = self
            .all_running()
            .filter(|(_, running)| running.node.tasks().panics() > 0);
        broken.next().map(|(host, _)| host)
    }

    /// Lets a process stand still, or go on. Its kernel goes on taking in what comes, until its buffers are full.
    pub fn pause(&self, host: HostId, on: bool) {
        match self.running(host) {
            Some(running) if on => running.brake.put_on(),
            Some(running) => running.brake.release(),
            None => {}
        }
    }

    /// Whether a host runs and does not stand still.
    pub fn is_awake(&self, host: HostId) -> bool {
        self.running(host).is_some_and(|running| !running.brake.is_on())
    }

    /// How often a host was started.
    pub fn boots(&self, host: HostId) -> u32 {
        self.members[host as usize].boots
    }

    /// Whether a host that runs found, when it started, no trace of its membership on its disk.
    pub fn has_forgotten(&self, host: HostId) -> bool {
        self.members[host as usize].forgot
    }

    /// The host's disk.
    pub fn disk(&self, host: HostId) -> &SimDisk {
        &self.members[host as usize].disk
    }

    /// The host's calendar.
    pub fn clock(&self, host: HostId) -> &SkewedClock {
        &self.members[host as usize].clock
    }

    /// Starts a node. One that was here before finds its disk as it was left.
    ///
    /// # Errors
    /// What the node says; the node does not run then.
    pub async fn start(&mut self, host: HostId) -> Result<&Running, NodeError> {
        let config = self.config(host)?;
        let mesh_config = self.mesh_config(host, &config)?;
        self.network.power_on(host);
        let member = &mut self.members[host as usize];
        member.boots += 1;
        let brake = Arc::new(Brake::default());
        let platform = SimPlatform::new(SimParts {
            network: Arc::clone(&self.network),
            host,
            boot: member.boots,
            seed: self.seed,
            clock: Arc::clone(&member.clock),
            disk: member.disk.clone(),
            shelf: Arc::clone(&self.shelf),
            brake: Arc::clone(&brake),
            attacks: member.plan.attacks.clone(),
        });
        let mut options = NodeOptions::new(SecretKey::from_bytes(&member.key.to_bytes()), "/weft", mesh_config);
        options.store_cache_bytes = STORE_CACHE_BYTES;
        options.store_segment_bytes = config.store.segment_bytes.bytes();
        if let Some(max) = member.plan.directory_max {
            options.directory_max = max;
        }
        let mut builder = Node::builder();
        if let Some(behaviour) = &member.plan.attacks {
            builder = builder.pattern(Attacker::new(Arc::clone(behaviour)));
        } else {
            builder = builder.pattern(RequestResponse).pattern(PubSub);
            if self.has_streams {
                builder = builder.pattern(EventSourcing);
            }
            if self.has_queues {
                builder = builder.pattern(Batching);
            }
        }
        let node = builder
            .start(platform, options)
            .instrument(tracing::info_span!(target: "weft_node", "node", n = host))
            .await?;
        let is_outside = matches!(*node.trust().watch_standing().borrow(), Standing::Outside);
        member.forgot = is_outside && member.entered;
        if is_outside {
            node.trust().enter(self.mesh.clone(), member.chain.clone()).await?;
            member.entered = true;
        }
        let running = Running {
            pub_sub: node.handle::<PubSub>(),
            calls: node.handle::<RequestResponse>(),
            queues: node.handle::<Batching>(),
            streams: node.handle::<EventSourcing>(),
            node: Arc::new(node),
            application: Tasks::with_brake(Arc::clone(&brake)),
            brake,
            boot: member.boots,
        };
        Ok(member.running.insert(running))
    }

    /// Stops a node in good order.
    pub async fn stop(&mut self, host: HostId) {
        if let Some(running) = self.members[host as usize].running.take() {
            running.node.stop().await;
            running.application.stop(REAP_TIME).await;
        }
    }

    /// Kills a node's process: its connections are closed by the kernel, its disk keeps what was written.
    pub async fn kill(&mut self, host: HostId) {
        if let Some(running) = self.members[host as usize].running.take() {
            reap(running).await;
        }
    }

    /// Takes a node's power away: nobody hears of it, and its disk loses what `lose` makes it lose.
    pub async fn power_cut(&mut self, host: HostId, lose: impl FnOnce(&SimDisk)) {
        self.network.power_off(host);
        lose(&self.members[host as usize].disk);
        if let Some(running) = self.members[host as usize].running.take() {
            reap(running).await;
        }
    }

    fn config(&self, host: HostId) -> Result<Config, NodeError> {
        let mut sources = Sources::new();
        for (key, value) in &self.members[host as usize].plan.config {
            sources = sources.flag("the scenario", key, [value.clone()]);
        }
        Config::load(&sources).map_err(|errors| NodeError::invalid(errors.to_string()))
    }

    fn mesh_config(&self, host: HostId, config: &Config) -> Result<weft_node::mesh::MeshConfig, NodeError> {
        let plan = &self.members[host as usize].plan;
        let mut mesh = mesh_config(config, &plan.name, None)?;
        mesh.listen = vec![self.network.listen_address(host)];
        mesh.listen_explicit = true;
        mesh.bootstrap = plan.neighbours.iter().map(|other| self.address(*other)).collect();
        mesh.mdns = false;
        mesh.upnp = false;
        if !plan.config.contains_key("mesh.connection_target") {
            mesh.connection_target = plan.connection_target;
        }
        if let Some(agent) = &plan.agent {
            mesh.agent.clone_from(agent);
        }
        mesh.peer_scoring = Some(plan.scoring);
        // Nothing here asks the DHT, and an empty table would take more memory than all the rest of a node.
        mesh.dht = false;
        Ok(mesh)
    }

    /// Where a host can be dialled, with its id.
    fn address(&self, host: HostId) -> Multiaddr {
        let address = self.network.dial_address(host);
        address.clone().with_p2p(self.peer(host)).unwrap_or(address)
    }
}

async fn reap(running: Running) {
    // The application first, so that nothing holds on to the node.
    running.application.stop(REAP_TIME).await;
    running.node.tasks().stop(REAP_TIME).await;
}

#[cfg(test)]
mod tests;
