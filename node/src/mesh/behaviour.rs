//! The behaviours of the swarm, and their settings.
//!
//! In front of the gate stands what a stranger may speak: identify, ping, admission. Everything else is behind it.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    StreamProtocol, autonat, connection_limits, dcutr, identify,
    identity::Keypair,
    kad, mdns, ping, relay,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::Semaphore;
use weft_protocol::{MeshId, admission::ADMISSION_PROTOCOL, control::CONTROL_PROTOCOL, direct::LANE_PROTOCOL, limits};

use super::{
    MeshConfig,
    budget::MemoryBudget,
    doze::Doze,
    frames,
    gate::Gate,
    gossip,
    relay_client::RelayClient,
    relay_server::RelayServer,
    scales::{SMALL_BYTES, Weighed},
    sources::Sources,
    streams,
};
use crate::{platform::Network, telemetry::metrics::Metrics, trust::MeshInfo};

/// The unary protocol of all patterns.
pub(crate) const DIRECT_PROTOCOL: &str = "/weft/direct/1";
/// What identify says we speak.
pub(crate) const IDENTIFY_VERSION: &str = "/weft/1";
/// Unary requests of one peer in flight; the one beyond waits at the sender.
pub(crate) const DIRECT_IN_FLIGHT_MAX: usize = 256;
/// The backstop behind every caller's own deadline.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(3600);

/// The whole swarm.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) front: Doze<Front>,
    pub(crate) members: Gate<Members>,
}

/// What stands in front of the gate.
#[derive(NetworkBehaviour)]
pub(crate) struct Front {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) memory: Toggle<MemoryBudget>,
    pub(crate) sources: Sources,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) admission: streams::Behaviour,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
}

/// What only members meet.
#[derive(NetworkBehaviour)]
pub(crate) struct Members {
    pub(crate) gossip: gossip::Behaviour,
    pub(crate) others: Doze<Others>,
}

/// What members speak besides gossip, which is nearly all they speak.
#[derive(NetworkBehaviour)]
pub(crate) struct Others {
    pub(crate) kad: Toggle<kad::Behaviour<kad::store::MemoryStore>>,
    pub(crate) direct: request_response::Behaviour<DirectCodec>,
    pub(crate) streams: streams::Behaviour,
    pub(crate) reachability: autonat::v2::client::Behaviour<StdRng>,
    pub(crate) reachability_server: autonat::v2::server::Behaviour<StdRng>,
    pub(crate) relay_server: Toggle<RelayServer>,
    pub(crate) relay_client: RelayClient,
    pub(crate) hole_punch: Toggle<dcutr::Behaviour>,
}

/// Builds what stands in front of the gate.
pub(crate) fn outer(key: &Keypair, config: &MeshConfig, network: &Network) -> Doze<Behaviour> {
    let local_discovery = network.local_discovery;
    let limits = connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_INCOMING_MAX))
        .with_max_pending_outgoing(Some(PENDING_OUTGOING_MAX))
        // Places are kept for connections of our own choosing.
        .with_max_established_incoming(Some(config.connections_max / 4 * 3))
        .with_max_established(Some(config.connections_max))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX));
    let identify = identify::Config::new(IDENTIFY_VERSION.to_owned(), key.public())
        .with_agent_version(config.agent.clone())
        .with_interval(Duration::from_secs(300))
        // Members learn our addresses from our signed record; strangers need not.
        .with_hide_listen_addrs(true)
        .with_cache_size(0);
    let peer = key.public().to_peer_id();
    let mdns = (config.mdns && local_discovery).then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer));
    let mdns = mdns.and_then(|result| {
        result
            .inspect_err(|error| tracing::warn!(%error, "no discovery on the local network: mDNS cannot start"))
            .ok()
    });
    let front = Front {
        limits: connection_limits::Behaviour::new(limits),
        memory: (!network.process_is_shared)
            .then(|| MemoryBudget::new(config.memory_budget_bytes))
            .into(),
        sources: Sources::new(config.sources.clone()),
        identify: identify::Behaviour::new(identify),
        // Only for foreign peers that ask; round trips are measured by `control`.
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_secs(3600))),
        admission: streams::Behaviour::new(vec![StreamProtocol::new(ADMISSION_PROTOCOL)]),
        mdns: mdns.into(),
        upnp: (config.upnp && local_discovery)
            .then(upnp::tokio::Behaviour::default)
            .into(),
    };
    Doze::awake(Behaviour {
        front: Doze::asleep(front),
        members: Gate::empty(),
    })
}

/// Handshakes under way. Low values let a flood of idle sockets keep honest peers out.
const PENDING_INCOMING_MAX: u32 = 1024;
const PENDING_OUTGOING_MAX: u32 = 64;
/// Hole punching needs more than one; so do two transports to one peer.
const CONNECTIONS_PER_PEER_MAX: u32 = 6;

/// Builds what stands behind the gate of `mesh`.
pub(crate) fn members(
    key: &Keypair,
    mesh: &MeshInfo,
    config: &MeshConfig,
    relay_client: relay::client::Behaviour,
    stream_protocols: Vec<StreamProtocol>,
    seed: u64,
    metrics: &Metrics,
) -> Result<Members, String> {
    let peer = key.public().to_peer_id();
    let mut protocols = vec![
        StreamProtocol::new(CONTROL_PROTOCOL),
        StreamProtocol::new(LANE_PROTOCOL),
    ];
    protocols.extend(stream_protocols);
    let direct = request_response::Config::default()
        .with_request_timeout(DIRECT_TIMEOUT)
        .with_max_concurrent_streams(DIRECT_IN_FLIGHT_MAX * 4);
    let others = Others {
        kad: config.dht.then(|| kademlia(key, &mesh.id)).transpose()?.into(),
        direct: request_response::Behaviour::with_codec(
            DirectCodec::default(),
            [(StreamProtocol::new(DIRECT_PROTOCOL), ProtocolSupport::Full)],
            direct,
        ),
        streams: streams::Behaviour::new(protocols),
        reachability: autonat::v2::client::Behaviour::new(
            StdRng::seed_from_u64(seed),
            autonat::v2::client::Config::default().with_probe_interval(Duration::from_secs(5)),
        ),
        reachability_server: autonat::v2::server::Behaviour::new(StdRng::seed_from_u64(seed.rotate_left(32))),
        relay_server: config.relay.server.then(|| relay_server(peer, config)).into(),
        relay_client: RelayClient(relay_client),
        hole_punch: config.hole_punching.then(|| dcutr::Behaviour::new(peer)).into(),
    };
    Ok(Members {
        gossip: gossip::Behaviour::new(key, config.scores_peers(mesh.kind), metrics)?,
        others: Doze::asleep(others),
    })
}

fn kademlia(key: &Keypair, mesh: &MeshId) -> Result<kad::Behaviour<kad::store::MemoryStore>, String> {
    let peer = key.public().to_peer_id();
    let protocol = StreamProtocol::try_from_owned(format!("/weft/{}/kad/1", mesh.short()))
        .map_err(|e| format!("protocol name: {e:?}"))?;
    let mut config = kad::Config::new(protocol);
    // The table is for finding peers and providers; what strangers put into it is looked at first.
    config.set_record_filtering(kad::StoreInserts::FilterBoth);
    config.set_kbucket_inserts(kad::BucketInserts::Manual);
    config.disjoint_query_paths(true);
    config.set_caching(kad::Caching::Disabled);
    config.set_query_timeout(Duration::from_secs(20));
    config.set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    let store = kad::store::MemoryStoreConfig {
        max_records: 256,
        max_value_bytes: 4096,
        max_provided_keys: 4096,
        max_providers_per_key: 20,
    };
    let store = kad::store::MemoryStore::with_config(peer, store);
    let mut kad = kad::Behaviour::with_config(peer, store, config);
    kad.set_mode(Some(kad::Mode::Client));
    Ok(kad)
}

fn relay_server(peer: libp2p::PeerId, config: &MeshConfig) -> RelayServer {
    // The defaults cut a circuit after two minutes or 128 KiB: fit for strangers, not for members.
    let limits = relay::Config {
        max_reservations: config.relay.reservations_max,
        max_reservations_per_peer: 4,
        reservation_duration: Duration::from_secs(3600),
        max_circuits: config.relay.circuits_max,
        max_circuits_per_peer: config.relay.circuits_per_peer_max,
        max_circuit_duration: config.relay.circuit_duration,
        max_circuit_bytes: config.relay.circuit_bytes_max,
        ..relay::Config::default()
    };
    let mut behaviour = relay::Behaviour::new(peer, limits);
    if config.relay.server_always {
        behaviour.set_status(Some(relay::Status::Enable));
    }
    RelayServer(behaviour)
}

/// A large request is read within this time.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer is taken by the peer within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// Large requests being read at once, of all peers.
const READING_MAX: usize = 32;
/// The same with those that wait for their turn, each of which fills its stream's window at most.
const READING_AND_WAITING_MAX: usize = 160;

/// Requests and answers as frames of bytes; their meaning is the door-keeper's.
#[derive(Debug, Clone)]
pub(crate) struct DirectCodec {
    /// Places for requests that are not small. Who finds none is not read from, until there is one.
    reading: Arc<Semaphore>,
    /// Places to wait for one. Who finds none is cut.
    waiting: Arc<Semaphore>,
}

impl Default for DirectCodec {
    fn default() -> Self {
        DirectCodec {
            reading: Arc::new(Semaphore::new(READING_MAX)),
            waiting: Arc::new(Semaphore::new(READING_AND_WAITING_MAX)),
        }
    }
}

impl request_response::Codec for DirectCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Weighed;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        within(READ_TIMEOUT, async {
            let length = frames::read_length(io, limits::CALL_BYTES_MAX)
                .await
                .map_err(io_error)?;
            let length = length.ok_or(io::ErrorKind::UnexpectedEof)?;
            if length <= SMALL_BYTES {
                return frames::read_body(io, length).await.map_err(io_error);
            }
            let _waiting = self.waiting.try_acquire().map_err(io::Error::other)?;
            let _reading = self.reading.acquire().await.map_err(io::Error::other)?;
            frames::read_body(io, length).await.map_err(io_error)
        })
        .await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Weighed> {
        let bytes = frames::read_bytes(io, limits::CALL_BYTES_MAX).await.map_err(io_error)?;
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Weighed { bytes, weight: None })
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Vec<u8>,
    ) -> io::Result<()> {
        frames::write_bytes(io, &request).await.map_err(io::Error::other)
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Weighed,
    ) -> io::Result<()> {
        within(WRITE_TIMEOUT, async {
            frames::write_bytes(io, &response.bytes).await.map_err(io::Error::other)
        })
        .await
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(time, work).await {
        Ok(outcome) => outcome,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn io_error(error: frames::FrameError) -> io::Error {
    match error {
        frames::FrameError::Io(error) => error,
        frames::FrameError::Decode(error) => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}
