//! The one task that owns the swarm.
//!
//! It awaits two inputs, commands and the swarm's events, and a tick; its handlers never await. What takes several steps
//! (admission, the door, control) runs in tasks of its own and comes back as a command.

mod carriers;
mod commands;
mod connections;
mod deaf;
mod events;
mod outside;
mod reach;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

pub(crate) use commands::Command;
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::transport::ListenerId,
    gossipsub::TopicHash,
    identity::Keypair,
    kad,
    multiaddr::Protocol,
    relay,
    request_response::OutboundRequestId,
    swarm::{
        self, ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};
use weft_protocol::{SecretKey, Ticket};

use super::{
    MeshConfig,
    admission::{Introduction, SETTLE_TIMEOUT, SETTLE_TIMEOUT_TELLING},
    behaviour::{self, Behaviour},
    boxed::Boxed,
    connector::{Connector, Reason},
    doze::Doze,
    handle::{Gossip, Mesh, MeshError, MeshState, Reachability, Shared},
    inbound::{Door, DoorKeeper},
    intake::Intake,
    lanes::Lanes,
    notes::Notes,
    peers::PeerTable,
    redeem::{self, Redeemer},
};
use crate::{
    error::NodeError,
    platform::{Entropy, Network, NetworkLimits, Platform},
    tasks::Tasks,
    telemetry::metrics::{MeshCounters, Metrics},
    trust::{Standing, Trust},
};

/// Commands waiting for the driver; who sends more waits.
const COMMANDS_MAX: usize = 1024;
/// The driver's own pulse: dials that are due, records that changed, messages that wait for a record.
const TICK: Duration = Duration::from_millis(250);
/// A peer that has proven nothing by then is disconnected, unless it waits for approval.
const PROOF_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection by which we tried an address for a member has done its work by then.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Handshakes that take longer are given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Gossip messages whose signer is not known yet, at most, and how long they wait for its record.
const UNKNOWN_MAX: usize = 1024;
/// Between two dials of bootstrap addresses without an id, while nobody is connected.
const NAMELESS_EVERY: Duration = Duration::from_secs(3);
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(3);

/// What the driver needs.
pub(crate) struct DriverParts {
    pub(crate) key: SecretKey,
    pub(crate) config: MeshConfig,
    pub(crate) trust: Trust,
    pub(crate) tasks: Tasks,
    pub(crate) doors: HashMap<String, Door>,
    pub(crate) metrics: Metrics,
    /// Known members' addresses from earlier runs.
    pub(crate) address_book: Vec<(PeerId, Vec<Multiaddr>)>,
}

/// One connection, admitted or not.
struct Connection {
    peer: PeerId,
    address: Multiaddr,
    inbound: bool,
    since: Instant,
    /// The peer has shown good certificates.
    verified: watch::Sender<bool>,
    /// The peer has told us the revocations it knows.
    heard: watch::Sender<bool>,
    opened: bool,
    /// The peer has admitted us.
    remote_ready: bool,
    waits_for_approval: bool,
    /// Made to try an address, and used for nothing else.
    test_only: bool,
    /// Which start of the peer's it is of, if it has said so.
    run: Option<u64>,
    /// Who is told that it is opened, and since when it waits for that.
    waits_to_open: Option<(oneshot::Sender<()>, Instant)>,
}

type Providers = oneshot::Sender<Result<Vec<PeerId>, MeshError>>;
type Waiting = oneshot::Sender<Result<Vec<u8>, MeshError>>;

pub(super) struct Driver {
    swarm: Swarm<Boxed<Doze<Behaviour>>>,
    commands: mpsc::Receiver<Command>,
    /// For the tasks this driver spawns.
    sender: mpsc::WeakSender<Command>,
    trust: Trust,
    tasks: Tasks,
    key: Keypair,
    config: MeshConfig,
    counters: MeshCounters,
    libp2p_metrics: libp2p::metrics::Metrics,
    metrics: Metrics,
    door: DoorKeeper,
    peers: PeerTable,
    notes: Notes,
    lanes: Lanes,
    carriers: carriers::Carriers,
    connector: Connector,
    connections: BTreeMap<ConnectionId, Connection>,
    agents: HashMap<PeerId, String>,
    introduction: Introduction,
    ticket: Option<Ticket>,
    /// Until a mesh is known, the half of the relay client that goes behind the gate.
    relay_client: Option<relay::client::Behaviour>,
    standing: watch::Receiver<Standing>,
    revoked: watch::Receiver<u64>,
    state: watch::Sender<MeshState>,
    settled: watch::Sender<bool>,
    settle_by: Instant,
    requests: HashMap<OutboundRequestId, Waiting>,
    topics: HashMap<TopicHash, mpsc::Sender<Box<Gossip>>>,
    deaf: deaf::Deaf,
    /// Topics asked for before a mesh was known.
    wanted_topics: Vec<String>,
    unknown: VecDeque<(Instant, Gossip, TopicHash)>,
    redeemer: Redeemer,
    /// How much gossip may come.
    intake: Intake,
    provider_queries: HashMap<kad::QueryId, (HashSet<PeerId>, Providers)>,
    provide_queries: HashMap<kad::QueryId, oneshot::Sender<Result<(), MeshError>>>,
    announcements: BTreeMap<&'static str, Vec<u8>>,
    /// Bootstrap addresses that do not say whom to expect, and when they were last tried.
    nameless: Vec<Multiaddr>,
    nameless_tried: Option<Instant>,
    record_dirty: bool,
    record_checked: Instant,
    /// Up to which version of the directory the addresses have been taken over.
    addresses_version: u64,
    reach: reach::Reach,
    listeners: HashMap<ListenerId, Multiaddr>,
    stopping: Option<oneshot::Sender<()>>,
}

/// Starts listening and spawns the driver.
///
/// # Errors
/// When the network cannot be had, or an address the user chose cannot be listened on.
pub(crate) fn start(platform: &dyn Platform, parts: DriverParts) -> Result<Mesh, NodeError> {
    let DriverParts {
        key,
        config,
        trust,
        tasks,
        doors,
        metrics,
        address_book,
    } = parts;
    let counters = MeshCounters::register(&metrics);
    let keypair = key.to_keypair();
    let limits = NetworkLimits {
        handshake_timeout: HANDSHAKE_TIMEOUT,
        muxer_streams_max: super::streams::MUXER_STREAMS_MAX,
    };
    let network = platform
        .network(&keypair, &limits)
        .map_err(|e| NodeError::internal(format!("no network: {e}")))?;
    let behaviour = behaviour::outer(&keypair, &config, &network);
    let Network {
        transport,
        relay_client,
        ..
    } = network;
    let swarm_config = swarm::Config::with_executor(tasks.executor())
        .with_idle_connection_timeout(Duration::from_secs(60))
        .with_max_negotiating_inbound_streams(128)
        .with_per_connection_event_buffer_size(64)
        .with_smart_dial();
    let local = keypair.public().to_peer_id();
    let swarm = Swarm::new(transport, Boxed(behaviour), local, swarm_config);
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let door = DoorKeeper::new(
        trust.clone(),
        doors,
        config.memory_budget_bytes,
        counters.clone(),
        tasks.clone(),
    );
    let peers = PeerTable::new();
    let lanes = Lanes::default();
    let notes = Notes::default();
    let state = watch::Sender::new(MeshState {
        listen: Vec::new(),
        external: Vec::new(),
        reachability: Reachability::Unknown,
        relays: Vec::new(),
        kad_server: false,
        listening: false,
        refusal: None,
        ticket_refusal: None,
        hole_punches: (0, 0),
    });
    let shared = Shared {
        key: keypair.clone(),
        local,
        zone: config.zone.clone(),
        trust: trust.clone(),
        peers: peers.clone(),
        lanes: lanes.clone(),
        notes: notes.clone(),
        state: state.subscribe(),
    };
    let mesh = Mesh {
        commands: sender.clone(),
        inner: Arc::new(shared),
    };
    let seed = u64::from_be_bytes(crate::platform::random(&*platform.entropy() as &dyn Entropy));
    let now = Instant::now();
    let intake = Intake::new(config.memory_budget_bytes, now);
    let mut driver = Driver {
        swarm,
        commands,
        sender: sender.downgrade(),
        standing: trust.watch_standing(),
        revoked: trust.watch_revocations(),
        redeemer: Redeemer::new(trust.clone(), sender.downgrade()),
        trust,
        tasks: tasks.clone(),
        key: keypair,
        introduction: Introduction {
            name: config.name.clone(),
            agent: config.agent.clone(),
            run: u64::from_be_bytes(crate::platform::random(&*platform.entropy() as &dyn Entropy)),
        },
        ticket: config.ticket.clone(),
        connector: Connector::new(local, config.connection_target, seed),
        config,
        counters,
        libp2p_metrics: metrics.with_registry(libp2p::metrics::Metrics::new),
        metrics,
        door,
        peers,
        lanes,
        notes,
        carriers: carriers::Carriers::default(),
        connections: BTreeMap::new(),
        agents: HashMap::new(),
        relay_client: Some(relay_client),
        state,
        settled: watch::Sender::new(false),
        settle_by: now + SETTLE_TIMEOUT,
        requests: HashMap::new(),
        topics: HashMap::new(),
        deaf: deaf::Deaf::default(),
        wanted_topics: Vec::new(),
        unknown: VecDeque::new(),
        intake,
        provider_queries: HashMap::new(),
        provide_queries: HashMap::new(),
        announcements: BTreeMap::new(),
        nameless: Vec::new(),
        nameless_tried: None,
        record_dirty: true,
        record_checked: now,
        addresses_version: 0,
        reach: reach::Reach::new(seed),
        listeners: HashMap::new(),
        stopping: None,
    };
    driver.listen(platform)?;
    driver.begin(address_book);
    tasks.spawn_vital("mesh-driver", Box::new(driver).run());
    Ok(mesh)
}

impl Driver {
    /// Addresses to begin with, from the user, the ticket, the address book and the directory.
    fn begin(&mut self, address_book: Vec<(PeerId, Vec<Multiaddr>)>) {
        let now = Instant::now();
        let mut bootstrap = self.config.bootstrap.clone();
        if let Some(ticket) = self.ticket.as_ref().filter(|_| self.trust.mesh().is_none()) {
            bootstrap.extend(redeem::ways_in(ticket));
        }
        self.add_bootstrap(bootstrap);
        for (peer, addresses) in address_book {
            self.connector.add(peer, &addresses, Reason::Member, now);
        }
        self.learn_addresses();
        if self.trust.mesh().is_some() {
            self.install_members();
        } else {
            // Nothing was missed: there was no membership before.
            self.settled.send_replace(true);
        }
        for address in self.config.external.clone() {
            self.swarm.add_external_address(address);
        }
        self.dial_due();
    }

    /// Boxed: a future holds what it is given and what it works on, each for itself.
    async fn run(mut self: Box<Self>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                _ = tick.tick() => self.on_tick(),
            }
            if let Some(done) = self.stopping.take() {
                self.close_all();
                let _ = done.send(());
                break;
            }
        }
        tracing::debug!("the mesh driver has stopped");
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.follow_standing();
        self.settle(now);
        if self.revoked.has_changed().unwrap_or(false) {
            self.revoked.mark_unchanged();
            self.cut_revoked();
        }
        self.drop_unproven(now);
        self.retry_unknown(now);
        if now.duration_since(self.record_checked) > Duration::from_secs(2) {
            self.record_checked = now;
            self.intake
                .forget_gone(&self.connections.values().map(|c| c.peer).collect(), now);
            self.learn_addresses();
            self.prefer_best();
            self.carriers_tick(now);
            self.reconnect_deaf(now);
            self.open_waiting(now);
            self.dial_doubted(now);
            self.trust.expire_records();
            self.counters.set_sizes(self.peers.len(), self.trust.known_count());
            self.reach_tick(now);
            self.record_dirty = true;
        }
        if self.record_dirty {
            self.record_dirty = false;
            self.publish_record();
        }
        self.dial_due();
    }

    /// If the node has become a member, puts the members' behaviours behind the gate.
    fn follow_standing(&mut self) {
        if !self.standing.has_changed().unwrap_or(false) {
            return;
        }
        self.standing.mark_unchanged();
        if matches!(*self.standing.borrow(), Standing::Member(_)) {
            self.install_members();
            self.ticket = None;
            self.record_dirty = true;
        }
    }

    fn install_members(&mut self) {
        let Some(mesh) = self.trust.mesh() else { return };
        let Some(relay_client) = self.relay_client.take() else {
            return;
        };
        let members = behaviour::members(
            &self.key,
            &mesh,
            &self.config,
            relay_client,
            self.door.protocols(),
            self.reach.rng_seed(),
            &self.metrics,
        );
        match members {
            Ok(mut members) => {
                self.tell_candidates(&mut members);
                self.swarm.behaviour_mut().members.install(members);
            }
            Err(error) => {
                tracing::error!(%error, "the members' behaviours cannot be built");
                return;
            }
        }
        for topic in std::mem::take(&mut self.wanted_topics) {
            self.join_topic(&topic);
        }
        tracing::info!(mesh = %mesh.id, "this node belongs to a mesh");
    }

    /// Ends the time in which a node that was away admits nobody (see `admission`): when it has heard everybody it can
    /// reach, or when that takes too long.
    fn settle(&mut self, now: Instant) {
        if *self.settled.borrow() {
            return;
        }
        let has_heard = |c: &Connection| c.remote_ready || *c.heard.borrow();
        let is_told = |c: &Connection| (!c.inbound || *c.verified.borrow()) && !has_heard(c) && !c.waits_for_approval;
        let telling = self.connections.values().any(is_told);
        let heard: HashSet<PeerId> = self
            .connections
            .values()
            .filter(|c| has_heard(c))
            .map(|c| c.peer)
            .collect();
        let late = now >= self.settle_by + (SETTLE_TIMEOUT_TELLING - SETTLE_TIMEOUT);
        if late || (!telling && (now >= self.settle_by || self.connector.tried_all(&heard))) {
            self.settled.send_replace(true);
        }
    }

    fn drop_unproven(&mut self, now: Instant) {
        if self.trust.mesh().is_none() {
            // We are the one who has nothing to show yet.
            return;
        }
        let idle: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, c)| !c.opened && !c.waits_for_approval && now.duration_since(c.since) > PROOF_TIMEOUT)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            tracing::debug!(connection = %id, "closed: nothing was proven");
            self.swarm.close_connection(id);
        }
        let tested: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, c)| c.test_only && !c.inbound && now.duration_since(c.since) > TEST_TIMEOUT)
            .map(|(id, _)| *id)
            .collect();
        for id in tested {
            self.swarm.close_connection(id);
        }
    }

    fn close_all(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.swarm.close_connection(id);
        }
    }

    /// The peers' addresses as their records have them.
    fn learn_addresses(&mut self) {
        let now = Instant::now();
        let (changed, version) = self.trust.addresses_after(self.addresses_version);
        self.addresses_version = version;
        for (peer, addresses) in changed {
            self.connector.add(peer, &addresses, Reason::Member, now);
        }
    }

    fn add_bootstrap(&mut self, addresses: Vec<Multiaddr>) {
        let now = Instant::now();
        for address in addresses {
            match peer_of(&address) {
                Some(peer) => self.connector.add(peer, &[address], Reason::Bootstrap, now),
                // Whoever answers there is trusted to be the one: the user dared.
                None => self.nameless.push(address),
            }
        }
    }

    /// Where a member may be found.
    fn addresses_of(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let noted = self.connector.addresses(peer, Instant::now());
        noted.unwrap_or_else(|| self.trust.record(peer).map(|r| r.addresses).unwrap_or_default())
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        if self.connector.exchange(now) {
            self.addresses_version = 0;
            self.learn_addresses();
        }
        for dial in self.connector.due(now) {
            self.dial(dial.peer, dial.addresses);
        }
        let again = self
            .nameless_tried
            .is_none_or(|at| now.duration_since(at) > NAMELESS_EVERY);
        if self.connections.is_empty() && again {
            self.nameless_tried = Some(now);
            for address in self.nameless.clone() {
                let options = libp2p::swarm::dial_opts::DialOpts::unknown_peer_id()
                    .address(address)
                    .build();
                if let Err(error) = self.swarm.dial(options) {
                    tracing::debug!(%error, "no dial");
                }
            }
        }
    }

    /// Dials one more address of a peer, beside a dial under way. Should it fail, that one still decides.
    fn dial_also(&mut self, peer: PeerId, address: Multiaddr) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::Disconnected)
            .addresses(vec![address])
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%peer, %error, "no second dial");
        }
    }

    fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(addresses)
            .extend_addresses_through_behaviour()
            .build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::trace!(%peer, %error, "no dial");
            if !matches!(error, swarm::DialError::DialPeerConditionFalse(_)) {
                self.on_dial_failed(&peer, &error.to_string());
            }
        }
    }
}

/// The peer an address ends with.
pub(crate) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The address, ending in its peer.
pub(crate) fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    address.clone().with_p2p(peer).unwrap_or(address)
}
