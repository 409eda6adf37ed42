//! What the streams of one connection share.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::task::AtomicWaker;

/// See the module.
///
/// A reader is woken when the connection is gone. The muxer should do that, but Yamux 0.14 forgets it where this side closes
/// (libp2p/rust-yamux, issue 216), and who only reads would wait for ever.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// Bytes of all streams, both ways.
    exchanged: AtomicU64,
    is_gone: AtomicBool,
    /// Of the streams that are there.
    readers: Mutex<Vec<Arc<AtomicWaker>>>,
}

impl Link {
    pub(super) fn exchanged(&self) -> u64 {
        self.exchanged.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bytes: usize) {
        self.exchanged.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether the connection is gone. To be asked after a reader's waker was registered.
    pub(super) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// The waker of a new stream's reader.
    pub(super) fn reader(&self) -> Arc<AtomicWaker> {
        let reader = Arc::new(AtomicWaker::new());
        self.readers().push(Arc::clone(&reader));
        reader
    }

    /// The stream is dropped.
    pub(super) fn forget(&self, reader: &Arc<AtomicWaker>) {
        let mut readers = self.readers();
        if let Some(at) = readers.iter().position(|other| Arc::ptr_eq(other, reader)) {
            readers.swap_remove(at);
        }
    }

    /// The connection is gone.
    pub(super) fn go(&self) {
        self.is_gone.store(true, Ordering::Release);
        let readers = std::mem::take(&mut *self.readers());
        readers.iter().for_each(|reader| reader.wake());
    }

    fn readers(&self) -> MutexGuard<'_, Vec<Arc<AtomicWaker>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, thread};

    use futures::executor::block_on;

    use super::*;

    /// Reads from a stream on which nothing ever comes, as a stream does it.
    async fn read(link: Arc<Link>) {
        let reader = link.reader();
        poll_fn(|cx| {
            reader.register(cx.waker());
            if link.is_gone() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        link.forget(&reader);
    }

    #[test]
    fn who_reads_hears_that_the_connection_is_gone_and_who_is_dropped_is_forgotten() {
        let link = Arc::new(Link::default());
        thread::scope(|scope| {
            // A thread each: nobody is looked at again unless it is woken.
            for _ in 0..3 {
                scope.spawn(|| block_on(read(Arc::clone(&link))));
            }
            while link.readers().len() < 3 {
                thread::yield_now();
            }
            let dropped = link.reader();
            link.forget(&dropped);
            assert_eq!(link.readers().len(), 3);
            link.go();
        });
        // Who comes too late sees it at once.
        block_on(read(Arc::clone(&link)));
    }
}
