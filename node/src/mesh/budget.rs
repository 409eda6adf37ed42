//! Nobody new is let in while the process takes more memory than its budget.
//!
//! What this node dials is left alone: dials are few and of its own choosing, and one that is over its budget has to find its mesh all
//! the same. It would never come back to it otherwise, since an allocator keeps what a process once had.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    memory_connection_limits,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
    },
};
use tokio::time::Instant;

/// Between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct MemoryBudget {
    inner: memory_connection_limits::Behaviour,
    bytes_max: usize,
    warned: Option<Instant>,
}

impl MemoryBudget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        MemoryBudget {
            inner: memory_connection_limits::Behaviour::with_max_bytes(bytes_max),
            bytes_max,
            warned: None,
        }
    }
}

impl NetworkBehaviour for MemoryBudget {
    type ConnectionHandler = THandler<memory_connection_limits::Behaviour>;
    type ToSwarm = <memory_connection_limits::Behaviour as NetworkBehaviour>::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let outcome = self.inner.handle_pending_inbound_connection(id, local, remote);
        if outcome.is_err() && self.warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(
                address = %remote,
                budget_bytes = self.bytes_max,
                "connections are refused: this process takes more memory than its budget (limits.memory_budget_bytes)"
            );
        }
        outcome
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role_override: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_outbound_connection(id, peer, address, role_override, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_let_in_over_the_budget_and_this_node_may_go_out() {
        let address: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let id = ConnectionId::new_unchecked(1);
        for (bytes_max, is_let_in) in [(1, false), (usize::MAX, true)] {
            let mut budget = MemoryBudget::new(bytes_max);
            let pending = budget.handle_pending_inbound_connection(id, &address, &address);
            assert_eq!(pending.is_ok(), is_let_in);
            assert_eq!(budget.warned.is_some(), !is_let_in);
            let addresses = std::slice::from_ref(&address);
            assert!(
                budget
                    .handle_pending_outbound_connection(id, Some(PeerId::random()), addresses, Endpoint::Dialer)
                    .is_ok()
            );
        }
    }
}
