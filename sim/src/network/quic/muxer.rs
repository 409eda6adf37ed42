//! A QUIC connection as libp2p wants it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, future::BoxFuture};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use quinn::{ConnectionError, RecvStream, SendStream};

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// See the module.
pub(super) struct Muxer {
    connection: quinn::Connection,
    incoming: Option<Opening>,
    outgoing: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl Muxer {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Muxer {
            connection,
            incoming: None,
            outgoing: None,
            closing: None,
        }
    }
}

impl StreamMuxer for Muxer {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = self.get_mut();
        let connection = &this.connection;
        let incoming = this.incoming.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.accept_bi().await }.boxed()
        });
        let opened = ready!(incoming.poll_unpin(cx));
        this.incoming = None;
        Poll::Ready(opened.map(Stream::new).map_err(io::Error::from))
    }

    fn poll_outbound(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let this = self.get_mut();
        let connection = &this.connection;
        let outgoing = this.outgoing.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.open_bi().await }.boxed()
        });
        let opened = ready!(outgoing.poll_unpin(cx));
        this.outgoing = None;
        Poll::Ready(opened.map(Stream::new).map_err(io::Error::from))
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Poll::Pending
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let connection = &this.connection;
        let closing = this.closing.get_or_insert_with(|| {
            connection.close(0_u32.into(), &[]);
            let connection = connection.clone();
            async move { connection.closed().await }.boxed()
        });
        Poll::Ready(match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Ok(()),
            error => Err(error.into()),
        })
    }
}

/// Both directions of a stream.
pub(super) struct Stream {
    send: SendStream,
    receive: RecvStream,
    closed: Option<Result<(), io::ErrorKind>>,
}

impl Stream {
    fn new((send, receive): (SendStream, RecvStream)) -> Self {
        Stream {
            send,
            receive,
            closed: None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if matches!(self.closed, Some(Err(_))) {
            return Poll::Ready(Ok(0));
        }
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(closed) = self.closed {
            return Poll::Ready(closed.map_err(io::Error::from));
        }
        let closed = ready!(AsyncWrite::poll_close(Pin::new(&mut self.send), cx));
        self.closed = Some(closed.as_ref().copied().map_err(io::Error::kind));
        Poll::Ready(closed)
    }
}
