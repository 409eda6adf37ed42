//! What waits for one subscriber: runs of messages, and what it is told of losses, in their order.
//!
//! Promises: at most so many messages wait; who hands in is never held up, and what there is no room for is counted and told in its
//! place, before anything that comes later, also when nothing comes later.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    handle::Delivery,
    priority::Priority,
    received::{Received, Run},
};

/// Beyond the queue's length there is room for urgent messages: so much of it, as a part.
const URGENT_SHARE: usize = 8;

/// What is handed out at once.
#[derive(Debug)]
enum Entry {
    /// Messages of a run, from one place to before another.
    Run(Arc<Run>, usize, usize),
    One(Delivery),
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Messages and other deliveries that wait.
    waiting: usize,
    /// Lost since it was last told.
    lost: u64,
    is_closed: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// So many may wait.
    most: usize,
    readable: Notify,
    room: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where deliveries are handed in.
#[derive(Debug, Clone)]
pub(super) struct Sink(Arc<Shared>);

/// Where they are read. On drop nothing more is taken.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    /// What is being read.
    run: Option<(Arc<Run>, usize, usize)>,
}

/// A queue in which so many deliveries wait at most.
pub(super) fn queue(most: usize) -> (Sink, Reader) {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        most,
        readable: Notify::new(),
        room: Notify::new(),
    });
    let reader = Reader {
        shared: Arc::clone(&shared),
        run: None,
    };
    (Sink(shared), reader)
}

impl State {
    /// Tells what was lost, if there is room to: it is told before anything that comes later.
    fn tell_loss(&mut self, most: usize) {
        if self.lost > 0 && self.waiting < most {
            let lost = std::mem::take(&mut self.lost);
            self.entries.push_back(Entry::One(Delivery::Dropped(lost)));
            self.waiting += 1;
        }
    }

    fn room(&self, most: usize) -> usize {
        if self.is_closed || self.lost > 0 {
            0
        } else {
            most.saturating_sub(self.waiting)
        }
    }
}

impl Sink {
    /// Hands in messages of a run, from one place to before another; no more than `allowed`. How many there was room for: the first
    /// ones. The others are counted as lost.
    pub(super) fn put_run(&self, run: &Arc<Run>, from: usize, to: usize, allowed: usize) -> usize {
        let mut state = self.0.lock();
        if state.is_closed {
            return 0;
        }
        let most = match run.priority() {
            Priority::High => self.0.most + self.0.most / URGENT_SHARE,
            Priority::Normal => self.0.most,
            Priority::Low => self.0.most / 2,
        };
        state.tell_loss(most);
        let taken = (to - from).min(state.room(most)).min(allowed);
        if taken > 0 {
            match state.entries.back_mut() {
                // One by one, because others of the run went elsewhere.
                Some(Entry::Run(last, _, end)) if *end == from && Arc::ptr_eq(last, run) => *end += taken,
                _ => state.entries.push_back(Entry::Run(Arc::clone(run), from, from + taken)),
            }
            state.waiting += taken;
        }
        state.lost += (to - from - taken) as u64;
        drop(state);
        self.0.readable.notify_one();
        taken
    }

    /// Hands in something else, which stands for so many messages if it is lost. Whether there was room.
    pub(super) fn put(&self, delivery: Delivery, weight: u64) -> bool {
        let mut state = self.0.lock();
        if state.is_closed {
            return false;
        }
        state.tell_loss(self.0.most);
        let has_room = state.room(self.0.most) > 0;
        if has_room {
            state.entries.push_back(Entry::One(delivery));
            state.waiting += 1;
        } else {
            state.lost += weight;
        }
        drop(state);
        self.0.readable.notify_one();
        has_room
    }

    /// How many more may wait.
    pub(super) fn room(&self) -> usize {
        self.0.lock().room(self.0.most)
    }

    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().waiting == 0
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }

    /// Waits until so many more may wait, or nobody reads any more.
    pub(super) async fn wait_for_room(&self, count: usize) {
        loop {
            let room = self.0.room.notified();
            tokio::pin!(room);
            // Before it is looked, so that nothing is missed.
            room.as_mut().enable();
            {
                let state = self.0.lock();
                if state.is_closed || state.waiting + count.min(self.0.most) <= self.0.most {
                    return;
                }
            }
            room.await;
        }
    }

    /// Nothing more comes: what waits is read, and then it ends.
    pub(super) fn close(&self) {
        self.0.lock().is_closed = true;
        self.0.readable.notify_one();
    }
}

impl Reader {
    /// The next delivery; `None` when nothing more comes. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        // One that never has to wait lets others run all the same.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(delivery) = self.try_next() {
                return Some(delivery);
            }
            if self.shared.lock().is_closed {
                return None;
            }
            // One that was notified since it was looked does not wait.
            self.shared.readable.notified().await;
        }
    }

    fn try_next(&mut self) -> Option<Delivery> {
        if let Some(received) = self.next_of_run() {
            return Some(Delivery::Message(received));
        }
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.pop_front() else {
            let lost = std::mem::take(&mut state.lost);
            return (lost > 0).then_some(Delivery::Dropped(lost));
        };
        let (delivery, read) = match entry {
            Entry::One(delivery) => (Some(delivery), 1),
            Entry::Run(run, from, to) => {
                self.run = Some((run, from, to));
                (None, to - from)
            }
        };
        state.waiting -= read;
        drop(state);
        self.shared.room.notify_waiters();
        delivery.or_else(|| self.next_of_run().map(Delivery::Message))
    }

    fn next_of_run(&mut self) -> Option<Received> {
        let (run, at, end) = self.run.as_mut()?;
        let received = run.get(*at);
        *at += 1;
        if at == end {
            self.run = None;
        }
        received
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        state.entries.clear();
        drop(state);
        self.shared.room.notify_waiters();
    }
}
