//! What applications ask of schedules, and who does what is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::sync::{Notify, oneshot};
use weft_protocol::patterns::event_sourcing::Append;

use super::{
    options::{SCHEDULES_MAX, ScheduleError, ScheduleOptions, check_name},
    shelf::{Scheduled, Shelf},
};
use crate::{
    error::Kind as _,
    local::rfc3339,
    patterns::event_sourcing::{EventSourcingHandle, StreamError},
    platform::{Clock, Entropy, random},
    tasks::Tasks,
};

/// The extension attribute that says which schedule an event comes from.
const ATTRIBUTE: &str = "schedule";
/// How long it is slept at most: the calendar may jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Appends that are under way at once.
const AT_ONCE: usize = 16;
/// How long after an append failed it is tried again: longer each time.
const AGAIN_MS: u64 = 1000;
const AGAIN_MS_MAX: u64 = 60_000;

/// What the handle stands on.
pub(super) struct Parts {
    pub(super) streams: EventSourcingHandle,
    pub(super) shelf: Shelf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<dyn Entropy>,
    pub(super) tasks: Tasks,
}

/// A cloneable handle on the schedules of this node.
#[derive(Clone)]
pub struct SchedulesHandle {
    inner: Arc<Inner>,
}

struct Inner {
    parts: Parts,
    waiting: Mutex<Waiting>,
    /// Something is due earlier than was known.
    changed: Notify,
    /// Held by whoever changes a schedule.
    changing: tokio::sync::Mutex<()>,
}

/// What is due when.
#[derive(Default)]
struct Waiting {
    due: BTreeMap<String, u64>,
    queue: BTreeSet<(u64, String)>,
    /// Those that could not be appended just now: how often, and why.
    troubles: BTreeMap<String, (u32, String)>,
}

impl Waiting {
    fn set(&mut self, name: &str, due_ms: Option<u64>) {
        if let Some(before) = self.due.remove(name) {
            self.queue.remove(&(before, name.to_owned()));
        }
        if let Some(due_ms) = due_ms {
            self.due.insert(name.to_owned(), due_ms);
            self.queue.insert((due_ms, name.to_owned()));
        }
    }
}

/// A schedule, and how it is.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// How it is defined.
    pub options: ScheduleOptions,
    /// When it is due next, Unix milliseconds; nothing when never again.
    pub due_ms: Option<u64>,
    /// Occurrences that were appended.
    pub done: u64,
    /// Occurrences that were left out, because a later one was due as well.
    pub left_out: u64,
    /// Occurrences that could not be appended, and never will be.
    pub failed: u64,
    /// What went wrong last, if nothing has gone well since.
    pub trouble: Option<String>,
}

impl SchedulesHandle {
    pub(super) async fn open(parts: Parts) -> Result<Self, ScheduleError> {
        let mut waiting = Waiting::default();
        let mut after: Option<String> = None;
        loop {
            let page = parts.shelf.page(after.as_deref()).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, scheduled) in page {
                // One that is over is remembered all the same: its name is taken.
                waiting.set(
                    &name,
                    Some(if scheduled.is_over() {
                        u64::MAX
                    } else {
                        scheduled.due_ms
                    }),
                );
            }
        }
        let inner = Arc::new(Inner {
            parts,
            waiting: Mutex::new(waiting),
            changed: Notify::new(),
            changing: tokio::sync::Mutex::default(),
        });
        inner.parts.tasks.spawn_vital("schedules", Arc::clone(&inner).run());
        Ok(SchedulesHandle { inner })
    }

    /// Defines a schedule; the same definition again is no mistake. Whether there was none of this name. Durable when it returns.
    ///
    /// # Errors
    /// `Invalid` for what cannot be; `Exists` when there is one that is defined otherwise; `TooMany`.
    pub async fn define(&self, name: &str, options: ScheduleOptions) -> Result<bool, ScheduleError> {
        check_name(name)?;
        options.check()?;
        let name = name.to_owned();
        self.finish(|inner| async move { inner.define(&name, options).await })
            .await
    }

    /// The same under a name that nobody has: which one.
    ///
    /// # Errors
    /// As [`SchedulesHandle::define`].
    pub async fn define_nameless(&self, options: ScheduleOptions) -> Result<String, ScheduleError> {
        let number = u64::from_be_bytes(random(&*self.inner.parts.entropy));
        let name = format!("once-{number:016x}");
        self.define(&name, options).await?;
        Ok(name)
    }

    /// Removes a schedule. What is being appended just now may still be.
    ///
    /// # Errors
    /// `NoSchedule`.
    pub async fn remove(&self, name: &str) -> Result<(), ScheduleError> {
        let name = name.to_owned();
        self.finish(|inner| async move {
            let _changing = inner.changing.lock().await;
            if !inner.lock().due.contains_key(&name) {
                return Err(ScheduleError::NoSchedule(name));
            }
            inner.parts.shelf.remove(&name).await?;
            let mut waiting = inner.lock();
            waiting.set(&name, None);
            waiting.troubles.remove(&name);
            Ok(())
        })
        .await
    }

    /// The schedules of this node behind a name, by name; none: there are no more.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn page(&self, after: Option<&str>) -> Result<Vec<Standing>, ScheduleError> {
        let page = self.inner.parts.shelf.page(after).await?;
        let waiting = self.inner.lock();
        let standing = |(name, scheduled): (String, Scheduled)| standing(name, scheduled, &waiting);
        Ok(page.into_iter().map(standing).collect())
    }

    /// One schedule.
    ///
    /// # Errors
    /// `NoSchedule`.
    pub async fn info(&self, name: &str) -> Result<Standing, ScheduleError> {
        let scheduled = self.inner.parts.shelf.get(name).await?;
        let scheduled = scheduled.ok_or_else(|| ScheduleError::NoSchedule(name.to_owned()))?;
        Ok(standing(name.to_owned(), scheduled, &self.inner.lock()))
    }

    /// Now, by this node's clock, Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.inner.parts.clock.now_unix_ms()
    }

    /// Carries something to its end, whoever goes meanwhile.
    async fn finish<T: Send + 'static, F: Future<Output = Result<T, ScheduleError>> + Send + 'static>(
        &self,
        work: impl FnOnce(Arc<Inner>) -> F,
    ) -> Result<T, ScheduleError> {
        let (answer, answered) = oneshot::channel();
        let work = work(Arc::clone(&self.inner));
        self.inner.parts.tasks.spawn("schedule-work", async move {
            let _ = answer.send(work.await);
        });
        answered.await.map_err(|_| ScheduleError::Closed)?
    }
}

fn standing(name: String, scheduled: Scheduled, waiting: &Waiting) -> Standing {
    let trouble = waiting.troubles.get(&name).map(|(_, why)| why.clone());
    Standing {
        due_ms: (!scheduled.is_over()).then_some(scheduled.due_ms),
        done: scheduled.done,
        left_out: scheduled.left_out,
        failed: scheduled.failed,
        trouble: trouble.or(scheduled.failure),
        options: scheduled.options,
        name,
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn define(&self, name: &str, options: ScheduleOptions) -> Result<bool, ScheduleError> {
        let _changing = self.changing.lock().await;
        if let Some(known) = self.parts.shelf.get(name).await? {
            return match known.options == options {
                true => Ok(false),
                false => Err(ScheduleError::Exists(name.to_owned())),
            };
        }
        if self.lock().due.len() >= SCHEDULES_MAX {
            return Err(ScheduleError::TooMany);
        }
        let due = options.when.first(self.parts.clock.now_unix_ms());
        let due_ms = due.ok_or_else(|| ScheduleError::Invalid("this is never due".to_owned()))?;
        let scheduled = Scheduled {
            options,
            due_ms,
            done: 0,
            left_out: 0,
            failed: 0,
            failure: None,
        };
        self.parts.shelf.put(name, &scheduled).await?;
        self.lock().set(name, Some(due_ms));
        self.changed.notify_one();
        Ok(true)
    }

    /// Appends what is due when it is, until the node stops.
    async fn run(self: Arc<Self>) {
        loop {
            let now_ms = self.parts.clock.now_unix_ms();
            let (due, next) = {
                let waiting = self.lock();
                let due: Vec<String> = waiting
                    .queue
                    .iter()
                    .take_while(|(due_ms, _)| *due_ms <= now_ms)
                    .take(AT_ONCE)
                    .map(|(_, name)| name.clone())
                    .collect();
                (due, waiting.queue.first().map(|(due_ms, _)| *due_ms))
            };
            if due.is_empty() {
                let left = next.map_or(LOOK_EVERY, |next| Duration::from_millis(next.saturating_sub(now_ms)));
                tokio::select! {
                    () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                    () = self.changed.notified() => {}
                }
                continue;
            }
            let all = stream::iter(due).map(|name| self.perform(name));
            all.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        }
    }

    /// Appends what is due of a schedule, and notes it.
    async fn perform(&self, name: String) {
        let now_ms = self.parts.clock.now_unix_ms();
        let scheduled = match self.parts.shelf.get(&name).await {
            Ok(Some(scheduled)) => scheduled,
            // It was removed.
            Ok(None) => return self.lock().set(&name, None),
            Err(error) => return self.again(&name, &error, now_ms),
        };
        let (occurrence_ms, left_out) = scheduled.options.when.last(scheduled.due_ms, now_ms);
        let appended = self.append(&name, &scheduled, occurrence_ms).await;
        let failure = match appended {
            Ok(()) => None,
            Err(error) if is_for_good(&error) => Some(error.to_string()),
            Err(error) => return self.again(&name, &error, now_ms),
        };
        if let Err(error) = self.note(&name, occurrence_ms, left_out, failure).await {
            // What was appended is known by its id, when it is appended again.
            self.again(&name, &error, now_ms);
        }
    }

    async fn append(&self, name: &str, scheduled: &Scheduled, occurrence_ms: u64) -> Result<(), StreamError> {
        let mut event = scheduled.options.event.clone();
        event.time_ms.get_or_insert(occurrence_ms);
        if event.id.is_none() {
            event.id = Some(format!("{name}@{}", rfc3339(occurrence_ms)));
        }
        if !scheduled.options.when.is_once() && !event.extensions.iter().any(|(name, _)| name == ATTRIBUTE) {
            event.extensions.push((ATTRIBUTE.to_owned(), name.to_owned()));
        }
        let append = Append {
            events: vec![event],
            ..Append::default()
        };
        self.parts
            .streams
            .append(&scheduled.options.stream, append)
            .await
            .map(drop)
    }

    /// Notes what became of an occurrence, and when the next one is due.
    async fn note(
        &self,
        name: &str,
        occurrence_ms: u64,
        left_out: u64,
        failure: Option<String>,
    ) -> Result<(), ScheduleError> {
        let _changing = self.changing.lock().await;
        // It may have been removed meanwhile.
        let Some(mut scheduled) = self.parts.shelf.get(name).await? else {
            self.lock().set(name, None);
            return Ok(());
        };
        if let Some(reason) = &failure {
            tracing::warn!(schedule = name, reason, "what was due cannot be appended");
            scheduled.failed += 1;
        } else {
            scheduled.done += 1;
        }
        scheduled.left_out += left_out;
        scheduled.failure = failure;
        let next = scheduled.options.when.after(occurrence_ms);
        let due_ms = match next {
            None if scheduled.failure.is_none() => {
                self.parts.shelf.remove(name).await?;
                None
            }
            next => {
                scheduled.due_ms = next.unwrap_or(scheduled.due_ms);
                self.parts.shelf.put(name, &scheduled).await?;
                Some(next.unwrap_or(u64::MAX))
            }
        };
        let mut waiting = self.lock();
        waiting.set(name, due_ms);
        waiting.troubles.remove(name);
        Ok(())
    }

    /// Tries later.
    fn again(&self, name: &str, error: &dyn std::fmt::Display, now_ms: u64) {
        let mut waiting = self.lock();
        let (times, why) = waiting.troubles.entry(name.to_owned()).or_default();
        *why = error.to_string();
        let pause_ms = AGAIN_MS.saturating_mul(1 << (*times).min(10)).min(AGAIN_MS_MAX);
        *times += 1;
        tracing::debug!(schedule = name, %error, pause_ms, "what is due is appended later");
        waiting.set(name, Some(now_ms.saturating_add(pause_ms)));
    }
}

/// Whether it is of no use to try again: the event itself is what is wrong. A stream that is not there may come.
fn is_for_good(error: &StreamError) -> bool {
    use crate::error::ErrorKind::{Conflict, Denied, Invalid};
    matches!(error.kind(), Invalid | Conflict | Denied)
}
