//! The streams that this node keeps: which there are, which are open, and what is done to them without being asked.

mod copied;
mod upkeep;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use weft_protocol::{Pattern, PeerId, Subject, consensus::GroupId, patterns::event_sourcing::fork::Fork};

use super::{
    consumers::{Consumers, Writing},
    copies::Copies,
    metrics::StreamMetrics,
    options::{STREAMS_MAX, StreamError, StreamOptions, check_name},
    schemas::SchemaSet,
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
/// Under this token are copies of streams that a group keeps.
const COPIES: &str = "$copy";

/// Locks of names: who changes a stream waits for those who change the same one, and for few others.
struct NameLocks([tokio::sync::Mutex<()>; 64]);

impl Default for NameLocks {
    fn default() -> Self {
        NameLocks(std::array::from_fn(|_| tokio::sync::Mutex::default()))
    }
}

impl NameLocks {
    async fn lock(&self, name: &Subject) -> tokio::sync::MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        self.0[(hasher.finish() % self.0.len() as u64) as usize].lock().await
    }
}

/// An open stream and its consumers.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) stream: Arc<Stream>,
    pub(super) consumers: Arc<Consumers>,
    /// The term whose leader's the consumers are, where a group keeps the stream.
    term: u64,
}

/// What this node keeps.
#[derive(Default)]
struct Known {
    /// By the name it is kept under.
    facts: BTreeMap<Subject, Facts>,
    /// The names that copies are kept under, by the names of their streams.
    copies: BTreeMap<Subject, Subject>,
}

impl Known {
    fn new(all: Vec<(Subject, Facts)>) -> Self {
        let mut known = Known::default();
        all.into_iter().for_each(|(key, facts)| known.insert(key, facts));
        known
    }

    fn insert(&mut self, key: Subject, facts: Facts) {
        if let Some(copy) = &facts.copy {
            self.copies.insert(copy.name.clone(), key.clone());
        }
        self.facts.insert(key, facts);
    }

    fn remove(&mut self, key: &Subject) {
        if let Some(copy) = self.facts.remove(key).and_then(|facts| facts.copy) {
            self.copies.remove(&copy.name);
        }
    }

    /// Under which name a stream is kept: one of this node's own comes before a copy.
    fn key<'a>(&'a self, name: &'a Subject) -> Option<&'a Subject> {
        match self.facts.contains_key(name) {
            true => Some(name),
            false => self.copies.get(name),
        }
    }
}

/// A stream that is being read in.
pub(super) struct Hidden {
    name: Subject,
    pub(super) facts: Facts,
}

/// The streams of this node.
pub(super) struct Streams {
    pub(super) mesh: Mesh,
    store: Store,
    shelf: Shelf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
    pub(super) metrics: StreamMetrics,
    known: Mutex<Known>,
    /// Once they are there: the groups that keep copies.
    copies: OnceLock<std::sync::Weak<Copies>>,
    open: Mutex<HashMap<Subject, Opened>>,
    /// Held by whoever creates, opens or deletes a stream.
    changing: NameLocks,
    /// Held by whoever notes something of a group.
    noting: tokio::sync::Mutex<()>,
    /// What this node keeps has changed, and how often it did.
    changed: Notify,
    generation: AtomicU64,
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
            .partition(|(name, _)| name.tokens().next() == Some(IMPORTS));
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
            known: Mutex::new(Known::new(known)),
            copies: OnceLock::new(),
            open: Mutex::default(),
            changing: NameLocks::default(),
            noting: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            generation: AtomicU64::new(0),
        });
        streams.say_again();
        Ok(streams)
    }

    pub(super) fn local_peer(&self) -> PeerId {
        self.mesh.local_peer()
    }

    /// The groups that keep copies are there.
    pub(super) fn attach(&self, copies: &Arc<Copies>) {
        let _ = self.copies.set(Arc::downgrade(copies));
    }

    /// Whether this node keeps a stream.
    pub(super) fn has(&self, name: &Subject) -> bool {
        self.known().key(name).is_some()
    }

    /// The group that keeps a stream of which this node has a copy.
    pub(super) fn group_of(&self, name: &Subject) -> Option<GroupId> {
        let known = self.known();
        let facts = known.facts.get(known.key(name)?)?;
        facts.copy.as_ref().map(|copy| copy.group)
    }

    /// The names of the streams that this node keeps, and whether others do as well; without copies that do not count yet.
    pub(super) fn names(&self) -> Vec<(Subject, bool)> {
        let copies = self.copies.get().and_then(std::sync::Weak::upgrade);
        let counts = |group: GroupId| copies.as_ref().is_none_or(|copies| copies.is_seated(group));
        let known = self.known();
        let named = known.facts.iter().filter_map(|(key, facts)| match &facts.copy {
            Some(copy) => counts(copy.group).then(|| (copy.name.clone(), true)),
            None => Some((key.clone(), false)),
        });
        let mut names: Vec<(Subject, bool)> = named.collect();
        names.sort();
        names.dedup_by(|a, b| a.0 == b.0);
        names
    }

    /// The streams of this node that take in messages, and which.
    pub(super) fn takers(&self) -> Vec<(Subject, Vec<Pattern>)> {
        let known = self.known();
        let taking = known.facts.iter().filter(|(_, facts)| facts.options.takes_any());
        let named = taking.map(|(key, facts)| {
            let name = facts.copy.as_ref().map_or(key, |copy| &copy.name);
            (name.clone(), facts.options.subjects())
        });
        named.collect()
    }

    /// Another number when what this node keeps has changed.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes a stream.
    pub(super) async fn create(
        self: &Arc<Self>,
        name: &Subject,
        options: StreamOptions,
    ) -> Result<Opened, StreamError> {
        check_name(name)?;
        options.check()?;
        let _changing = self.changing.lock(name).await;
        if self.has(name) {
            return Err(StreamError::Exists {
                name: name.to_string(),
                owner: self.local_peer(),
            });
        }
        if self.known().facts.len() as u64 >= STREAMS_MAX {
            return Err(StreamError::Busy(format!("a node keeps at most {STREAMS_MAX} streams")));
        }
        let facts = self.shelf.create(name, options, self.clock.now_unix_ms(), None).await?;
        self.known().insert(name.clone(), facts.clone());
        self.say_again();
        self.open_now(name, facts).await
    }

    /// A stream with the consumers as the leader of this term has found them.
    pub(super) async fn in_term(self: &Arc<Self>, name: &Subject, term: u64) -> Result<Opened, StreamError> {
        let opened = self.get(name).await?;
        if opened.term == term {
            return Ok(opened);
        }
        let key = self.known().key(name).cloned();
        let key = key.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        let _changing = self.changing.lock(&key).await;
        opened.stream.check_there()?;
        let known = self.opened().get(&key).filter(|known| known.term == term).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        opened.consumers.go();
        let consumers = self.consumers(&opened.stream, term).await?;
        let opened = Opened {
            consumers,
            term,
            ..opened
        };
        self.opened().insert(key, opened.clone());
        Ok(opened)
    }

    async fn consumers(&self, stream: &Arc<Stream>, term: u64) -> Result<Arc<Consumers>, StreamError> {
        let writing = match stream.facts().copy {
            None => Writing::Here(self.shelf.clone()),
            Some(copy) => Writing::Group {
                copies: self.copies.get().cloned().unwrap_or_default(),
                group: copy.group,
                name: copy.name,
                term,
            },
        };
        let (clock, metrics) = (Arc::clone(&self.clock), self.metrics.clone());
        Consumers::open(Arc::clone(stream), self.shelf.clone(), writing, clock, metrics).await
    }

    /// The labels of who keeps the streams of a group.
    pub(super) fn places_of(&self, id: GroupId) -> Vec<String> {
        let known = self.known();
        let its = known
            .facts
            .values()
            .find(|facts| facts.copy.as_ref().is_some_and(|copy| copy.group == id));
        its.map_or_else(Vec::new, |facts| facts.options.places().to_vec())
    }

    /// What this node keeps is to be said again.
    pub(super) fn say_again(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// Changes how much of a stream is kept.
    pub(super) async fn update(self: &Arc<Self>, name: &Subject, options: StreamOptions) -> Result<(), StreamError> {
        self.update_kept(name, name, options).await
    }

    async fn update_kept(
        self: &Arc<Self>,
        key: &Subject,
        name: &Subject,
        options: StreamOptions,
    ) -> Result<(), StreamError> {
        options.check()?;
        let opened = self.get_kept(key, name).await?;
        if options.copies() != opened.stream.facts().options.copies() {
            return Err(StreamError::Invalid(
                "the number of a stream's copies cannot be changed".into(),
            ));
        }
        let _changing = self.changing.lock(key).await;
        opened.stream.check_there()?;
        let facts = Facts {
            options,
            ..opened.stream.facts()
        };
        self.shelf.update(key, &facts).await?;
        self.known().insert(key.clone(), facts.clone());
        opened.stream.set_facts(facts);
        self.say_again();
        Ok(())
    }

    /// A stream of this node, or a copy.
    pub(super) async fn get(self: &Arc<Self>, name: &Subject) -> Result<Opened, StreamError> {
        let key = self.known().key(name).cloned();
        let key = key.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        self.get_kept(&key, name).await
    }

    async fn get_kept(self: &Arc<Self>, key: &Subject, name: &Subject) -> Result<Opened, StreamError> {
        if let Some(opened) = self.opened().get(key).cloned() {
            return Ok(opened);
        }
        let _changing = self.changing.lock(key).await;
        if let Some(opened) = self.opened().get(key).cloned() {
            return Ok(opened);
        }
        let facts = self.known().facts.get(key).cloned();
        let facts = facts.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        self.open_now(key, facts).await
    }

    async fn open_now(self: &Arc<Self>, key: &Subject, facts: Facts) -> Result<Opened, StreamError> {
        let name = facts.copy.as_ref().map_or(key, |copy| &copy.name).clone();
        let log = self.store.log(&log_name(facts.number)).await?;
        let clock = Arc::clone(&self.clock);
        let stream = Stream::new(name.clone(), facts, log, self.shelf.clone(), clock);
        let consumers = self.consumers(&stream, 0).await?;
        let opened = Opened {
            stream,
            consumers,
            term: 0,
        };
        self.make_room();
        let facts = opened.stream.facts();
        if facts.options.is_bounded()
            && self.may_retain(&facts)
            && let Err(error) = opened.stream.retain().await
        {
            tracing::warn!(stream = %name, %error, "old records of a stream are not removed");
        }
        self.opened().insert(key.clone(), opened.clone());
        let (weak, full) = (Arc::downgrade(&opened.stream), Arc::clone(&opened.stream.full));
        self.tasks.spawn("stream-index", async move {
            // It is held only while something is written, so that it can be closed; then this is told as well.
            while let Some(stream) = weak.upgrade() {
                let written = stream.write_block().await;
                let name = stream.name.clone();
                drop(stream);
                match written {
                    Ok(true) => {}
                    Ok(false) => full.notified().await,
                    Err(StreamError::Gone(_)) => return,
                    Err(error) => {
                        tracing::warn!(stream = %name, %error, "the index of a stream is not written");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
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
        open.retain(|_, opened| is_used(opened) || !opened.stream.is_settled());
    }

    /// Deletes a stream and all that belongs to it.
    pub(super) async fn delete(self: &Arc<Self>, name: &Subject) -> Result<(), StreamError> {
        self.delete_kept(name, name).await
    }

    async fn delete_kept(self: &Arc<Self>, key: &Subject, name: &Subject) -> Result<(), StreamError> {
        let _changing = self.changing.lock(key).await;
        let facts = self.known().facts.get(key).cloned();
        let facts = facts.ok_or_else(|| StreamError::NoStream(name.to_string()))?;
        self.shelf.delete(key, facts.number).await?;
        self.known().remove(key);
        if let Some(opened) = self.opened().remove(key) {
            opened.stream.go();
            opened.consumers.go();
        }
        self.say_again();
        self.sweep(facts.number).await
    }

    async fn sweep(&self, number: u64) -> Result<(), StreamError> {
        self.store.remove_log(&log_name(number)).await?;
        self.shelf.sweep(number).await
    }

    /// A log for a stream that is being read in, under a name that is not shown.
    pub(super) async fn begin_import(&self, name: &Subject) -> Result<(Hidden, Log), StreamError> {
        let _changing = self.changing.lock(name).await;
        if self.has(name) {
            return Err(StreamError::Exists {
                name: name.to_string(),
                owner: self.local_peer(),
            });
        }
        let hidden = Subject::reserved(&format!("{IMPORTS}.{name}"))?;
        let facts = self
            .shelf
            .create(&hidden, StreamOptions::default(), self.clock.now_unix_ms(), None)
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

    /// Writes the schemas of a stream that is being read in.
    pub(super) async fn put_schemas(&self, hidden: &Hidden, set: &SchemaSet) -> Result<(), StreamError> {
        self.shelf.put_schemas(hidden.facts.number, set).await
    }

    /// It is all there: it gets its name.
    pub(super) async fn end_import(&self, name: &Subject, hidden: &Hidden) -> Result<(), StreamError> {
        let _changing = self.changing.lock(name).await;
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
        self.say_again();
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
    pub(super) async fn seen_note(&self, owner: PeerId, name: &Subject) -> Result<Option<String>, StreamError> {
        self.shelf.seen(&owner.to_string(), name).await
    }

    /// Streams of which one was, behind this key, each with its own.
    pub(super) async fn seen_after(
        &self,
        after: Option<&[u8]>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, PeerId, Subject)>, StreamError> {
        let page = self.shelf.seen_after(after, most).await?;
        let parsed = page.into_iter().filter_map(|(key, owner, name)| {
            let (owner, name) = (owner.parse().ok()?, name.parse().ok()?);
            Some((key, owner, name))
        });
        Ok(parsed.collect())
    }

    /// Keeps the evidence of a fork; what is there already stays.
    pub(super) async fn keep_fork(&self, owner: PeerId, name: &Subject, fork: &Fork) -> Result<(), StreamError> {
        self.shelf.keep_fork(&owner.to_string(), name, &fork.to_text()).await
    }

    /// Evidence of forks of streams with this name, whoever kept them.
    pub(super) async fn forks(&self, name: &Subject) -> Result<Vec<String>, StreamError> {
        self.shelf.forks(name).await
    }

    /// It was verified now.
    pub(super) async fn saw(&self, owner: PeerId, name: &Subject, checkpoint: &str) -> Result<(), StreamError> {
        self.shelf.saw(&owner.to_string(), name, checkpoint).await
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<Subject, Opened>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
