//! QUIC in virtual time: quinn, which the program has too, over the unreal network's datagrams.
//!
//! Promises: what libp2p's QUIC transport does with sockets, done with [`SimUdp`]: one endpoint that listens and dials from its
//! port, another for dials from a new port, hole punching by datagrams that open the NAT; windows, idle time and keep-alive
//! as the program sets them. Everything quinn draws or waits for follows from the seed and the virtual clock.
//!
//! Does not promise the program's TLS to the last byte: see [`tls`]. A host to which no way leads is unreachable at once, as if
//! a router had said so.

mod muxer;
mod runtime;
mod tls;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, channel::oneshot, future::BoxFuture, stream::BoxStream};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint, Transport,
        muxing::StreamMuxerBox,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    identity::Keypair,
};
use muxer::Muxer;
use quinn::rustls::pki_types::CertificateDer;
use rand::{Rng as _, RngExt as _};
use runtime::SimRuntime;
use weft_node::{
    platform::{Entropy, NetworkLimits, quic_limits, random},
    tasks::Tasks,
};

use super::{
    HostId, Network,
    address::{self, PORT, Place},
    datagram::SimUdp,
};

/// Names mean nothing here, but TLS wants one.
const NAME: &str = "l";
/// Bytes of a datagram that opens a NAT, and the pauses between two.
const PUNCH_BYTES: usize = 64;
const PUNCH_PAUSES_MS: std::ops::RangeInclusive<u64> = 10..=200;

type Output = (PeerId, StreamMuxerBox);
type Connecting = BoxFuture<'static, io::Result<Output>>;

struct Listener {
    id: ListenerId,
    address: Multiaddr,
    endpoint: quinn::Endpoint,
    socket: Arc<SimUdp>,
    incoming: BoxStream<'static, quinn::Incoming>,
}

/// The transport of one host.
pub struct QuicTransport {
    network: Arc<Network>,
    host: HostId,
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    endpoint: quinn::EndpointConfig,
    handshake_timeout: Duration,
    runtime: Arc<SimRuntime>,
    listener: Option<Listener>,
    dialer: Option<quinn::Endpoint>,
    /// Dials that wait for the other side to come through the hole.
    punching: BTreeMap<SocketAddr, oneshot::Sender<Connecting>>,
    events: VecDeque<TransportEvent<Connecting, io::Error>>,
}

impl QuicTransport {
    /// The transport of `host`; what it spawns is among `tasks`.
    ///
    /// # Errors
    /// When no certificate can be made of `key`.
    pub fn new(
        network: Arc<Network>,
        host: HostId,
        key: &Keypair,
        limits: &NetworkLimits,
        entropy: &dyn Entropy,
        tasks: Tasks,
    ) -> io::Result<Self> {
        let tls = tls::configure(key, &random(entropy))?;
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_concurrent_uni_streams(0_u32.into())
            .max_concurrent_bidi_streams(quic_limits::STREAMS_MAX.into())
            .datagram_receive_buffer_size(None)
            .keep_alive_interval(Some(quic_limits::KEEP_ALIVE))
            .max_idle_timeout(Some(quinn::VarInt::from_u32(quic_limits::IDLE_TIMEOUT_MS).into()))
            .allow_spin(false)
            .stream_receive_window(quic_limits::STREAM_WINDOW_BYTES.into())
            .receive_window(quic_limits::CONNECTION_WINDOW_BYTES.into());
        let transport = Arc::new(transport);
        let mut server = quinn::ServerConfig::with_crypto(tls.server);
        server.transport_config(Arc::clone(&transport)).migration(false);
        let mut client = quinn::ClientConfig::new(tls.client);
        client.transport_config(transport);
        let mut endpoint = quinn::EndpointConfig::default();
        endpoint.supported_versions(vec![1]).rng_seed(Some(random(entropy)));
        Ok(QuicTransport {
            network,
            host,
            client,
            server,
            endpoint,
            handshake_timeout: limits.handshake_timeout,
            runtime: Arc::new(SimRuntime(tasks)),
            listener: None,
            dialer: None,
            punching: BTreeMap::new(),
            events: VecDeque::new(),
        })
    }

    fn open(
        &self,
        port: Option<u16>,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<(quinn::Endpoint, Arc<SimUdp>)> {
        let socket = SimUdp::bind(&self.network, self.host, port)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            self.endpoint.clone(),
            server,
            Arc::clone(&socket) as _,
            Arc::clone(&self.runtime) as _,
        )?;
        Ok((endpoint, socket))
    }

    /// From which endpoint a dial goes out.
    fn dialing_endpoint(&mut self, port_use: PortUse) -> io::Result<quinn::Endpoint> {
        match (&self.listener, port_use) {
            (Some(listener), PortUse::Reuse) => Ok(listener.endpoint.clone()),
            (None, PortUse::Reuse) => {
                if self.dialer.is_none() {
                    self.dialer = Some(self.open(None, None)?.0);
                }
                self.dialer.clone().ok_or_else(|| io::ErrorKind::NotConnected.into())
            }
            (_, PortUse::New) => Ok(self.open(None, None)?.0),
        }
    }

    /// Sends datagrams to where somebody is about to dial from, until he has come through.
    fn punch(&mut self, to: SocketAddr) -> io::Result<Connecting> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let socket = Arc::clone(&listener.socket);
        let (sender, receiver) = oneshot::channel();
        if self.punching.get(&to).is_some_and(|other| !other.is_canceled()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.punching.insert(to, sender);
        let knock = async move {
            loop {
                let mut bytes = [0; PUNCH_BYTES];
                rand::rng().fill_bytes(&mut bytes);
                socket.send(to, &bytes);
                let pause = rand::rng().random_range(PUNCH_PAUSES_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        };
        let timeout = self.handshake_timeout;
        let dial = async move {
            let through = tokio::time::timeout(timeout, async {
                tokio::select! {
                    biased;
                    connecting = receiver => connecting.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted)),
                    () = knock => unreachable!("it knocks for ever"),
                }
            });
            through
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
                .await
        };
        Ok(dial.boxed())
    }
}

/// Waits until a connection stands, and reads from its certificate whose it is.
async fn finish(connecting: quinn::Connecting, timeout: Duration) -> io::Result<Output> {
    let connection = tokio::time::timeout(timeout, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let no_certificate = || io::Error::new(io::ErrorKind::InvalidData, "the peer has shown no certificate");
    let identity = connection.peer_identity().ok_or_else(no_certificate)?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| no_certificate())?;
    let certificate = chain.first().ok_or_else(no_certificate)?;
    let peer = libp2p_tls::certificate::parse(certificate)
        .map_err(io::Error::other)?
        .peer_id();
    Ok((peer, StreamMuxerBox::new(Muxer::new(connection))))
}

impl Transport for QuicTransport {
    type Output = Output;
    type Error = io::Error;
    type ListenerUpgrade = Connecting;
    type Dial = Connecting;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        if address::parse_quic(&address).is_none() {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        if address != self.network.listen_address(self.host) {
            return Err(TransportError::Other(io::ErrorKind::AddrNotAvailable.into()));
        }
        let opened = self.open(Some(PORT), Some(self.server.clone()));
        let (endpoint, socket) = opened.map_err(TransportError::Other)?;
        let accepting = endpoint.clone();
        let incoming = futures::stream::unfold(accepting, |endpoint| async move {
            let incoming = endpoint.accept().await?;
            Some((incoming, endpoint))
        });
        self.listener = Some(Listener {
            id,
            address: address.clone(),
            endpoint,
            socket,
            incoming: incoming.boxed(),
        });
        // Dials come from the port that is listened on from now on.
        self.dialer = None;
        self.events.push_back(TransportEvent::NewAddress {
            listener_id: id,
            listen_addr: address,
        });
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        if self.listener.as_ref().is_none_or(|listener| listener.id != id) {
            return false;
        }
        self.listener = None;
        self.events.push_back(TransportEvent::ListenerClosed {
            listener_id: id,
            reason: Ok(()),
        });
        true
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Connecting, TransportError<io::Error>> {
        let Some((place, port)) = address::parse_quic(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let (Place::Host(to) | Place::Nat(to)) = place else {
            return Ok(futures::future::err(io::ErrorKind::HostUnreachable.into()).boxed());
        };
        if !self.network.leads(self.host, to) {
            return Ok(futures::future::err(io::ErrorKind::HostUnreachable.into()).boxed());
        }
        let target = address::seen_socket(to, matches!(place, Place::Nat(_)), port);
        if (options.role, options.port_use) == (Endpoint::Listener, PortUse::New) {
            return self.punch(target).map_err(TransportError::Other);
        }
        let endpoint = self.dialing_endpoint(options.port_use).map_err(TransportError::Other)?;
        let (config, timeout) = (self.client.clone(), self.handshake_timeout);
        Ok(async move {
            let connecting = endpoint.connect_with(config, target, NAME).map_err(io::Error::other)?;
            finish(connecting, timeout).await
        }
        .boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Connecting, io::Error>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let this = &mut *self;
            let timeout = this.handshake_timeout;
            let Some(listener) = &mut this.listener else {
                return Poll::Pending;
            };
            let Poll::Ready(Some(incoming)) = listener.incoming.poll_next_unpin(cx) else {
                return Poll::Pending;
            };
            let remote = incoming.remote_address();
            let Ok(connecting) = incoming.accept() else { continue };
            let mut upgrade = finish(connecting, timeout).boxed();
            if let Some(punching) = this.punching.remove(&remote) {
                match punching.send(upgrade) {
                    Ok(()) => continue,
                    Err(unwanted) => upgrade = unwanted,
                }
            }
            return Poll::Ready(TransportEvent::Incoming {
                listener_id: listener.id,
                upgrade,
                local_addr: listener.address.clone(),
                send_back_addr: address::quic(remote),
            });
        }
    }
}
