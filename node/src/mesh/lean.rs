//! Reading in large pieces without a buffer that waits.
//!
//! Promises: a reader of few bytes at a time asks the stream seldom, and memory is held only while something has come that
//! was not read yet. A node has a stream or more to each peer, and most of them are silent.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::AsyncRead;

/// Read from the stream at once when less is asked for.
const CHUNK_BYTES: usize = 4096;

/// See the module.
pub(crate) struct Lean<R> {
    inner: R,
    /// What has come and was not read, from `start` on.
    rest: Vec<u8>,
    start: usize,
}

impl<R> Lean<R> {
    pub(crate) fn new(inner: R) -> Self {
        Lean {
            inner,
            rest: Vec::new(),
            start: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Lean<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let rest = &this.rest[this.start..];
        if !rest.is_empty() {
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            this.start += count;
            return Poll::Ready(Ok(count));
        }
        if buffer.len() >= CHUNK_BYTES {
            this.rest = Vec::new();
            this.start = 0;
            return Pin::new(&mut this.inner).poll_read(cx, buffer);
        }
        let mut chunk = [0; CHUNK_BYTES];
        let polled = Pin::new(&mut this.inner).poll_read(cx, &mut chunk);
        if polled.is_pending() {
            this.rest = Vec::new();
            this.start = 0;
        }
        let read = ready!(polled)?;
        let count = read.min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        this.rest.clear();
        this.rest.extend_from_slice(&chunk[count..read]);
        this.start = 0;
        Poll::Ready(Ok(count))
    }
}

#[cfg(test)]
mod tests {
    use futures::{
        AsyncReadExt as _, FutureExt as _, SinkExt as _, StreamExt as _, TryStreamExt as _, channel::mpsc,
        executor::block_on,
    };

    use super::*;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|n| (n % 251) as u8).collect()
    }

    #[test]
    fn what_is_read_is_what_came_whatever_the_pieces() {
        let all = bytes(50_000);
        for pieces in [1, 7, 1000, CHUNK_BYTES, 20_000] {
            for steps in [1, 3, 4095, 4096, 9000] {
                let came = futures::stream::iter(all.chunks(pieces).map(|piece| Ok::<_, io::Error>(piece.to_vec())));
                let mut lean = Lean::new(came.into_async_read());
                let (mut read, mut piece) = (Vec::new(), vec![0; steps]);
                loop {
                    match block_on(lean.read(&mut piece)).unwrap() {
                        0 => break,
                        count => read.extend_from_slice(&piece[..count]),
                    }
                }
                assert!(read == all, "pieces of {pieces}, read by {steps}");
            }
        }
    }

    #[test]
    fn nothing_is_held_while_nothing_comes() {
        let (mut sender, came) = mpsc::channel::<io::Result<Vec<u8>>>(4);
        let mut lean = Lean::new(came.boxed().into_async_read());
        block_on(sender.send(Ok(bytes(3000)))).unwrap();
        let mut first = [0; 10];
        block_on(lean.read_exact(&mut first)).unwrap();
        assert!(lean.rest.capacity() >= 2990, "what came is kept");
        let mut others = [0; 2990];
        block_on(lean.read_exact(&mut others)).unwrap();
        assert_eq!([&first[..], &others[..]].concat(), bytes(3000));
        assert!(lean.read(&mut first).now_or_never().is_none());
        assert_eq!(lean.rest.capacity(), 0);
        drop(sender);
        assert_eq!(block_on(lean.read(&mut first)).unwrap(), 0);
    }
}
