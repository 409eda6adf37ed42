//! The streams that this node keeps: which there are, which are open, and what is done to them without being asked.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use weft_protocol::{
    PeerId, Subject, Wire as _,
    limits::ANNOUNCEMENT_BYTES_MAX,
    patterns::event_sourcing::{ANNOUNCEMENT_KEY, KeptStreams, checkpoint::Checkpoint},
};

use super::{
    consumers::Consumers,
    metrics::StreamMetrics,
    options::{STREAMS_MAX, StreamError, StreamOptions, check_name},
    shelf::{Facts, Shelf},
    stream::Stream,
};
use crate::{
    mesh::Mesh,
    platform::Clock,
    store::{Log, Store, StoreError},
    tasks::Tasks,
};

/// Streams that are open at once; beyond them, those that nobody uses are closed.
const OPEN_MAX: usize = 256;
/// Under this token are streams that are being read in.
const IMPORTS: &str = "$import";
/// How often what is not to be kept is let go of; where nobody uses the stream, every so-many-th time, which is every hour.
const RETAIN_EVERY: Duration = Duration::from_secs(15);
const RETAIN_UNUSED: u64 = 240;
/// How long the index of a stream that was closed stays.
const UNUSED_FOR: Duration = Duration::from_secs(5);
/// Changes of what this node keeps that come together are said together.
const GATHER: Duration = Duration::from_millis(50);

/// An open stream and its consumers.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) stream: Arc<Stream>,
    pub(super) consumers: Arc<Consumers>,
}

/// A stream that is being read in.
pub(super) struct Hidden {
    name: Subject,
    facts: Facts,
}

/// The streams of this node.
pub(super) struct Streams {
    pub(super) mesh: Mesh,
    store: Store,
    shelf: Shelf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) metrics: StreamMetrics,
    known: Mutex<BTreeMap<Subject, Facts>>,
    open: Mutex<HashMap<Subject, Opened>>,
    /// Held by whoever creates, opens or deletes.
    changing: tokio::sync::Mutex<()>,
    /// What this node keeps has changed.
    changed: Notify,
}

fn log_name(number: u64) -> String {
    format!("stream.{number:08}")
}

/// What it is made of.
pub(super) struct Parts {
    pub(super) mesh: Mesh,
    pub(super) store: Store,
    pub(super) shelf: Shelf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) metrics: StreamMetrics,
}

impl Streams {
    pub(super) async fn open_all(parts: Parts) -> Result<Arc<Self>, StreamError> {
        let Parts {
            mesh,
            store,
            shelf,
            clock,
            tasks,
            metrics,
        } = parts;
        let (imports, known): (Vec<_>, Vec<_>) = shelf
            .streams()
            .await?
            .into_iter()
            .partition(|(name, _)| name.is_reserved());
        for (name, facts) in imports {
            // It was cut off.
            shelf.delete(&name, facts.number).await?;
        }
        let streams = Arc::new(Streams {
            mesh,
            store,
            shelf,
            clock,
            tasks,
            metrics,
            known: Mutex::new(known.into_iter().collect()),
            open: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        });
        streams.changed.notify_one();
        Ok(streams)
    }

    pub(super) fn local_peer(&self) -> PeerId {
        self.mesh.local_peer()
    }

    /// Whether this node keeps a stream.
    pub(super) fn has(&self, name: &Subject) -> bool {
        self.known().contains_key(name)
    }

    /// The names of the streams that this node keeps.
    pub(super) fn names(&self) -> Vec<Subject> {
        self.known().keys().cloned().collect()
    }

    /// Makes a stream.
    pub(super) async fn create(
        self: &Arc<Self>,
        name: &Subject,
        options: StreamOptions,
    ) -> Result<Opened, StreamError> {
        check_name(name)?;
        options.check()?;
        let _changing = self.changing.lock().await;
        if self.has(name) {
            return Err(StreamError::Exists {
                name: name.to_string(),
                owner: self.local_peer(),
            });
        }
        if self.known().len() as u64 >= STREAMS_MAX {
            return Err(StreamError::Busy(format!("a node keeps at most {STREAMS_MAX} streams")));
        }
        let facts = self.shelf.create(name, options, self.clock.now_unix_ms()).await?;
        self.known().insert(name.clone(), facts.clone());
        self.changed.notify_one();
        self.open_now(name, facts).await
    }

    /// Changes how much of a stream is kept.
    pub(super) async fn update(self: &Arc<Self>, name: &Subject, options: StreamOptions) -> Result<(), StreamError> {
        options.check()?;
        let opened = self.get(name).await?;
        let _changing = self.changing.lock().await;
        opened.stream.check_there()?;
        let facts = Facts {
            options,
            ..opened.stream.facts()
        };
        self.shelf.update(name, &facts).await?;
        self.known().insert(name.clone(), facts.clone());
        opened.stream.set_facts(facts);
        Ok(())
    }

    /// A stream of this node.
    pub(super) async fn get(self: &Arc<Self>, name: &Subject) -> Result<Opened, StreamError> {
        if let Some(opened) = self.opened().get(name).cloned() {
            return Ok(opened);
        }
        let _changing = self.changing.lock().await;
        if let Some(opened) = self.opened().get(name).cloned() {
            return Ok(opened);
        }
        let facts = self.known().get(name).cloned();
        let facts = facts.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        self.open_now(name, facts).await
    }

    async fn open_now(self: &Arc<Self>, name: &Subject, facts: Facts) -> Result<Opened, StreamError> {
        let log = self.store.log(&log_name(facts.number)).await?;
        let clock = Arc::clone(&self.clock);
        let stream = Stream::new(name.clone(), facts, log, self.shelf.clone(), clock);
        let consumers = Consumers::open(
            Arc::clone(&stream),
            self.shelf.clone(),
            Arc::clone(&self.clock),
            self.metrics.clone(),
        )
        .await?;
        let opened = Opened { stream, consumers };
        self.make_room();
        if opened.stream.facts().options != StreamOptions::default()
            && let Err(error) = opened.stream.retain().await
        {
            tracing::warn!(stream = %name, %error, "old records of a stream are not removed");
        }
        self.opened().insert(name.clone(), opened.clone());
        let weak = Arc::downgrade(&opened.stream);
        self.tasks.spawn("stream-index", async move {
            loop {
                let Some(stream) = weak.upgrade() else { return };
                match stream.write_block().await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(StreamError::Gone(_)) => return,
                    Err(error) => {
                        tracing::warn!(stream = %stream.name, %error, "the index of a stream is not written");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                }
                let full = tokio::time::timeout(UNUSED_FOR, stream.full.notified()).await;
                // Nobody else has it: it was closed.
                if full.is_err() && Arc::strong_count(&stream) == 1 {
                    return;
                }
            }
        });
        Ok(opened)
    }

    /// Closes streams that nobody uses, when there are too many.
    fn make_room(&self) {
        let mut open = self.opened();
        if open.len() < OPEN_MAX {
            return;
        }
        // One for the map, one for its consumers, and at times one for its index.
        let is_used =
            |opened: &Opened| Arc::strong_count(&opened.stream) > 3 || Arc::strong_count(&opened.consumers) > 1;
        open.retain(|_, opened| is_used(opened));
    }

    /// Deletes a stream and all that belongs to it.
    pub(super) async fn delete(self: &Arc<Self>, name: &Subject) -> Result<(), StreamError> {
        let _changing = self.changing.lock().await;
        let facts = self.known().get(name).cloned();
        let facts = facts.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        self.shelf.delete(name, facts.number).await?;
        self.known().remove(name);
        if let Some(opened) = self.opened().remove(name) {
            opened.stream.go();
            opened.consumers.go();
        }
        self.changed.notify_one();
        self.sweep(facts.number).await
    }

    async fn sweep(&self, number: u64) -> Result<(), StreamError> {
        self.store.remove_log(&log_name(number)).await?;
        self.shelf.sweep(number).await
    }

    /// A log for a stream that is being read in, under a name that is not shown.
    pub(super) async fn begin_import(&self, name: &Subject) -> Result<(Hidden, Log), StreamError> {
        let _changing = self.changing.lock().await;
        if self.has(name) {
            return Err(StreamError::Exists {
                name: name.to_string(),
                owner: self.local_peer(),
            });
        }
        let hidden = Subject::reserved(&format!("{IMPORTS}.{name}"))?;
        let facts = self
            .shelf
            .create(&hidden, StreamOptions::default(), self.clock.now_unix_ms())
            .await;
        let facts = facts.map_err(|error| match error {
            StreamError::Store(StoreError::Conflict { .. }) => {
                StreamError::Conflict(format!("the stream {name} is being imported already"))
            }
            error => error,
        })?;
        let log = self.store.log(&log_name(facts.number)).await?;
        Ok((Hidden { name: hidden, facts }, log))
    }

    /// It is all there: it gets its name.
    pub(super) async fn end_import(&self, name: &Subject, hidden: &Hidden) -> Result<(), StreamError> {
        let _changing = self.changing.lock().await;
        self.shelf
            .rename(&hidden.name, name, &hidden.facts)
            .await
            .map_err(|error| match error {
                StreamError::Store(StoreError::Conflict { .. }) => StreamError::Exists {
                    name: name.to_string(),
                    owner: self.local_peer(),
                },
                error => error,
            })?;
        self.known().insert(name.clone(), hidden.facts.clone());
        self.changed.notify_one();
        Ok(())
    }

    /// Nothing is left of it.
    pub(super) async fn give_up_import(&self, hidden: &Hidden) {
        let number = hidden.facts.number;
        let removed = async {
            self.shelf.delete(&hidden.name, number).await?;
            self.sweep(number).await
        };
        if let Err(error) = removed.await {
            tracing::warn!(%error, "what is left of an import is not removed");
        }
    }

    /// The checkpoint of another member's stream that was verified last.
    pub(super) async fn seen(&self, owner: PeerId, name: &Subject) -> Result<Option<Checkpoint>, StreamError> {
        let text = self.shelf.seen(&owner.to_string(), name).await?;
        Ok(text.and_then(|text| Checkpoint::open(&text).ok()))
    }

    /// It was verified now.
    pub(super) async fn saw(&self, owner: PeerId, name: &Subject, checkpoint: &str) -> Result<(), StreamError> {
        self.shelf.saw(&owner.to_string(), name, checkpoint).await
    }

    /// Finishes what was cut off, says what this node keeps, and lets go of what is not to be kept, until the node stops.
    pub(super) async fn run(self: Arc<Self>) {
        match self.shelf.deleted().await {
            Ok(deleted) => {
                for number in deleted {
                    if let Err(error) = self.sweep(number).await {
                        tracing::warn!(number, %error, "what is left of a deleted stream is not removed");
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "it cannot be read which streams were deleted"),
        }
        let (mut retain, mut turn) = (tokio::time::interval(RETAIN_EVERY), 0);
        loop {
            tokio::select! {
                biased;
                () = self.changed.notified() => {
                    tokio::time::sleep(GATHER).await;
                    self.announce().await;
                }
                _ = retain.tick() => {
                    turn += 1;
                    self.retain(turn).await;
                }
            }
        }
    }

    async fn announce(&self) {
        let said = announcement(self.names());
        if self.mesh.announce(ANNOUNCEMENT_KEY, said.to_bytes()).await.is_err() {
            tracing::debug!("not announced: the node is stopping");
        }
    }

    async fn retain(self: &Arc<Self>, turn: u64) {
        let bounded: Vec<Subject> = {
            let (known, open) = (self.known(), self.opened());
            let is_turn = |name: &Subject, facts: &Facts| {
                open.contains_key(name) || facts.number % RETAIN_UNUSED == turn % RETAIN_UNUSED
            };
            known
                .iter()
                .filter(|(name, facts)| facts.options != StreamOptions::default() && is_turn(name, facts))
                .map(|(name, _)| name.clone())
                .collect()
        };
        for name in bounded {
            let done = match self.get(&name).await {
                Ok(opened) => opened.stream.retain().await,
                Err(error) => Err(error),
            };
            match done {
                Ok(()) | Err(StreamError::NoStream(_) | StreamError::Gone(_)) => {}
                Err(error) => tracing::warn!(stream = %name, %error, "old records of a stream are not removed"),
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Subject, Facts>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Subject, Opened>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As many names as there is room for.
fn announcement(names: Vec<Subject>) -> KeptStreams {
    let (mut bytes, mut said) = (16, KeptStreams::default());
    for name in names {
        bytes += name.as_str().len() + 3;
        if bytes > ANNOUNCEMENT_BYTES_MAX || said.names.len() == 1024 {
            said.has_more = true;
            break;
        }
        said.names.push(name);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_has_as_many_names_as_fit() {
        let names = |count: usize, length: usize| -> Vec<Subject> {
            (0..count).map(|n| format!("{n:0length$}").parse().unwrap()).collect()
        };
        assert!(!announcement(names(1000, 4)).has_more);
        for (count, length) in [(2000, 3), (1000, 200), (1025, 4)] {
            let said = announcement(names(count, length));
            assert!(said.has_more && !said.names.is_empty());
            assert!(said.to_checked_bytes().is_ok(), "{count} of {length}");
        }
    }
}
