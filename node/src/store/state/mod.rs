//! The state: one redb database behind all keyspaces, on our own disk.
//!
//! **Promises.** A batch answered with `Ok` is durable and was applied whole. Readers see only durable batches. After a
//! failed write or sync no write is taken any more, and reads go on from the last durable state. Damage, whether redb
//! reports it or panics over it, comes out as [`StoreError::Corrupt`].
//!
//! **How.** Batches that wait become one transaction with one sync. Each batch's preconditions are checked in order
//! inside the transaction; one that does not hold leaves that batch out and the others in.

mod backend;
mod codec;
mod database;

use super::error::{Result, StoreError, is_full, readable};
use super::group::Work;
use super::keyspace::Batch;
use super::shared::Shared;
use crate::platform::disk::{DiskFile, OpenMode};
use backend::{Live, LiveBackend};
use database::{Database, Fault};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::oneshot;

/// The file of the state.
pub(super) const FILE: &str = "state.redb";
/// What a lost state means, and what helps.
pub(super) const LOST: &str = "everything this node keeps outside its logs";
pub(super) const ADVICE: &str =
    "restore the file from a backup, or move it away together with FORMAT to begin with an empty state";

/// What a batch may make the file grow by, beyond its own bytes: pages are copied on write.
const GROWTH_BYTES_MIN: u64 = 1 << 20;

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) keyspace: &'static str,
    pub(super) batch: Batch,
    pub(super) reply: oneshot::Sender<Result<()>>,
}

/// The state database.
#[derive(Debug)]
pub(super) struct State {
    shared: Arc<Shared>,
    path: PathBuf,
    engine: RwLock<Engine>,
    /// Held by whoever changes the file or replaces the engine.
    writing: Mutex<()>,
}

#[derive(Debug, Clone)]
enum Engine {
    /// All is well.
    Live {
        database: Arc<Database>,
        backend: Arc<LiveBackend>,
    },
    /// A write failed: reads come from a picture of the last durable state. `reopen` says that the cause was a full
    /// disk, so the file may be opened again once there is room.
    Frozen { picture: Arc<Database>, reopen: bool },
    /// A write failed and the last durable state cannot be read either.
    Lost(StoreError),
    /// The store was closed.
    Closed,
}

impl State {
    /// Opens the state; makes an empty one only when the store itself is `new`. Reads the whole file when the options ask for the check, or when the
    /// last stop was not an orderly one. Blocks.
    pub(super) fn open(shared: Arc<Shared>, new: bool) -> Result<State> {
        let path = shared.dir.join(FILE);
        let state = State {
            shared,
            path,
            engine: RwLock::new(Engine::Closed),
            writing: Mutex::new(()),
        };
        // redb takes an empty file for a new database.
        if !new && state.file_bytes()? == 0 {
            return Err(state.corrupt("the file is empty".to_string(), None));
        }
        let engine = state.open_live()?;
        state.set_engine(engine);
        Ok(state)
    }

    /// The value of a key. Blocks.
    pub(super) fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.read(|database| database.get(table, key))
    }

    /// Up to `limit` entries whose keys begin with `prefix` and come after `after`, in order of their keys. Blocks.
    pub(super) fn scan(&self, table: &str, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Entries> {
        self.read(|database| database.scan(table, prefix, after, limit))
    }

    /// Commits one batch to any table, also the store's own. Blocks; must not be called by the queue's work.
    pub(super) fn commit_now(&self, table: &'static str, batch: Batch) -> Result<()> {
        let mut verdicts = self.commit(&[(table, batch)])?;
        verdicts.pop().unwrap_or(Ok(()))
    }

    /// Whether there is no table besides this one. Blocks.
    pub(super) fn is_unused(&self, own: &str) -> Result<bool> {
        self.read(|database| database.tables().map(|tables| tables.iter().all(|table| table == own)))
    }

    /// Checks the whole file against its checksums, and every value; writes wait meanwhile. Blocks.
    pub(super) fn verify(&self) -> Result<u64> {
        let _writing = self.lock_writing();
        let picture = match self.engine() {
            Engine::Live { backend, .. } => {
                let picture = backend.picture().map_err(StoreError::io("read", &self.path))?;
                Arc::new(
                    Database::open(picture, self.shared.options.cache_bytes, true)
                        .map_err(|fault| self.error(fault))?,
                )
            }
            Engine::Frozen { picture, .. } => picture,
            Engine::Lost(error) => return Err(error),
            Engine::Closed => return Err(StoreError::Closed),
        };
        picture.check_values().map_err(|fault| self.error(fault))
    }

    /// The length of the file. Blocks.
    pub(super) fn file_bytes(&self) -> Result<u64> {
        self.open_file(OpenMode::READ)
            .and_then(|file| file.len().map_err(StoreError::io("read", &self.path)))
    }

    /// Closes the database in good order, so that the next start need not repair it. Blocks.
    pub(super) fn close(&self) -> Result<()> {
        let _writing = self.lock_writing();
        let engine = self.engine();
        self.set_engine(Engine::Closed);
        // A reader in another thread may hold the database a moment longer; then the last one closes it.
        drop(engine);
        Ok(())
    }

    fn read<T>(&self, ask: impl Fn(&Database) -> Result<T, Fault>) -> Result<T> {
        let database = match self.engine() {
            Engine::Live { database, .. } => database,
            Engine::Frozen { picture, .. } => return ask(&picture).map_err(|fault| self.error(fault)),
            Engine::Lost(error) => return Err(error),
            Engine::Closed => return Err(StoreError::Closed),
        };
        match ask(&database) {
            Ok(answer) => Ok(answer),
            Err(fault @ Fault::Value { .. }) => Err(self.error(fault)),
            // redb gives no more answers after its first failure, so what is asked next goes to a picture.
            Err(fault) => {
                let first = self.freeze(&database, fault);
                match self.engine() {
                    Engine::Frozen { picture, .. } => ask(&picture).map_err(|fault| self.error(fault)),
                    _ => Err(first),
                }
            }
        }
    }

    fn commit(&self, batches: &[(&'static str, Batch)]) -> Result<Vec<Result<()>>> {
        let _writing = self.lock_writing();
        self.shared.sound()?;
        let bytes: u64 = batches.iter().map(|(_, batch)| batch.bytes() as u64).sum();
        self.shared
            .room_for(bytes.saturating_mul(2).saturating_add(GROWTH_BYTES_MIN), &self.path)?;
        let database = self.database_for_writing()?;
        match database.commit(batches) {
            Ok(verdicts) => Ok(verdicts
                .into_iter()
                .zip(batches)
                .map(|(failed, batch)| verdict(failed, batch))
                .collect()),
            Err(fault) => Err(self.freeze_locked(&database, fault)),
        }
    }

    fn database_for_writing(&self) -> Result<Arc<Database>> {
        match self.engine() {
            Engine::Live { database, .. } => Ok(database),
            Engine::Frozen { reopen: true, .. } => {
                let engine = self.open_live()?;
                self.set_engine(engine.clone());
                match engine {
                    Engine::Live { database, .. } => Ok(database),
                    _ => Err(StoreError::Closed),
                }
            }
            Engine::Frozen { .. } => self.shared.sound().and(Err(StoreError::Closed)),
            Engine::Lost(error) => Err(error),
            Engine::Closed => Err(StoreError::Closed),
        }
    }

    fn freeze(&self, database: &Arc<Database>, fault: Fault) -> StoreError {
        let _writing = self.lock_writing();
        self.freeze_locked(database, fault)
    }

    /// Turns from the live file to a picture of its last durable state, and gives the error to answer with.
    fn freeze_locked(&self, failed: &Arc<Database>, fault: Fault) -> StoreError {
        let Engine::Live { database, backend } = self.engine() else {
            return self.error(fault);
        };
        if !Arc::ptr_eq(&database, failed) {
            return self.error(fault);
        }
        backend.seal();
        let first = backend.failure();
        let full = first
            .as_ref()
            .is_some_and(|failure| failure.action != "sync" && is_full(&failure.source));
        let error = match &first {
            Some(_) if full => self.full(),
            Some(failure) => self.shared.fail(format!(
                "cannot {} {}: {}",
                failure.action,
                self.path.display(),
                failure.source
            )),
            None => {
                let error = self.error(fault);
                self.shared.fail(error.to_string());
                error
            }
        };
        let picture = backend
            .picture()
            .map_err(StoreError::io("read", &self.path))
            .and_then(|picture| {
                Database::open(picture, self.shared.options.cache_bytes, true).map_err(|fault| self.error(fault))
            });
        self.set_engine(match picture {
            Ok(picture) => Engine::Frozen {
                picture: Arc::new(picture),
                reopen: full,
            },
            Err(lost) => {
                self.shared.fail(lost.to_string());
                Engine::Lost(lost)
            }
        });
        error
    }

    fn open_live(&self) -> Result<Engine> {
        let options = &self.shared.options;
        let file = self.open_file(OpenMode::CREATE)?;
        let backend = LiveBackend::new(file).map_err(StoreError::io("read", &self.path))?;
        match Database::open(Live(Arc::clone(&backend)), options.cache_bytes, options.check_state) {
            Ok(database) => Ok(Engine::Live {
                database: Arc::new(database),
                backend,
            }),
            Err(fault) => Err(match backend.failure() {
                Some(failure) if is_full(&failure.source) => self.full(),
                // A file cut short shows as a read beyond its end; that is damage, not a failing disk.
                Some(failure) if failure.source.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.corrupt("the file is shorter than it says".to_string(), None)
                }
                Some(failure) => StoreError::Io {
                    action: failure.action,
                    path: self.path.clone(),
                    source: failure.source,
                },
                None => self.error(fault),
            }),
        }
    }

    fn open_file(&self, mode: OpenMode) -> Result<Arc<dyn DiskFile>> {
        self.shared
            .disk
            .open(&self.path, mode)
            .map_err(StoreError::io("open", &self.path))
    }

    fn full(&self) -> StoreError {
        let available_bytes = self.shared.disk.available_bytes(&self.shared.dir).unwrap_or(0);
        let needed_bytes = self.shared.options.reserve_bytes.saturating_add(GROWTH_BYTES_MIN);
        StoreError::Full {
            path: self.path.clone(),
            available_bytes,
            needed_bytes,
        }
    }

    fn error(&self, fault: Fault) -> StoreError {
        match fault {
            Fault::Io(source) => StoreError::Io {
                action: "use",
                path: self.path.clone(),
                source: Arc::new(source),
            },
            Fault::Engine(reason) => self.corrupt(reason, None),
            Fault::Value { table, key } => {
                let lost = format!("the value of key {} of keyspace {table}", readable(&key));
                self.corrupt("a value does not match its checksum".to_string(), Some(lost))
            }
        }
    }

    fn corrupt(&self, reason: String, lost: Option<String>) -> StoreError {
        StoreError::Corrupt {
            file: self.path.clone(),
            offset_bytes: None,
            reason,
            lost: lost.unwrap_or_else(|| LOST.to_string()),
            lost_records: None,
            advice: ADVICE,
        }
    }

    fn engine(&self) -> Engine {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_engine(&self, engine: Engine) {
        let old = std::mem::replace(
            &mut *self.engine.write().unwrap_or_else(PoisonError::into_inner),
            engine,
        );
        // Closing the old database may take a while; no reader should wait for it.
        drop(old);
    }

    fn lock_writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys with their values.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl Work for State {
    type Job = Commit;

    fn run(&self, jobs: Vec<Commit>) {
        let (batches, replies): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .map(|job| ((job.keyspace, job.batch), job.reply))
            .unzip();
        // A caller that went away does not take its answer; the batch is committed all the same.
        match self.commit(&batches) {
            Ok(verdicts) => replies.into_iter().zip(verdicts).for_each(|(reply, verdict)| {
                let _ = reply.send(verdict);
            }),
            Err(error) => replies.into_iter().for_each(|reply| {
                let _ = reply.send(Err(error.clone()));
            }),
        }
    }
}

/// The answer to a batch: `failed` is the index of the precondition that did not hold, if any.
fn verdict(failed: Option<usize>, (keyspace, batch): &(&'static str, Batch)) -> Result<()> {
    match failed {
        None => Ok(()),
        Some(index) => {
            let key = batch
                .requirements()
                .get(index)
                .map_or(String::new(), |(key, _)| readable(key));
            Err(StoreError::Conflict { keyspace, key })
        }
    }
}
