//! What applications ask of projections.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::{
    follow::{Following, Generation},
    options::{PROJECTIONS_MAX, ProjectionError, ProjectionOptions, SNAPSHOTS_MAX, check_name},
    past::Held,
    shelf::{Defined, Next, Progress, Shelf, SnapshotInfo},
    sql::{self, Query},
};
use crate::{patterns::event_sourcing::EventSourcingHandle, platform::Clock, tasks::Tasks};

/// Rows that are given at once.
pub(super) const ROWS_MAX: usize = 1000;
/// How many look at the past at once; and how long a moment of it is held for who asks for its next rows.
const LOOKING_MAX: usize = 2;
const HELD_FOR: Duration = Duration::from_secs(30);
/// How long a stream is asked how long it is, for people.
const ASKED_FOR: Duration = Duration::from_secs(2);

/// A cloneable handle on the projections of this node.
#[derive(Clone)]
pub struct ProjectionsHandle {
    inner: Arc<Inner>,
}

struct Inner {
    shelf: Shelf,
    streams: EventSourcingHandle,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    known: Mutex<BTreeMap<String, Known>>,
    /// Held by whoever changes which there are.
    defining: tokio::sync::Mutex<()>,
    /// Room for those who look at the past, which takes memory.
    looking: tokio::sync::Semaphore,
}

#[derive(Clone)]
struct Known {
    defined: Defined,
    served: Arc<Generation>,
    next: Option<Arc<Generation>>,
}

/// What a projection does just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It reads what is there.
    CatchingUp,
    /// It has had everything there was, and takes in what comes.
    Live,
    /// Its stream cannot be read just now.
    Waiting,
    /// It cannot go on.
    Stopped,
}

impl State {
    fn of(following: &Following) -> Self {
        match following {
            Following { is_stopped: true, .. } => State::Stopped,
            Following { trouble: Some(_), .. } => State::Waiting,
            Following { is_live: true, .. } => State::Live,
            _ => State::CatchingUp,
        }
    }

    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::CatchingUp => "catching_up",
            State::Live => "live",
            State::Waiting => "waiting",
            State::Stopped => "stopped",
        }
    }
}

/// A projection, and how it is.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// How it is defined.
    pub options: ProjectionOptions,
    /// The stream that it reads.
    pub stream: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// When it was defined, Unix milliseconds.
    pub created_ms: u64,
    /// What it does.
    pub state: State,
    /// What keeps it from going on.
    pub trouble: Option<String>,
    /// Everything up to here is in it.
    pub position: u64,
    /// The stream's version; nothing when that cannot be had.
    pub version: Option<u64>,
    /// Events that counted.
    pub taken: u64,
    /// Groups, without those that `HAVING` leaves out.
    pub groups: u64,
    /// Values that were of no use: a text in a sum, say.
    pub misfits: u64,
    /// Events that the stream kept no more when it was their turn.
    pub missed: u64,
    /// When the last event was recorded, Unix milliseconds; 0 without any.
    pub recorded_ms: u64,
    /// The one that is built anew, if there is one.
    pub rebuilding: Option<Rebuilding>,
    /// Snapshots that are kept.
    pub snapshots: usize,
}

/// How far what is built anew is.
#[derive(Debug, Clone)]
pub struct Rebuilding {
    /// What it does.
    pub state: State,
    /// What keeps it from going on.
    pub trouble: Option<String>,
    /// Everything up to here is in it.
    pub position: u64,
}

/// A moment of a stream's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Behind this position; 0 is before the first event.
    Position(u64),
    /// At this time, Unix milliseconds.
    Time(u64),
}

/// Some rows of a projection.
#[derive(Debug, Clone)]
pub struct Rows {
    /// Everything up to here is in them.
    pub position: u64,
    /// The rows.
    pub rows: Vec<Map<String, Value>>,
    /// Behind which group more may come; nothing at the end.
    pub next: Option<Vec<u8>>,
}

/// What became of a row between two moments.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// As it was; nothing when there was none.
    pub before: Option<Map<String, Value>>,
    /// As it is; nothing when there is none any more.
    pub after: Option<Map<String, Value>>,
}

impl ProjectionsHandle {
    pub(super) async fn open(
        shelf: Shelf,
        streams: EventSourcingHandle,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
    ) -> Result<Self, ProjectionError> {
        let inner = Arc::new(Inner {
            shelf,
            streams,
            clock,
            tasks,
            known: Mutex::default(),
            defining: tokio::sync::Mutex::default(),
            looking: tokio::sync::Semaphore::new(LOOKING_MAX),
        });
        for (name, defined) in inner.shelf.defined().await? {
            match inner.reopen(defined).await {
                Ok(known) => {
                    inner.start(&name, &known);
                    inner.lock().insert(name, known);
                }
                // One that another version has defined keeps nobody from starting.
                Err(ProjectionError::Invalid(reason)) => {
                    tracing::error!(projection = %name, reason, "a projection is not understood and rests");
                }
                Err(error) => return Err(error),
            }
        }
        let cleared = Arc::clone(&inner);
        inner
            .tasks
            .spawn("projection-rest", async move { cleared.clear().await });
        Ok(ProjectionsHandle { inner })
    }

    /// Defines a projection; the same definition again is no mistake. Whether there was none of this name. Durable when it returns.
    ///
    /// # Errors
    /// `Invalid` for a name or a statement that cannot be; `Exists` when there is one that is defined otherwise.
    pub async fn define(&self, name: &str, options: ProjectionOptions) -> Result<bool, ProjectionError> {
        check_name(name)?;
        options.check()?;
        let name = name.to_owned();
        self.finish(|inner| async move { inner.define(name, options).await })
            .await
    }

    /// Removes a projection with its snapshots.
    ///
    /// # Errors
    /// `NoProjection`.
    pub async fn remove(&self, name: &str) -> Result<(), ProjectionError> {
        let name = name.to_owned();
        self.finish(|inner| async move { inner.remove(&name).await }).await
    }

    /// Builds a projection anew from the first event, by another statement if one is given. The old one is served until the new one has caught up
    /// with it; then its snapshots go with it.
    ///
    /// # Errors
    /// `NoProjection`; `Invalid` for a statement that cannot be.
    pub async fn rebuild(&self, name: &str, sql: Option<String>) -> Result<(), ProjectionError> {
        let name = name.to_owned();
        self.finish(|inner| async move { inner.rebuild(name, sql).await }).await
    }

    /// The projections of this node, by name.
    pub async fn list(&self) -> Result<Vec<Standing>, ProjectionError> {
        let all = self.inner.lock().clone();
        let all = all.iter().map(|(name, known)| self.inner.standing(name, known));
        futures::future::try_join_all(all).await
    }

    /// How a projection is.
    ///
    /// # Errors
    /// `NoProjection`.
    pub async fn info(&self, name: &str) -> Result<Standing, ProjectionError> {
        let known = self.inner.known(name)?;
        self.inner.standing(name, &known).await
    }

    /// Rows in the order of their groups: of those whose first keys are these, behind `after`. Each answer is of one moment.
    ///
    /// # Errors
    /// `NoProjection`; `Forgotten` when `at` is too long ago.
    pub async fn rows(
        &self,
        name: &str,
        keys: &[Value],
        after: Option<&[u8]>,
        at: Option<Moment>,
        most: usize,
    ) -> Result<Rows, ProjectionError> {
        let generation = self.inner.known(name)?.served;
        let (most, prefix) = (most.clamp(1, ROWS_MAX), sql::prefix(keys));
        let Some(at) = at else {
            return now(&generation, &prefix, after, most).await;
        };
        let position = self.inner.position(&generation, at).await?;
        let held = self.inner.look(&generation, position).await?;
        let begin = match after {
            Some(after) => std::ops::Bound::Excluded(after.to_vec()),
            None => std::ops::Bound::Included(prefix.clone()),
        };
        let groups = held.groups.range((begin, std::ops::Bound::Unbounded));
        let groups = groups.take_while(|(group, _)| group.starts_with(&prefix)).take(most);
        let groups: Vec<_> = groups.map(|(group, held)| (group.clone(), held.clone())).collect();
        Ok(shown(
            &generation.query,
            position,
            &groups,
            after.is_none() && held.groups.is_empty(),
        ))
    }

    /// Waits until everything up to this position is in a projection.
    ///
    /// # Errors
    /// `Behind` when it did not come so far in time; `Stopped` when it never will.
    pub async fn wait_for(&self, name: &str, position: u64, within: Duration) -> Result<(), ProjectionError> {
        let generation = self.inner.known(name)?.served;
        let mut following = generation.watch();
        let wait = following.wait_for(|following| following.position >= position || following.is_stopped);
        match tokio::time::timeout(within, wait).await {
            Ok(Ok(following)) if following.position >= position => Ok(()),
            Ok(Ok(following)) => Err(ProjectionError::Stopped(following.trouble.clone().unwrap_or_default())),
            Ok(Err(_)) => Err(ProjectionError::Closed),
            Err(_) => Err(ProjectionError::Behind(generation.following().position)),
        }
    }

    /// What became of the rows behind one moment up to another.
    ///
    /// # Errors
    /// `NoProjection`; `Forgotten` when it is too long ago; `Invalid` when the second moment is before the first.
    pub async fn difference(
        &self,
        name: &str,
        from: Moment,
        to: Moment,
    ) -> Result<(u64, u64, Vec<Change>), ProjectionError> {
        let generation = self.inner.known(name)?.served;
        let from = self.inner.position(&generation, from).await?;
        let to = self.inner.position(&generation, to).await?;
        if to < from {
            return Err(ProjectionError::Invalid(format!("{to} is before {from}")));
        }
        let changed = {
            let _room = self.inner.room().await?;
            let changed = generation.difference(from, to).await;
            generation.forget_past(from);
            changed?
        };
        let row = |group| generation.query.row(group);
        let changes = changed.values().map(|(before, after)| Change {
            before: before.as_ref().and_then(row),
            after: row(after),
        });
        Ok((
            from,
            to,
            changes.filter(|change| change.before != change.after).collect(),
        ))
    }

    /// Keeps a snapshot of a projection as it is now.
    ///
    /// # Errors
    /// `NoProjection`; `Conflict` when there are too many.
    pub async fn snapshot(&self, name: &str) -> Result<SnapshotInfo, ProjectionError> {
        let name = name.to_owned();
        self.finish(|inner| async move {
            let _defining = inner.defining.lock().await;
            let generation = inner.known(&name)?.served;
            if inner.shelf.snapshots(generation.number).await?.len() >= SNAPSHOTS_MAX {
                return Err(ProjectionError::Conflict(format!(
                    "{name} has {SNAPSHOTS_MAX} snapshots, which is the limit"
                )));
            }
            generation.snapshot().await
        })
        .await
    }

    /// The snapshots of a projection, the oldest first.
    ///
    /// # Errors
    /// `NoProjection`.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<SnapshotInfo>, ProjectionError> {
        self.inner.shelf.snapshots(self.inner.known(name)?.served.number).await
    }

    /// Removes the snapshot of a position.
    ///
    /// # Errors
    /// `NoProjection`, `NoSnapshot`.
    pub async fn remove_snapshot(&self, name: &str, position: u64) -> Result<(), ProjectionError> {
        let name = name.to_owned();
        self.finish(move |inner| async move {
            let _defining = inner.defining.lock().await;
            let generation = inner.known(&name)?.served.number;
            let all = inner.shelf.snapshots(generation).await?;
            match all.iter().any(|snapshot| snapshot.position == position) {
                true => inner.shelf.forget(generation, position).await,
                false => Err(ProjectionError::NoSnapshot { name, position }),
            }
        })
        .await
    }

    /// Carries something to its end, whoever goes meanwhile.
    async fn finish<T: Send + 'static, F: Future<Output = Result<T, ProjectionError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, ProjectionError> {
        let (answer, answered) = oneshot::channel();
        let work = work(Arc::clone(&self.inner));
        self.inner.tasks.spawn("projection-work", async move {
            let _ = answer.send(work.await);
        });
        answered.await.map_err(|_| ProjectionError::Closed)?
    }
}

/// Rows as they are now.
async fn now(
    generation: &Generation,
    prefix: &[u8],
    after: Option<&[u8]>,
    most: usize,
) -> Result<Rows, ProjectionError> {
    let table = generation.held().await;
    let (position, is_empty) = (table.progress().position, table.progress().groups == 0);
    let groups = generation.shelf.groups(generation.number, prefix, after, most).await?;
    drop(table);
    Ok(shown(&generation.query, position, &groups, is_empty && after.is_none()))
}

fn shown(query: &Query, position: u64, groups: &[(Vec<u8>, sql::Group)], is_empty: bool) -> Rows {
    // Where nothing is grouped there is a row before there is an event.
    let single = query.single().filter(|_| is_empty).map(|(_, group)| group);
    // A page may be short without being the last one.
    let next = groups.last().map(|(name, _)| name.clone());
    let groups = groups.iter().map(|(_, group)| group).chain(&single);
    Rows {
        position,
        rows: groups.filter_map(|group| query.row(group)).collect(),
        next,
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, name: &str) -> Result<Known, ProjectionError> {
        let known = self.lock().get(name).cloned();
        known.ok_or_else(|| ProjectionError::NoProjection(name.to_owned()))
    }

    async fn generation(&self, number: u64, options: &ProjectionOptions) -> Result<Arc<Generation>, ProjectionError> {
        let clock = Arc::clone(&self.clock);
        Generation::open(number, options.clone(), self.shelf.clone(), self.streams.clone(), clock).await
    }

    async fn reopen(&self, defined: Defined) -> Result<Known, ProjectionError> {
        let served = self.generation(defined.generation, &defined.options).await?;
        let next = match &defined.next {
            Some(next) => Some(self.generation(next.generation, &next.options).await?),
            None => None,
        };
        Ok(Known { defined, served, next })
    }

    /// Lets the generations of a projection follow its stream.
    fn start(self: &Arc<Self>, name: &str, known: &Known) {
        self.tasks.spawn("projection", Arc::clone(&known.served).follow());
        if let Some(next) = &known.next {
            self.start_next(name, next);
        }
    }

    fn start_next(self: &Arc<Self>, name: &str, next: &Arc<Generation>) {
        self.tasks.spawn("projection", Arc::clone(next).follow());
        let (inner, name, next) = (Arc::downgrade(self), name.to_owned(), Arc::clone(next));
        self.tasks
            .spawn("projection-rebuild", serve_when_caught_up(inner, name, next));
    }

    async fn define(self: &Arc<Self>, name: String, options: ProjectionOptions) -> Result<bool, ProjectionError> {
        let _defining = self.defining.lock().await;
        if let Some(known) = self.lock().get(&name) {
            return match known.defined.options == options {
                true => Ok(false),
                false => Err(ProjectionError::Exists(name)),
            };
        }
        if self.lock().len() >= PROJECTIONS_MAX {
            return Err(ProjectionError::Conflict(format!(
                "there are {PROJECTIONS_MAX} projections, which is the limit"
            )));
        }
        let number = self.shelf.number().await?;
        let served = self.generation(number, &options).await?;
        let defined = Defined {
            options,
            generation: number,
            next: None,
            created_ms: self.clock.now_unix_ms(),
        };
        self.shelf.define(&name, &defined, None).await?;
        let known = Known {
            defined,
            served,
            next: None,
        };
        self.start(&name, &known);
        self.lock().insert(name, known);
        Ok(true)
    }

    async fn remove(&self, name: &str) -> Result<(), ProjectionError> {
        let _defining = self.defining.lock().await;
        let known = self.known(name)?;
        let gone: Vec<u64> = std::iter::once(&known.served)
            .chain(&known.next)
            .map(|one| one.number)
            .collect();
        self.shelf.remove(name, &gone).await?;
        self.lock().remove(name);
        known.served.end().await;
        if let Some(next) = &known.next {
            next.end().await;
        }
        for number in gone {
            self.shelf.clear(number).await?;
        }
        Ok(())
    }

    async fn rebuild(self: &Arc<Self>, name: String, sql: Option<String>) -> Result<(), ProjectionError> {
        let _defining = self.defining.lock().await;
        let mut known = self.known(&name)?;
        let options = ProjectionOptions {
            sql: sql.unwrap_or_else(|| known.defined.options.sql.clone()),
            ..known.defined.options.clone()
        };
        let number = self.shelf.number().await?;
        let next = self.generation(number, &options).await?;
        let given_up = known.next.replace(Arc::clone(&next));
        known.defined.next = Some(Next {
            options,
            generation: number,
        });
        let gone = given_up.as_ref().map(|one| one.number);
        self.shelf.define(&name, &known.defined, gone).await?;
        self.lock().insert(name.clone(), known);
        self.start_next(&name, &next);
        if let Some(given_up) = given_up {
            given_up.end().await;
            self.shelf.clear(given_up.number).await?;
        }
        Ok(())
    }

    /// Serves what was built anew, if nobody wanted it otherwise meanwhile.
    async fn serve(&self, name: &str, number: u64) -> Result<(), ProjectionError> {
        let _defining = self.defining.lock().await;
        let known = self.known(name)?;
        let Some((next, built)) = known
            .defined
            .next
            .zip(known.next)
            .filter(|(next, _)| next.generation == number)
        else {
            return Ok(());
        };
        let defined = Defined {
            options: next.options,
            generation: next.generation,
            next: None,
            created_ms: known.defined.created_ms,
        };
        let old = known.served;
        self.shelf.define(name, &defined, Some(old.number)).await?;
        let known = Known {
            defined,
            served: built,
            next: None,
        };
        self.lock().insert(name.to_owned(), known);
        old.end().await;
        self.shelf.clear(old.number).await
    }

    /// Removes what an earlier start did not get to.
    async fn clear(&self) {
        let _defining = self.defining.lock().await;
        let cleared = async {
            for number in self.shelf.gone().await? {
                self.shelf.clear(number).await?;
            }
            Ok::<_, ProjectionError>(())
        };
        if let Err(error) = cleared.await {
            tracing::warn!(%error, "what is left of a removed projection stays on the disk until the next start");
        }
    }

    async fn room(&self) -> Result<tokio::sync::SemaphorePermit<'_>, ProjectionError> {
        self.looking.acquire().await.map_err(|_| ProjectionError::Closed)
    }

    /// The groups of a moment, which are held for a while.
    async fn look(&self, generation: &Arc<Generation>, position: u64) -> Result<Arc<Held>, ProjectionError> {
        if let Some(held) = generation.looked_at(position) {
            return Ok(held);
        }
        let _room = self.room().await?;
        let held = generation.at(position).await?;
        let generation = Arc::downgrade(generation);
        self.tasks.spawn("projection-past", async move {
            tokio::time::sleep(HELD_FOR).await;
            if let Some(generation) = generation.upgrade() {
                generation.forget_past(position);
            }
        });
        Ok(held)
    }

    async fn position(&self, generation: &Generation, moment: Moment) -> Result<u64, ProjectionError> {
        match moment {
            Moment::Position(position) => Ok(position),
            Moment::Time(unix_ms) => generation.position_at(unix_ms).await,
        }
    }

    async fn standing(&self, name: &str, known: &Known) -> Result<Standing, ProjectionError> {
        let served = &known.served;
        let asked = tokio::time::timeout(ASKED_FOR, self.streams.info(&served.stream)).await;
        let version = asked.ok().and_then(|info| Some(info.ok()?.figures?.version));
        let following = served.following();
        let Progress {
            position,
            taken,
            groups,
            misfits,
            missed,
            recorded_ms,
            ..
        } = served.progress().await;
        Ok(Standing {
            name: name.to_owned(),
            options: known.defined.options.clone(),
            stream: served.stream.to_string(),
            columns: served.query.columns().map(str::to_owned).collect(),
            created_ms: known.defined.created_ms,
            state: State::of(&following),
            trouble: following.trouble,
            position,
            version,
            taken,
            groups,
            misfits,
            missed,
            recorded_ms,
            rebuilding: known.next.as_ref().map(|next| {
                let following = next.following();
                Rebuilding {
                    state: State::of(&following),
                    position: following.position,
                    trouble: following.trouble,
                }
            }),
            snapshots: self.shelf.snapshots(served.number).await?.len(),
        })
    }
}

/// Waits until what is built anew has caught up, and has it served.
async fn serve_when_caught_up(inner: Weak<Inner>, name: String, next: Arc<Generation>) {
    let mut following = next.watch();
    if following
        .wait_for(|following| following.is_live || following.is_stopped)
        .await
        .is_err()
    {
        return;
    }
    // One that cannot go on is not better than the old one.
    if next.following().is_stopped {
        return;
    }
    let Some(inner) = inner.upgrade() else { return };
    if let Err(error) = inner.serve(&name, next.number).await {
        tracing::warn!(projection = %name, %error, "a projection that was built anew cannot be served");
    }
}
