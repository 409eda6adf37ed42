//! libp2p's relay client, contained.
//!
//! A place at a relay may be granted at the moment its listener is closed here: because the node has found out that it needs none,
//! or when a renewal is under way. The client has forgotten the place by then, takes the answer for impossible and panics, which
//! would end the task of the whole mesh (libp2p-relay 0.22, `priv_client.rs`, "Relay connection exist"). Nothing is changed before
//! that panic, and nothing needs to be done about such an answer, so that it is dropped here.

#[cfg(test)]
mod tests;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay::client::Behaviour,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

/// See the module.
pub(crate) struct RelayClient(pub(crate) Behaviour);

impl NetworkBehaviour for RelayClient {
    type ConnectionHandler = THandler<Behaviour>;
    type ToSwarm = <Behaviour as NetworkBehaviour>::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.0
            .handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.0.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let take = AssertUnwindSafe(|| self.0.on_connection_handler_event(peer, id, event));
        if catch_unwind(take).is_err() {
            tracing::info!(relay = %peer, "a place at a relay came after it had been given up; the panic above is harmless");
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}
