//! Logs: append-only histories in segment files, with a hash tree over their records.
//!
//! **Promises.** Records answered with `Ok` are durable, numbered without gaps from 0, and served only as they were
//! appended. The records of one append are there together or not at all. A torn tail, which nobody was told of, is cut
//! at the next start; damage to anything acknowledged is reported with file, offset and the records lost, never
//! dropped in silence, and the rest stays readable.
//!
//! **Does not promise.** An append whose caller got an error other than `Full`, or no answer, may be there after the next
//! start. When the power goes and the very last group is damaged besides, the two cannot be told apart.
//!
//! **How.** `record` and `segment` are the format, `window` and `survey` walk over it, `open` recovers, `write` and `read` do
//! what their names say. The design note in `docs/design/store.md` has the reasons.

mod core;
mod open;
mod read;
mod record;
mod registry;
mod segment;
mod survey;
mod verify;
mod window;
mod write;

use super::error::{Result, StoreError};
use super::group::Committer;
use super::merkle::{Frontier, Hash, leaf_hash};
use super::shared::Shared;
use super::state::State;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{oneshot, watch};

pub(super) use self::core::Core;
pub(super) use self::open::DIR;
pub use self::read::Record;
pub use self::record::{RECORD_BYTES_MAX, RECORD_HEADER_BYTES};
use self::registry::Entry;
pub(super) use self::registry::put_together as note;

/// How long the name of a log may be.
pub const LOG_NAME_BYTES_MAX: usize = 128;
/// How many records one append may hold.
pub const APPEND_RECORDS_MAX: usize = 65_536;
/// How many bytes one append may hold, headers included.
pub const APPEND_BYTES_MAX: usize = 32 << 20;
/// How many records one read gives.
pub const READ_RECORDS_MAX: usize = 65_536;
/// How many bytes one read gives, unless its first record is larger.
pub const READ_BYTES_MAX: usize = 32 << 20;

/// A handle on an open log. Cheap to clone; the files are closed with the last handle.
#[derive(Debug, Clone)]
pub struct Log {
    committer: Arc<Committer<Core>>,
}

impl Log {
    /// Opens a log, or makes it where a beginning is given; and what is to be noted of it, if nothing is. Blocks.
    pub(super) fn open(
        shared: &Arc<Shared>,
        state: &Arc<State>,
        name: &str,
        beginning: Option<&Frontier>,
    ) -> Result<(Log, Option<Entry>)> {
        let (core, unnoted) = open::open(Arc::clone(shared), Arc::clone(state), name, beginning)?;
        let committer = Committer::new(Arc::new(core), Arc::clone(&shared.disk));
        Ok((Log { committer }, unnoted))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.core().name
    }

    /// Appends records; they are durable when this returns `Ok`, with the sequence number of the first.
    ///
    /// The records of one call follow each other, and survive a power cut together or not at all. An empty append gives
    /// the next sequence number. Calls are appended in the order in which they were first polled. Cancel-safe: an
    /// append dropped before it was queued leaves no trace, one dropped later is appended whole although nobody hears
    /// of it.
    pub async fn append(&self, records: Vec<Bytes>) -> Result<u64> {
        self.queue(None, records).await?.durable().await
    }

    /// Queues records that are to begin at `at`: what is queued after them comes behind them. They are durable when
    /// [`Appending::durable`] says so, and refused with [`StoreError::Elsewhere`] when the log ends elsewhere by then.
    ///
    /// Cancel-safe: dropped before it returned, it leaves no trace.
    pub async fn append_at(&self, at: u64, records: Vec<Bytes>) -> Result<Appending> {
        self.queue(Some(at), records).await
    }

    async fn queue(&self, at: Option<u64>, records: Vec<Bytes>) -> Result<Appending> {
        self.core().shared.writable()?;
        let bytes = check_append(&records)?;
        let records: Vec<(Hash, Bytes)> = records.into_iter().map(|data| (leaf_hash(&data), data)).collect();
        let leaves = at.map(|_| records.iter().map(|(leaf, _)| *leaf).collect());
        let (reply, answer) = oneshot::channel();
        self.committer
            .submit(write::Append { records, at, reply }, bytes)
            .await?;
        Ok(Appending {
            shared: Arc::clone(&self.core().shared),
            leaves: leaves.unwrap_or_default(),
            answer,
        })
    }

    /// Follows [`Log::next_seq`].
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.core().grown.subscribe()
    }

    /// The segments: the first record of each, and its bytes on the disk. The last one is being written.
    pub fn segments(&self) -> Vec<(u64, u64)> {
        let view = self.core().read_view();
        view.segments
            .iter()
            .map(|segment| (segment.first_seq, segment.data_end))
            .collect()
    }

    /// Records from `from_seq` on, in order: at most `records_max`, at most `bytes_max` bytes of data but at least one
    /// record, none behind the end.
    ///
    /// Damage ends an answer early; a read that begins at it gives [`StoreError::Corrupt`] with the lost records, and
    /// one that begins behind them goes on. Cancel-safe.
    pub async fn read(&self, from_seq: u64, records_max: usize, bytes_max: usize) -> Result<Vec<Record>> {
        let core = Arc::clone(self.core());
        core.shared.open()?;
        let (records_max, bytes_max) = (records_max.min(READ_RECORDS_MAX), bytes_max.min(READ_BYTES_MAX));
        let buffer = Core::buffer(bytes_max);
        self.core()
            .shared
            .blocking(move || core.read(from_seq, records_max, bytes_max, buffer))
            .await
    }

    /// The first record that is kept.
    pub fn first_seq(&self) -> u64 {
        self.core().read_view().first_seq()
    }

    /// The sequence number the next record will have; every record before it is durable.
    pub fn next_seq(&self) -> u64 {
        self.core().read_view().next_seq
    }

    /// The root of the hash tree of RFC 6962 over all records ever appended, also those removed since.
    ///
    /// An error when a record needed for it is lost.
    pub fn root(&self) -> Result<Hash> {
        self.root_at_next().map(|(_, root)| root)
    }

    /// The number of records and the root over exactly these, read together.
    pub fn root_at_next(&self) -> Result<(u64, Hash)> {
        let view = self.core().read_view();
        match &view.rootless {
            Some(error) => Err(error.clone()),
            None => Ok((view.next_seq, view.frontier.root())),
        }
    }

    /// The tree over everything before the first record that is kept: where a copy of this log can begin.
    ///
    /// Cancel-safe.
    pub async fn beginning(&self) -> Result<Frontier> {
        let core = Arc::clone(self.core());
        core.shared.open()?;
        self.core().shared.blocking(move || core.beginning()).await
    }

    /// The damage found when the log was opened; reading and [`super::Store::verify`] may find more.
    pub fn damage(&self) -> Vec<StoreError> {
        self.core().read_view().damage.clone()
    }

    /// Removes whole segments that hold only records before `seq`; gives the first record that is left.
    ///
    /// Not undone by a power cut once it returned. Cancel-safe: once begun it is carried to its end.
    pub async fn truncate_before(&self, seq: u64) -> Result<u64> {
        let core = Arc::clone(self.core());
        core.shared.writable()?;
        self.core().shared.blocking(move || core.truncate_before(seq)).await
    }

    /// Removes the records from `seq` on, as a replica must whose leader decided otherwise.
    ///
    /// Not undone by a power cut once it returned; after an error the store takes no more writes, and the next start
    /// finds either end. Cancel-safe: once begun it is carried to its end.
    pub async fn truncate_from(&self, seq: u64) -> Result<()> {
        let core = Arc::clone(self.core());
        core.shared.writable()?;
        self.core().shared.blocking(move || core.truncate_from(seq)).await
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        self.committer.work()
    }

    pub(super) async fn close(&self) {
        self.committer.close().await;
    }

    pub(super) fn downgrade(&self) -> Weak {
        Weak(Arc::downgrade(&self.committer))
    }
}

/// Records on their way to the disk. They arrive whether it is kept or dropped.
#[derive(Debug)]
pub struct Appending {
    shared: Arc<Shared>,
    leaves: Vec<Hash>,
    answer: oneshot::Receiver<Result<u64>>,
}

impl Appending {
    /// The leaf hashes of the records, in their order.
    pub fn leaves(&self) -> &[Hash] {
        &self.leaves
    }

    /// When they are durable: the sequence number of the first. Cancel-safe.
    pub async fn durable(self) -> Result<u64> {
        let cut_off = |_| Err(self.shared.fail("an append was cut off before its end".to_string()));
        self.answer.await.unwrap_or_else(cut_off)
    }
}

/// A log that is open as long as somebody else holds it.
#[derive(Debug)]
pub(super) struct Weak(std::sync::Weak<Committer<Core>>);

impl Weak {
    pub(super) fn upgrade(&self) -> Option<Log> {
        self.0.upgrade().map(|committer| Log { committer })
    }
}

/// The names of all logs, sorted. Blocks.
pub(super) fn names(state: &State) -> Result<Vec<String>> {
    registry::names(state)
}

/// Notes where all open logs end, when the store is closed in good order. Blocks.
pub(super) fn register_at_close(state: &State, logs: &[Log]) -> Result<()> {
    let entries: Vec<_> = logs.iter().filter_map(|log| log.core().entry_at_close()).collect();
    if entries.is_empty() {
        Ok(())
    } else {
        registry::put_all(state, &entries)
    }
}

/// Removes a log that nobody has open: first its name, then its files. Blocks.
pub(super) fn remove(shared: &Shared, state: &State, name: &str) -> Result<()> {
    // What an earlier removal under this name left behind has the name that this one needs.
    finish_removal(shared, name)?;
    let dir = shared.dir.join(DIR).join(name);
    if shared.disk.exists(&dir).map_err(StoreError::io("look for", &dir))? {
        let doomed = shared.dir.join(DIR).join(format!("{DOOMED}{name}"));
        shared
            .disk
            .rename(&dir, &doomed)
            .map_err(StoreError::io("rename", &dir))?;
        let logs = shared.dir.join(DIR);
        shared
            .disk
            .sync_dir(&logs)
            .map_err(StoreError::io("sync the folder", &logs))?;
    }
    registry::delete(state, name)?;
    finish_removal(shared, name)
}

/// How the folder of a log begins that is being removed. No log can have such a name.
const DOOMED: char = '~';

/// Finishes removals that were cut off. Blocks.
pub(super) fn remove_doomed(shared: &Shared, state: &State) -> Result<()> {
    let logs = shared.dir.join(DIR);
    for folder in shared.disk.list(&logs).map_err(StoreError::io("list", &logs))? {
        if let Some(name) = folder.strip_prefix(DOOMED) {
            // A log of the same name may have been made again already; then its entry is not this one's.
            let is_there = shared.disk.exists(&logs.join(name));
            if !is_there.map_err(StoreError::io("look for", &logs))? {
                registry::delete(state, name)?;
            }
            finish_removal(shared, name)?;
        }
    }
    Ok(())
}

/// Removes the folder of a log that is being removed, if there is one.
fn finish_removal(shared: &Shared, name: &str) -> Result<()> {
    let (disk, logs) = (&shared.disk, shared.dir.join(DIR));
    let dir = logs.join(format!("{DOOMED}{name}"));
    if !disk.exists(&dir).map_err(StoreError::io("look for", &dir))? {
        return Ok(());
    }
    for file in disk.list(&dir).map_err(StoreError::io("list", &dir))? {
        let path = dir.join(file);
        disk.remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    disk.remove_dir(&dir).map_err(StoreError::io("remove", &dir))?;
    disk.sync_dir(&logs).map_err(StoreError::io("sync the folder", &logs))
}

/// Whether a log may have this name: 1 to 128 of a to z, 0 to 9, `.`, `_` and `-`, beginning with a letter or digit.
///
/// Capitals are out because some file systems do not tell them apart.
pub(super) fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let good = (1..=LOG_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte));
    if good {
        return Ok(());
    }
    Err(StoreError::Invalid {
        what: "the name of a log",
        actual: super::error::readable(name.as_bytes()),
        allowed: format!("1 to {LOG_NAME_BYTES_MAX} of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"),
    })
}

fn check_append(records: &[Bytes]) -> Result<usize> {
    if records.len() > APPEND_RECORDS_MAX {
        return Err(StoreError::too_large(
            "the number of records in an append",
            records.len(),
            APPEND_RECORDS_MAX,
        ));
    }
    if let Some(data) = records.iter().find(|data| data.len() > RECORD_BYTES_MAX) {
        return Err(StoreError::too_large(
            "the size of a record in bytes",
            data.len(),
            RECORD_BYTES_MAX,
        ));
    }
    let bytes = write::weight(records);
    if bytes > APPEND_BYTES_MAX {
        return Err(StoreError::too_large(
            "the size of an append in bytes",
            bytes,
            APPEND_BYTES_MAX,
        ));
    }
    Ok(bytes)
}
