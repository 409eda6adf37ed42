//! How schedules lie in the keyspace: `s/NAME`.

use minicbor::{Decode, Encode};
use weft_protocol::{codec, patterns::event_sourcing::EVENT_DATA_BYTES_MAX};

use super::options::{ScheduleError, ScheduleOptions};
use crate::store::Keyspace;

const PAGE: usize = 500;
/// The largest event, its attributes and what surrounds it.
const ENTRY_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + (256 << 10);

/// A schedule, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Scheduled {
    #[n(0)]
    pub(super) options: ScheduleOptions,
    /// When it is due next, Unix milliseconds.
    #[n(1)]
    pub(super) due_ms: u64,
    /// Occurrences that were appended.
    #[n(2)]
    pub(super) done: u64,
    /// Occurrences that were left out, because a later one was due as well.
    #[n(3)]
    pub(super) left_out: u64,
    /// Occurrences that could not be appended, and never will be.
    #[n(4)]
    pub(super) failed: u64,
    /// Why the last of them could not; of one that is due once it stays so.
    #[n(5)]
    pub(super) failure: Option<String>,
}

impl Scheduled {
    /// Whether nothing more comes of it.
    pub(super) fn is_over(&self) -> bool {
        self.options.when.is_once() && self.failure.is_some()
    }
}

/// Where schedules lie.
#[derive(Debug, Clone)]
pub(super) struct Shelf(Keyspace);

fn key(name: &str) -> Vec<u8> {
    format!("s/{name}").into_bytes()
}

fn read(bytes: &[u8]) -> Result<Scheduled, ScheduleError> {
    codec::decode(bytes, ENTRY_BYTES_MAX, "schedule")
        .map_err(|error| ScheduleError::Corrupt(format!("what is stored of a schedule cannot be read: {error}")))
}

impl Shelf {
    pub(super) fn new(keyspace: Keyspace) -> Self {
        Shelf(keyspace)
    }

    /// The schedules behind this name; none: there are no more.
    pub(super) async fn page(&self, after: Option<&str>) -> Result<Vec<(String, Scheduled)>, ScheduleError> {
        let page = self.0.scan_prefix(b"s/", after.map(key).as_deref(), PAGE).await?;
        let one = |(key, value): (Vec<u8>, Vec<u8>)| {
            let name = String::from_utf8_lossy(key.get(2..).unwrap_or_default()).into_owned();
            Ok((name, read(&value)?))
        };
        page.into_iter().map(one).collect()
    }

    pub(super) async fn get(&self, name: &str) -> Result<Option<Scheduled>, ScheduleError> {
        let stored = self.0.get(&key(name)).await?;
        stored.map(|bytes| read(&bytes)).transpose()
    }

    pub(super) async fn put(&self, name: &str, scheduled: &Scheduled) -> Result<(), ScheduleError> {
        Ok(self.0.put(key(name), codec::encode(scheduled)).await?)
    }

    pub(super) async fn remove(&self, name: &str) -> Result<(), ScheduleError> {
        Ok(self.0.delete(key(name)).await?)
    }
}
