//! Behaviours whose connection handlers sleep while there is nothing for them.
//!
//! A connection polls all handlers each time it is woken, which with every message is several times, and asks each time
//! which protocols they speak. Nearly always it is gossip alone that has something to do. What stands behind
//! [`Doze::asleep`] is polled only after it was woken itself, was told something, or had something to say. What stands
//! behind either kind is asked for its protocols only then; [`Doze::awake`] does no more, and stands before all others, so
//! that they are one list.
//!
//! Promises: a handler that keeps to the contract of `poll` (who returns `Pending` has seen to it that it is woken) notices
//! no difference. Some in libp2p do not quite: they return `Pending` with work just begun, which the next poll for another's
//! sake takes up. Therefore a handler that was woken is polled until it says `Pending` twice, and besides is polled and
//! asked now and then without cause.

mod alarm;
mod handler;
#[cfg(test)]
mod tests;

use std::{
    ops::{Deref, DerefMut},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

pub(crate) use self::handler::DozeHandler;

/// See the module. The behaviour itself is had by dereferencing.
pub(crate) struct Doze<B> {
    inner: B,
    sleeps: bool,
}

impl<B> Doze<B> {
    /// One whose handlers sleep.
    pub(crate) fn asleep(inner: B) -> Self {
        Doze { inner, sleeps: true }
    }

    /// One whose handlers are polled always.
    pub(crate) fn awake(inner: B) -> Self {
        Doze { inner, sleeps: false }
    }
}

impl<B> Deref for Doze<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Doze<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Doze<B> {
    type ConnectionHandler = DozeHandler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
            .map(|handler| DozeHandler::new(handler, self.sleeps))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role_override, port_use)
            .map(|handler| DozeHandler::new(handler, self.sleeps))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, connection, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}
