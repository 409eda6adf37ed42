//! The per-connection half of the gate.

use std::{
    collections::{HashSet, VecDeque},
    task::{Context, Poll},
};

use either::Either;
use futures::future;
use libp2p::{
    StreamProtocol,
    core::upgrade::DeniedUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
            ProtocolSupport, ProtocolsChange, SendWrapper,
        },
    },
};

use super::GateCommand;

/// Streams the inner handler may ask for before the remote has opened its gate; more would mean a handler that does not
/// wait for its first stream, and none of ours does.
const HELD_STREAMS_MAX: usize = 1024;

/// A connection handler that denies every protocol until it is opened.
pub(crate) struct GateHandler<H: ConnectionHandler> {
    /// Boxed: the task of each connection holds the handler several times over while it begins.
    inner: Option<Box<H>>,
    remote_ready: bool,
    /// Outbound streams the inner handler asked for before the remote was ready.
    held: VecDeque<SubstreamProtocol<H::OutboundProtocol, H::OutboundOpenInfo>>,
    /// What the remote has said it supports, kept while closed.
    remote_protocols: HashSet<StreamProtocol>,
    /// Makes the connection tell the inner handler what it has missed: removed, then added again.
    replay: VecDeque<ProtocolSupport>,
}

impl<H: ConnectionHandler> GateHandler<H> {
    pub(super) fn closed() -> Self {
        GateHandler {
            inner: None,
            remote_ready: false,
            held: VecDeque::new(),
            remote_protocols: HashSet::new(),
            replay: VecDeque::new(),
        }
    }

    fn on_inbound(
        &mut self,
        event: FullyNegotiatedInbound<<Self as ConnectionHandler>::InboundProtocol, Either<H::InboundOpenInfo, ()>>,
    ) {
        let FullyNegotiatedInbound { protocol, info } = event;
        let protocol = match protocol {
            future::Either::Left(protocol) => protocol,
            future::Either::Right(never) => match never {},
        };
        if let (Some(inner), Either::Left(info)) = (self.inner.as_mut(), info) {
            inner.on_connection_event(ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol,
                info,
            }));
        }
    }

    fn on_inbound_error(
        &mut self,
        event: ListenUpgradeError<Either<H::InboundOpenInfo, ()>, <Self as ConnectionHandler>::InboundProtocol>,
    ) {
        // A negotiation that began while closed may end after the opening; there is nobody to tell.
        let (Some(inner), Either::Left(info)) = (self.inner.as_mut(), event.info) else {
            return;
        };
        let error = match event.error {
            Either::Left(error) => error,
            Either::Right(never) => match never {},
        };
        inner.on_connection_event(ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }));
    }

    fn on_remote_protocols(&mut self, change: ProtocolsChange<'_>) {
        match change {
            ProtocolsChange::Added(added) => self.remote_protocols.extend(added.cloned()),
            ProtocolsChange::Removed(removed) => {
                for protocol in removed {
                    self.remote_protocols.remove(protocol);
                }
            }
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for GateHandler<H> {
    type FromBehaviour = GateCommand<H>;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Either<SendWrapper<H::InboundProtocol>, SendWrapper<DeniedUpgrade>>;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = Either<H::InboundOpenInfo, ()>;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        match &self.inner {
            Some(inner) => inner
                .listen_protocol()
                .map_upgrade(|u| Either::Left(SendWrapper(u)))
                .map_info(Either::Left),
            None => SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(())),
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {
            GateCommand::Open(handler, done) => {
                self.inner = Some(handler);
                if !self.remote_protocols.is_empty() {
                    let protocols = std::mem::take(&mut self.remote_protocols);
                    self.replay.push_back(ProtocolSupport::Removed(protocols.clone()));
                    self.replay.push_back(ProtocolSupport::Added(protocols));
                }
                // From here on `listen_protocol` offers the inner protocols.
                let _ = done.send(());
            }
            GateCommand::RemoteReady => self.remote_ready = true,
            GateCommand::Inner(event) => {
                if let Some(inner) = self.inner.as_mut() {
                    inner.on_behaviour_event(event);
                }
            }
        }
    }

    fn connection_keep_alive(&self) -> bool {
        // Members stay connected; a stranger's idle connection is left to time out.
        self.inner.is_some()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(change) = self.replay.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::ReportRemoteProtocols(change));
        }
        if self.remote_ready
            && let Some(protocol) = self.held.pop_front()
        {
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Pending;
        };
        loop {
            match inner.poll(cx) {
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }) if !self.remote_ready => {
                    if self.held.len() < HELD_STREAMS_MAX {
                        self.held.push_back(protocol);
                    }
                }
                other => return other,
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(event) => return self.on_inbound(event),
            ConnectionEvent::ListenUpgradeError(event) => return self.on_inbound_error(event),
            _ => {}
        }
        let Some(inner) = self.inner.as_mut() else {
            if let ConnectionEvent::RemoteProtocolsChange(change) = event {
                self.on_remote_protocols(change);
            }
            return;
        };
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => inner
                .on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                    protocol,
                    info,
                })),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                inner.on_connection_event(ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }));
            }
            ConnectionEvent::AddressChange(change) => {
                inner.on_connection_event(ConnectionEvent::AddressChange(change));
            }
            ConnectionEvent::LocalProtocolsChange(change) => {
                inner.on_connection_event(ConnectionEvent::LocalProtocolsChange(change));
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                inner.on_connection_event(ConnectionEvent::RemoteProtocolsChange(change));
            }
            _ => {}
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner
            .as_mut()
            .map_or(Poll::Ready(None), |inner| inner.poll_close(cx))
    }
}
