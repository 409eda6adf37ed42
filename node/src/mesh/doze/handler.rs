//! One connection's share.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::{Ready, ready};
use libp2p::{
    InboundUpgrade, Stream, StreamProtocol,
    core::UpgradeInfo,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{
            ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, InboundUpgradeSend,
            ListenUpgradeError, UpgradeInfoSend as _,
        },
    },
};
use tokio::time::{Timeout, timeout};

use super::alarm::Alarm;

/// Every so many polls the inner handler is polled without cause, and asked what it speaks.
const ANYWAY: u8 = 32;
/// Streams that are negotiated and not yet taken over by the handler; more are closed.
const UPGRADING_MAX: usize = 128;

type Names = Arc<[StreamProtocol]>;
type Inbound<H> = <H as ConnectionHandler>::InboundProtocol;

/// The names of the protocols a handler speaks. What becomes of a stream the handler says when one is there.
pub(crate) struct Offer(Names);

/// Names, one after the other.
pub(crate) struct NamesIter {
    names: Names,
    next: usize,
}

impl Iterator for NamesIter {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let name = self.names.get(self.next)?;
        self.next += 1;
        Some(name.clone())
    }
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = NamesIter;

    fn protocol_info(&self) -> NamesIter {
        NamesIter {
            names: Arc::clone(&self.0),
            next: 0,
        }
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

/// A stream that the inner handler's protocol makes something of.
struct Upgrading<H: ConnectionHandler> {
    upgrade: Pin<Box<Timeout<<Inbound<H> as InboundUpgradeSend>::Future>>>,
    info: H::InboundOpenInfo,
}

/// What the inner handler spoke when it was last asked.
struct Spoken {
    names: Names,
    timeout: Duration,
    /// Whether it must be asked again.
    stale: bool,
}

impl Spoken {
    fn ask<H: ConnectionHandler>(&mut self, inner: &H) {
        let protocol = inner.listen_protocol();
        self.timeout = *protocol.timeout();
        let names = || protocol.upgrade().protocol_info();
        let mut old = self.names.iter();
        let same = names().all(|name| old.next().is_some_and(|old| old.as_ref() == name.as_ref()));
        if !same || old.next().is_some() {
            self.names = names()
                .filter_map(|name| StreamProtocol::try_from_owned(name.as_ref().to_owned()).ok())
                .collect();
        }
        self.stale = false;
    }
}

/// See the module above.
pub(crate) struct DozeHandler<H: ConnectionHandler> {
    inner: H,
    /// `None` for one that never sleeps.
    alarm: Option<Alarm>,
    polls: u8,
    spoken: RefCell<Spoken>,
    upgrading: Vec<Upgrading<H>>,
}

impl<H: ConnectionHandler> DozeHandler<H> {
    pub(super) fn new(inner: H, sleeps: bool) -> Self {
        DozeHandler {
            inner,
            alarm: sleeps.then(Alarm::rung),
            polls: 0,
            spoken: RefCell::new(Spoken {
                names: Arc::new([]),
                timeout: Duration::ZERO,
                stale: true,
            }),
            upgrading: Vec::new(),
        }
    }

    /// The inner handler is about to change, or may have.
    fn wake(&mut self) {
        if let Some(alarm) = &self.alarm {
            alarm.ring();
        }
        self.spoken.get_mut().stale = true;
    }

    fn on_stream(&mut self, stream: Stream, name: &StreamProtocol) {
        let protocol = self.inner.listen_protocol();
        let within = *protocol.timeout();
        let (upgrade, info) = protocol.into_upgrade();
        // What was offered may have been taken back meanwhile.
        let known = upgrade.protocol_info().find(|known| known.as_ref() == name.as_ref());
        if let Some(known) = known
            && self.upgrading.len() < UPGRADING_MAX
        {
            let upgrade = Box::pin(timeout(within, upgrade.upgrade_inbound(stream, known)));
            self.upgrading.push(Upgrading { upgrade, info });
        }
    }

    fn poll_upgrading(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while let Some(upgrading) = self.upgrading.get_mut(at) {
            let Poll::Ready(result) = upgrading.upgrade.as_mut().poll(cx) else {
                at += 1;
                continue;
            };
            let info = self.upgrading.remove(at).info;
            self.spoken.get_mut().stale = true;
            match result {
                Ok(Ok(protocol)) => {
                    self.inner
                        .on_connection_event(ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                            protocol,
                            info,
                        }))
                }
                Ok(Err(error)) => self
                    .inner
                    .on_connection_event(ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })),
                Err(_) => tracing::debug!("an inbound stream was not made ready in time"),
            }
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for DozeHandler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Offer;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        let mut spoken = self.spoken.borrow_mut();
        if spoken.stale {
            spoken.ask(&self.inner);
        }
        SubstreamProtocol::new(Offer(Arc::clone(&spoken.names)), ()).with_timeout(spoken.timeout)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.wake();
        self.inner.on_behaviour_event(event);
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.polls = (self.polls + 1) % ANYWAY;
        let anyway = self.polls == 0;
        self.spoken.get_mut().stale |= anyway;
        let Some(alarm) = &self.alarm else {
            self.poll_upgrading(cx);
            let event = self.inner.poll(cx);
            self.spoken.get_mut().stale |= event.is_ready();
            return event;
        };
        if !alarm.rang(cx) && !anyway {
            return Poll::Pending;
        }
        let waker = alarm.waker();
        let mut own = Context::from_waker(&waker);
        self.poll_upgrading(&mut own);
        // Twice: some handlers put something new in the place of what was ready, and do not look at it until they are polled again.
        for _ in 0..2 {
            if let Poll::Ready(event) = self.inner.poll(&mut own) {
                self.wake();
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Offer, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        self.wake();
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, name),
                ..
            }) => self.on_stream(stream, &name),
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { error: never, .. }) => match never {},
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => self
                .inner
                .on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                    protocol,
                    info,
                })),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => self
                .inner
                .on_connection_event(ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })),
            ConnectionEvent::AddressChange(change) => {
                self.inner.on_connection_event(ConnectionEvent::AddressChange(change));
            }
            ConnectionEvent::LocalProtocolsChange(change) => {
                self.inner
                    .on_connection_event(ConnectionEvent::LocalProtocolsChange(change));
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                self.inner
                    .on_connection_event(ConnectionEvent::RemoteProtocolsChange(change));
            }
            _ => {}
        }
    }
}
