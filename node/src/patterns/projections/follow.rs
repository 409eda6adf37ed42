//! A generation of a projection: its table, and who reads the stream for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{From, Query as All, ReadRequest},
};

use super::{
    options::{ProjectionError, ProjectionOptions},
    past::Held,
    shelf::{Progress, Shelf, SnapshotInfo},
    sql::Query,
    table::Table,
};
use crate::{
    patterns::event_sourcing::{EventSourcingHandle, Read},
    platform::Clock,
};

/// How long after something went wrong it is tried again: longer each time.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(15);

/// How a generation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Following {
    /// Everything up to here has been taken in.
    pub(super) position: u64,
    /// Whether it had everything there was, at least once since the node's start.
    pub(super) is_live: bool,
    /// What keeps it from going on, just now or for good.
    pub(super) trouble: Option<String>,
    /// Whether for good.
    pub(super) is_stopped: bool,
}

/// One building of a projection.
pub(super) struct Generation {
    pub(super) number: u64,
    pub(super) options: ProjectionOptions,
    pub(super) query: Arc<Query>,
    pub(super) stream: Subject,
    pub(super) shelf: Shelf,
    pub(super) streams: EventSourcingHandle,
    clock: Arc<dyn Clock>,
    /// Held while something is taken in, and by whoever must not see half of it.
    table: tokio::sync::Mutex<Table>,
    following: watch::Sender<Following>,
    stop: CancellationToken,
    /// The moment of the past that was looked at last.
    pub(super) looked_at: Mutex<Option<Arc<Held>>>,
}

impl Generation {
    pub(super) async fn open(
        number: u64,
        options: ProjectionOptions,
        shelf: Shelf,
        streams: EventSourcingHandle,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, ProjectionError> {
        let query = Arc::new(Query::parse(&options.sql).map_err(ProjectionError::Invalid)?);
        let stream: Subject = query.stream().parse().map_err(|error| {
            ProjectionError::Invalid(format!("{:?} cannot be the name of a stream: {error}", query.stream()))
        })?;
        let table = Table::open(shelf.clone(), number, stream.clone(), Arc::clone(&query)).await?;
        let following = Following {
            position: table.progress().position,
            ..Following::default()
        };
        Ok(Arc::new(Generation {
            number,
            options,
            query,
            stream,
            shelf,
            streams,
            clock,
            table: tokio::sync::Mutex::new(table),
            following: watch::Sender::new(following),
            stop: CancellationToken::new(),
            looked_at: Mutex::default(),
        }))
    }

    /// How it is, now and from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Following> {
        self.following.subscribe()
    }

    pub(super) fn following(&self) -> Following {
        self.following.borrow().clone()
    }

    /// How far it has come, while nobody takes anything in.
    pub(super) async fn held(&self) -> tokio::sync::MutexGuard<'_, Table> {
        self.table.lock().await
    }

    /// Ends following, and waits until nothing is being taken in.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        drop(self.table.lock().await);
    }

    pub(super) fn lock_past(&self) -> MutexGuard<'_, Option<Arc<Held>>> {
        self.looked_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the stream and takes in what it reads, until it is told to stop or cannot go on.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut pause = AGAIN;
        loop {
            let position = self.following.borrow().position;
            let Some(error) = self.follow_once().await else { return };
            let is_stopped = matches!(error, ProjectionError::Stopped(_));
            self.following.send_modify(|following| {
                following.trouble = Some(error.to_string());
                following.is_stopped = is_stopped;
            });
            if is_stopped {
                tracing::warn!(stream = %self.stream, %error, "a projection cannot go on");
                return;
            }
            tracing::debug!(stream = %self.stream, %error, "a projection waits for its stream");
            // Who came further begins with short pauses again.
            pause = match self.following.borrow().position > position {
                true => AGAIN,
                false => (pause * 2).min(AGAIN_MAX),
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Why it ended; nothing when it was told to.
    async fn follow_once(&self) -> Option<ProjectionError> {
        let opened = tokio::select! {
            () = self.stop.cancelled() => return None,
            opened = self.begin() => opened,
        };
        let mut reading = match opened {
            Ok(reading) => reading,
            Err(error) => return Some(error),
        };
        self.following.send_modify(|following| following.trouble = None);
        loop {
            let read = tokio::select! {
                () = self.stop.cancelled() => return None,
                read = reading.next() => read,
            };
            let outcome = match read {
                Ok(Some(Read::Records(records))) => {
                    let mut table = self.table.lock().await;
                    // It may have been told to stop while it waited.
                    if self.stop.is_cancelled() {
                        return None;
                    }
                    let taken = table.take(&records).await;
                    let position = table.progress().position;
                    self.following.send_modify(|following| following.position = position);
                    match taken {
                        Ok(()) => self.snapshot_if_due(&mut table).await,
                        Err(error) => Err(error),
                    }
                }
                Ok(Some(Read::CaughtUp(_))) => {
                    self.following.send_modify(|following| following.is_live = true);
                    Ok(())
                }
                Ok(None) => return Some(ProjectionError::Conflict("the stream ended".to_owned())),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = outcome {
                return Some(error);
            }
        }
    }

    async fn begin(&self) -> Result<crate::patterns::event_sourcing::Reading, ProjectionError> {
        let info = self.streams.info(&self.stream).await?;
        let figures = info
            .figures
            .ok_or_else(|| ProjectionError::Conflict(format!("the owner of {} does not say how it is", self.stream)))?;
        let next = {
            let mut table = self.table.lock().await;
            table.belongs_to(figures.created_ms).await?;
            if let Some(reason) = &table.progress().stopped {
                return Err(ProjectionError::Stopped(reason.clone()));
            }
            table.progress().position + 1
        };
        let request = ReadRequest {
            from: From::Position(next),
            query: All::default(),
            follow: true,
            limit: None,
            is_upcast: Some(true),
        };
        Ok(self.streams.read(&self.stream, request).await?)
    }

    async fn snapshot_if_due(&self, table: &mut Table) -> Result<(), ProjectionError> {
        let Some(every) = self.options.snapshot_every else {
            return Ok(());
        };
        let progress = table.progress();
        if progress.position - progress.snapshot < every {
            return Ok(());
        }
        self.shelf
            .snapshot(self.number, progress, self.clock.now_unix_ms(), false)
            .await?;
        table.has_snapshot().await?;
        let all = self.shelf.snapshots(self.number).await?;
        let own: Vec<&SnapshotInfo> = all.iter().filter(|one| !one.is_asked_for).collect();
        let surplus = own.len().saturating_sub(self.options.kept());
        for old in &own[..surplus] {
            self.shelf.forget(self.number, old.position).await?;
        }
        Ok(())
    }

    /// Keeps a snapshot of now.
    pub(super) async fn snapshot(&self) -> Result<SnapshotInfo, ProjectionError> {
        let table = self.table.lock().await;
        self.shelf
            .snapshot(self.number, table.progress(), self.clock.now_unix_ms(), true)
            .await
    }

    pub(super) async fn progress(&self) -> Progress {
        self.table.lock().await.progress().clone()
    }
}
