//! How queues and their records lie in the keyspace: `queue/NAME`, `record/NAME/` and `dead/NAME/` with the record's number.

use minicbor::{Decode, Encode};
use weft_protocol::codec;

use super::options::{BatchError, QueueOptions, RECORD_BYTES_MAX, Record};
use crate::store::{Batch, Keyspace, StoreError};

/// Entries that are read at once.
const PAGE: usize = 500;
const REASON_CHARS_MAX: usize = 1000;
/// What a stored record has besides its data.
const ENVELOPE_BYTES_MAX: usize = 8192;

/// A record that its destination did not take.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Dead {
    /// It.
    #[n(0)]
    pub record: Record,
    /// Why not.
    #[n(1)]
    pub reason: String,
    /// Since when it is tried no more, Unix milliseconds.
    #[n(2)]
    pub at_ms: u64,
}

impl Dead {
    pub(super) fn new(record: Record, reason: &str, at_ms: u64) -> Self {
        Dead {
            record,
            reason: reason.chars().take(REASON_CHARS_MAX).collect(),
            at_ms,
        }
    }
}

/// A queue's place in the keyspace.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    keyspace: Keyspace,
    name: String,
}

fn number(key: &[u8]) -> Option<u64> {
    let tail = key.get(key.len().checked_sub(8)?..)?;
    Some(u64::from_be_bytes(tail.try_into().ok()?))
}

fn read<T: for<'b> Decode<'b, ()>>(bytes: &[u8], what: &'static str) -> Result<T, BatchError> {
    codec::decode(bytes, RECORD_BYTES_MAX + ENVELOPE_BYTES_MAX, what)
        .map_err(|error| BatchError::Invalid(format!("what is stored of a queue cannot be read: {error}")))
}

/// The queues that are defined.
pub(super) async fn queues(keyspace: &Keyspace) -> Result<Vec<(String, QueueOptions)>, BatchError> {
    let mut queues = Vec::new();
    for (key, value) in keyspace.scan_prefix(b"queue/", None, PAGE).await? {
        let name = String::from_utf8_lossy(key.get(6..).unwrap_or_default()).into_owned();
        let options = serde_json::from_slice(&value).map_err(|error| {
            BatchError::Invalid(format!("the definition of the queue {name} cannot be read: {error}"))
        })?;
        queues.push((name, options));
    }
    Ok(queues)
}

impl Shelf {
    pub(super) fn new(keyspace: Keyspace, name: &str) -> Self {
        Shelf {
            keyspace,
            name: name.to_owned(),
        }
    }

    fn prefix(&self, kind: &str) -> Vec<u8> {
        format!("{kind}/{}/", self.name).into_bytes()
    }

    fn key(&self, kind: &str, seq: u64) -> Vec<u8> {
        [&self.prefix(kind)[..], &seq.to_be_bytes()].concat()
    }

    pub(super) async fn define(&self, options: &QueueOptions) -> Result<(), BatchError> {
        let text = serde_json::to_vec(options).map_err(|error| BatchError::Invalid(error.to_string()))?;
        Ok(self.keyspace.put(format!("queue/{}", self.name), text).await?)
    }

    /// Keeps records, durably.
    pub(super) async fn keep(&self, records: &[(u64, Record)]) -> Result<(), StoreError> {
        let batch = records.iter().fold(Batch::new(), |batch, (seq, record)| {
            batch.put(self.key("record", *seq), codec::encode(record))
        });
        self.keyspace.commit(batch).await
    }

    /// Lets go of records that have arrived.
    pub(super) async fn forget(&self, seqs: &[u64]) -> Result<(), StoreError> {
        let batch = seqs
            .iter()
            .fold(Batch::new(), |batch, seq| batch.delete(self.key("record", *seq)));
        self.keyspace.commit(batch).await
    }

    pub(super) async fn record(&self, seq: u64) -> Result<Option<Record>, BatchError> {
        let stored = self.keyspace.get(&self.key("record", seq)).await?;
        stored.map(|bytes| read(&bytes, "record")).transpose()
    }

    /// Moves a record to the dead, at once.
    pub(super) async fn bury(&self, seq: u64, dead: &Dead) -> Result<(), StoreError> {
        let batch = Batch::new()
            .delete(self.key("record", seq))
            .put(self.key("dead", seq), codec::encode(dead));
        self.keyspace.commit(batch).await
    }

    /// Gives dead records another life, under these numbers.
    pub(super) async fn revive(&self, dead: &[(u64, Dead)], first_seq: u64) -> Result<(), StoreError> {
        let batch = dead
            .iter()
            .zip(first_seq..)
            .fold(Batch::new(), |batch, ((old, dead), new)| {
                let record = codec::encode(&dead.record);
                batch
                    .delete(self.key("dead", *old))
                    .put(self.key("record", new), record)
            });
        self.keyspace.commit(batch).await
    }

    /// The records after this one; none: there are no more.
    pub(super) async fn records(&self, after: Option<u64>) -> Result<Vec<(u64, Record)>, BatchError> {
        self.page("record", after, PAGE).await
    }

    /// The dead after this one; none: there are no more.
    pub(super) async fn dead(&self, after: Option<u64>, most: usize) -> Result<Vec<(u64, Dead)>, BatchError> {
        self.page("dead", after, most.min(PAGE)).await
    }

    async fn page<T: for<'b> Decode<'b, ()>>(
        &self,
        kind: &'static str,
        after: Option<u64>,
        most: usize,
    ) -> Result<Vec<(u64, T)>, BatchError> {
        let after = after.map(|seq| self.key(kind, seq));
        let page = self
            .keyspace
            .scan_prefix(&self.prefix(kind), after.as_deref(), most)
            .await?;
        page.into_iter()
            .filter_map(|(key, value)| Some((number(&key)?, value)))
            .map(|(seq, value)| Ok((seq, read(&value, kind)?)))
            .collect()
    }

    /// Lets go of the dead; how many.
    pub(super) async fn forget_dead(&self) -> Result<u64, BatchError> {
        self.clear("dead").await
    }

    /// Lets go of everything.
    pub(super) async fn remove(&self) -> Result<(), BatchError> {
        // The definition last: what is cut off in between is still there to be removed.
        self.clear("record").await?;
        self.clear("dead").await?;
        Ok(self.keyspace.delete(format!("queue/{}", self.name)).await?)
    }

    async fn clear(&self, kind: &str) -> Result<u64, BatchError> {
        let mut cleared = 0;
        loop {
            let page = self.keyspace.scan_prefix(&self.prefix(kind), None, PAGE).await?;
            if page.is_empty() {
                return Ok(cleared);
            }
            cleared += page.len() as u64;
            let batch = page.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(key));
            self.keyspace.commit(batch).await?;
        }
    }
}
