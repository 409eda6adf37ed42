//! How a queue is defined, and what is put into it.

use std::time::Duration;

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event},
};

use super::core::Limits;
use crate::error::{ErrorKind, Kind};

/// Queues of one node.
pub const QUEUES_MAX: usize = 64;
/// Bytes of a record's data.
pub const RECORD_BYTES_MAX: usize = 512 << 10;
/// Records that are put at once.
pub const PUT_RECORDS_MAX: usize = 1000;
/// Bytes of the data of a batch: in any form it still fits into a call.
pub const BATCH_BYTES_MAX: usize = 512 << 10;
/// Records of a batch.
pub const BATCH_RECORDS_MAX: usize = 1000;
const KEY_BYTES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;
const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// Why something cannot be done with a queue.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// There is none of this name.
    #[error("there is no queue {0} on this node")]
    NoQueue(String),
    /// A definition or a record exceeds a limit or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// The queue is full: what is in it is not taken fast enough.
    #[error("the queue {queue} is full with {records} records, {dead} of them dead")]
    Full {
        /// The queue.
        queue: String,
        /// How many it holds.
        records: usize,
        /// How many of them wait for nothing but somebody's decision.
        dead: usize,
    },
    /// There are too many queues, or records still wait in one that is to be removed.
    #[error("{0}")]
    Conflict(String),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Closed,
}

impl Kind for BatchError {
    fn kind(&self) -> ErrorKind {
        match self {
            BatchError::NoQueue(_) => ErrorKind::NotFound,
            BatchError::Invalid(_) => ErrorKind::Invalid,
            BatchError::Full { .. } => ErrorKind::Busy,
            BatchError::Conflict(_) => ErrorKind::Conflict,
            BatchError::Store(error) => error.kind(),
            BatchError::Closed => ErrorKind::Closed,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            BatchError::NoQueue(queue) => Some(format!(
                "`weft batch create {queue} --to-service NAME` makes it; `weft batch ls` lists those there are"
            )),
            BatchError::Full { queue, dead: 1.., .. } => Some(format!(
                "`weft batch retry {queue}` tries the dead ones again, `weft batch purge {queue}` lets go of them"
            )),
            BatchError::Full { queue, .. } => Some(format!("`weft batch ls` says what {queue} waits for")),
            _ => None,
        }
    }
}

/// Where batches go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Destination {
    /// Each is a call of a service. What that answers is its receipt.
    Service {
        /// The service.
        name: String,
        /// Which versions of it: `^1.2`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Its endpoint, if it is not the default one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
    },
    /// Each is a message on this subject.
    Subject {
        /// The subject.
        #[schema(value_type = String)]
        name: Subject,
    },
    /// Each is appended to this stream, every record as an event of its own, which is recorded once.
    Stream {
        /// The stream.
        #[schema(value_type = String)]
        name: Subject,
        /// The type of the events; `weft.record` if it is not said.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<String>,
        /// The schema that their data adhere to, a URI.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dataschema: Option<String>,
    },
}

/// The type of events that are made of records.
pub(super) const RECORD_KIND: &str = "weft.record";

/// What the events of a stream have in common that records become.
pub(super) fn event_like(kind: Option<&str>, dataschema: Option<&str>) -> Event {
    Event {
        dataschema: dataschema.map(str::to_owned),
        ..Event::new(kind.unwrap_or(RECORD_KIND), Vec::new())
    }
}

/// What a batch looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Each record and a newline. Records have no newlines in them.
    #[default]
    Lines,
    /// A JSON array of CloudEvents (`application/cloudevents-batch+json`), for records of any bytes.
    Events,
}

/// How a batch is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// As gzip, if it is smaller then: the header `content-encoding`, of a message the extension `contentencoding`, says so.
    Gzip,
}

/// How a queue is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueueOptions {
    /// Where batches go.
    pub to: Destination,
    /// What they look like.
    #[serde(default)]
    pub form: Form,
    /// How they are compressed.
    #[serde(default)]
    pub compress: Compression,
    /// Records of a batch.
    #[serde(default = "count_max")]
    pub count_max: usize,
    /// Bytes of a batch.
    #[serde(default = "bytes_max")]
    pub bytes_max: usize,
    /// How long a record waits for others, milliseconds.
    #[serde(default = "age_ms_max")]
    pub age_ms_max: u64,
    /// Wait only if another record can be expected meanwhile.
    #[serde(default)]
    pub adaptive: bool,
    /// Keys for which batches are filled at once.
    #[serde(default = "keys_max")]
    pub keys_max: usize,
    /// Batches under way at once, at most; fewer while the destination is slow.
    #[serde(default = "concurrency")]
    pub concurrency: usize,
    /// How long the destination may take for a batch, milliseconds.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// How often a record that fails alone is tried before it is dead.
    #[serde(default = "attempts")]
    pub attempts: u32,
    /// Records that the queue holds; then it is full.
    #[serde(default = "records_max")]
    pub records_max: usize,
    /// Where dead records are published, besides being kept; `dead.NAME` if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub dead_letter: Option<Subject>,
}

fn count_max() -> usize {
    100
}

fn bytes_max() -> usize {
    256 << 10
}

fn age_ms_max() -> u64 {
    1000
}

fn keys_max() -> usize {
    1000
}

fn concurrency() -> usize {
    8
}

fn timeout_ms() -> u64 {
    30_000
}

fn attempts() -> u32 {
    5
}

fn records_max() -> usize {
    100_000
}

impl QueueOptions {
    /// A queue with what is usual.
    pub fn new(to: Destination) -> Self {
        QueueOptions {
            to,
            form: Form::default(),
            compress: Compression::default(),
            count_max: count_max(),
            bytes_max: bytes_max(),
            age_ms_max: age_ms_max(),
            adaptive: false,
            keys_max: keys_max(),
            concurrency: concurrency(),
            timeout_ms: timeout_ms(),
            attempts: attempts(),
            records_max: records_max(),
            dead_letter: None,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            count_max: self.count_max,
            bytes_max: self.bytes_max,
            age_max: Duration::from_millis(self.age_ms_max),
            keys_max: self.keys_max,
            is_adaptive: self.adaptive,
        }
    }

    /// Whether its numbers can be.
    ///
    /// # Errors
    /// `Invalid`, with the first that cannot.
    pub fn check(&self) -> Result<(), BatchError> {
        let day_ms = 86_400_000;
        for (what, value, most) in [
            (
                "the records of a batch",
                self.count_max as u64,
                BATCH_RECORDS_MAX as u64,
            ),
            ("the bytes of a batch", self.bytes_max as u64, BATCH_BYTES_MAX as u64),
            ("the age of a batch in milliseconds", self.age_ms_max, day_ms),
            ("the keys", self.keys_max as u64, 100_000),
            ("the batches under way at once", self.concurrency as u64, 256),
            ("the time for a batch in milliseconds", self.timeout_ms, day_ms),
            ("the attempts", u64::from(self.attempts), 1000),
            ("the records of the queue", self.records_max as u64, 1_000_000),
        ] {
            if !(1..=most).contains(&value) {
                return Err(BatchError::Invalid(format!("{what}: {value} is not 1 to {most}")));
            }
        }
        let Destination::Stream { kind, dataschema, .. } = &self.to else {
            return Ok(());
        };
        if self.compress != Compression::None || self.form == Form::Events {
            let words =
                "a stream gets each record as an event of its own: there is no form to choose, and nothing to compress";
            return Err(BatchError::Invalid(words.to_owned()));
        }
        let append = Append {
            events: vec![event_like(kind.as_deref(), dataschema.as_deref())],
            ..Append::default()
        };
        append.check().map_err(|error| BatchError::Invalid(error.to_string()))
    }

    /// Whether a newline ends a record.
    fn is_of_lines(&self) -> bool {
        self.form == Form::Lines && !matches!(self.to, Destination::Stream { .. })
    }
}

/// Whether a queue may be called so.
///
/// # Errors
/// `Invalid`, with the rule.
pub fn check_queue_name(name: &str) -> Result<(), BatchError> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_good) {
        return Err(BatchError::Invalid(format!(
            "a queue's name has 1 to {NAME_BYTES_MAX} letters, digits, - and _; `{}` does not fit",
            name.escape_debug()
        )));
    }
    Ok(())
}

/// What is put into a queue.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// Records with one key share batches, and arrive in their order. Empty: none.
    #[n(0)]
    pub key: String,
    /// The media type of the data.
    #[n(1)]
    pub content_type: Option<String>,
    /// When it was put, Unix milliseconds.
    #[n(2)]
    pub time_ms: u64,
    /// The data.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub data: Vec<u8>,
    /// By chance, when it is put: with its time it is known by it wherever it goes. None: it was put by an earlier version.
    #[n(4)]
    pub salt: Option<u64>,
}

impl Record {
    /// What it is known by among those of its node, whatever becomes of its queue.
    pub(super) fn id(&self, seq: u64) -> String {
        match self.salt {
            Some(salt) => format!("{}-{salt:016x}", self.time_ms),
            None => format!("{seq}-{}", self.time_ms),
        }
    }

    pub(super) fn check(&self, queue: &QueueOptions) -> Result<(), BatchError> {
        for (what, len, most) in [
            ("key", self.key.len(), KEY_BYTES_MAX),
            ("data", self.data.len(), RECORD_BYTES_MAX),
            (
                "media type",
                self.content_type.as_deref().unwrap_or_default().len(),
                CONTENT_TYPE_BYTES_MAX,
            ),
        ] {
            if len > most {
                return Err(BatchError::Invalid(format!(
                    "the {what} of a record has {len} bytes, the limit is {most}"
                )));
            }
        }
        if queue.is_of_lines() && self.data.contains(&b'\n') {
            return Err(BatchError::Invalid(
                "a record of this queue has no newline in it; a queue with the form `events` takes any bytes"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}
