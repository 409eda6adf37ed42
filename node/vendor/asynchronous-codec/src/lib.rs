//! Stands in for the crate `asynchronous-codec`, whose frames libp2p puts on connections and streams.
//!
//! The original gives each framed stream 16 KiB of buffers when it is made, and keeps them, grown to the largest frame,
//! while it lives. A node has such a pair below each connection's encryption and two for each gossip neighbour, nearly all
//! of them empty nearly always. Here a buffer takes memory when something comes to lie in it, and gives it back when the
//! last byte has left. Frames, their order, the bound on what is waiting to be written, and errors are the original's.
//!
//! Has what libp2p uses of the original, and not its ready-made codecs.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

pub use bytes::{Bytes, BytesMut};
use futures_sink::Sink;
use futures_util::{
    io::{AsyncRead, AsyncWrite},
    stream::Stream,
};

use bytes::Buf as _;

/// Bytes read at once.
const READ_BYTES: usize = 8 * 1024;
/// Bytes that may wait to be written before no further frame is taken.
const SEND_HIGH_WATER_MARK: usize = 128 * 1024;

/// From bytes to frames.
pub trait Decoder {
    /// A frame.
    type Item;
    /// What can go wrong.
    type Error: From<io::Error>;

    /// The next frame, if all of it is in `src`.
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, Self::Error>;

    /// The same when nothing more will come.
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Self::Item>, Self::Error> {
        self.decode(src)
    }
}

/// From frames to bytes.
pub trait Encoder {
    /// A frame.
    type Item<'a>;
    /// What can go wrong.
    type Error: From<io::Error>;

    /// Appends a frame to `dst`.
    fn encode(&mut self, item: Self::Item<'_>, dst: &mut BytesMut) -> Result<(), Self::Error>;
}

/// What was read and is not a whole frame yet.
#[derive(Debug, Default)]
struct ReadBuffer(BytesMut);

impl ReadBuffer {
    fn poll_next<T: AsyncRead + Unpin, D: Decoder>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        decoder: &mut D,
    ) -> Poll<Option<Result<D::Item, D::Error>>> {
        if let Some(item) = decoder.decode(&mut self.0)? {
            return Poll::Ready(Some(Ok(item)));
        }
        let mut chunk = [0; READ_BYTES];
        loop {
            let Poll::Ready(read) = Pin::new(&mut *io).poll_read(cx, &mut chunk) else {
                self.release();
                return Poll::Pending;
            };
            let read = read?;
            self.0.extend_from_slice(&chunk[..read]);
            if let Some(item) = decoder.decode(&mut self.0)? {
                return Poll::Ready(Some(Ok(item)));
            }
            if read == 0 {
                return Poll::Ready(self.last(decoder).transpose());
            }
        }
    }

    /// What is left when nothing more will come.
    fn last<D: Decoder>(&mut self, decoder: &mut D) -> Result<Option<D::Item>, D::Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let item = decoder.decode_eof(&mut self.0)?;
        if item.is_none() && !self.0.is_empty() {
            let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "bytes remaining in stream");
            return Err(cut.into());
        }
        Ok(item)
    }

    fn release(&mut self) {
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
    }
}

/// What was encoded and is not written yet.
#[derive(Debug, Default)]
struct WriteBuffer(BytesMut);

impl WriteBuffer {
    /// Writes until at most `rest` bytes wait.
    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut T,
        rest: usize,
    ) -> Poll<io::Result<()>> {
        while self.0.len() > rest {
            let written = ready!(Pin::new(&mut *io).poll_write(cx, &self.0))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "End of file")));
            }
            self.0.advance(written);
        }
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_ready<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        self.poll_write(cx, io, SEND_HIGH_WATER_MARK - 1)
    }

    fn poll_flush<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx, io, 0))?;
        Pin::new(io).poll_flush(cx)
    }

    fn poll_close<T: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut T) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx, io))?;
        Pin::new(io).poll_close(cx)
    }
}

/// Frames in both directions.
#[derive(Debug)]
pub struct Framed<T, U> {
    io: T,
    codec: U,
    read: ReadBuffer,
    write: WriteBuffer,
}

impl<T, U> Framed<T, U> {
    /// Frames on `io`.
    pub fn new(io: T, codec: U) -> Self {
        Framed {
            io,
            codec,
            read: ReadBuffer::default(),
            write: WriteBuffer::default(),
        }
    }

    /// From what [`Framed::into_parts`] made.
    pub fn from_parts(parts: FramedParts<T, U>) -> Self {
        Framed {
            io: parts.io,
            codec: parts.codec,
            read: ReadBuffer(parts.read_buffer),
            write: WriteBuffer(parts.write_buffer),
        }
    }

    /// Everything it is made of, so that another codec can go on.
    pub fn into_parts(self) -> FramedParts<T, U> {
        FramedParts {
            io: self.io,
            codec: self.codec,
            read_buffer: self.read.0,
            write_buffer: self.write.0,
            _priv: (),
        }
    }

    /// What lies below. What is in the buffers is lost.
    pub fn into_inner(self) -> T {
        self.io
    }

    /// The codec.
    pub fn codec(&self) -> &U {
        &self.codec
    }

    /// The codec.
    pub fn codec_mut(&mut self) -> &mut U {
        &mut self.codec
    }
}

impl<T: Unpin, U> Unpin for Framed<T, U> {}

impl<T: AsyncRead + Unpin, U: Decoder> Stream for Framed<T, U> {
    type Item = Result<U::Item, U::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.read.poll_next(cx, &mut this.io, &mut this.codec)
    }
}

impl<T: AsyncWrite + Unpin, U: Encoder> Sink<U::Item<'_>> for Framed<T, U> {
    type Error = U::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_ready(cx, &mut this.io).map_err(Into::into)
    }

    fn start_send(self: Pin<&mut Self>, item: U::Item<'_>) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.codec.encode(item, &mut this.write.0)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_flush(cx, &mut this.io).map_err(Into::into)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_close(cx, &mut this.io).map_err(Into::into)
    }
}

/// What a [`Framed`] is made of.
#[derive(Debug)]
pub struct FramedParts<T, U> {
    /// What lies below.
    pub io: T,
    /// The codec.
    pub codec: U,
    /// What was read and is not decoded.
    pub read_buffer: BytesMut,
    /// What is encoded and not written.
    pub write_buffer: BytesMut,
    /// Made by [`Framed::into_parts`] only.
    _priv: (),
}

impl<T, U> FramedParts<T, U> {
    /// The same with another codec.
    pub fn map_codec<V>(self, f: impl FnOnce(U) -> V) -> FramedParts<T, V> {
        FramedParts {
            io: self.io,
            codec: f(self.codec),
            read_buffer: self.read_buffer,
            write_buffer: self.write_buffer,
            _priv: (),
        }
    }
}

/// Frames that come.
#[derive(Debug)]
pub struct FramedRead<T, D> {
    io: T,
    decoder: D,
    read: ReadBuffer,
}

impl<T, D> FramedRead<T, D> {
    /// Frames on `io`.
    pub fn new(io: T, decoder: D) -> Self {
        FramedRead {
            io,
            decoder,
            read: ReadBuffer::default(),
        }
    }

    /// What lies below. What is in the buffer is lost.
    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: Unpin, D> Unpin for FramedRead<T, D> {}

impl<T: AsyncRead + Unpin, D: Decoder> Stream for FramedRead<T, D> {
    type Item = Result<D::Item, D::Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.read.poll_next(cx, &mut this.io, &mut this.decoder)
    }
}

/// Frames that go.
#[derive(Debug)]
pub struct FramedWrite<T, E> {
    io: T,
    encoder: E,
    write: WriteBuffer,
}

impl<T, E> FramedWrite<T, E> {
    /// Frames on `io`.
    pub fn new(io: T, encoder: E) -> Self {
        FramedWrite {
            io,
            encoder,
            write: WriteBuffer::default(),
        }
    }

    /// What lies below. What is in the buffer is lost.
    pub fn into_inner(self) -> T {
        self.io
    }
}

impl<T: Unpin, E> Unpin for FramedWrite<T, E> {}

impl<T: AsyncWrite + Unpin, E: Encoder> Sink<E::Item<'_>> for FramedWrite<T, E> {
    type Error = E::Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_ready(cx, &mut this.io).map_err(Into::into)
    }

    fn start_send(self: Pin<&mut Self>, item: E::Item<'_>) -> Result<(), Self::Error> {
        let this = self.get_mut();
        this.encoder.encode(item, &mut this.write.0)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_flush(cx, &mut this.io).map_err(Into::into)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let this = self.get_mut();
        this.write.poll_close(cx, &mut this.io).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests;
