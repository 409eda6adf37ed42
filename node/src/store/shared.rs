//! What all parts of one open store share: the disk, the options, and whether writes are still taken.

use super::StoreOptions;
use super::error::{Result, StoreError};
use crate::platform::disk::Disk;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) options: StoreOptions,
    failure: OnceLock<Arc<str>>,
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, options: StoreOptions) -> Arc<Shared> {
        let dir = dir.to_path_buf();
        Arc::new(Shared {
            disk,
            dir,
            options,
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
        })
    }

    /// Runs blocking work where it may block: on a blocking thread, or here when the disk does not block.
    ///
    /// Cancel-safe in this sense: work once begun runs to its end, only its result is lost.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.disk.blocks() {
            return work();
        }
        // The join fails when the runtime is shutting down or the work panicked; both leave the store closed to us.
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or(Err(StoreError::Closed))
    }

    /// Refuses all further writes, for this reason; the first reason stays. Gives the error to answer with.
    pub(super) fn fail(&self, reason: String) -> StoreError {
        let reason = self.failure.get_or_init(|| {
            tracing::error!(target: "weft::store", reason = %reason, "the store takes no more writes");
            Arc::from(reason)
        });
        StoreError::Failed {
            reason: Arc::clone(reason),
        }
    }

    /// Whether a caller may begin a write.
    pub(super) fn writable(&self) -> Result<()> {
        self.open()?;
        self.sound()
    }

    /// Whether no write failed so far. What was queued before the store was closed asks no more than this.
    pub(super) fn sound(&self) -> Result<()> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Failed {
                reason: Arc::clone(reason),
            }),
        }
    }

    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.get().cloned()
    }

    pub(super) fn open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(StoreError::Closed)
        } else {
            Ok(())
        }
    }

    /// Notes that the store is closed; `false` when it was already.
    pub(super) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::AcqRel)
    }

    /// Whether `bytes` more fit while the reserve stays free.
    pub(super) fn room_for(&self, bytes: u64, path: &Path) -> Result<()> {
        let available_bytes = self
            .disk
            .available_bytes(&self.dir)
            .map_err(StoreError::io("ask for the free room of", &self.dir))?;
        let needed_bytes = bytes.saturating_add(self.options.reserve_bytes);
        if available_bytes < needed_bytes {
            return Err(StoreError::Full {
                path: path.to_path_buf(),
                available_bytes,
                needed_bytes,
            });
        }
        Ok(())
    }
}
