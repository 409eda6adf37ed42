//! How a stream is defined, and why something cannot be done with it.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_protocol::{
    DecodeError, Pattern, PeerId, Subject,
    name::reason,
    patterns::event_sourcing::{Keep, PLACE_LABELS_MAX, SUBJECTS_MAX, StreamFailure},
};

use crate::{
    error::{ErrorKind, Kind, NodeError},
    mesh::MeshError,
    store::StoreError,
};

/// Streams of one node.
pub const STREAMS_MAX: u64 = 1_000_000;
const LABEL_BYTES_MAX: usize = 128;
/// Producers that number what they append to one stream.
pub(super) const PRODUCERS_MAX: usize = 10_000;

/// Why something cannot be done with a stream.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// There is none of this name.
    #[error("there is no stream {0}")]
    NoStream(String),
    /// It is kept by several nodes.
    #[error("there are several streams {name}: at {owners}")]
    Ambiguous {
        /// The stream.
        name: String,
        /// Their owners, for people.
        owners: String,
    },
    /// There is one of this name.
    #[error("there is a stream {name} already, at {owner}")]
    Exists {
        /// The stream.
        name: String,
        /// Who keeps it.
        owner: PeerId,
    },
    /// There is no record at this position.
    #[error("the stream has no record {position}: it has {first} to {version}")]
    NoRecord {
        /// The position.
        position: u64,
        /// The first one that is kept.
        first: u64,
        /// The last one.
        version: u64,
    },
    /// The stream has another version than was expected.
    #[error("the stream has version {actual}, not {expected}")]
    WrongVersion {
        /// What was expected.
        expected: u64,
        /// What it has.
        actual: u64,
    },
    /// What must not have happened has.
    #[error("the condition does not hold: the event at {0} matches the query")]
    ConditionFailed(u64),
    /// Another event has this id.
    #[error("the stream has another event with the id {id}, at {position}")]
    IdTaken {
        /// The id.
        id: String,
        /// Where the other one is.
        position: u64,
    },
    /// A producer does not go on where it stopped.
    #[error("producer {id} goes on with {expected}, not with {got}")]
    ProducerGap {
        /// The producer.
        id: String,
        /// Its next number.
        expected: u64,
        /// The number it said.
        got: u64,
    },
    /// There is no consumer of this name.
    #[error("the stream has no consumer {0}")]
    NoConsumer(String),
    /// There is no schema of this id.
    #[error("the stream has no schema {0}")]
    NoSchema(String),
    /// An event is not as the stream's schemas say.
    #[error("{0}")]
    NotAsSchema(String),
    /// Something exceeds a limit or is malformed.
    #[error("{0}")]
    Invalid(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// A bound is reached.
    #[error("{0}")]
    Busy(String),
    /// It has as many records or bytes as it may have, and refuses more.
    #[error("the stream is full: {0}")]
    Full(String),
    /// Something before it went wrong on this node.
    #[error("{0}")]
    Again(String),
    /// What is stored does not fit together.
    #[error("{0}")]
    Corrupt(String),
    /// Its owner has signed two histories, and there is evidence of it.
    #[error("{reason} (seen by {by})")]
    Forked {
        /// The stream.
        name: String,
        /// What contradicts what, for people.
        reason: String,
        /// Who has seen the other one.
        by: String,
    },
    /// The stream was removed while it was used.
    #[error("the stream {0} was deleted")]
    Gone(String),
    /// Another member leads those that keep the stream, or none does now. Nothing was done.
    #[error("the members that keep the stream have no leader just now")]
    Led(Option<PeerId>),
    /// Too few of those that keep the stream can be reached.
    #[error("too few of the members that keep the stream can be reached")]
    NoQuorum,
    /// Too few members for so many copies.
    #[error("{0}")]
    TooFew(String),
    /// Whether it was done cannot be known.
    #[error("those that keep the stream chose another leader meanwhile, and it is not known whether this was done")]
    Unknown,
    /// The stream's owner says so.
    #[error("{detail}")]
    AtOwner {
        /// The sort of failure.
        kind: ErrorKind,
        /// Why, for people.
        detail: String,
        /// What can be done about it.
        hint: Option<String>,
    },
    /// The stream's owner cannot be asked.
    #[error(transparent)]
    Mesh(#[from] MeshError),
    /// It cannot be written down, or not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Closed,
}

impl From<DecodeError> for StreamError {
    fn from(error: DecodeError) -> Self {
        StreamError::Invalid(error.to_string())
    }
}

impl Kind for StreamError {
    fn kind(&self) -> ErrorKind {
        match self {
            StreamError::NoStream(_)
            | StreamError::NoRecord { .. }
            | StreamError::NoConsumer(_)
            | StreamError::NoSchema(_)
            | StreamError::Gone(_) => ErrorKind::NotFound,
            StreamError::Exists { .. }
            | StreamError::Ambiguous { .. }
            | StreamError::WrongVersion { .. }
            | StreamError::ConditionFailed(_)
            | StreamError::IdTaken { .. }
            | StreamError::ProducerGap { .. }
            | StreamError::Conflict(_) => ErrorKind::Conflict,
            StreamError::Invalid(_) | StreamError::NotAsSchema(_) => ErrorKind::Invalid,
            StreamError::Busy(_) | StreamError::Again(_) | StreamError::Full(_) => ErrorKind::Busy,
            StreamError::Corrupt(_) | StreamError::Forked { .. } => ErrorKind::Corrupt,
            StreamError::AtOwner { kind, .. } => *kind,
            StreamError::Mesh(error) => error.kind(),
            StreamError::Store(error) => error.kind(),
            StreamError::Closed => ErrorKind::Closed,
            StreamError::Led(_) | StreamError::NoQuorum | StreamError::TooFew(_) | StreamError::Unknown => {
                ErrorKind::Unreachable
            }
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StreamError::NoStream(name) => Some(format!(
                "`weft stream create {name}` makes it on this node; `weft stream ls` lists those of the mesh"
            )),
            StreamError::Ambiguous { name, .. } => Some(format!(
                "delete all but one: `weft stream delete {name}` at the nodes that should not keep it"
            )),
            StreamError::WrongVersion { .. } | StreamError::ConditionFailed(_) => {
                Some("read what was appended meanwhile, decide again, and append then".to_owned())
            }
            StreamError::NotAsSchema(_) => Some(
                "`weft schema ls STREAM` lists the stream's schemas, `weft stream append --schema ID` names one"
                    .to_owned(),
            ),
            StreamError::Full(_) => Some(
                "what is kept by age or until it is worked off makes room; `weft stream update` may let it have more"
                    .to_owned(),
            ),
            StreamError::Led(_) | StreamError::NoQuorum => {
                Some("most of its copies are needed; `weft stream info` shows where they are".to_owned())
            }
            StreamError::TooFew(_) => Some("`weft peers` shows which members can be reached".to_owned()),
            StreamError::Unknown => Some(
                "append it again with the same ids, or the same producer's numbers: then it is recorded once"
                    .to_owned(),
            ),
            StreamError::Forked { name, .. } => Some(format!(
                "`weft stream evidence {name} -o FILE` writes what proves it to anybody: `weft verify-proof FILE` checks it anywhere"
            )),
            StreamError::Store(error) => error.hint(),
            StreamError::AtOwner { hint, .. } => hint.clone(),
            StreamError::Mesh(error) if error.kind() == ErrorKind::Unreachable => {
                Some("the stream is kept by that node alone, and can be used again when it is back".to_owned())
            }
            _ => None,
        }
    }
}

impl StreamError {
    /// As its owner says it to another member.
    pub(super) fn to_failure(&self) -> StreamFailure {
        StreamFailure {
            kind: self.kind().as_str().to_owned(),
            detail: reason(&self.to_string()),
            hint: self.hint().map(|hint| reason(&hint)),
        }
    }

    /// As another member hears it.
    pub(super) fn of_failure(failure: StreamFailure) -> Self {
        StreamError::AtOwner {
            kind: failure.kind.parse().unwrap_or(ErrorKind::Internal),
            detail: failure.detail,
            hint: failure.hint,
        }
    }
}

/// How much of a stream is kept. What is not said is kept for ever.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, Encode, Decode)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// How long records are kept, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(0)]
    pub retain_ms: Option<u64>,
    /// Bytes that are kept at least before whole segments of older records are removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(1)]
    pub retain_bytes: Option<u64>,
    /// Records that are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(2)]
    pub retain_records: Option<u64>,
    /// Copies on so many nodes: 1 (or nothing), 3 or 5. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(3)]
    pub replicas: Option<u8>,
    /// Only members with all of these labels (`zone=eu`) keep a copy. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(4)]
    pub place: Option<Vec<String>>,
    /// Whether records go when every consumer has settled them: `queue` keeps them until then, `interest` also lets go of them while there is no consumer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    #[n(5)]
    pub keep: Option<Keep>,
    /// Messages of NATS clients on these subjects are events of the stream (`orders.>`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(6)]
    pub subjects: Option<Vec<String>>,
    /// Whether appends are refused when there are as many records or bytes as are kept; otherwise the oldest go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[n(7)]
    pub refuse_when_full: Option<bool>,
}

impl StreamOptions {
    pub(super) fn check(&self) -> Result<(), StreamError> {
        for (what, value) in [
            ("the time that records are kept", self.retain_ms),
            ("the bytes that are kept", self.retain_bytes),
            ("the records that are kept", self.retain_records),
        ] {
            if value == Some(0) {
                return Err(StreamError::Invalid(format!("{what} cannot be 0")));
            }
        }
        if self.refuses() && self.retain_bytes.is_none() && self.retain_records.is_none() {
            return Err(StreamError::Invalid(
                "a stream that refuses when it is full needs a number of records or bytes".into(),
            ));
        }
        let is_label = |label: &String| {
            label.len() <= LABEL_BYTES_MAX && label.split_once('=').is_some_and(|(key, _)| !key.is_empty())
        };
        if self.places().len() > PLACE_LABELS_MAX || !self.places().iter().all(is_label) {
            return Err(StreamError::Invalid(format!(
                "a place is up to {PLACE_LABELS_MAX} labels like zone=eu, of {LABEL_BYTES_MAX} bytes each"
            )));
        }
        if !self.places().is_empty() && self.copies() == 1 {
            return Err(StreamError::Invalid(
                "a stream with one copy is kept where it is made".to_owned(),
            ));
        }
        let subjects = self.subjects.as_deref().unwrap_or_default();
        if subjects.len() > SUBJECTS_MAX {
            return Err(StreamError::Invalid(format!(
                "a stream takes in at most {SUBJECTS_MAX} subjects"
            )));
        }
        for text in subjects {
            let pattern = text.parse::<Pattern>();
            let pattern = pattern.map_err(|error| StreamError::Invalid(format!("the subject {text:?}: {error}")))?;
            if pattern.as_str().starts_with(['*', '>', '_', '$']) {
                return Err(StreamError::Invalid(format!(
                    "a stream cannot take in {text}, for requests and answers are messages too: it begins with a name"
                )));
            }
        }
        match self.replicas {
            None | Some(1 | 3 | 5) => Ok(()),
            Some(count) => Err(StreamError::Invalid(format!(
                "a stream has 1, 3 or 5 copies, not {count}: of an even number one is of no use"
            ))),
        }
    }

    /// Whether appends are refused when it is full.
    pub(super) fn refuses(&self) -> bool {
        self.refuse_when_full == Some(true)
    }

    /// Whether anything is ever removed.
    pub(super) fn is_bounded(&self) -> bool {
        self.retain_ms.is_some() || self.retain_bytes.is_some() || self.retain_records.is_some() || self.keep.is_some()
    }

    /// Which messages of NATS clients are its events.
    pub(crate) fn subjects(&self) -> Vec<Pattern> {
        let texts = self.subjects.iter().flatten();
        texts.filter_map(|text| text.parse().ok()).collect()
    }

    /// Whether there are any.
    pub(super) fn takes_any(&self) -> bool {
        self.subjects.as_ref().is_some_and(|subjects| !subjects.is_empty())
    }

    /// The labels of who keeps a copy.
    pub(super) fn places(&self) -> &[String] {
        self.place.as_deref().unwrap_or_default()
    }

    /// Copies on so many nodes.
    pub(super) fn copies(&self) -> usize {
        self.replicas.map_or(1, usize::from)
    }
}

/// Whether a stream that takes in messages may be called so.
pub(super) fn check_taking(name: &Subject, options: &StreamOptions) -> Result<(), StreamError> {
    if options.takes_any() && name.as_str().contains('.') {
        return Err(StreamError::Invalid(format!(
            "a stream with subjects has no dots in its name, as NATS clients know it: {name}"
        )));
    }
    Ok(())
}

/// Whether a stream may be called so: as any subject, but not one of the node's own.
pub(super) fn check_name(name: &Subject) -> Result<(), StreamError> {
    if name.is_reserved() {
        return Err(StreamError::Invalid(format!("{name} is a name of the node's own")));
    }
    Ok(())
}

pub(super) fn not_built() -> NodeError {
    NodeError::internal("the node was built without event sourcing")
}
