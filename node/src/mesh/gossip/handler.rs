//! One connection's share: gossipsub's own handler, but for what comes in.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{AsyncWrite as _, FutureExt as _, StreamExt as _, io::Cursor};
use libp2p::{
    InboundUpgrade, Stream,
    core::UpgradeInfo,
    gossipsub::RawMessage,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol, THandler,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

use super::{
    FRAME_BYTES_MAX, Gossipsub, Known,
    frame::{self, Frame, Frames, Parts},
};

type Inner = THandler<Gossipsub>;
/// Gossipsub's codec, to be made for any stream.
type Codec = <Inner as ConnectionHandler>::OutboundProtocol;
/// A protocol's name as gossipsub has it.
type Name = <Codec as UpgradeInfo>::Info;
pub(super) type Event = <Inner as ConnectionHandler>::ToBehaviour;
type Output = Poll<ConnectionHandlerEvent<Codec, (), Event>>;

/// Inbound streams of one connection, as many as gossipsub itself takes before it thinks them a fault.
const INBOUND_STREAMS_MAX: usize = 5;

/// Frames of copies that are read in one go.
const FRAMES_AT_ONCE_MAX: usize = 64;

/// What a handler speaks: asked for with every poll, and seldom another.
struct Offer {
    codec: Codec,
    names: Vec<Name>,
}

impl Offer {
    /// `None` if it does not want to be spoken to.
    fn of(inner: &Inner) -> Option<Arc<Self>> {
        let codec = inner.listen_protocol().into_upgrade().0.left()?;
        let names = codec.protocol_info();
        Some(Arc::new(Offer { codec, names }))
    }
}

/// Negotiates as gossipsub does, and gives the raw stream.
pub(crate) struct Negotiate(Option<Arc<Offer>>);

/// Names, one after the other.
pub(crate) struct NamesIter {
    offer: Option<Arc<Offer>>,
    next: usize,
}

impl Iterator for NamesIter {
    type Item = Name;

    fn next(&mut self) -> Option<Name> {
        let name = self.offer.as_ref()?.names.get(self.next)?;
        self.next += 1;
        Some(name.clone())
    }
}

impl UpgradeInfo for Negotiate {
    type Info = Name;
    type InfoIter = NamesIter;

    fn protocol_info(&self) -> NamesIter {
        NamesIter {
            offer: self.0.clone(),
            next: 0,
        }
    }
}

impl InboundUpgrade<Stream> for Negotiate {
    /// Nothing where nothing was offered.
    type Output = Option<Inbound>;
    type Error = Infallible;
    type Future = Ready<Result<Option<Inbound>, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: Name) -> Self::Future {
        ready(Ok(self.0.map(|offer| Inbound {
            frames: Frames::new(stream, FRAME_BYTES_MAX),
            reader: Reader {
                codec: offer.codec.clone(),
                name,
            },
        })))
    }
}

/// A stream of the neighbour's.
pub(crate) struct Inbound {
    frames: Frames<Stream>,
    reader: Reader,
}

/// Makes of frames what gossipsub makes of them.
pub(super) struct Reader {
    pub(super) codec: Codec,
    pub(super) name: Name,
}

impl Reader {
    /// What gossipsub reads in a frame. It verifies the signature of every message in it.
    fn decode(&self, frame: Vec<u8>) -> io::Result<Event> {
        let upgrade = self
            .codec
            .clone()
            .upgrade_inbound(Cursor::new(frame), self.name.clone());
        let incomplete = || io::Error::from(io::ErrorKind::InvalidData);
        let (mut framed, _) = match upgrade.now_or_never() {
            Some(Ok(framed)) => framed,
            Some(Err(never)) => match never {},
            None => return Err(incomplete()),
        };
        match framed.next().now_or_never().flatten() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(io::Error::other(error)),
            None => Err(incomplete()),
        }
    }

    /// Of which kind gossipsub takes the neighbour to be.
    fn kind(&self) -> Option<Event> {
        let empty = Cursor::new(Vec::new());
        let upgrade = self.codec.clone().upgrade_inbound(empty, self.name.clone());
        match upgrade.now_or_never()? {
            Ok((_, kind)) => Some(Event::PeerKind(kind)),
            Err(never) => match never {},
        }
    }

    /// Reads a frame; `None` if there is nothing in it but copies of messages that were accepted before. Messages that all are
    /// copies of known ones are not verified again.
    pub(super) fn read(&self, frame: Frame, known: &Known) -> io::Result<Option<Event>> {
        let Some(copies) = copies(&frame, known) else {
            let event = self.decode(frame.into_bytes())?;
            if let Event::Message { rpc, .. } = &event {
                rpc.messages
                    .iter()
                    .filter_map(frame::digest)
                    .for_each(|digest| known.insert_signed(digest));
            }
            return Ok(Some(event));
        };
        if copies.is_empty() && !frame.has_more_than_messages() {
            return Ok(None);
        }
        let mut event = self.decode(frame.without_messages())?;
        if let Event::Message { rpc, .. } = &mut event {
            rpc.messages = copies;
        }
        Ok(Some(event))
    }
}

/// The messages of a frame, if all are copies of known ones, without those that were accepted. `None` if there are others, or
/// none at all.
fn copies(frame: &Frame, known: &Known) -> Option<Vec<RawMessage>> {
    let messages = frame.messages().filter(|messages| !messages.is_empty())?;
    if !messages.iter().all(|parts| known.is_signed(&parts.digest())) {
        return None;
    }
    let (accepted, others): (Vec<_>, Vec<_>) = messages.iter().partition(|parts| known.is_accepted(&parts.id()));
    let others = others.into_iter().map(Parts::to_message).collect::<Option<Vec<_>>>()?;
    known.dropped_copies.inc_by(accepted.len() as u64);
    Some(others)
}

enum Reading {
    No,
    Frames(Box<Inbound>),
    Closing(Box<Inbound>),
}

/// See the module.
pub(crate) struct Handler {
    inner: Inner,
    known: Arc<Known>,
    /// Nothing from when on the neighbour's streams are not wanted.
    offer: Option<Arc<Offer>>,
    reading: Reading,
    inbound_streams: usize,
    /// The neighbour's kind, until it is told, and whether that was done.
    kind: Option<Event>,
    kind_told: bool,
}

impl Handler {
    pub(super) fn new(inner: Inner, known: Arc<Known>) -> Self {
        Handler {
            offer: Offer::of(&inner),
            inner,
            known,
            reading: Reading::No,
            inbound_streams: 0,
            kind: None,
            kind_told: false,
        }
    }

    fn on_inbound(&mut self, inbound: Option<Inbound>) {
        self.inbound_streams += 1;
        if self.inbound_streams >= INBOUND_STREAMS_MAX {
            tracing::warn!("a neighbour opens one gossip stream after the other: no more are taken of this connection");
            self.offer = None;
        } else if let Some(inbound) = inbound {
            if self.kind.is_none() && !self.kind_told {
                self.kind = inbound.reader.kind();
            }
            self.reading = Reading::Frames(Box::new(inbound));
        }
    }

    /// Gossipsub's handler knows the neighbour's kind by its own stream only, and says it without knowing that we did.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Output {
        loop {
            match self.inner.poll(cx) {
                Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Event::PeerKind(kind))) => {
                    let told = mem::replace(&mut self.kind_told, true);
                    // What is said after gossip turned out not to be supported is news.
                    if !told || Offer::of(&self.inner).is_none() {
                        return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Event::PeerKind(kind)));
                    }
                }
                other => return other,
            }
        }
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // A neighbour that sends nothing but copies does not keep the connection from everything else.
        for _ in 0..FRAMES_AT_ONCE_MAX {
            match mem::replace(&mut self.reading, Reading::No) {
                Reading::No => return Poll::Pending,
                Reading::Frames(mut inbound) => match inbound.frames.poll_next(cx) {
                    Poll::Pending => {
                        self.reading = Reading::Frames(inbound);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(Some(frame))) => match inbound.reader.read(frame, &self.known) {
                        Ok(event) => {
                            self.reading = Reading::Frames(inbound);
                            if let Some(event) = event {
                                return Poll::Ready(event);
                            }
                        }
                        Err(error) => {
                            tracing::debug!(%error, "a gossip frame of a neighbour cannot be read");
                            self.reading = Reading::Closing(inbound);
                        }
                    },
                    Poll::Ready(end) => {
                        tracing::debug!(error = ?end.err(), "a gossip stream of a neighbour ended");
                        self.reading = Reading::Closing(inbound);
                    }
                },
                Reading::Closing(mut inbound) => {
                    if Pin::new(inbound.frames.stream()).poll_close(cx).is_pending() {
                        self.reading = Reading::Closing(inbound);
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = <Inner as ConnectionHandler>::FromBehaviour;
    type ToBehaviour = Event;
    type InboundProtocol = Negotiate;
    type OutboundProtocol = Codec;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Negotiate> {
        SubstreamProtocol::new(Negotiate(self.offer.clone()), ())
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Output {
        if let Some(kind) = self.kind.take()
            && !mem::replace(&mut self.kind_told, true)
        {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(kind));
        }
        if let Poll::Ready(event) = self.poll_inner(cx) {
            return Poll::Ready(event);
        }
        self.poll_inbound(cx).map(ConnectionHandlerEvent::NotifyBehaviour)
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Negotiate, Codec>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.on_inbound(protocol);
            }
            ConnectionEvent::ListenUpgradeError(_) => self.on_inbound(None),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                let event = FullyNegotiatedOutbound { protocol, info };
                self.inner
                    .on_connection_event(ConnectionEvent::FullyNegotiatedOutbound(event));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let event = DialUpgradeError { info, error };
                self.inner.on_connection_event(ConnectionEvent::DialUpgradeError(event));
            }
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
        // With gossipsub's own streams those of the neighbour go, too.
        self.offer = self.offer.take().filter(|_| Offer::of(&self.inner).is_some());
        if self.offer.is_none() {
            self.reading = Reading::No;
        }
    }
}
