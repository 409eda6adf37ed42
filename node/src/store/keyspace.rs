//! Keyspaces: named, separate maps from bytes to bytes, changed in atomic batches.

use super::error::{Result, StoreError};
use super::group::Committer;
use super::shared::Shared;
use super::state::{Commit, State};
use std::sync::Arc;
use tokio::sync::oneshot;

/// How long the name of a keyspace may be.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 64;
/// How long a key may be.
pub const KEY_BYTES_MAX: usize = 4096;
/// How long a value may be.
pub const VALUE_BYTES_MAX: usize = 16 << 20;
/// How many operations and preconditions a batch may hold.
pub const BATCH_OPERATIONS_MAX: usize = 65_536;
/// How many bytes a batch may hold.
pub const BATCH_BYTES_MAX: usize = 32 << 20;
/// How many entries one scan gives.
pub const SCAN_ENTRIES_MAX: usize = 10_000;
/// How many bytes one scan gives, unless its first entry is larger.
pub const SCAN_BYTES_MAX: usize = 32 << 20;

/// What an operation costs in the queue beyond its key and value.
const OPERATION_BYTES: usize = 64;

/// A named map from bytes to bytes. Cheap to clone; a holder cannot reach any other keyspace through it.
#[derive(Debug, Clone)]
pub struct Keyspace {
    name: &'static str,
    shared: Arc<Shared>,
    committer: Arc<Committer<State>>,
}

impl Keyspace {
    pub(super) fn new(name: &'static str, shared: Arc<Shared>, committer: Arc<Committer<State>>) -> Keyspace {
        Keyspace {
            name,
            shared,
            committer,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The value of a key. Cancel-safe.
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.shared.open()?;
        check_key(key)?;
        let (state, name, key) = (Arc::clone(self.committer.work()), self.name, key.to_vec());
        self.shared.blocking(move || state.get(name, &key)).await
    }

    /// Entries whose keys begin with `prefix`, in order of their keys, from the one following `after`.
    ///
    /// Gives at most `limit`, [`SCAN_ENTRIES_MAX`] entries and [`SCAN_BYTES_MAX`] bytes: a page may be short without
    /// being the last; only an empty one says that there is no more. Cancel-safe.
    pub async fn scan_prefix(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.shared.open()?;
        let limit = limit.min(SCAN_ENTRIES_MAX);
        let (state, name) = (Arc::clone(self.committer.work()), self.name);
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        self.shared
            .blocking(move || state.scan(name, &prefix, after.as_deref(), limit))
            .await
    }

    /// Applies a batch: all of it, durable when this returns `Ok`; nothing of it after [`StoreError::Conflict`],
    /// [`StoreError::Full`] or [`StoreError::Invalid`].
    ///
    /// Batches are applied in the order in which the calls were first polled. Cancel-safe: a batch dropped before it
    /// was queued leaves no trace, one dropped later is applied whole although nobody hears of it.
    pub async fn commit(&self, batch: Batch) -> Result<()> {
        self.shared.writable()?;
        batch.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let bytes = batch.bytes();
        let (reply, answer) = oneshot::channel();
        self.committer
            .submit(
                Commit {
                    keyspace: self.name,
                    batch,
                    reply,
                },
                bytes,
            )
            .await?;
        answer
            .await
            .unwrap_or_else(|_| Err(self.shared.fail("a commit was cut off before its end".to_string())))
    }

    /// Sets one key; see [`Keyspace::commit`].
    pub async fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<()> {
        self.commit(Batch::new().put(key, value)).await
    }

    /// Removes one key, whether it is there or not; see [`Keyspace::commit`].
    pub async fn delete(&self, key: impl Into<Vec<u8>>) -> Result<()> {
        self.commit(Batch::new().delete(key)).await
    }
}

/// Changes that are applied together, if all preconditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    operations: Vec<Operation>,
    requirements: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    bytes: usize,
}

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

impl Batch {
    /// A batch that changes nothing.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Sets a key. Of several changes to one key the last one counts.
    #[must_use]
    pub fn put(mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Batch {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len() + OPERATION_BYTES;
        self.operations.push(Operation::Put(key, value));
        self
    }

    /// Removes a key, whether it is there or not.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Vec<u8>>) -> Batch {
        let key = key.into();
        self.bytes += key.len() + OPERATION_BYTES;
        self.operations.push(Operation::Delete(key));
        self
    }

    /// Lets the batch be applied only if the key has this value before it; `None` means that the key is absent.
    #[must_use]
    pub fn require(mut self, key: impl Into<Vec<u8>>, expected: Option<Vec<u8>>) -> Batch {
        let key = key.into();
        self.bytes += key.len() + expected.as_ref().map_or(0, Vec::len) + OPERATION_BYTES;
        self.requirements.push((key, expected));
        self
    }

    /// Whether it neither changes nor requires anything.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty() && self.requirements.is_empty()
    }

    /// How many changes it makes.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// What it weighs in memory and in the queue.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn operations(&self) -> &[Operation] {
        &self.operations
    }

    pub(super) fn requirements(&self) -> &[(Vec<u8>, Option<Vec<u8>>)] {
        &self.requirements
    }

    fn check(&self) -> Result<()> {
        let count = self.operations.len() + self.requirements.len();
        if count > BATCH_OPERATIONS_MAX {
            return Err(StoreError::too_large(
                "the number of operations in a batch",
                count,
                BATCH_OPERATIONS_MAX,
            ));
        }
        if self.bytes > BATCH_BYTES_MAX {
            return Err(StoreError::too_large(
                "the size of a batch in bytes",
                self.bytes,
                BATCH_BYTES_MAX,
            ));
        }
        for operation in &self.operations {
            match operation {
                Operation::Put(key, value) => {
                    check_key(key)?;
                    if value.len() > VALUE_BYTES_MAX {
                        return Err(StoreError::too_large(
                            "the size of a value in bytes",
                            value.len(),
                            VALUE_BYTES_MAX,
                        ));
                    }
                }
                Operation::Delete(key) => check_key(key)?,
            }
        }
        self.requirements.iter().try_for_each(|(key, _)| check_key(key))
    }
}

fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(StoreError::too_large(
            "the size of a key in bytes",
            key.len(),
            KEY_BYTES_MAX,
        ));
    }
    Ok(())
}

/// Whether a keyspace may have this name: 1 to 64 of a to z and underscore.
pub(super) fn is_keyspace_name(name: &str) -> bool {
    (1..=KEYSPACE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}
