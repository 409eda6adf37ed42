//! One queue at work: takes in what is put, closes batches, hands them over, and lets go of what arrived.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{RwLock, mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    core::{Batcher, Closed},
    delivery::{self, Outlets},
    metrics::BatchMetrics,
    options::{BatchError, PUT_RECORDS_MAX, QueueOptions, RECORD_BYTES_MAX, Record},
    shelf::{Dead, Shelf},
    work::{Job, Outcome, Settled, Work},
};
use crate::{platform::random, store::BATCH_BYTES_MAX, tasks::Tasks};

/// Puts whose records are on their way into batches.
const ASKS_MAX: usize = 256;
/// Between two tries to remove or move what the disk did not.
const DISK_PAUSE: Duration = Duration::from_secs(1);
/// Records that are removed in one commit.
const FORGOTTEN_MAX: usize = 500;
/// Dead records that are put in again at once: in any case they fit into one commit.
const REVIVED_MAX: usize = 32;
const _: () = assert!(REVIVED_MAX * (RECORD_BYTES_MAX + 8192) < BATCH_BYTES_MAX);

/// Where a record is, and what it weighs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: u64,
    key: String,
    bytes: usize,
}

enum Ask {
    Put(Vec<Entry>),
    Flush,
}

/// How a queue is.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// Records in it.
    pub records: usize,
    /// Bytes of their data.
    pub bytes: usize,
    /// When the oldest of them was put, Unix milliseconds.
    pub oldest_ms: Option<u64>,
    /// Batches that are closed and not done with.
    pub batches: usize,
    /// Batches that are being handed over, and how many may be at once.
    pub under_way: (usize, usize),
    /// Records that arrived since the node's start.
    pub delivered: u64,
    /// Records that were given up and are kept.
    pub dead: usize,
    /// The last thing that went wrong, if nothing has gone well since.
    pub trouble: Option<String>,
}

#[derive(Default)]
struct Inside {
    /// When each record was put, and its bytes.
    waiting: BTreeMap<u64, (u64, usize)>,
    bytes: usize,
    /// Records that are being written down.
    reserved: usize,
    /// Dead records that are kept.
    dead: usize,
    standing: Standing,
}

/// A queue.
pub(super) struct Queue {
    pub(super) name: String,
    pub(super) options: QueueOptions,
    pub(super) shelf: Shelf,
    inside: Mutex<Inside>,
    next_seq: AtomicU64,
    asks: mpsc::Sender<Ask>,
    tasks: Tasks,
    /// Tells its batches from those of its earlier openings.
    pub(super) run: [u8; 8],
    /// Held for reading by whoever puts records in, for writing by whoever waits for them.
    puts: RwLock<()>,
    stop: CancellationToken,
    /// Ends with the work.
    ended: CancellationToken,
}

impl Queue {
    /// Reads what a queue holds, and gives what makes it work.
    pub(super) async fn open(
        name: &str,
        options: QueueOptions,
        shelf: Shelf,
        outlets: Arc<Outlets>,
        metrics: BatchMetrics,
        tasks: Tasks,
    ) -> Result<(Arc<Queue>, impl Future<Output = ()> + Send + 'static), BatchError> {
        let (mut inside, mut entries, mut last) = (Inside::default(), Vec::new(), None);
        loop {
            let page = shelf.records(last).await?;
            let Some((seq, _)) = page.last() else { break };
            last = Some(*seq);
            for (seq, record) in page {
                inside.insert(seq, &record);
                entries.push(Entry::new(seq, &record));
            }
        }
        let mut last_dead = None;
        loop {
            let page = shelf.dead(last_dead, usize::MAX).await?;
            let Some((seq, _)) = page.last() else { break };
            last_dead = Some(*seq);
            inside.dead += page.len();
        }
        let next_seq = last.max(last_dead).map_or(1, |last| last + 1);
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let queue = Arc::new(Queue {
            name: name.to_owned(),
            options,
            shelf,
            inside: Mutex::new(inside),
            next_seq: AtomicU64::new(next_seq),
            asks,
            tasks,
            run: random(&*outlets.entropy),
            puts: RwLock::default(),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        });
        let working = run(Arc::clone(&queue), entries, asked, outlets, metrics);
        Ok((queue, working))
    }

    /// Puts records in: they are durable when this returns. What was begun is finished, also when the caller goes.
    pub(super) async fn put(self: &Arc<Self>, records: Vec<Record>) -> Result<u64, BatchError> {
        if records.len() > PUT_RECORDS_MAX {
            return Err(BatchError::Invalid(format!(
                "{} records are put at once, the limit is {PUT_RECORDS_MAX}",
                records.len()
            )));
        }
        records.iter().try_for_each(|record| record.check(&self.options))?;
        let reserved = self.reserve(records.len())?;
        let queue = Arc::clone(self);
        finish(&self.tasks, async move {
            let _put = queue.puts.read().await;
            let count = records.len() as u64;
            // Room first: what is written down is also taken up.
            let room = queue.asks.reserve().await.map_err(|_| BatchError::Closed)?;
            let first = queue.next_seq.fetch_add(count, Ordering::Relaxed);
            let records: Vec<(u64, Record)> = (first..).zip(records).collect();
            queue.shelf.keep(&records).await?;
            room.send(Ask::Put(
                queue.taken(records.iter().map(|(seq, record)| (*seq, record))),
            ));
            drop(reserved);
            Ok(count)
        })
        .await
    }

    fn taken<'a>(&self, records: impl Iterator<Item = (u64, &'a Record)>) -> Vec<Entry> {
        let mut inside = self.lock();
        let entry = |(seq, record): (u64, &Record)| {
            inside.insert(seq, record);
            Entry::new(seq, record)
        };
        records.map(entry).collect()
    }

    fn reserve(self: &Arc<Self>, count: usize) -> Result<Reserved, BatchError> {
        let mut inside = self.lock();
        let held = inside.held();
        if held + count > self.options.records_max {
            return Err(BatchError::Full {
                queue: self.name.clone(),
                records: held,
                dead: inside.dead,
            });
        }
        inside.reserved += count;
        Ok(Reserved {
            queue: Arc::clone(self),
            count,
        })
    }

    /// Closes every batch that is being filled.
    pub(super) async fn flush(&self) -> Result<(), BatchError> {
        self.asks.send(Ask::Flush).await.map_err(|_| BatchError::Closed)
    }

    /// Puts dead records in again; how many.
    pub(super) async fn revive(self: &Arc<Self>) -> Result<u64, BatchError> {
        let queue = Arc::clone(self);
        finish(&self.tasks, async move {
            let _put = queue.puts.read().await;
            let mut revived = 0;
            loop {
                let room = queue.asks.reserve().await.map_err(|_| BatchError::Closed)?;
                let dead = queue.shelf.dead(None, REVIVED_MAX).await?;
                if dead.is_empty() {
                    return Ok(revived);
                }
                let count = dead.len() as u64;
                let first = queue.next_seq.fetch_add(count, Ordering::Relaxed);
                queue.shelf.revive(&dead, first).await?;
                room.send(Ask::Put(
                    queue.taken((first..).zip(dead.iter().map(|(_, dead)| &dead.record))),
                ));
                queue.lock().dead -= dead.len();
                revived += count;
            }
        })
        .await
    }

    /// Lets go of the dead records; how many.
    pub(super) async fn purge(self: &Arc<Self>) -> Result<u64, BatchError> {
        let queue = Arc::clone(self);
        finish(&self.tasks, async move {
            let cleared = queue.shelf.forget_dead().await?;
            let mut inside = queue.lock();
            inside.dead = inside
                .dead
                .saturating_sub(usize::try_from(cleared).unwrap_or(usize::MAX));
            Ok(cleared)
        })
        .await
    }

    /// Ends its work. What is put in meanwhile is on the disk when this returns, or refused.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
        drop(self.puts.write().await);
    }

    /// Whether it holds anything: records, those on their way in, or dead ones.
    pub(super) fn is_held(&self) -> bool {
        self.lock().held() > 0
    }

    /// How it is.
    pub(super) fn standing(&self) -> Standing {
        let inside = self.lock();
        Standing {
            records: inside.waiting.len(),
            bytes: inside.bytes,
            dead: inside.dead,
            oldest_ms: inside.waiting.values().next().map(|(time_ms, _)| *time_ms),
            ..inside.standing.clone()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something to its end, also when who asked for it goes meanwhile.
pub(super) async fn finish<T: Send + 'static>(
    tasks: &Tasks,
    deed: impl Future<Output = Result<T, BatchError>> + Send + 'static,
) -> Result<T, BatchError> {
    let (done, outcome) = oneshot::channel();
    tasks.spawn("batching-deed", async move {
        let _ = done.send(deed.await);
    });
    outcome.await.unwrap_or(Err(BatchError::Closed))
}

/// Room for records that are being written down.
struct Reserved {
    queue: Arc<Queue>,
    count: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.queue.lock().reserved -= self.count;
    }
}

impl Inside {
    fn held(&self) -> usize {
        self.waiting.len() + self.reserved + self.dead
    }

    fn insert(&mut self, seq: u64, record: &Record) {
        self.bytes += record.data.len();
        self.waiting.insert(seq, (record.time_ms, record.data.len()));
    }

    fn remove(&mut self, seq: u64) {
        if let Some((_, bytes)) = self.waiting.remove(&seq) {
            self.bytes -= bytes;
        }
    }
}

impl Entry {
    fn new(seq: u64, record: &Record) -> Self {
        Entry {
            seq,
            key: record.key.clone(),
            bytes: record.data.len(),
        }
    }
}

/// A batch that was handed over, what came of it, how long it took, and which of its records could not be removed from the disk.
type Finished = (Job<Entry>, Outcome, Duration, Vec<u64>);

/// What a queue does while the node runs.
struct Worker {
    queue: Arc<Queue>,
    outlets: Arc<Outlets>,
    metrics: BatchMetrics,
    batcher: Batcher<Entry>,
    work: Work<Entry>,
    under_way: FuturesUnordered<BoxFuture<'static, Finished>>,
    owed: Owed,
}

/// What the disk would not take, and will be asked again.
#[derive(Default)]
struct Owed {
    /// Records that arrived.
    removals: Vec<u64>,
    /// Records that are dead, with the reason.
    burials: Vec<(Entry, String)>,
    due: Option<Instant>,
}

impl Owed {
    /// Sets when to ask, if there is something to ask for.
    fn remember(&mut self) {
        if !self.removals.is_empty() || !self.burials.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + DISK_PAUSE);
        }
    }
}

async fn run(
    queue: Arc<Queue>,
    entries: Vec<Entry>,
    mut asked: mpsc::Receiver<Ask>,
    outlets: Arc<Outlets>,
    metrics: BatchMetrics,
) {
    let (stop, _ended) = (queue.stop.clone(), queue.ended.clone().drop_guard());
    let mut worker = Worker {
        batcher: Batcher::new(queue.options.limits()),
        work: Work::new(queue.options.concurrency, queue.options.attempts),
        queue,
        outlets,
        metrics,
        under_way: FuturesUnordered::new(),
        owed: Owed::default(),
    };
    worker.take(entries);
    loop {
        worker.begin();
        let due = [worker.batcher.next_due(), worker.work.next_due(), worker.owed.due];
        let due = due.into_iter().flatten().min();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(finished) = worker.under_way.next() => worker.settle(finished).await,
            // Before what comes in, which may never end.
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                worker.close(|batcher, closed| batcher.due(Instant::now(), closed));
                worker.pay().await;
            }
            ask = asked.recv() => match ask {
                Some(Ask::Put(entries)) => worker.take(entries),
                Some(Ask::Flush) => worker.close(|batcher, closed| batcher.flush(closed)),
                None => return,
            },
        }
    }
}

impl Worker {
    fn take(&mut self, entries: Vec<Entry>) {
        let now = Instant::now();
        self.close(|batcher, closed| {
            for entry in entries {
                let (key, bytes) = (entry.key.clone(), entry.bytes);
                batcher.push(&key, entry, bytes, now, closed);
            }
        });
    }

    fn close(&mut self, how: impl FnOnce(&mut Batcher<Entry>, &mut Vec<Closed<Entry>>)) {
        let mut closed = Vec::new();
        how(&mut self.batcher, &mut closed);
        closed.into_iter().for_each(|batch| self.work.add(batch));
    }

    /// Hands over what can be.
    fn begin(&mut self) {
        while let Some(job) = self.work.next(Instant::now()) {
            let (queue, outlets) = (Arc::clone(&self.queue), Arc::clone(&self.outlets));
            let handing_over = async move {
                let began = Instant::now();
                let seqs: Vec<u64> = job.items.iter().map(|entry| entry.seq).collect();
                let outcome = delivery::hand_over(&queue, &outlets, (job.key(), job.attempt()), &seqs).await;
                let took = began.elapsed();
                // Here, and not where all batches are settled: removals of several share a sync.
                let arrived = arrived(&outcome, &seqs);
                let left = forget(&queue, arrived).await;
                (job, outcome, took, left)
            };
            self.under_way.push(handing_over.boxed());
        }
        let mut inside = self.queue.lock();
        inside.standing.batches = self.work.batches();
        inside.standing.under_way = (self.work.under_way(), self.work.window());
    }

    async fn settle(&mut self, (job, outcome, took, left): Finished) {
        let trouble = match &outcome {
            Outcome::Delivered => None,
            Outcome::Later(_, why) | Outcome::Failed(why) => Some(why.clone()),
            Outcome::Partly(failed) => failed.first().map(|(_, why)| why.clone()),
        };
        self.metrics.handed_over(&outcome, took);
        self.queue.lock().standing.trouble = trouble;
        let Settled { delivered, dead } = self.work.done(job, outcome, took, Instant::now());
        self.metrics.delivered.inc_by(delivered.len() as u64);
        {
            let mut inside = self.queue.lock();
            delivered.iter().for_each(|entry| inside.remove(entry.seq));
            inside.standing.delivered += delivered.len() as u64;
        }
        self.owed.removals.extend(left);
        self.bury(dead).await;
    }

    /// Moves records to the dead; those that the disk does not take remain in the queue, and are tried again.
    async fn bury(&mut self, dead: Vec<(Entry, String)>) {
        for (entry, reason) in dead {
            if !bury(&self.queue, &self.outlets, &self.metrics, entry.seq, &reason).await {
                self.owed.burials.push((entry, reason));
            }
        }
        self.owed.remember();
    }

    /// Asks the disk again for what it would not do.
    async fn pay(&mut self) {
        if self.owed.due.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.owed.due = None;
        self.owed.removals = forget(&self.queue, std::mem::take(&mut self.owed.removals)).await;
        let burials = std::mem::take(&mut self.owed.burials);
        self.bury(burials).await;
        if self.owed.due.is_none() {
            self.queue.lock().standing.trouble = None;
        }
    }
}

/// Removes records that arrived; gives back those that could not be. After a restart they would arrive once more.
async fn forget(queue: &Queue, mut arrived: Vec<u64>) -> Vec<u64> {
    while !arrived.is_empty() {
        let count = arrived.len().min(FORGOTTEN_MAX);
        let some = arrived.get(arrived.len() - count..).unwrap_or_default();
        if let Err(error) = queue.shelf.forget(some).await {
            tracing::error!(queue = queue.name, %error, "records that arrived cannot be removed; it is tried again");
            queue.lock().standing.trouble = Some(format!("records that arrived cannot be removed: {error}"));
            break;
        }
        arrived.truncate(arrived.len() - count);
    }
    arrived
}

/// The records of a batch that its destination has.
fn arrived(outcome: &Outcome, seqs: &[u64]) -> Vec<u64> {
    match outcome {
        Outcome::Delivered => seqs.to_vec(),
        Outcome::Partly(failed) => {
            let has_failed = |index: usize| failed.iter().any(|(failed, _)| *failed == index);
            let arrived = seqs.iter().enumerate().filter(|(index, _)| !has_failed(*index));
            arrived.map(|(_, seq)| *seq).collect()
        }
        Outcome::Later(..) | Outcome::Failed(_) => Vec::new(),
    }
}

/// Moves a record to the dead, and says so. Whether it is done with.
async fn bury(queue: &Queue, outlets: &Outlets, metrics: &BatchMetrics, seq: u64, reason: &str) -> bool {
    let moved = async {
        let Some(record) = queue.shelf.record(seq).await? else {
            return Ok(None);
        };
        let dead = Dead::new(record, reason, outlets.clock.now_unix_ms());
        queue.shelf.bury(seq, &dead).await?;
        Ok::<_, BatchError>(Some(dead))
    };
    let dead = match moved.await {
        Ok(Some(dead)) => dead,
        Ok(None) => {
            queue.lock().remove(seq);
            return true;
        }
        Err(error) => {
            tracing::error!(queue = queue.name, record = seq, %error, "a dead record cannot be moved; it is tried again");
            queue.lock().standing.trouble = Some(format!("a dead record cannot be moved: {error}"));
            return false;
        }
    };
    tracing::warn!(
        queue = queue.name,
        record = seq,
        reason = dead.reason,
        "a record is dead"
    );
    {
        let mut inside = queue.lock();
        inside.remove(seq);
        inside.dead += 1;
    }
    metrics.dead.inc();
    delivery::announce_dead(queue, outlets, &dead).await;
    true
}
