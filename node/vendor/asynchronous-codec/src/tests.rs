use futures::{SinkExt as _, StreamExt as _, executor::block_on, future::poll_fn, io::Cursor};

use super::*;

/// A byte of length, then so many bytes.
struct Short;

impl Decoder for Short {
    type Item = Vec<u8>;
    type Error = io::Error;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Vec<u8>>, io::Error> {
        let Some(length) = src.first().map(|byte| usize::from(*byte)) else {
            return Ok(None);
        };
        if src.len() <= length {
            return Ok(None);
        }
        src.advance(1);
        Ok(Some(src.split_to(length).to_vec()))
    }
}

impl Encoder for Short {
    type Item<'a> = &'a [u8];
    type Error = io::Error;

    fn encode(&mut self, item: &[u8], dst: &mut BytesMut) -> Result<(), io::Error> {
        dst.extend_from_slice(&[item.len() as u8]);
        dst.extend_from_slice(item);
        Ok(())
    }
}

/// Gives and takes one byte at a time, and is not ready every other time.
#[derive(Default)]
struct Slow {
    coming: Vec<u8>,
    gone: Vec<u8>,
    ready: bool,
}

impl Slow {
    fn turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.ready = !self.ready;
        if self.ready {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncRead for Slow {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn(cx));
        if self.coming.is_empty() {
            return Poll::Ready(Ok(0));
        }
        buf[0] = self.coming.remove(0);
        Poll::Ready(Ok(1))
    }
}

impl AsyncWrite for Slow {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.turn(cx));
        self.gone.push(buf[0]);
        Poll::Ready(Ok(1))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn frames() -> Vec<Vec<u8>> {
    (0..200_u8).map(|n| vec![n; usize::from(n)]).collect()
}

#[test]
fn frames_arrive_whole_and_in_order_however_they_are_cut() {
    let mut out = Framed::new(Slow::default(), Short);
    block_on(async {
        for frame in frames() {
            out.send(&frame).await.unwrap();
        }
        out.close().await.unwrap();
    });
    let written = out.into_inner().gone;
    let slow = Slow { coming: written.clone(), ..Slow::default() };
    let slow: Vec<_> = block_on(Framed::new(slow, Short).map(Result::unwrap).collect());
    let at_once: Vec<_> = block_on(FramedRead::new(Cursor::new(written), Short).map(Result::unwrap).collect());
    assert_eq!(slow, frames());
    assert_eq!(at_once, frames());
}

#[test]
fn a_frame_that_is_cut_off_is_an_error() {
    let mut cut = FramedRead::new(Cursor::new(vec![1, 7, 3, 7]), Short);
    assert_eq!(block_on(cut.next()).unwrap().unwrap(), [7]);
    let error = block_on(cut.next()).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn an_empty_buffer_takes_no_memory() {
    let mut both = Framed::new(Slow::default(), Short);
    assert_eq!((both.read.0.capacity(), both.write.0.capacity()), (0, 0));
    block_on(async {
        both.feed(&[9; 200]).await.unwrap();
        assert!(both.write.0.capacity() > 200);
        both.flush().await.unwrap();
        both.io.coming = vec![2, 5, 5];
        assert_eq!(both.next().await.unwrap().unwrap(), [5, 5]);
        // Nothing more is there, which is noticed when it is asked for.
        both.io.ready = true;
        poll_fn(|cx| Poll::Ready(assert!(both.poll_next_unpin(cx).is_pending()))).await;
    });
    assert_eq!((both.read.0.capacity(), both.write.0.capacity()), (0, 0));
}

#[test]
fn what_waits_to_be_written_has_a_bound() {
    /// Takes nothing.
    struct Stuck;
    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }
    let mut out = FramedWrite::new(Stuck, Short);
    let mut taken = 0;
    block_on(poll_fn(|cx| {
        while out.poll_ready_unpin(cx).is_ready() {
            out.start_send_unpin(&[0; 255]).unwrap();
            taken += 256;
        }
        Poll::Ready(())
    }));
    assert_eq!(taken, SEND_HIGH_WATER_MARK);
}

#[test]
fn another_codec_goes_on_with_what_was_read() {
    let mut first = Framed::new(Cursor::new(vec![1, 7, 1, 8]), Short);
    assert_eq!(block_on(first.next()).unwrap().unwrap(), [7]);
    let mut second = Framed::from_parts(first.into_parts().map_codec(|_| Short));
    assert_eq!(block_on(second.next()).unwrap().unwrap(), [8]);
}
