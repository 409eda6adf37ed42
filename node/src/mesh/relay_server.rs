//! libp2p's relay server, contained.
//!
//! A connection that came through a relay gets no relay's handler of its own, but the server counts it among those it tells when
//! it becomes a relay or ceases to be one; the handler takes that for impossible and panics, and the connection is lost
//! (libp2p-relay 0.22, `behaviour.rs`, `reconfigure_relay_status`). So the server does not hear of such connections here.

use std::task::{Context, Poll};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    relay::Behaviour,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};

/// See the module.
pub(crate) struct RelayServer(pub(crate) Behaviour);

impl NetworkBehaviour for RelayServer {
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
        let is_relayed = match &event {
            FromSwarm::ConnectionEstablished(established) => established.endpoint.is_relayed(),
            FromSwarm::ConnectionClosed(closed) => closed.endpoint.is_relayed(),
            _ => false,
        };
        if !is_relayed {
            self.0.on_swarm_event(event);
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.0.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.0.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::{core::ConnectedPoint, relay, swarm::behaviour::ConnectionEstablished};

    use super::*;

    /// Connections that are told that the node has become a relay, when there is one whose own address is `local`.
    fn told(local: &str) -> usize {
        let (own, peer) = (PeerId::random(), PeerId::random());
        let mut server = RelayServer(Behaviour::new(own, relay::Config::default()));
        let endpoint = ConnectedPoint::Listener {
            local_addr: local.parse().unwrap(),
            send_back_addr: "/ip4/5.0.0.9/tcp/9".parse().unwrap(),
        };
        server.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: ConnectionId::new_unchecked(1),
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
        server.0.set_status(Some(relay::Status::Enable));
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        let mut count = 0;
        while let Poll::Ready(event) = server.poll(&mut cx) {
            count += usize::from(matches!(event, ToSwarm::NotifyHandler { .. }));
        }
        count
    }

    #[test]
    fn a_relayed_connection_is_not_told_of_what_its_handler_does_not_know() {
        assert_eq!(told("/ip4/5.0.0.1/tcp/7400"), 1);
        let relay = PeerId::random();
        assert_eq!(told(&format!("/ip4/5.0.0.1/tcp/7400/p2p/{relay}/p2p-circuit")), 0);
    }
}
