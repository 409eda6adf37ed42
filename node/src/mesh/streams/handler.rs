//! One connection's share of the streams.

use std::{
    collections::VecDeque,
    fmt,
    future::Ready,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use libp2p::{
    InboundUpgrade, OutboundUpgrade, PeerId, StreamProtocol,
    core::UpgradeInfo,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

use super::{MeshStream, NEGOTIATING_MAX, OPEN_QUEUE_MAX, OUTBOUND_MAX, OpenError, OpenRequest, link::Link};

/// A negotiated inbound stream on its way to the behaviour.
pub(crate) struct Inbound(pub(super) libp2p::Stream);

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbound")
    }
}

/// Negotiates one of `protocols` and gives the raw stream.
pub(crate) struct Negotiate {
    protocols: Vec<StreamProtocol>,
}

impl UpgradeInfo for Negotiate {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.protocols.clone().into_iter()
    }
}

impl InboundUpgrade<libp2p::Stream> for Negotiate {
    type Output = (StreamProtocol, Inbound);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((protocol, Inbound(stream))))
    }
}

impl OutboundUpgrade<libp2p::Stream> for Negotiate {
    type Output = (StreamProtocol, Inbound);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        std::future::ready(Ok((protocol, Inbound(stream))))
    }
}

/// See the module.
pub(crate) struct Handler {
    peer: PeerId,
    link: Arc<Link>,
    protocols: Vec<StreamProtocol>,
    queue: VecDeque<OpenRequest>,
    negotiating: usize,
    permits: PollSemaphore,
    /// Bounded by the swarm's limit of negotiating inbound streams: it takes no new one while `poll` returns events.
    inbound: VecDeque<(StreamProtocol, Inbound)>,
    waker: Option<Waker>,
}

impl Handler {
    pub(super) fn new(peer: PeerId, protocols: Vec<StreamProtocol>, link: Arc<Link>) -> Self {
        Handler {
            peer,
            link,
            protocols,
            queue: VecDeque::new(),
            negotiating: 0,
            permits: PollSemaphore::new(Arc::new(Semaphore::new(OUTBOUND_MAX))),
            inbound: VecDeque::new(),
            waker: None,
        }
    }

    fn on_dial_error(&mut self, request: OpenRequest, error: StreamUpgradeError<std::convert::Infallible>) {
        let peer = self.peer;
        let error = match error {
            StreamUpgradeError::Timeout => OpenError::Timeout { peer },
            StreamUpgradeError::NegotiationFailed => OpenError::Unsupported {
                peer,
                protocol: request.protocol.to_string(),
            },
            StreamUpgradeError::Io(error) => OpenError::Unreachable {
                peer,
                reason: error.to_string(),
            },
            StreamUpgradeError::Apply(never) => match never {},
        };
        let _ = request.reply.send(Err(error));
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// It goes when its connection begins to close.
impl Drop for Handler {
    fn drop(&mut self) {
        self.link.go();
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = (StreamProtocol, Inbound);
    type InboundProtocol = Negotiate;
    type OutboundProtocol = Negotiate;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (OpenRequest, OwnedSemaphorePermit);

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, ()> {
        SubstreamProtocol::new(
            Negotiate {
                protocols: self.protocols.clone(),
            },
            (),
        )
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        if self.queue.len() >= OPEN_QUEUE_MAX {
            let _ = request.reply.send(Err(OpenError::Busy { peer: self.peer }));
        } else {
            self.queue.push_back(request);
            self.wake();
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(inbound) = self.inbound.pop_front() {
            // Room for the next ones on each connection is more than most will ever need.
            if self.inbound.is_empty() {
                self.inbound = VecDeque::new();
            }
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(inbound));
        }
        while self.negotiating < NEGOTIATING_MAX {
            // An asker that has gone away needs no stream.
            while self.queue.front().is_some_and(|r| r.reply.is_closed()) {
                self.queue.pop_front();
            }
            if self.queue.is_empty() {
                self.queue = VecDeque::new();
                break;
            }
            let Poll::Ready(Some(permit)) = self.permits.poll_acquire(cx) else {
                break;
            };
            if let Some(request) = self.queue.pop_front() {
                self.negotiating += 1;
                let protocols = vec![request.protocol.clone()];
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(Negotiate { protocols }, (request, permit)),
                });
            }
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
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
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: () }) => {
                self.inbound.push_back(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.negotiating -= 1;
                let (request, permit) = info;
                let stream = MeshStream::new(protocol.1.0, Arc::clone(&self.link), Some(permit));
                let _ = request.reply.send(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError {
                info: (request, _permit),
                error,
            }) => {
                self.negotiating -= 1;
                self.on_dial_error(request, error);
            }
            _ => {}
        }
    }
}
