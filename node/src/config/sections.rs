//! The sections of the configuration, one struct per module of the node.
//!
//! `Live` keys take effect on reload, `Restart` keys at the next start. Ranges are checked in `check.rs`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use weft_protocol::Multiaddr;

use super::{
    section::section,
    value::{ByteSize, LogFormat, Toggle},
};

const DAY: u64 = 24 * 3600;

/// The addresses a node listens on when none are configured: QUIC, TCP and WebSocket, IPv4 and IPv6.
const LISTEN_DEFAULT: [&str; 6] = [
    "/ip4/0.0.0.0/udp/7400/quic-v1",
    "/ip4/0.0.0.0/tcp/7400",
    "/ip4/0.0.0.0/tcp/7401/ws",
    "/ip6/::/udp/7400/quic-v1",
    "/ip6/::/tcp/7400",
    "/ip6/::/tcp/7401/ws",
];

fn listen_default() -> Vec<Multiaddr> {
    LISTEN_DEFAULT
        .iter()
        .map(|text| text.parse().expect("invariant: the default addresses are well formed"))
        .collect()
}

section! {
    /// The node itself.
    "node" NodeConfig {
        /// The name other nodes see; lower-case letters, digits, `-`, `_` and `.`, at most 64 bytes. Not set: `node-` and the end of its id.
        Restart name: Option<String> = None;
        /// Where this node is, such as a data centre or a region; the same letters as a name. Services in the same zone are preferred.
        Restart zone: Option<String> = None;
    }
}

section! {
    /// The mesh: where to listen, whom to join, how many connections to keep.
    "mesh" MeshConfig {
        /// Addresses to listen on. When these are not set and a default port is in use, a free port is taken instead.
        Restart listen: Vec<Multiaddr> = listen_default();
        /// Addresses of nodes to join, each ending in /p2p/ID; any one of them suffices. On reload new ones are tried at once;
        /// those taken out are forgotten at the next start.
        Live bootstrap: Vec<Multiaddr> = Vec::new();
        /// Addresses under which others can reach this node, besides those it finds out itself.
        Restart external: Vec<Multiaddr> = Vec::new();
        /// Accept bootstrap addresses without /p2p/ID, that is, join whoever answers there.
        Restart insecure_bootstrap: bool = false;
        /// Find nodes on the local network by multicast DNS.
        Restart mdns: bool = true;
        /// Ask the router for a port mapping (UPnP).
        Restart upnp: bool = true;
        /// Try to turn relayed connections into direct ones (hole punching).
        Restart hole_punching: bool = true;
        /// Reserve places at relays, to be reached through them; auto: when this node cannot be reached from outside.
        Restart relay_client: Toggle = Toggle::Auto;
        /// Relay for members that cannot be reached directly; auto: when others can reach this node.
        Restart relay_server: Toggle = Toggle::Auto;
        /// Bytes one relayed connection may carry before it is cut; 0: no limit.
        Restart relay_circuit_bytes_max: ByteSize = ByteSize::gib(16);
        /// How long one relayed connection may live.
        Restart relay_circuit_duration_max: Duration = Duration::from_secs(DAY);
        /// Relayed connections this node carries at once.
        Restart relay_circuits_max: u32 = 256;
        /// Relayed connections this node carries at once for one member.
        Restart relay_circuits_per_peer_max: u32 = 16;
        /// Members that may hold a reservation on this relay at once.
        Restart relay_reservations_max: u32 = 256;
        /// Relays on which this node keeps a reservation while it cannot be reached directly.
        Restart relay_reservations_target: u32 = 2;
        /// Score gossip neighbours by what they deliver, and leave those who do harm; auto: in a mesh that anyone may join.
        Restart peer_scoring: Toggle = Toggle::Auto;
        /// Connections at once, inbound and outbound together.
        Restart connections_max: u32 = 1024;
        /// Inbound connections at once from one IP address.
        Restart connections_per_ip_max: u32 = 256;
        /// Inbound connections at once from one subnet (/24 in IPv4, /64 in IPv6).
        Restart connections_per_subnet_max: u32 = 512;
        /// Members the node tries to stay connected with; in a smaller mesh, with all.
        Restart connection_target: u32 = 64;
    }
}

section! {
    /// Membership: what this node grants to those it admits.
    "trust" TrustConfig {
        /// How long a certificate issued here is valid; members renew theirs after two thirds of it.
        Restart certificate_ttl: Duration = Duration::from_secs(90 * DAY);
        /// Members whose records are kept. In a private mesh a message of a member beyond them is not accepted.
        Restart directory_max: u32 = 10_000;
    }
}

section! {
    /// The embedded store.
    "store" StoreConfig {
        /// Memory the state database may use to cache pages.
        Restart cache_bytes: ByteSize = ByteSize::mib(8);
        /// Size at which a segment of a log is closed and the next one begun.
        Restart segment_bytes: ByteSize = ByteSize::mib(64);
    }
}

section! {
    /// Payloads too large for a message, which members fetch from each other.
    "blobs" BlobsConfig {
        /// Bytes of all of them on this node's disk; those not used for the longest time make room for new ones.
        Restart bytes_max: ByteSize = ByteSize::gib(8);
        /// How long one is kept after it was published, fetched or read.
        Restart keep: Duration = Duration::from_secs(DAY);
    }
}

section! {
    /// The local API for applications on this machine.
    "api" ApiConfig {
        /// Address of the HTTP API. When it is not set and the port is in use, a free port is taken instead.
        Restart listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7480));
        /// Allow `listen` to be an address that other machines can reach: the token then crosses the network unencrypted.
        Restart remote: bool = false;
        /// Path of the Unix socket. Not set: api.sock in the data directory.
        Restart socket: Option<PathBuf> = None;
        /// Host names, besides localhost and the loopback addresses, that a request may be addressed to.
        Live hosts: Vec<String> = Vec::new();
        /// Web origins, such as `https://panel.example`, whose pages may use the API; others are refused.
        Live origins: Vec<String> = Vec::new();
        /// Make a new token at every start instead of keeping the one in api.token.
        Restart token_rotate: bool = false;
        /// Connections at once, per listener; then the one that has been idle longest makes room, or the new one is refused.
        Restart connections_max: u32 = 256;
        /// Bytes of a request's headers; at least 8KiB.
        Restart header_bytes_max: ByteSize = ByteSize::kib(32);
        /// How long a client may take to send a request's headers.
        Restart header_timeout: Duration = Duration::from_secs(5);
        /// Bytes of a request's body.
        Live body_bytes_max: ByteSize = ByteSize::mib(2);
        /// How long a client may take to send a request's body.
        Live body_timeout: Duration = Duration::from_secs(30);
        /// How long a client may leave an answer unread before the connection is cut.
        Restart write_timeout: Duration = Duration::from_secs(30);
        /// How long an idle connection is kept between two requests.
        Restart idle_timeout: Duration = Duration::from_secs(60);
    }
}

section! {
    /// The door for NATS clients on this machine, or with credentials on others.
    "nats" NatsConfig {
        /// Address on which NATS clients are served, such as 127.0.0.1:4222. Not set: they are not.
        Restart listen: Option<SocketAddr> = None;
        /// File with the credentials clients need, lines of `token SECRET`, `user NAME PASSWORD` or `nkey PUBLIC_KEY`. Not set: on a
        /// loopback address every program of this machine may come in; on another the node does not start.
        Restart credentials: Option<PathBuf> = None;
        /// Where clients of other doors may come when theirs goes, HOST:PORT. Set on several nodes, their clients hear of all
        /// these addresses and change by themselves; with the credentials they have, so each must be as trusted as the first. Not set: the
        /// door is nobody's second choice, and its clients hear of no other.
        Restart advertise: Option<String> = None;
        /// Certificate chain for TLS, a PEM file; together with tls_key.
        Restart tls_certificate: Option<PathBuf> = None;
        /// Private key for TLS, a PEM file.
        Restart tls_key: Option<PathBuf> = None;
        /// Authorities whose certificates clients must show, a PEM file. Not set: a client needs no certificate.
        Restart tls_client_authorities: Option<PathBuf> = None;
        /// Whether TLS begins before the door says a word ("on"), after its INFO as NATS clients expect ("off"), or as the client
        /// does, which costs those that wait 50 ms ("auto").
        Restart tls_first: Toggle = Toggle::Off;
        /// Clients at once; another one is refused.
        Restart connections_max: u32 = 1024;
        /// Subscriptions of all clients together.
        Restart subscriptions_max: u32 = 262_144;
        /// Bytes of a message, headers included.
        Restart payload_bytes_max: ByteSize = ByteSize::kib(1008);
        /// Bytes that one client may leave unread; then it is cut off as a slow consumer.
        Restart pending_bytes_max: ByteSize = ByteSize::mib(16);
        /// Bytes that all clients together may leave unread; then those with much are cut off.
        Restart pending_bytes_total_max: ByteSize = ByteSize::mib(64);
        /// How long a client may take to show its credentials.
        Restart auth_timeout: Duration = Duration::from_secs(2);
        /// How long a client may leave what is written to it unread before it is cut off.
        Restart write_timeout: Duration = Duration::from_secs(10);
        /// How often a client is asked whether it is still there; one that does not answer twice is cut off.
        Restart ping_interval: Duration = Duration::from_secs(120);
        /// How long clients have to go elsewhere when the node stops.
        Restart lame_duck: Duration = Duration::from_secs(2);
    }
}

section! {
    /// Bounds that hold for the node as a whole.
    "limits" LimitsConfig {
        /// Memory that connections, queues and caches may use together; new work is refused beyond it.
        Restart memory_budget_bytes: ByteSize = ByteSize::mib(256);
    }
}

section! {
    /// Logs and traces. Traces are exported as the OTEL_* environment variables say.
    "telemetry" TelemetryConfig {
        /// What is logged, such as "info" or "info,weft_node::mesh=debug". With "info", libraries tell only of trouble.
        Live log: String = "info".into();
        /// How log lines look: "text" or "json".
        Restart log_format: LogFormat = LogFormat::Text;
    }
}
