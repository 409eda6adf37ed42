//! The gate: behaviours behind it never learn of a peer whose membership is not proven.
//!
//! Promises: until [`Gate::open`] is called for a connection, none of the inner behaviour's protocols is offered on it
//! and the inner behaviour has not heard of it; this holds on every transport, because it is decided per connection and
//! not in a handshake. After `open` the inner protocols are accepted; [`Gate::remote_ready`] then lets the inner
//! behaviour open streams of its own. The two steps are apart because a stream opened before the *other* side has
//! opened its gate would be refused as "protocol not supported", which several libp2p behaviours remember for the whole
//! life of a connection.
//!
//! The inner behaviour may be installed late ([`Gate::install`]): a node that comes to a mesh it does not know yet has
//! no protocol names of that mesh to build it with.
//!
//! Does not decide *who* is admitted: see `mesh::admission` and `trust`.

mod handler;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    task::{Context, Poll, Waker},
};

pub(crate) use handler::GateHandler;
use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::ListenerId, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm,
        NetworkBehaviour, NewListenAddr, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionEstablished, ExternalAddrConfirmed, NewListener},
    },
};
use tokio::sync::oneshot;

/// What the gate tells the handler of one connection.
pub(crate) enum GateCommand<H: ConnectionHandler> {
    /// Membership is proven: accept the inner protocols, and say so.
    Open(Box<H>, oneshot::Sender<()>),
    /// The remote has opened its gate for us: the inner handler may open streams.
    RemoteReady,
    /// For the inner handler.
    Inner(H::FromBehaviour),
}

impl<H: ConnectionHandler> fmt::Debug for GateCommand<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GateCommand::Open(..) => f.write_str("Open"),
            GateCommand::RemoteReady => f.write_str("RemoteReady"),
            GateCommand::Inner(event) => event.fmt(f),
        }
    }
}

struct Connection {
    peer: PeerId,
    endpoint: Option<ConnectedPoint>,
    origin: Origin,
    opened: bool,
}

enum Origin {
    Inbound {
        local: Multiaddr,
        remote: Multiaddr,
    },
    Outbound {
        address: Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    },
}

/// See the module.
pub(crate) struct Gate<B: NetworkBehaviour> {
    inner: Option<B>,
    connections: HashMap<ConnectionId, Connection>,
    listeners: Vec<(ListenerId, Vec<Multiaddr>)>,
    external: Vec<Multiaddr>,
    /// At most two entries per connection and `open`; drained before the inner behaviour is polled.
    events: VecDeque<ToSwarm<B::ToSwarm, GateCommand<THandler<B>>>>,
    waker: Option<Waker>,
}

impl<B: NetworkBehaviour> Gate<B> {
    /// A gate with nothing behind it yet.
    pub(crate) fn empty() -> Self {
        Gate {
            inner: None,
            connections: HashMap::new(),
            listeners: Vec::new(),
            external: Vec::new(),
            events: VecDeque::new(),
            waker: None,
        }
    }

    /// The behaviours behind the gate, once installed.
    pub(crate) fn inner(&mut self) -> Option<&mut B> {
        self.inner.as_mut()
    }

    /// Puts `behaviour` behind the gate and tells it the listen and external addresses it has missed.
    pub(crate) fn install(&mut self, mut behaviour: B) {
        for (listener_id, addresses) in &self.listeners {
            behaviour.on_swarm_event(FromSwarm::NewListener(NewListener {
                listener_id: *listener_id,
            }));
            for addr in addresses {
                behaviour.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                    listener_id: *listener_id,
                    addr,
                }));
            }
        }
        for addr in &self.external {
            behaviour.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed { addr }));
        }
        self.inner = Some(behaviour);
        self.wake();
    }

    /// Opens the gate for one connection. Does nothing for a connection that is gone, already open, or before `install`.
    /// `done` hears of it once the connection accepts the inner protocols; if nothing is done, it is dropped.
    ///
    /// Returns whether this was the peer's first open connection.
    pub(crate) fn open(&mut self, id: ConnectionId, done: oneshot::Sender<()>) -> bool {
        let Some(inner) = self.inner.as_mut() else { return false };
        let Some(connection) = self.connections.get(&id).filter(|c| !c.opened) else {
            return false;
        };
        let Some(endpoint) = connection.endpoint.clone() else {
            return false;
        };
        let peer = connection.peer;
        let handler = match &connection.origin {
            Origin::Inbound { local, remote } => inner.handle_established_inbound_connection(id, peer, local, remote),
            Origin::Outbound {
                address,
                role_override,
                port_use,
            } => inner.handle_established_outbound_connection(id, peer, address, *role_override, *port_use),
        };
        match handler {
            Ok(handler) => {
                let other_established = self.connections.values().filter(|c| c.opened && c.peer == peer).count();
                inner.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    peer_id: peer,
                    connection_id: id,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established,
                }));
                self.events
                    .push_back(notify(peer, id, GateCommand::Open(Box::new(handler), done)));
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.opened = true;
                }
                self.wake();
                other_established == 0
            }
            Err(cause) => {
                tracing::debug!(%peer, connection = %id, %cause, "a behaviour behind the gate denied the connection");
                self.events.push_back(ToSwarm::CloseConnection {
                    peer_id: peer,
                    connection: CloseConnection::One(id),
                });
                self.wake();
                false
            }
        }
    }

    /// The remote has admitted us on this connection.
    pub(crate) fn remote_ready(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(&id) {
            self.events
                .push_back(notify(connection.peer, id, GateCommand::RemoteReady));
            self.wake();
        }
    }

    fn first_open(&self, peer: &PeerId) -> Option<ConnectionId> {
        // The lowest id, so that the choice does not depend on the order of a hash map.
        self.connections
            .iter()
            .filter(|(_, c)| c.opened && c.peer == *peer)
            .map(|(id, _)| *id)
            .min()
    }

    fn on_closed(&mut self, closed: ConnectionClosed<'_>) {
        let Some(connection) = self.connections.remove(&closed.connection_id) else {
            return;
        };
        if !connection.opened {
            return;
        }
        let remaining_established = self
            .connections
            .values()
            .filter(|c| c.opened && c.peer == connection.peer)
            .count();
        if let Some(inner) = self.inner.as_mut() {
            inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                remaining_established,
                ..closed
            }));
        }
    }

    fn remember(&mut self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::NewListener(e) => self.listeners.push((e.listener_id, Vec::new())),
            FromSwarm::NewListenAddr(e) => {
                if let Some((_, addresses)) = self.listeners.iter_mut().find(|(id, _)| *id == e.listener_id) {
                    addresses.push(e.addr.clone());
                }
            }
            FromSwarm::ExpiredListenAddr(e) => {
                if let Some((_, addresses)) = self.listeners.iter_mut().find(|(id, _)| *id == e.listener_id) {
                    addresses.retain(|a| a != e.addr);
                }
            }
            FromSwarm::ListenerClosed(e) => self.listeners.retain(|(id, _)| *id != e.listener_id),
            FromSwarm::ExternalAddrConfirmed(e) => self.external.push(e.addr.clone()),
            FromSwarm::ExternalAddrExpired(e) => self.external.retain(|a| a != e.addr),
            _ => {}
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

fn notify<B, H: ConnectionHandler>(
    peer: PeerId,
    id: ConnectionId,
    event: GateCommand<H>,
) -> ToSwarm<B, GateCommand<H>> {
    ToSwarm::NotifyHandler {
        peer_id: peer,
        handler: NotifyHandler::One(id),
        event,
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Gate<B> {
    type ConnectionHandler = GateHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .as_mut()
            .map_or(Ok(()), |b| b.handle_pending_inbound_connection(id, local, remote))
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let origin = Origin::Inbound {
            local: local.clone(),
            remote: remote.clone(),
        };
        self.connections.insert(
            id,
            Connection {
                peer,
                endpoint: None,
                origin,
                opened: false,
            },
        );
        Ok(GateHandler::closed())
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.as_mut().map_or(Ok(Vec::new()), |b| {
            b.handle_pending_outbound_connection(id, peer, addresses, role)
        })
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let origin = Origin::Outbound {
            address: address.clone(),
            role_override,
            port_use,
        };
        self.connections.insert(
            id,
            Connection {
                peer,
                endpoint: None,
                origin,
                opened: false,
            },
        );
        Ok(GateHandler::closed())
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.remember(&event);
        match event {
            FromSwarm::ConnectionEstablished(e) => {
                if let Some(connection) = self.connections.get_mut(&e.connection_id) {
                    connection.endpoint = Some(e.endpoint.clone());
                }
            }
            FromSwarm::ConnectionClosed(e) => self.on_closed(e),
            FromSwarm::AddressChange(e) => {
                let opened = self.connections.get_mut(&e.connection_id).is_some_and(|c| {
                    c.endpoint = Some(e.new.clone());
                    c.opened
                });
                if let Some(inner) = self.inner.as_mut().filter(|_| opened) {
                    inner.on_swarm_event(event);
                }
            }
            FromSwarm::DialFailure(e) => {
                self.connections.remove(&e.connection_id);
                if let Some(inner) = self.inner.as_mut() {
                    inner.on_swarm_event(event);
                }
            }
            FromSwarm::ListenFailure(e) => {
                self.connections.remove(&e.connection_id);
                if let Some(inner) = self.inner.as_mut() {
                    inner.on_swarm_event(event);
                }
            }
            _ => {
                if let Some(inner) = self.inner.as_mut() {
                    inner.on_swarm_event(event);
                }
            }
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        if let Some(inner) = self.inner.as_mut() {
            inner.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        while let Some(Poll::Ready(event)) = self.inner.as_mut().map(|b| b.poll(cx)) {
            let ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::Any,
                event,
            } = event
            else {
                return Poll::Ready(event.map_in(GateCommand::Inner));
            };
            // `Any` could choose a connection whose gate is still closed.
            if let Some(id) = self.first_open(&peer_id) {
                return Poll::Ready(notify(peer_id, id, GateCommand::Inner(event)));
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
