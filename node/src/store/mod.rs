//! The store: everything a node keeps, in one directory.
//!
//! **Promises.** What is answered with `Ok` is durable: synced, with one sync for all that waited. A batch, and an append,
//! is there whole or not at all. What was written is what is served: every value and record carries a checksum, and
//! damage is an error that names the file, the place, what is lost and what helps. After a failed write or sync the
//! store takes no more writes; reads go on.
//!
//! **Does not promise.** Backups; encryption; anything about two programs that write into one directory, except that the
//! second one is refused.
//!
//! **How.** Keyspaces live in one redb database (`state.redb`), logs in segment files of our own (`logs/<name>/`), `FORMAT`
//! names the version, `LOCK` keeps others out. All files are touched through [`Disk`], so a simulator supplies its own;
//! the store reads no clock and no randomness.

#[doc(hidden)]
pub mod contract;
mod error;
mod format;
mod group;
mod keyspace;
mod log;
mod merkle;
mod report;
mod shared;
mod state;
#[cfg(unix)]
#[doc(hidden)]
pub mod torture;

#[cfg(test)]
mod tests;

use crate::platform::disk::{Disk, DiskFile, OpenMode};
use group::Committer;
use shared::Shared;
use state::State;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use error::{Result, StoreError};
pub use keyspace::{
    BATCH_BYTES_MAX, BATCH_OPERATIONS_MAX, Batch, KEY_BYTES_MAX, KEYSPACE_NAME_BYTES_MAX, Keyspace, SCAN_BYTES_MAX,
    SCAN_ENTRIES_MAX, VALUE_BYTES_MAX,
};
pub use log::{
    APPEND_BYTES_MAX, APPEND_RECORDS_MAX, Appending, LOG_NAME_BYTES_MAX, Log, READ_BYTES_MAX, READ_RECORDS_MAX,
    RECORD_BYTES_MAX, RECORD_HEADER_BYTES, Record,
};
pub use merkle::{Frontier, Hash, leaf_hash, node_hash};
pub use report::{FileReport, Finding, Report, Stats};

const LOCK: &str = "LOCK";
const OPENING_LOCKS: usize = 64;
/// Logs that are opened or removed at the same time.
const OPENERS_MAX: usize = 32;
/// The store's own table, which no keyspace can name.
const META: &str = "weft.meta";
const OWNER: &[u8] = b"owner";

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Whose store this is, for instance the hash of the node's public key. A directory of another owner is refused,
    /// and no record of another owner's log passes for one of ours. All zeros when nobody cares.
    pub owner: Hash,
    /// How much memory the state may use for its pages. Default 8 MiB.
    pub cache_bytes: usize,
    /// How long a segment of a log may become, unless its first append is longer. Default 64 MiB.
    pub segment_bytes: u64,
    /// What a write must leave free on the disk; below it writes get [`StoreError::Full`]. Default 64 MiB.
    pub reserve_bytes: u64,
    /// How far ahead of its end a log's file is filled with zeros, at most; small logs take less. A sync into space
    /// that is there already need not write the file system's journal, which makes it up to twice as fast. Default
    /// 1 MiB; 0 turns it off, as where thousands of logs lie in memory.
    pub ahead_bytes: u64,
    /// Whether opening checks all of `state.redb`, also after an orderly stop. Default yes.
    pub check_state: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            owner: [0; 32],
            cache_bytes: 8 << 20,
            segment_bytes: 64 << 20,
            reserve_bytes: 64 << 20,
            ahead_bytes: 1 << 20,
            check_state: true,
        }
    }
}

/// An open store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    committer: Arc<Committer<State>>,
    logs: Mutex<HashMap<String, log::Weak>>,
    /// Each held while a log is opened or removed whose name falls to it, so that no log is ever open twice.
    opening: [Mutex<()>; OPENING_LOCKS],
    /// Threads that may be used up by it: they wait for each other and for what others write.
    openers: Arc<Semaphore>,
    /// Given back when the store is closed.
    lock: Mutex<Option<Arc<dyn DiskFile>>>,
}

impl Store {
    /// Opens the store in `dir`, or makes an empty one there.
    ///
    /// Not cancel-safe in one respect: a call dropped half way may hold the directory's lock until its work has ended.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, options: StoreOptions) -> Result<Store> {
        let shared = Shared::new(disk, dir, options);
        let work = Arc::clone(&shared);
        shared.blocking(move || Store::open_blocking(work)).await
    }

    fn open_blocking(shared: Arc<Shared>) -> Result<Store> {
        let (disk, dir) = (&shared.disk, &shared.dir);
        disk.create_dir_all(dir)
            .map_err(StoreError::io("make the folder", dir))?;
        let path = dir.join(LOCK);
        let lock = disk.open(&path, OpenMode::LOCK).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::InUse { dir: dir.clone() },
            _ => StoreError::io("lock", &path)(error),
        })?;
        let version = format::read(&**disk, dir)?;
        let state_there = disk
            .exists(&dir.join(state::FILE))
            .map_err(StoreError::io("look into", dir))?;
        if let Some(found) = version {
            format::bring_up(&**disk, dir, found, format::VERSION, format::MIGRATIONS)?;
        }
        make_folders(&**disk, dir)?;
        if version.is_some() && !state_there {
            return Err(format::missing(dir, state::FILE, state::LOST));
        }
        let state = Arc::new(State::open(Arc::clone(&shared), version.is_none())?);
        match version {
            None => finish_making(&shared, &state)?,
            Some(_) => check_owner(&shared, &state)?,
        }
        log::remove_doomed(&shared, &state)?;
        let committer = Committer::new(state, Arc::clone(disk));
        let inner = Inner {
            shared,
            committer,
            logs: Mutex::default(),
            opening: std::array::from_fn(|_| Mutex::default()),
            openers: Arc::new(Semaphore::new(OPENERS_MAX)),
            lock: Mutex::new(Some(lock)),
        };
        Ok(Store { inner: Arc::new(inner) })
    }

    /// The keyspace of this name: 1 to 64 of a to z and underscore.
    ///
    /// # Panics
    ///
    /// When the name is none; names are part of the program, never of its input.
    pub fn keyspace(&self, name: &'static str) -> Keyspace {
        assert!(
            keyspace::is_keyspace_name(name),
            "invariant: {name:?} is no name of a keyspace"
        );
        Keyspace::new(name, Arc::clone(&self.inner.shared), Arc::clone(&self.inner.committer))
    }

    /// The log of this name, made when it is not there: 1 to 128 of a to z, 0 to 9, `.`, `_` and `-`, beginning with a
    /// letter or digit.
    ///
    /// A log that is damaged opens all the same as long as anything of it is left; see [`Log::damage`]. Cancel-safe.
    pub async fn log(&self, name: &str) -> Result<Log> {
        self.log_from(name, Frontier::default()).await
    }

    /// The log of this name; when it is not there it is made as one of which everything before the end of this tree was
    /// removed. Cancel-safe.
    pub async fn log_from(&self, name: &str, beginning: Frontier) -> Result<Log> {
        self.open_log(name, Some(beginning)).await
    }

    /// The log of this name, or [`StoreError::NoSuchLog`]. Cancel-safe.
    pub async fn existing_log(&self, name: &str) -> Result<Log> {
        self.open_log(name, None).await
    }

    /// The names of all logs, sorted. Cancel-safe.
    pub async fn logs(&self) -> Result<Vec<String>> {
        self.blocking(|inner| log::names(inner.state())).await
    }

    /// Removes a log with all its records; handles still held refuse appends and soon reads. No error when it is not
    /// there.
    ///
    /// Not undone by a power cut once it returned. Cancel-safe: once begun it is carried to its end.
    pub async fn remove_log(&self, name: &str) -> Result<()> {
        log::check_name(name)?;
        let name = name.to_string();
        let opener = self.opener().await?;
        self.blocking(move |inner| {
            let _opener = opener;
            let _opening = inner.opening(&name);
            inner.shared.writable()?;
            if let Some(log) = inner.open_logs().remove(&name).and_then(|log| log.upgrade()) {
                log.core().retire(StoreError::NoSuchLog { log: name.clone() });
            }
            log::remove(&inner.shared, inner.state(), &name)
        })
        .await
    }

    /// Reads every file of the store and says what is damaged. Commits wait while the state is read; appends do not.
    ///
    /// Cancel-safe: once begun it is carried to its end, only its report is lost.
    pub async fn verify(&self) -> Result<Report> {
        self.blocking(|inner| {
            let mut files = vec![inner.verify_state()?];
            for name in log::names(inner.state())? {
                match inner.open_log(&name, None) {
                    Ok(log) => files.extend(log.core().verify()?),
                    Err(error @ StoreError::Corrupt { .. }) => {
                        let finding = Finding::of(&error);
                        files.push(FileReport {
                            path: finding.file.clone(),
                            bytes: 0,
                            items: 0,
                            findings: vec![finding],
                        });
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(Report { files })
        })
        .await
    }

    /// What the store uses. Cancel-safe.
    pub async fn stats(&self) -> Result<Stats> {
        self.blocking(|inner| {
            let (disk, dir) = (&inner.shared.disk, &inner.shared.dir);
            let open = |log: &&log::Weak| log.upgrade().is_some();
            Ok(Stats {
                state_bytes: inner.state().file_bytes()?,
                logs: log::names(inner.state())?.len() as u64,
                logs_open: inner.open_logs().values().filter(open).count() as u64,
                available_bytes: disk
                    .available_bytes(dir)
                    .map_err(StoreError::io("ask for the free room of", dir))?,
                failure: inner.shared.failure().map(|reason| reason.to_string()),
            })
        })
        .await
    }

    /// Refuses new work, carries what waits to its end, and closes the files in good order.
    ///
    /// A second call does nothing. Not cancel-safe: dropped half way, the store is closed as by a power cut, and the
    /// next start recovers.
    pub async fn close(&self) -> Result<()> {
        if !self.inner.shared.close() {
            return Ok(());
        }
        let open: Vec<Log> = self
            .inner
            .open_logs()
            .drain()
            .filter_map(|(_, log)| log.upgrade())
            .collect();
        for log in &open {
            log.close().await;
        }
        self.inner.committer.close().await;
        let inner = Arc::clone(&self.inner);
        self.inner.shared.blocking(move || inner.close(&open)).await
    }

    async fn open_log(&self, name: &str, beginning: Option<Frontier>) -> Result<Log> {
        log::check_name(name)?;
        let name = name.to_string();
        let opener = self.opener().await?;
        self.blocking(move |inner| {
            let _opener = opener;
            inner.open_log(&name, beginning.as_ref())
        })
        .await
    }

    /// Held until the work is done, also when nobody waits for it any more.
    async fn opener(&self) -> Result<OwnedSemaphorePermit> {
        let openers = Arc::clone(&self.inner.openers);
        openers.acquire_owned().await.map_err(|_| StoreError::Closed)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T> + Send + 'static) -> Result<T> {
        self.inner.shared.open()?;
        let inner = Arc::clone(&self.inner);
        self.inner.shared.blocking(move || work(&inner)).await
    }
}

impl Inner {
    fn state(&self) -> &Arc<State> {
        self.committer.work()
    }

    fn open_logs(&self) -> std::sync::MutexGuard<'_, HashMap<String, log::Weak>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opening(&self, name: &str) -> std::sync::MutexGuard<'_, ()> {
        let lock = &self.opening[crc32c::crc32c(name.as_bytes()) as usize % OPENING_LOCKS];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a log, or makes it where a beginning is given.
    fn open_log(&self, name: &str, beginning: Option<&Frontier>) -> Result<Log> {
        let _opening = self.opening(name);
        self.shared.open()?;
        if let Some(log) = self.open_logs().get(name).and_then(log::Weak::upgrade) {
            return Ok(log);
        }
        let (log, unnoted) = Log::open(&self.shared, self.state(), name, beginning)?;
        if let Some(entry) = unnoted {
            log::note(&self.committer, name, entry)?;
        }
        let mut logs = self.open_logs();
        // Looked through only when it would grow, so that opening the next one costs the same however many are open.
        if logs.len() == logs.capacity() {
            logs.retain(|_, log| log.upgrade().is_some());
        }
        logs.insert(name.to_string(), log.downgrade());
        Ok(log)
    }

    fn verify_state(&self) -> Result<FileReport> {
        let path = self.shared.dir.join(state::FILE);
        let bytes = self.state().file_bytes()?;
        match self.state().verify() {
            Ok(items) => Ok(FileReport {
                path,
                bytes,
                items,
                findings: Vec::new(),
            }),
            Err(error @ StoreError::Corrupt { .. }) => Ok(FileReport {
                path,
                bytes,
                items: 0,
                findings: vec![Finding::of(&error)],
            }),
            Err(error) => Err(error),
        }
    }

    fn close(&self, open: &[Log]) -> Result<()> {
        let registered = match self.shared.failure() {
            None => log::register_at_close(self.state(), open),
            Some(_) => Ok(()),
        };
        let closed = self.state().close();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        registered.and(closed)
    }
}

fn make_folders(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let logs = dir.join(log::DIR);
    disk.create_dir_all(&logs)
        .map_err(StoreError::io("make the folder", &logs))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_dir(parent)
            .map_err(StoreError::io("sync the folder", parent))?;
    }
    Ok(())
}

/// Writes `FORMAT` into a directory that has none, unless there is data in it already.
fn finish_making(shared: &Shared, state: &State) -> Result<()> {
    let (disk, dir) = (&shared.disk, &shared.dir);
    let logs = dir.join(log::DIR);
    let used = !state.is_unused(META)? || !disk.list(&logs).map_err(StoreError::io("list", &logs))?.is_empty();
    if used {
        return Err(format::missing(
            dir,
            format::FILE,
            "the version of the data directory, no data",
        ));
    }
    // Before the version, so that a store with a version always has an owner.
    state.commit_now(META, Batch::new().put(OWNER, shared.options.owner.to_vec()))?;
    disk.sync_dir(dir).map_err(StoreError::io("sync the folder", dir))?;
    format::write(&**disk, dir, format::VERSION)
}

fn check_owner(shared: &Shared, state: &State) -> Result<()> {
    let expected = &shared.options.owner;
    match state.get(META, OWNER)? {
        None => Err(StoreError::Corrupt {
            file: shared.dir.join(state::FILE),
            offset_bytes: None,
            reason: "it does not say whose it is".to_string(),
            lost: state::LOST.to_string(),
            lost_records: None,
            advice: state::ADVICE,
        }),
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(StoreError::WrongOwner {
            path: shared.dir.join(state::FILE),
            found: error::hex(&found),
            expected: error::hex(expected),
        }),
    }
}
