//! Group commit: whatever waits becomes one write and one sync.
//!
//! Jobs queue up; the first one to find nobody at work starts a blocking piece of work that takes everything waiting,
//! hands it to [`Work::run`], and goes on until the queue is empty. On a disk that does not block the work is done inline
//! instead, so a simulator with one thread sees no thread of ours.
//!
//! Callers that were just answered often come back at once. Taking the next group the moment the last one is done would
//! split them into two halves that wait for each other's syncs, so the work lingers for them: while they keep coming,
//! and for no more than a small part of what the last group took.
//!
//! The queue is bounded in bytes; when it is full, submitting waits.

use super::error::{Result, StoreError};
use crate::platform::disk::Disk;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many bytes may wait in one queue.
pub(super) const QUEUE_BYTES_MAX: usize = 64 << 20;
/// How many bytes become one group, unless a single job is larger.
pub(super) const GROUP_BYTES_MAX: usize = 8 << 20;
/// How many jobs become one group.
pub(super) const GROUP_JOBS_MAX: usize = 16_384;

const PERMIT_BYTES: usize = 1024;
const PERMITS: usize = QUEUE_BYTES_MAX / PERMIT_BYTES;

/// Lingering takes at most this part of the time the last group took.
const LINGER_PART: u32 = 8;
/// Lingering for this long or longer is slept through in parts, so that the callers have the processor.
const LINGER_ASLEEP: Duration = Duration::from_micros(400);
/// For so few callers it is not worth falling asleep.
const AWAKE_FOR: usize = 8;
/// Lingering ends when nobody came for this long.
const LINGER_IDLE: Duration = Duration::from_micros(50);

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
    disk: Arc<dyn Disk>,
    queue: Mutex<Queue<W::Job>>,
    room: Semaphore,
}

#[derive(Debug)]
struct Queue<J> {
    /// Each with its permits for the room it takes.
    waiting: VecDeque<(J, usize)>,
    running: bool,
}

impl<W: Work> Committer<W> {
    pub(super) fn new(work: Arc<W>, disk: Arc<dyn Disk>) -> Arc<Self> {
        let queue = Mutex::new(Queue {
            waiting: VecDeque::new(),
            running: false,
        });
        Arc::new(Committer {
            work,
            disk,
            queue,
            room: Semaphore::new(PERMITS),
        })
    }

    pub(super) fn work(&self) -> &Arc<W> {
        &self.work
    }

    /// Queues a job. Cancel-safe while it waits for room; once this returned, the job will be done.
    pub(super) async fn submit(self: &Arc<Self>, job: W::Job, bytes: usize) -> Result<()> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, PERMITS);
        // Given back by the number when the job is done, many jobs at once.
        self.room
            .acquire_many(permits as u32)
            .await
            .map_err(|_| StoreError::Closed)?
            .forget();
        self.enqueue(job, permits);
        Ok(())
    }

    /// The same for work that blocks itself, and does not wait for room: then it gets the job back.
    pub(super) fn submit_now(self: &Arc<Self>, job: W::Job, bytes: usize) -> std::result::Result<(), W::Job> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, PERMITS);
        match self.room.try_acquire_many(permits as u32) {
            Ok(room) => room.forget(),
            Err(_) => return Err(job),
        }
        self.enqueue(job, permits);
        Ok(())
    }

    fn enqueue(self: &Arc<Self>, job: W::Job, permits: usize) {
        let start = {
            let mut queue = self.lock();
            queue.waiting.push_back((job, permits));
            !std::mem::replace(&mut queue.running, true)
        };
        if start && self.disk.blocks() {
            let starting = Starting(Some(Arc::clone(self)));
            // Detached on purpose: it ends by itself when the queue is empty, and every job carries its own answer.
            drop(tokio::task::spawn_blocking(move || starting.drain()));
        } else if start {
            self.drain();
        }
    }

    /// Waits until every queued job is answered, then refuses further ones. Cancel-safe; may be called again.
    pub(super) async fn close(&self) {
        // All permits free means that nothing is queued and nothing is being done.
        let emptied = self.room.acquire_many(PERMITS as u32).await;
        self.room.close();
        drop(emptied);
    }

    fn drain(self: &Arc<Self>) {
        let mut running = Running {
            committer: self,
            at_work: true,
        };
        while let Some((jobs, permits)) = running.next_group() {
            let done = Done {
                room: &self.room,
                permits,
            };
            let (count, start) = (jobs.len(), self.disk.stopwatch());
            self.work.run(jobs);
            drop(done);
            let took = self.disk.stopwatch().saturating_sub(start);
            self.linger(count, took / LINGER_PART);
        }
    }

    /// Waits a little for the callers just answered to come back.
    fn linger(&self, answered: usize, at_most: Duration) {
        if at_most.is_zero() {
            return;
        }
        let start = self.disk.stopwatch();
        let mut waiting = self.lock().waiting.len();
        // All who were waiting while the last group was written, and all who were answered with it.
        let expected = waiting + answered;
        let mut grown = start;
        while waiting < expected {
            if at_most >= LINGER_ASLEEP && answered > AWAKE_FOR {
                std::thread::sleep(at_most / LINGER_PART);
            } else {
                std::thread::yield_now();
            }
            let now = self.disk.stopwatch();
            let before = std::mem::replace(&mut waiting, self.lock().waiting.len());
            if waiting > before {
                grown = now;
            }
            if now.saturating_sub(start) > at_most || now.saturating_sub(grown) > LINGER_IDLE {
                return;
            }
        }
    }

    /// The next group with its permits, or `None` after having noted, under the same lock, that nobody is at work.
    fn next_group(&self) -> Option<(Vec<W::Job>, usize)> {
        let mut queue = self.lock();
        let (mut count, mut permits) = (0, 0);
        for (_, weight) in queue.waiting.iter().take(GROUP_JOBS_MAX) {
            if count > 0 && permits + weight > GROUP_BYTES_MAX / PERMIT_BYTES {
                break;
            }
            permits += weight;
            count += 1;
        }
        if count == 0 {
            queue.running = false;
            return None;
        }
        Some((queue.waiting.drain(..count).map(|(job, _)| job).collect(), permits))
    }

    fn lock(&self) -> MutexGuard<'_, Queue<W::Job>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that is about to begin. When it never does, because the runtime is shutting down, whoever waits for it is told so.
struct Starting<W: Work>(Option<Arc<Committer<W>>>);

impl<W: Work> Starting<W> {
    fn drain(mut self) {
        if let Some(committer) = self.0.take() {
            committer.drain();
        }
    }
}

impl<W: Work> Drop for Starting<W> {
    fn drop(&mut self) {
        let Some(committer) = self.0.take() else { return };
        let given_up = {
            let mut queue = committer.lock();
            queue.running = false;
            std::mem::take(&mut queue.waiting)
        };
        let permits = given_up.iter().map(|(_, permits)| permits).sum();
        drop(given_up);
        committer.room.add_permits(permits);
    }
}

/// Gives the room of a group back, also when its work panicked.
struct Done<'a> {
    room: &'a Semaphore,
    permits: usize,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.room.add_permits(self.permits);
    }
}

/// The one at work on a queue. Cut off in the middle by a panic, it leaves the queue to the next.
struct Running<'a, W: Work> {
    committer: &'a Committer<W>,
    at_work: bool,
}

impl<W: Work> Running<'_, W> {
    fn next_group(&mut self) -> Option<(Vec<W::Job>, usize)> {
        let group = self.committer.next_group();
        self.at_work = group.is_some();
        group
    }
}

impl<W: Work> Drop for Running<'_, W> {
    fn drop(&mut self) {
        if self.at_work {
            self.committer.lock().running = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::platform::{Platform as _, RealPlatform};

    struct Answering;

    impl Work for Answering {
        type Job = oneshot::Sender<()>;

        fn run(&self, jobs: Vec<Self::Job>) {
            for job in jobs {
                let _ = job.send(());
            }
        }
    }

    #[test]
    fn who_waits_for_what_never_begins_is_told() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let committer = Committer::new(Arc::new(Answering), RealPlatform.disk());
        let handle = runtime.handle().clone();
        let ask = || {
            let (job, answer) = oneshot::channel();
            let _entered = handle.enter();
            assert!(committer.submit_now(job, 1).is_ok());
            answer.blocking_recv()
        };
        assert_eq!(ask(), Ok(()));
        while committer.lock().running {
            std::thread::yield_now();
        }
        runtime.shutdown_background();
        assert!(ask().is_err());
        while committer.room.available_permits() < PERMITS {
            std::thread::yield_now();
        }
    }
}
