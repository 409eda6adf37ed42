//! Group commit: whatever waits becomes one write and one sync.
//!
//! Jobs queue up; the first one to find nobody at work starts a task that takes everything waiting, hands it to
//! [`Work::run`], and goes on until the queue is empty. On a disk that does not block the work is done inline instead,
//! so a simulator with one thread sees no task and no thread of ours.
//!
//! The queue is bounded in bytes; when it is full, submitting waits.

use super::error::{Result, StoreError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many bytes may wait in one queue.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// How many bytes become one group, unless a single job is larger.
pub(super) const GROUP_BYTES_MAX: usize = 8 << 20;
/// How many jobs become one group.
pub(super) const GROUP_JOBS_MAX: usize = 16_384;

const PERMIT_BYTES: usize = 1024;

/// What does a group's work. It answers every job itself, also when it fails.
pub(super) trait Work: Send + Sync + 'static {
    /// One caller's wish, with the channel to answer it.
    type Job: Send + 'static;

    /// Does the jobs in order and answers them. Blocks; is never run twice at the same time by one queue.
    fn run(&self, jobs: Vec<Self::Job>);
}

/// A bounded queue in front of some work.
#[derive(Debug)]
pub(super) struct Committer<W: Work> {
    work: Arc<W>,
    queue: Mutex<Queue<W::Job>>,
    room: Arc<Semaphore>,
    inline: bool,
}

#[derive(Debug)]
struct Queue<J> {
    waiting: VecDeque<Waiting<J>>,
    running: bool,
}

#[derive(Debug)]
struct Waiting<J> {
    job: J,
    bytes: usize,
    room: OwnedSemaphorePermit,
}

impl<W: Work> Committer<W> {
    pub(super) fn new(work: Arc<W>, inline: bool) -> Arc<Self> {
        Arc::new(Committer {
            work,
            queue: Mutex::new(Queue { waiting: VecDeque::new(), running: false }),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX / PERMIT_BYTES)),
            inline,
        })
    }

    pub(super) fn work(&self) -> &Arc<W> {
        &self.work
    }

    /// Queues a job. Cancel-safe while it waits for room; once this returned, the job will be done.
    pub(super) async fn submit(self: &Arc<Self>, job: W::Job, bytes: usize) -> Result<()> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, QUEUE_BYTES_MAX / PERMIT_BYTES);
        let room = Arc::clone(&self.room).acquire_many_owned(permits as u32).await.map_err(|_| StoreError::Closed)?;
        let start = {
            let mut queue = self.lock();
            queue.waiting.push_back(Waiting { job, bytes, room });
            !std::mem::replace(&mut queue.running, true)
        };
        if start && self.inline {
            let mut running = Running { committer: Arc::clone(self), at_work: true };
            while let Some(group) = running.next_group() {
                self.run(group);
            }
        } else if start {
            tokio::spawn(Arc::clone(self).drain());
        }
        Ok(())
    }

    /// Waits until every queued job is answered, then refuses further ones. Cancel-safe; may be called again.
    pub(super) async fn close(&self) {
        // All permits free means that nothing is queued and nothing is being done.
        let all = (QUEUE_BYTES_MAX / PERMIT_BYTES) as u32;
        let emptied = self.room.acquire_many(all).await;
        self.room.close();
        drop(emptied);
    }

    async fn drain(self: Arc<Self>) {
        let mut running = Running { committer: Arc::clone(&self), at_work: true };
        while let Some(group) = running.next_group() {
            let this = Arc::clone(&self);
            if tokio::task::spawn_blocking(move || this.run(group)).await.is_err() {
                tracing::error!(target: "weft::store", "a group commit was cut off; its callers were told");
            }
            // The callers just answered are runnable now. Letting them go first puts their next jobs into the next
            // group; without this, groups of n and of 1 alternate and half of all syncs carry one job.
            tokio::task::yield_now().await;
        }
    }

    fn run(&self, group: Vec<Waiting<W::Job>>) {
        let (jobs, rooms): (Vec<_>, Vec<_>) = group.into_iter().map(|waiting| (waiting.job, waiting.room)).unzip();
        self.work.run(jobs);
        drop(rooms);
    }

    /// The next group, or `None` after having noted, under the same lock, that nobody is at work any more.
    fn next_group(&self) -> Option<Vec<Waiting<W::Job>>> {
        let mut queue = self.lock();
        let mut bytes = 0;
        let mut count = 0;
        for waiting in queue.waiting.iter().take(GROUP_JOBS_MAX) {
            bytes += waiting.bytes;
            if count > 0 && bytes > GROUP_BYTES_MAX {
                break;
            }
            count += 1;
        }
        if count == 0 {
            queue.running = false;
            return None;
        }
        Some(queue.waiting.drain(..count).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Queue<W::Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one at work on a queue. Cut off in the middle, as by the end of its runtime, it leaves the queue to the next.
struct Running<W: Work> {
    committer: Arc<Committer<W>>,
    at_work: bool,
}

impl<W: Work> Running<W> {
    fn next_group(&mut self) -> Option<Vec<Waiting<W::Job>>> {
        let group = self.committer.next_group();
        self.at_work = group.is_some();
        group
    }
}

impl<W: Work> Drop for Running<W> {
    fn drop(&mut self) {
        if self.at_work {
            self.committer.lock().running = false;
        }
    }
}
