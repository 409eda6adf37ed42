//! Streams to peers, without loss.
//!
//! Promises: every `Behaviour::open` is answered, with a stream or with the reason why not; every inbound stream that
//! finished its negotiation reaches `Event::Inbound` in the order in which it came. Nothing is dropped when the node is
//! slow: the connection's task waits, and with it, by the muxer's flow control, the remote. Bounds: [`OPEN_QUEUE_MAX`]
//! requests per peer, [`NEGOTIATING_MAX`] negotiations and [`OUTBOUND_MAX`] live outbound streams per connection; what
//! exceeds the first is refused with [`OpenError::Busy`], what exceeds the others waits its turn.
//!
//! Who reads hears of it when the connection is gone, whichever side closed it.
//!
//! Does not look at what flows on a stream; `mesh::inbound` is the door-keeper.
//!
//! Why not `libp2p-stream`: its accept queue has one slot and drops what does not fit, and dial requests in a burst may
//! never return.

mod handler;
mod link;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
pub(crate) use handler::Handler;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
    },
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use self::link::Link;

use crate::error::ErrorKind;

/// Open requests waiting for one peer: beyond it, `Busy`.
pub const OPEN_QUEUE_MAX: usize = 4096;
/// Outbound negotiations at once on a connection. Below the 128 inbound negotiations the remote's swarm works on and far
/// below the 256 streams its muxer buffers before it drops one.
pub const NEGOTIATING_MAX: usize = 64;
/// Live outbound streams on a connection; with the remote's own this stays below [`MUXER_STREAMS_MAX`], at which yamux
/// would end the connection.
pub const OUTBOUND_MAX: usize = 384;
/// Streams of one connection in both directions, our behaviours' included.
pub const MUXER_STREAMS_MAX: usize = 1024;

/// Why a stream could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No connection, and none could be made.
    #[error("peer {peer} cannot be reached: {reason}")]
    Unreachable {
        /// The peer asked for.
        peer: PeerId,
        /// What was tried and how it ended.
        reason: String,
    },
    /// The peer does not speak this protocol.
    #[error("peer {peer} does not speak {protocol}")]
    Unsupported {
        /// The peer asked for.
        peer: PeerId,
        /// The protocol's name.
        protocol: String,
    },
    /// Too many requests wait for this peer already.
    #[error("too many streams wait for peer {peer}; try again later")]
    Busy {
        /// The peer asked for.
        peer: PeerId,
    },
    /// The negotiation or the dial took too long.
    #[error("peer {peer} did not answer in time")]
    Timeout {
        /// The peer asked for.
        peer: PeerId,
    },
    /// The peer, or we, refused membership.
    #[error("peer {peer} is not admitted: {reason}")]
    Denied {
        /// The peer asked for.
        peer: PeerId,
        /// The refusal.
        reason: String,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Closed,
}

impl OpenError {
    /// The shared kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            OpenError::Unreachable { .. } => ErrorKind::Unreachable,
            OpenError::Unsupported { .. } => ErrorKind::NotFound,
            OpenError::Busy { .. } => ErrorKind::Busy,
            OpenError::Timeout { .. } => ErrorKind::Timeout,
            OpenError::Denied { .. } => ErrorKind::Denied,
            OpenError::Closed => ErrorKind::Closed,
        }
    }
}

/// A stream to a peer. Dropping it frees its place among the connection's [`OUTBOUND_MAX`].
pub struct MeshStream {
    stream: libp2p::Stream,
    link: Arc<Link>,
    reader: Arc<AtomicWaker>,
    /// Held for its drop.
    _permit: Option<OwnedSemaphorePermit>,
}

impl MeshStream {
    fn new(stream: libp2p::Stream, link: Arc<Link>, permit: Option<OwnedSemaphorePermit>) -> Self {
        MeshStream {
            stream,
            reader: link.reader(),
            link,
            _permit: permit,
        }
    }

    fn count(&self, moved: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = moved {
            self.link.count(bytes);
        }
        moved
    }
}

impl Drop for MeshStream {
    fn drop(&mut self) {
        self.link.forget(&self.reader);
    }
}

impl fmt::Debug for MeshStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshStream")
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buf);
        if moved.is_pending() {
            self.reader.register(cx.waker());
            if self.link.is_gone() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        self.count(moved)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count(moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// A wish for a stream, and where the answer goes.
pub(crate) struct OpenRequest {
    pub(crate) protocol: StreamProtocol,
    pub(crate) reply: oneshot::Sender<Result<MeshStream, OpenError>>,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenRequest({})", self.protocol)
    }
}

/// What the behaviour reports.
#[derive(Debug)]
pub(crate) enum Event {
    /// A peer opened a stream.
    Inbound {
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
        stream: MeshStream,
    },
}

/// See the module.
pub(crate) struct Behaviour {
    protocols: Vec<StreamProtocol>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    links: HashMap<ConnectionId, Arc<Link>>,
    /// The connection to use for a peer with several: the one that measured best.
    preferred: HashMap<PeerId, ConnectionId>,
    waiting: HashMap<PeerId, VecDeque<OpenRequest>>,
    /// Bounded by the requests, which are bounded per peer.
    events: VecDeque<ToSwarm<Event, OpenRequest>>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Accepts streams of `protocols`, opens any.
    pub(crate) fn new(protocols: Vec<StreamProtocol>) -> Self {
        Behaviour {
            protocols,
            connections: HashMap::new(),
            links: HashMap::new(),
            preferred: HashMap::new(),
            waiting: HashMap::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream on the best connection to `peer`, or waits for one.
    ///
    /// Returns `false` when there is no connection: the caller then dials, and says [`Behaviour::fail`] if that fails.
    pub(crate) fn open(&mut self, peer: PeerId, request: OpenRequest) -> bool {
        let Some(connection) = self.choose(&peer) else {
            let waiting = self.waiting.entry(peer).or_default();
            waiting.retain(|r| !r.reply.is_closed());
            if waiting.len() >= OPEN_QUEUE_MAX {
                let _ = request.reply.send(Err(OpenError::Busy { peer }));
            } else {
                waiting.push_back(request);
            }
            return false;
        };
        self.open_on(peer, connection, request);
        true
    }

    /// Opens a stream on one connection. A connection that is gone drops the request, which its asker sees.
    pub(crate) fn open_on(&mut self, peer: PeerId, connection: ConnectionId, request: OpenRequest) {
        self.events.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(connection),
            event: request,
        });
        self.wake();
    }

    /// Answers everything that waits for a connection to `peer`.
    pub(crate) fn fail(&mut self, peer: &PeerId, error: &OpenError) {
        for request in self.waiting.remove(peer).into_iter().flatten() {
            let _ = request.reply.send(Err(error.clone()));
        }
    }

    /// Whether somebody waits for a connection to `peer`.
    pub(crate) fn is_waiting(&self, peer: &PeerId) -> bool {
        self.waiting.get(peer).is_some_and(|w| !w.is_empty())
    }

    /// Makes `connection` the one to use for `peer`.
    pub(crate) fn prefer(&mut self, peer: PeerId, connection: ConnectionId) {
        if self.connections.get(&peer).is_some_and(|c| c.contains(&connection)) {
            self.preferred.insert(peer, connection);
        }
    }

    fn choose(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.preferred
            .get(peer)
            .copied()
            .or_else(|| self.connections.get(peer)?.first().copied())
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Bytes that streams of the standing connections have carried, by peer.
    pub(crate) fn exchanged(&self) -> BTreeMap<PeerId, u64> {
        let of = |id: &ConnectionId| self.links.get(id).map_or(0, |link| link.exchanged());
        self.connections
            .iter()
            .map(|(peer, ids)| (*peer, ids.iter().map(of).sum()))
            .collect()
    }

    fn handler(&mut self, peer: PeerId, id: ConnectionId) -> Handler {
        let link = Arc::clone(self.links.entry(id).or_default());
        Handler::new(peer, self.protocols.clone(), link)
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, id))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, id))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                self.connections.entry(e.peer_id).or_default().push(e.connection_id);
                for request in self.waiting.remove(&e.peer_id).into_iter().flatten() {
                    self.open_on(e.peer_id, e.connection_id, request);
                }
            }
            // Another behaviour may have refused a connection that this one had a handler for.
            FromSwarm::DialFailure(e) => {
                self.links.remove(&e.connection_id);
            }
            FromSwarm::ListenFailure(e) => {
                self.links.remove(&e.connection_id);
            }
            FromSwarm::ConnectionClosed(e) => {
                self.links.remove(&e.connection_id);
                if let Some(connections) = self.connections.get_mut(&e.peer_id) {
                    connections.retain(|c| *c != e.connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&e.peer_id);
                    }
                }
                if self.preferred.get(&e.peer_id) == Some(&e.connection_id) {
                    self.preferred.remove(&e.peer_id);
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let (protocol, stream) = event;
        self.events.push_back(ToSwarm::GenerateEvent(Event::Inbound {
            peer,
            connection,
            protocol,
            stream: MeshStream::new(stream.0, self.links.get(&connection).cloned().unwrap_or_default(), None),
        }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
