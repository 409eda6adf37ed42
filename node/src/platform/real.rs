//! The machine this process runs on.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport, dummy::DummyTransport},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    multiaddr::Protocol,
    noise, quic, relay, tcp, websocket, yamux,
};
use socket2::{Domain, Socket, Type};

use super::{
    Clock, Entropy, Network, NetworkLimits, Platform,
    disk::{Disk, RealDisk},
    quic_limits,
};

/// TCP, WebSocket and QUIC sockets, the system's clock, entropy and files.
#[derive(Debug, Default, Clone)]
pub struct RealPlatform;

impl Platform for RealPlatform {
    fn network(&self, key: &Keypair, limits: &NetworkLimits) -> io::Result<Network> {
        let tcp_config = || tcp::Config::default().nodelay(true);
        let (relay_transport, relay_client) = relay::client::new(key.public().to_peer_id());
        let noise = noise::Config::new(key).map_err(io::Error::other)?;
        let mut muxer = yamux::Config::default();
        muxer.set_max_num_streams(limits.muxer_streams_max);

        let websocket = websocket::Config::new(tcp::tokio::Transport::new(tcp_config()));
        let streams = OrTransport::new(websocket, tcp::tokio::Transport::new(tcp_config()))
            .or_transport(relay_transport)
            .upgrade(Version::V1)
            .authenticate(noise)
            .multiplex(muxer)
            .timeout(limits.handshake_timeout)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let datagrams = quic::tokio::Transport::new(quic_config(key, limits))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
        let all = datagrams
            .or_transport(streams)
            .map(|either, _| either.into_inner())
            .boxed();
        Ok(Network {
            transport: with_dns(all),
            relay_client,
            local_discovery: true,
            process_is_shared: false,
        })
    }

    fn can_listen(&self, address: &Multiaddr) -> io::Result<()> {
        let mut parts = address.iter();
        let ip: IpAddr = match parts.next() {
            Some(Protocol::Ip4(ip)) => ip.into(),
            Some(Protocol::Ip6(ip)) => ip.into(),
            _ => return Ok(()),
        };
        let Some(Protocol::Tcp(port)) = parts.next() else {
            return Ok(());
        };
        if port == 0 {
            return Ok(());
        }
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A port in TIME_WAIT may be taken, one that is listened on may not.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SystemClock)
    }

    fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::new(SystemEntropy)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        RealDisk::shared()
    }
}

fn quic_config(key: &Keypair, limits: &NetworkLimits) -> quic::Config {
    let mut config = quic::Config::new(key);
    config.handshake_timeout = limits.handshake_timeout;
    config.max_idle_timeout = quic_limits::IDLE_TIMEOUT_MS;
    config.keep_alive_interval = quic_limits::KEEP_ALIVE;
    config.max_concurrent_stream_limit = quic_limits::STREAMS_MAX;
    config.max_stream_data = quic_limits::STREAM_WINDOW_BYTES;
    config.max_connection_data = quic_limits::CONNECTION_WINDOW_BYTES;
    config
}

/// DNS names in addresses, by the system's resolver or, where it has none, a public one.
fn with_dns(inner: Boxed<(PeerId, StreamMuxerBox)>) -> Boxed<(PeerId, StreamMuxerBox)> {
    // Asked with a transport that does nothing, because a failure would take the real one with it.
    let unread = dns::tokio::Transport::system(DummyTransport::<(PeerId, StreamMuxerBox)>::new()).err();
    match unread {
        None => match dns::tokio::Transport::system(inner) {
            Ok(transport) => transport.boxed(),
            Err(error) => unreachable!("the resolver's configuration could be read a moment ago: {error}"),
        },
        Some(error) => {
            tracing::warn!(%error, "the system's resolver cannot be read: names in addresses will not resolve");
            inner
        }
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now_unix_ms(&self) -> u64 {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        use rand::TryRng as _;
        rand::rngs::SysRng
            .try_fill_bytes(buffer)
            .expect("the operating system has random bytes");
    }
}
