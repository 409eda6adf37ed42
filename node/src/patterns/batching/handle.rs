//! What applications ask batching.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    delivery::Outlets,
    metrics::BatchMetrics,
    options::{BatchError, QUEUES_MAX, QueueOptions, Record, check_queue_name},
    queue::{Queue, Standing, finish},
    shelf::{self, Dead, Shelf},
};
use crate::{platform::random, store::Keyspace, tasks::Tasks};

/// A cloneable handle on batching.
#[derive(Clone)]
pub struct BatchingHandle {
    inner: Arc<Inner>,
}

struct Inner {
    keyspace: Keyspace,
    outlets: Arc<Outlets>,
    tasks: Tasks,
    metrics: BatchMetrics,
    queues: Mutex<BTreeMap<String, Arc<Queue>>>,
    /// Held by whoever defines or removes queues.
    defining: tokio::sync::Mutex<()>,
}

/// A queue, and how it is.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// How it was defined.
    pub options: QueueOptions,
    /// How it is.
    pub standing: Standing,
}

impl BatchingHandle {
    pub(super) async fn open(
        keyspace: Keyspace,
        outlets: Outlets,
        tasks: Tasks,
        metrics: BatchMetrics,
    ) -> Result<Self, BatchError> {
        let inner = Inner {
            keyspace,
            outlets: Arc::new(outlets),
            tasks,
            metrics,
            queues: Mutex::default(),
            defining: tokio::sync::Mutex::default(),
        };
        for (name, options) in shelf::queues(&inner.keyspace).await? {
            inner.start(&name, options).await?;
        }
        Ok(BatchingHandle { inner: Arc::new(inner) })
    }

    /// Defines a queue, or defines it anew: then what it holds goes by the new definition. Whether there was none of this name.
    ///
    /// Durable when it returns. Batches that are under way may be handed over once more.
    ///
    /// # Errors
    /// `Invalid` for a name or a number that cannot be; `Conflict` when there are too many queues, or when its form would change under
    /// records that it holds.
    pub async fn define(&self, name: &str, options: QueueOptions) -> Result<bool, BatchError> {
        check_queue_name(name)?;
        options.check()?;
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        finish(&self.inner.tasks, async move { inner.define(&name, options).await }).await
    }

    /// Removes a queue. With `force` also one that holds records, which are then gone.
    ///
    /// # Errors
    /// `NoQueue`; `Conflict` when it holds records.
    pub async fn remove(&self, name: &str, force: bool) -> Result<(), BatchError> {
        let (inner, name) = (Arc::clone(&self.inner), name.to_owned());
        finish(&self.inner.tasks, async move { inner.remove(&name, force).await }).await
    }

    /// Puts records into a queue: all of them or none, durable when this returns. How many.
    ///
    /// Not cancel-safe: what was begun may be finished.
    ///
    /// # Errors
    /// `NoQueue`; `Invalid` for a record that cannot be; `Full` when what is in it is not taken fast enough.
    pub async fn put(&self, name: &str, mut records: Vec<Record>) -> Result<u64, BatchError> {
        let now_ms = self.now_ms();
        for record in &mut records {
            record.time_ms = now_ms;
            record.salt = Some(u64::from_be_bytes(random(&*self.inner.outlets.entropy)));
        }
        let count = self.queue(name)?.put(records).await?;
        self.inner.metrics.put.inc_by(count);
        Ok(count)
    }

    /// Hands over what is there, without waiting for batches to be full.
    ///
    /// # Errors
    /// `NoQueue`.
    pub async fn flush(&self, name: &str) -> Result<(), BatchError> {
        self.queue(name)?.flush().await
    }

    /// Every queue of this node, by name.
    pub fn queues(&self) -> Vec<QueueInfo> {
        self.inner.lock().values().map(|queue| info(queue)).collect()
    }

    /// One queue.
    ///
    /// # Errors
    /// `NoQueue`.
    pub fn info(&self, name: &str) -> Result<QueueInfo, BatchError> {
        Ok(info(&*self.queue(name)?))
    }

    /// Dead records and their numbers, from the one after `after`; at most `most` and 500, the oldest first.
    ///
    /// # Errors
    /// `NoQueue`.
    pub async fn dead(&self, name: &str, after: Option<u64>, most: usize) -> Result<Vec<(u64, Dead)>, BatchError> {
        self.queue(name)?.shelf.dead(after, most).await
    }

    /// Tries all dead records of a queue once more. How many.
    ///
    /// # Errors
    /// `NoQueue`.
    pub async fn retry(&self, name: &str) -> Result<u64, BatchError> {
        self.queue(name)?.revive().await
    }

    /// Lets go of all dead records of a queue. How many.
    ///
    /// # Errors
    /// `NoQueue`.
    pub async fn purge(&self, name: &str) -> Result<u64, BatchError> {
        self.queue(name)?.purge().await
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.inner.outlets.clock.now_unix_ms()
    }

    pub(super) fn queue(&self, name: &str) -> Result<Arc<Queue>, BatchError> {
        self.inner.queue(name)
    }
}

impl Inner {
    fn queue(&self, name: &str) -> Result<Arc<Queue>, BatchError> {
        let queue = self.lock().get(name).cloned();
        queue.ok_or_else(|| BatchError::NoQueue(name.chars().filter(|c| !c.is_control()).take(64).collect()))
    }

    async fn define(&self, name: &str, options: QueueOptions) -> Result<bool, BatchError> {
        let _defining = self.defining.lock().await;
        let before = self.lock().get(name).cloned();
        if let Some(before) = &before {
            if before.options == options {
                return Ok(false);
            }
            if before.options.form != options.form && before.is_held() {
                return Err(BatchError::Conflict(format!(
                    "the queue {name} holds records that were put in for its present form"
                )));
            }
        } else if self.lock().len() >= QUEUES_MAX {
            return Err(BatchError::Conflict(format!("a node has at most {QUEUES_MAX} queues")));
        }
        self.shelf(name).define(&options).await?;
        if let Some(before) = &before {
            self.lock().remove(name);
            before.close().await;
        }
        self.start(name, options).await?;
        Ok(before.is_none())
    }

    async fn remove(&self, name: &str, force: bool) -> Result<(), BatchError> {
        let _defining = self.defining.lock().await;
        let queue = self.queue(name)?;
        if !force && queue.is_held() {
            let standing = queue.standing();
            return Err(BatchError::Conflict(format!(
                "the queue {name} holds {} records, and {} dead ones",
                standing.records, standing.dead
            )));
        }
        self.lock().remove(name);
        queue.close().await;
        queue.shelf.remove().await
    }

    async fn start(&self, name: &str, options: QueueOptions) -> Result<(), BatchError> {
        let outlets = Arc::clone(&self.outlets);
        let (queue, working) = Queue::open(
            name,
            options,
            self.shelf(name),
            outlets,
            self.metrics.clone(),
            self.tasks.clone(),
        )
        .await?;
        self.lock().insert(name.to_owned(), queue);
        self.tasks.spawn("batching-queue", working);
        Ok(())
    }

    fn shelf(&self, name: &str) -> Shelf {
        Shelf::new(self.keyspace.clone(), name)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn info(queue: &Queue) -> QueueInfo {
    QueueInfo {
        name: queue.name.clone(),
        options: queue.options.clone(),
        standing: queue.standing(),
    }
}
