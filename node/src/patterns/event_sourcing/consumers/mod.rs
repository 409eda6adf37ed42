//! The consumers of one stream: what they hand out is decided in [`core`]; here it is read, kept and waited for.

mod core;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;
use sha2::{Digest as _, Sha256};
use tokio::{sync::Notify, time::Instant};
use weft_protocol::{
    Subject, codec,
    consensus::GroupId,
    patterns::event_sourcing::{
        Positioned, READ_BYTES_MAX, READ_RECORDS_MAX,
        consumer::{
            CONSUMERS_MAX, ConsumerFigures, ConsumerOptions, ConsumerReply, ConsumerRequest, DeadLetter, Delivery,
            Handed, Order, Settlement, check_consumer_name,
        },
    },
};

use self::core::{Core, Saved};
use super::{
    copies::{Command, Copies, DeadEntry},
    index::Terms,
    metrics::StreamMetrics,
    options::StreamError,
    shelf::{self, Shelf},
    stream::{Kept, Stream},
};
use crate::platform::Clock;

/// The longest wait for a record.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);

/// Who writes down how consumers are.
#[derive(Clone)]
pub(super) enum Writing {
    /// This node alone.
    Here(Shelf),
    /// A group that keeps the stream has to agree.
    Group {
        /// The groups of this node.
        copies: Weak<Copies>,
        /// Which.
        group: GroupId,
        /// The stream.
        name: Subject,
        /// The term that this node leads.
        term: u64,
    },
}

impl Writing {
    async fn write(
        &self,
        number: u64,
        consumer: &str,
        state: Option<Vec<u8>>,
        dead: Vec<(u64, Option<Vec<u8>>)>,
    ) -> Result<(), StreamError> {
        match self {
            Writing::Here(shelf) => match state {
                Some(state) => shelf.write_consumer(number, consumer, state, &dead).await,
                None => shelf.remove_consumer(number, consumer).await,
            },
            Writing::Group {
                copies,
                group,
                name,
                term,
            } => {
                let copies = copies.upgrade().ok_or(StreamError::Closed)?;
                let dead = dead
                    .into_iter()
                    .map(|(position, letter)| DeadEntry { position, letter });
                let command = Command::Consumer {
                    name: name.clone(),
                    consumer: consumer.to_owned(),
                    state,
                    dead: dead.collect(),
                    term: *term,
                };
                copies.propose(*group, &command).await.map(drop)
            }
        }
    }
}

/// Consumers of one stream.
pub(super) struct Consumers {
    stream: Arc<Stream>,
    shelf: Shelf,
    writing: Writing,
    clock: Arc<dyn Clock>,
    metrics: StreamMetrics,
    list: Mutex<BTreeMap<String, Arc<Consumer>>>,
    /// Held by whoever adds or removes one.
    changing: tokio::sync::Mutex<()>,
}

struct Consumer {
    name: String,
    dead_letters: Counter,
    stream: Weak<Stream>,
    kept: Writing,
    core: Mutex<Core>,
    /// Held by whoever looks for new records, so that they are looked at once and in their order.
    reading: tokio::sync::Mutex<()>,
    /// Held by whoever writes; how many changes were written.
    writing: tokio::sync::Mutex<u64>,
    /// Changes that were made, and dead letters that are not written.
    changes: Mutex<Changes>,
    /// Something may be ready.
    changed: Notify,
    /// When somebody asked for records, or settled one.
    used: Mutex<Instant>,
    /// It was removed: who waits for records waits in vain.
    is_gone: AtomicBool,
}

#[derive(Default)]
struct Changes {
    count: u64,
    dead: Vec<(u64, Option<Vec<u8>>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What stands for a key.
fn hash_of(key: &str) -> u64 {
    let hash: [u8; 32] = Sha256::digest(key).into();
    hash[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The first position that some consumer of a stream may still ask for, as they are on the disk; nothing where there is no consumer.
pub(super) async fn needed(shelf: &Shelf, number: u64) -> Result<Option<u64>, StreamError> {
    let mut first: Option<u64> = None;
    for (name, bytes) in shelf.consumers(number).await? {
        let saved: Saved = shelf::read(&bytes, "consumer")?;
        // A dead letter may be handed out again one day.
        let dead = shelf
            .dead(number, &name, 0, 1)
            .await?
            .first()
            .map(|(position, _)| *position);
        let needed = saved.needed().min(dead.unwrap_or(u64::MAX));
        first = Some(first.map_or(needed, |first| first.min(needed)));
    }
    Ok(first)
}

impl Consumers {
    /// Those that were defined before.
    pub(super) async fn open(
        stream: Arc<Stream>,
        shelf: Shelf,
        writing: Writing,
        clock: Arc<dyn Clock>,
        metrics: StreamMetrics,
    ) -> Result<Arc<Self>, StreamError> {
        let consumers = Consumers {
            shelf,
            writing,
            clock,
            metrics,
            list: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            stream,
        };
        for (name, bytes) in consumers.shelf.consumers(consumers.stream.number).await? {
            let saved: Saved = shelf::read(&bytes, "consumer")?;
            consumers.insert(&name, Core::of(saved));
        }
        Ok(Arc::new(consumers))
    }

    fn insert(&self, name: &str, core: Core) -> Arc<Consumer> {
        let consumer = Arc::new(Consumer {
            name: name.to_owned(),
            dead_letters: self.metrics.dead.clone(),
            stream: Arc::downgrade(&self.stream),
            kept: self.writing.clone(),
            core: Mutex::new(core),
            reading: tokio::sync::Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            changes: Mutex::default(),
            changed: Notify::new(),
            used: Mutex::new(Instant::now()),
            is_gone: AtomicBool::new(false),
        });
        lock(&self.list).insert(name.to_owned(), Arc::clone(&consumer));
        consumer
    }

    pub(super) fn count(&self) -> usize {
        lock(&self.list).len()
    }

    /// The stream was deleted.
    pub(super) fn go(&self) {
        for consumer in lock(&self.list).values() {
            consumer.changed.notify_waiters();
        }
    }

    fn get(&self, name: &str) -> Result<Arc<Consumer>, StreamError> {
        let found = lock(&self.list).get(name).cloned();
        found.ok_or_else(|| StreamError::NoConsumer(name.to_owned()))
    }

    /// Does what is asked.
    pub(super) async fn answer(&self, request: ConsumerRequest) -> Result<ConsumerReply, StreamError> {
        request.check()?;
        self.stream.check_there()?;
        Ok(match request {
            ConsumerRequest::Add { name, options } => ConsumerReply::Done(self.add(&name, options).await?),
            ConsumerRequest::Remove(name) => {
                self.remove(&name).await?;
                ConsumerReply::Done(1)
            }
            ConsumerRequest::List => ConsumerReply::List(self.figures()),
            ConsumerRequest::Next { name, count, wait_ms } => {
                let wait = Duration::from_millis(wait_ms.into()).min(WAIT_MAX);
                let consumer = self.get(&name)?;
                consumer.note_use();
                let handed = consumer.next(count as usize, wait, &*self.clock).await?;
                consumer.note_use();
                self.metrics.handed.inc_by(handed.len() as u64);
                ConsumerReply::Handed(handed)
            }
            ConsumerRequest::Settle {
                name,
                handed,
                settlement,
            } => {
                let consumer = self.get(&name)?;
                consumer.note_use();
                let count = consumer.settle(&handed, &settlement, &*self.clock).await?;
                if settlement == Settlement::Done {
                    self.metrics.settled.inc_by(count);
                }
                ConsumerReply::Done(count)
            }
            ConsumerRequest::Reset { name, from } => {
                self.reset(&name, from).await?;
                ConsumerReply::Done(1)
            }
            ConsumerRequest::DeadLetters { name, after, count } => {
                self.get(&name)?;
                ConsumerReply::Dead(self.dead(&name, after, count as usize).await?)
            }
            ConsumerRequest::Redrive { name, positions } => {
                let consumer = self.get(&name)?;
                ConsumerReply::Done(self.redrive(&consumer, positions).await?)
            }
        })
    }

    async fn add(&self, name: &str, options: ConsumerOptions) -> Result<u64, StreamError> {
        check_consumer_name(name)?;
        options.check()?;
        let _changing = self.changing.lock().await;
        if let Ok(known) = self.get(name) {
            return match *lock(&known.core).options() == options {
                true => Ok(0),
                false => Err(StreamError::Conflict(format!(
                    "the stream has a consumer {name} that is defined otherwise"
                ))),
            };
        }
        if self.count() >= CONSUMERS_MAX {
            return Err(StreamError::Busy(format!(
                "a stream has at most {CONSUMERS_MAX} consumers"
            )));
        }
        let begin = self.stream.begin(options.from).await?;
        let consumer = Core::new(options, begin);
        let saved = codec::encode(&consumer.saved());
        self.writing
            .write(self.stream.number, name, Some(saved), Vec::new())
            .await?;
        self.insert(name, consumer);
        Ok(1)
    }

    async fn remove(&self, name: &str) -> Result<(), StreamError> {
        let _changing = self.changing.lock().await;
        let consumer = self.get(name)?;
        lock(&self.list).remove(name);
        // Whoever still writes has written, and nobody does so after this.
        *consumer.writing.lock().await = u64::MAX;
        consumer.is_gone.store(true, Ordering::Release);
        consumer.changed.notify_waiters();
        self.writing.write(self.stream.number, name, None, Vec::new()).await
    }

    /// Removes the consumers that nobody has used for as long as they were to stay.
    pub(super) async fn remove_idle(&self) {
        // Whoever waits for a record holds the consumer. Where a group keeps the stream its leader does it; before the first term there is none.
        if matches!(self.writing, Writing::Group { term: 0, .. }) {
            return;
        }
        let all: Vec<Arc<Consumer>> = lock(&self.list).values().cloned().collect();
        for consumer in all
            .iter()
            .filter(|consumer| consumer.is_idle() && Arc::strong_count(consumer) <= 2)
        {
            match self.remove(&consumer.name).await {
                Ok(()) => {
                    tracing::debug!(stream = %self.stream.name, consumer = consumer.name, "a consumer went: nobody used it")
                }
                Err(error) => {
                    tracing::debug!(stream = %self.stream.name, consumer = consumer.name, %error, "a consumer that nobody uses stays");
                    return;
                }
            }
        }
    }

    async fn reset(&self, name: &str, from: weft_protocol::patterns::event_sourcing::From) -> Result<(), StreamError> {
        let consumer = self.get(name)?;
        let begin = self.stream.begin(from).await?;
        let _reading = consumer.reading.lock().await;
        {
            let mut core = lock(&consumer.core);
            let dead = core.dead();
            let options = ConsumerOptions {
                from,
                ..core.options().clone()
            };
            *core = Core::of(Saved {
                dead,
                ..Core::new(options, begin).saved()
            });
        }
        consumer.write(Vec::new()).await?;
        consumer.changed.notify_waiters();
        Ok(())
    }

    fn figures(&self) -> Vec<ConsumerFigures> {
        let version = self.stream.version();
        let figures = |consumer: &Arc<Consumer>| {
            let core = lock(&consumer.core);
            ConsumerFigures {
                name: consumer.name.clone(),
                options: core.options().clone(),
                settled: core.settled(),
                reached: core.reached(),
                pending: core.pending() as u32,
                waiting: core.waiting() as u32,
                behind: version.saturating_sub(core.reached()),
                dead: core.dead(),
            }
        };
        lock(&self.list).values().map(figures).collect()
    }

    async fn dead(&self, name: &str, after: u64, most: usize) -> Result<Vec<DeadLetter>, StreamError> {
        let page = self
            .shelf
            .dead(self.stream.number, name, after, most.min(READ_RECORDS_MAX))
            .await?;
        page.iter()
            .map(|(_, bytes)| shelf::read(bytes, "dead letter"))
            .collect()
    }

    /// Hands dead letters out again: these, or all.
    async fn redrive(&self, consumer: &Arc<Consumer>, positions: Vec<u64>) -> Result<u64, StreamError> {
        let (mut count, mut after) = (0, 0);
        loop {
            let letters = self.dead(&consumer.name, after, READ_RECORDS_MAX).await?;
            let Some(last) = letters.last() else { break };
            after = last.position;
            let mut gone = Vec::new();
            for letter in letters {
                if !positions.is_empty() && !positions.contains(&letter.position) {
                    continue;
                }
                let key = match self.stream.kept(letter.position - 1).await {
                    Ok(kept) => kept.record()?.event.key().map(hash_of),
                    // It is not kept any more, and cannot be handed out.
                    Err(StreamError::NoRecord { .. }) => {
                        gone.push((letter.position, None));
                        lock(&consumer.core).forget_dead();
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                lock(&consumer.core).revive(letter.position, key);
                gone.push((letter.position, None));
                count += 1;
            }
            consumer.write(gone).await?;
        }
        consumer.changed.notify_waiters();
        Ok(count)
    }
}

impl Consumer {
    fn note_use(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Whether nobody has used it for as long as it was to stay.
    fn is_idle(&self) -> bool {
        let idle_ms = lock(&self.core).options().idle_ms;
        let unused = lock(&self.used).elapsed();
        idle_ms.is_some_and(|idle_ms| unused > Duration::from_millis(idle_ms))
    }

    fn stream(&self) -> Result<Arc<Stream>, StreamError> {
        self.stream.upgrade().ok_or(StreamError::Closed)
    }

    /// Hands out records; waits for the first.
    ///
    /// Not cancel-safe: what was handed out and not heard of is handed out again when its time is over.
    async fn next(&self, most: usize, wait: Duration, clock: &dyn Clock) -> Result<Vec<Delivery>, StreamError> {
        let (most, until) = (most.clamp(1, READ_RECORDS_MAX), Instant::now() + wait);
        let stream = self.stream()?;
        let mut version = stream.watch();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            version.borrow_and_update();
            stream.check_there()?;
            if self.is_gone.load(Ordering::Acquire) {
                return Err(StreamError::NoConsumer(self.name.clone()));
            }
            let handed = self.take(&stream, most, clock).await?;
            if !handed.is_empty() {
                let loaded = self.load(&stream, handed).await?;
                if !lock(&self.core).options().is_acked {
                    let handed: Vec<Handed> = loaded.iter().map(handed_of).collect();
                    self.settle(&handed, &Settlement::Done, clock).await?;
                }
                return Ok(loaded);
            }
            let due = lock(&self.core).next_due();
            let wake = due.map_or(until, |due| due.min(until));
            if Instant::now() >= until {
                return Ok(Vec::new());
            }
            tokio::select! {
                () = &mut changed => {}
                grown = stream.grown(&mut version) => grown?,
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    async fn take(&self, stream: &Arc<Stream>, most: usize, clock: &dyn Clock) -> Result<Vec<Handed>, StreamError> {
        let _reading = self.reading.lock().await;
        let now = Instant::now();
        let dead = lock(&self.core).tick(now, clock.now_unix_ms());
        if !dead.is_empty() {
            self.write(letters(&dead)).await?;
        }
        let mut handed = lock(&self.core).take(most, now);
        while handed.len() < most && self.look(stream).await? {
            let left = most - handed.len();
            handed.extend(lock(&self.core).take(left, now));
        }
        Ok(handed)
    }

    /// Looks at the records that follow; whether there were any, and room for them.
    async fn look(&self, stream: &Arc<Stream>) -> Result<bool, StreamError> {
        let (query, order) = {
            let mut core = lock(&self.core);
            if !core.has_room() {
                return Ok(false);
            }
            // What is not kept any more cannot be handed out.
            core.pass(stream.first() - 1);
            (core.options().query.clone(), core.options().order)
        };
        let next = lock(&self.core).reached();
        if next >= stream.version() {
            return Ok(false);
        }
        let page = stream.read(next, 256).await?;
        let mut meant_any = false;
        for kept in &page {
            let event = kept.record()?.event;
            let meant = query
                .matches(&event)
                .then(|| event.key().filter(|_| order == Order::Key).map(hash_of));
            let mut core = lock(&self.core);
            if !core.has_room() {
                return Ok(true);
            }
            meant_any |= meant.is_some();
            core.offer(kept.position, meant);
        }
        if !meant_any && let Some(terms) = Terms::of(&query) {
            let (from, end) = (lock(&self.core).reached(), stream.version());
            let found = stream.find(&terms, from).await?;
            lock(&self.core).pass(found.unwrap_or(end).min(end));
        }
        Ok(!page.is_empty())
    }

    async fn load(&self, stream: &Arc<Stream>, handed: Vec<Handed>) -> Result<Vec<Delivery>, StreamError> {
        let (mut deliveries, mut bytes, mut page): (Vec<Delivery>, usize, Vec<Kept>) = (Vec::new(), 0, Vec::new());
        let mut back = Vec::new();
        let is_upcast = lock(&self.core).options().is_upcast == Some(true);
        let schemas = stream.schemas().await?;
        for Handed { position, delivery } in handed {
            let is_first = |kept: &Kept| kept.position <= position && position < kept.position + page.len() as u64;
            if !page.first().is_some_and(is_first) {
                page = stream.read(position - 1, 256).await?;
            }
            let first = page.first().map_or(0, |kept| kept.position);
            let kept = page.get(position.saturating_sub(first) as usize);
            let Some(kept) = kept.filter(|kept| kept.position == position) else {
                // It is not kept any more: there is nothing to be done about it.
                let (now, done) = (Instant::now(), Settlement::Done);
                lock(&self.core).settle(Handed { position, delivery }, &done, now, 0);
                continue;
            };
            let kept = match is_upcast {
                true => schemas.upcast(kept.clone())?,
                false => kept.clone(),
            };
            // Together they must fit into an answer; the largest does so alone.
            if !deliveries.is_empty() && bytes + kept.bytes.len() > READ_BYTES_MAX {
                back.push(Handed { position, delivery });
                continue;
            }
            bytes += kept.bytes.len();
            let record = kept.bytes.to_vec();
            deliveries.push(Delivery {
                record: Positioned { position, record },
                delivery,
            });
        }
        lock(&self.core).untake(&back);
        if !back.is_empty() {
            self.changed.notify_waiters();
        }
        Ok(deliveries)
    }

    /// Settles records, durably; how many.
    async fn settle(&self, handed: &[Handed], settlement: &Settlement, clock: &dyn Clock) -> Result<u64, StreamError> {
        let (now, now_ms) = (Instant::now(), clock.now_unix_ms());
        let (mut count, mut dead) = (0, Vec::new());
        {
            let mut core = lock(&self.core);
            for one in handed {
                if let Some(letter) = core.settle(*one, settlement, now, now_ms) {
                    count += 1;
                    dead.extend(letter);
                }
            }
        }
        if count > 0 && *settlement != Settlement::Longer {
            self.write(letters(&dead)).await?;
        }
        self.changed.notify_waiters();
        Ok(count)
    }

    /// Writes what has changed. Who comes while others write finds it written, mostly.
    async fn write(&self, dead: Vec<(u64, Option<Vec<u8>>)>) -> Result<(), StreamError> {
        let buried = dead.iter().filter(|(_, letter)| letter.is_some());
        self.dead_letters.inc_by(buried.count() as u64);
        let own = {
            let mut changes = lock(&self.changes);
            changes.dead.extend(dead);
            changes.count += 1;
            changes.count
        };
        let mut written = self.writing.lock().await;
        if *written >= own {
            return Ok(());
        }
        let (count, dead) = {
            let changes = lock(&self.changes);
            (changes.count, changes.dead.clone())
        };
        let saved = codec::encode(&lock(&self.core).saved());
        let number = self.stream()?.number;
        let letters = dead.len();
        self.kept.write(number, &self.name, Some(saved), dead).await?;
        // Only now: who goes or fails meanwhile leaves it to the next one that writes.
        lock(&self.changes).dead.drain(..letters);
        *written = count;
        Ok(())
    }
}

fn handed_of(delivery: &Delivery) -> Handed {
    Handed {
        position: delivery.record.position,
        delivery: delivery.delivery,
    }
}

fn letters(dead: &[DeadLetter]) -> Vec<(u64, Option<Vec<u8>>)> {
    dead.iter()
        .map(|letter| (letter.position, Some(codec::encode(letter))))
        .collect()
}
