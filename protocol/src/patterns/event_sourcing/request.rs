//! What members ask the owner of a stream, and what it answers.

use minicbor::{Decode, Encode};

use super::checkpoint::CHECKPOINT_BYTES_MAX;
use super::consumer::{ConsumerReply, ConsumerRequest};
use super::proof::{Proof, hashes};
use super::schema::{SCHEMAS_MAX, Schema};
use super::{
    APPEND_BYTES_MAX, APPEND_EVENTS_MAX, Event, PLACE_LABELS_MAX, Producer, Query, READ_RECORDS_MAX, RECORD_BYTES_MAX,
    SUBJECTS_MAX, check_producer_id,
};
use crate::codec::{Wire, bounded};
use crate::consensus::{GROUP_MEMBERS_MAX, GroupId, GroupReply, GroupRequest, VoterKey};
use crate::direct::DIRECT_PAYLOAD_BYTES_MAX;
use crate::error::{DecodeError, at_most};
use crate::ident::PublicKey;
use crate::limits::{ANNOUNCEMENT_BYTES_MAX, MESSAGE_ATTRIBUTE_BYTES_MAX, REASON_BYTES_MAX};
use crate::merkle::Hash;
use crate::name::check_text;
use crate::subject::{Pattern, Subject};

/// A line that a member adds to a checkpoint.
const COSIGNATURE_BYTES_MAX: usize = 512;

/// When an append is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
#[cbor(index_only)]
pub enum Ack {
    /// When it is on its way to the disk: what the machine has not written yet is lost when it stops.
    #[n(0)]
    Memory,
    /// When it is on the disk.
    #[default]
    #[n(1)]
    Disk,
}

/// Append only if no event that the query means is behind this position: what was decided upon is still true.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Condition {
    /// Which events would make it untrue.
    #[n(0)]
    pub query: Query,
    /// The last position that was known when it was decided; 0: none.
    #[n(1)]
    pub after: u64,
}

/// Events to append, all of them or none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Append {
    /// The events, in their order.
    #[cbor(n(0), decode_with = "bounded::list::<{ APPEND_EVENTS_MAX }, _, _>")]
    pub events: Vec<Event>,
    /// The version the stream must have. None: any.
    #[n(1)]
    pub expect: Option<u64>,
    /// What must not have happened.
    #[n(2)]
    pub condition: Option<Condition>,
    /// Who numbers them, and the number of the first.
    #[n(3)]
    pub producer: Option<Producer>,
    /// When it is acknowledged.
    #[n(4)]
    pub ack: Ack,
}

impl Append {
    /// What must hold beyond the shape.
    ///
    /// # Errors
    /// No event, too many, or one that cannot be.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.events.is_empty() {
            return Err(DecodeError::invalid("append", "it has no event"));
        }
        at_most("events of an append", self.events.len(), APPEND_EVENTS_MAX)?;
        self.events.iter().try_for_each(Event::check)?;
        let bytes: usize = self.events.iter().map(Event::bytes).sum();
        at_most("append", bytes, APPEND_BYTES_MAX)?;
        if let Some(condition) = &self.condition {
            condition.query.check()?;
        }
        let Some(producer) = &self.producer else {
            return Ok(());
        };
        if producer.sequence.checked_add(self.events.len() as u64).is_none() {
            return Err(DecodeError::invalid("producer", "its number is too large"));
        }
        check_producer_id(&producer.id)
    }
}

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Appended {
    /// The position of the first event.
    #[n(0)]
    pub first: u64,
    /// The position of the last one.
    #[n(1)]
    pub last: u64,
    /// Whether it was recorded before, and nothing was done now.
    #[n(2)]
    pub is_duplicate: bool,
}

/// How a stream is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamFigures {
    /// The position of the last record; 0 without any.
    #[n(0)]
    pub version: u64,
    /// The first position that is kept.
    #[n(1)]
    pub first: u64,
    /// Bytes of what is kept.
    #[n(2)]
    pub bytes: u64,
    /// When it was created, Unix milliseconds.
    #[n(3)]
    pub created_ms: u64,
    /// When its last record was recorded; none without any.
    #[n(4)]
    pub last_ms: Option<u64>,
    /// How long records are kept, milliseconds; none: for ever.
    #[n(5)]
    pub retain_ms: Option<u64>,
    /// How many bytes are kept; none: all.
    #[n(6)]
    pub retain_bytes: Option<u64>,
    /// How many records are kept; none: all.
    #[n(7)]
    pub retain_records: Option<u64>,
    /// Its consumers.
    #[n(8)]
    pub consumers: u32,
    /// The signed checkpoint over all records; empty where a record that it needs is lost.
    #[n(9)]
    pub checkpoint: String,
    /// What of it is damaged, for people; empty: nothing that is known.
    #[n(10)]
    pub damage: String,
    /// Who keeps copies, if several do.
    #[n(11)]
    pub copies: Option<CopyFigures>,
    /// Whether records go when they are settled.
    #[n(12)]
    pub keep: Option<Keep>,
    /// The labels of who keeps copies.
    #[n(13)]
    pub place: Option<Labels>,
    /// What it takes in of the messages of NATS clients.
    #[n(14)]
    pub subjects: Option<Subjects>,
    /// Whether appends are refused when it is full.
    #[n(15)]
    pub refuse_when_full: Option<bool>,
}

/// Subjects of messages.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Subjects(#[cbor(n(0), decode_with = "bounded::list::<SUBJECTS_MAX, _, _>")] pub Vec<Pattern>);

/// Labels, like `zone=eu`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct Labels(#[cbor(n(0), decode_with = "bounded::list::<PLACE_LABELS_MAX, _, _>")] pub Vec<String>);

/// When records go that consumers work off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, serde::Serialize, serde::Deserialize)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// When every consumer has settled them; while there is none they stay.
    #[n(0)]
    Queue,
    /// The same; while there is none they go.
    #[n(1)]
    Interest,
}

/// How the copies of a stream are.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CopyFigures {
    /// The group that keeps them.
    #[n(0)]
    pub group: GroupId,
    /// Who leads it, as far as who answers knows.
    #[n(1)]
    pub leader: Option<VoterKey>,
    /// Everyone in it.
    #[cbor(n(2), decode_with = "bounded::list::<GROUP_MEMBERS_MAX, _, _>")]
    pub members: Vec<CopyFigure>,
}

/// How one of them is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CopyFigure {
    /// Whose.
    #[n(0)]
    pub key: VoterKey,
    /// How many entries of the group's log it lacks; none: it is not known, for who answers does not lead.
    #[n(1)]
    pub behind: Option<u64>,
    /// Whether it does not count yet: it is still getting what the others have.
    #[n(2)]
    pub is_new: Option<bool>,
}

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum From {
    /// At this position.
    #[n(0)]
    Position(#[n(0)] u64),
    /// At the first record that was recorded then or later, Unix milliseconds.
    #[n(1)]
    Time(#[n(0)] u64),
    /// At the so-many-th last record.
    #[n(2)]
    Last(#[n(0)] u64),
    /// Behind the last record.
    #[n(3)]
    End,
}

/// What is asked, with one answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum StreamRequest {
    /// Append. The verb is *append*.
    #[n(0)]
    Append(#[n(0)] Append),
    /// How the stream is.
    #[n(1)]
    Figures,
    /// A proof that the record at this position is in the stream.
    #[n(2)]
    Prove(#[n(0)] u64),
    /// A proof that the stream of so many records is the beginning of what it is now.
    #[n(3)]
    Extend(#[n(0)] u64),
    /// Something about a consumer.
    #[n(4)]
    Consumer(#[n(0)] ConsumerRequest),
    /// Where the event with this id is.
    #[n(5)]
    Locate(#[n(0)] String),
    /// Among the members of a group that keeps copies. The verb is *append*, and the resource is no stream.
    #[n(6)]
    Group {
        /// Which group.
        #[n(0)]
        group: GroupId,
        /// What is asked.
        #[n(1)]
        request: GroupRequest,
    },
    /// What the answering member has seen its owner sign of the stream, the last time it looked; and what the asking one has. It need not keep the
    /// stream.
    #[n(7)]
    Seen {
        /// The stream's owner.
        #[n(0)]
        owner: PublicKey,
        /// The checkpoint that the asking member has seen.
        #[n(1)]
        checkpoint: Option<String>,
    },
    /// That a member which keeps a copy has the history that this checkpoint is about, too.
    #[n(8)]
    Cosign(#[n(0)] String),
    /// What the data of its events must be like.
    #[n(9)]
    Schemas,
}

impl Wire for StreamRequest {
    const WHAT: &'static str = "request to a stream";
    const BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Append(append) => append.check(),
            Self::Consumer(request) => request.check(),
            Self::Locate(id) => check_text("event id", id, MESSAGE_ATTRIBUTE_BYTES_MAX),
            Self::Group { request, .. } => request.check(),
            Self::Seen { checkpoint, .. } => at_most(
                "checkpoint",
                checkpoint.as_deref().unwrap_or_default().len(),
                CHECKPOINT_BYTES_MAX,
            ),
            Self::Cosign(checkpoint) => at_most("checkpoint", checkpoint.len(), CHECKPOINT_BYTES_MAX),
            Self::Figures | Self::Prove(_) | Self::Extend(_) | Self::Schemas => Ok(()),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct StreamFailure {
    /// The sort of failure, by the name it has at every door.
    #[n(0)]
    pub kind: String,
    /// Why, for people.
    #[n(1)]
    pub detail: String,
    /// What can be done about it.
    #[n(2)]
    pub hint: Option<String>,
}

impl StreamFailure {
    fn check(&self) -> Result<(), DecodeError> {
        check_text("kind of failure", &self.kind, 32)?;
        check_text("hint", self.hint.as_deref().unwrap_or_default(), REASON_BYTES_MAX)?;
        check_text("detail", &self.detail, REASON_BYTES_MAX)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum StreamReply {
    /// It was not done.
    #[n(0)]
    Failed(#[n(0)] StreamFailure),
    /// It was appended.
    #[n(1)]
    Appended(#[n(0)] Appended),
    /// How the stream is.
    #[n(2)]
    Figures(#[n(0)] StreamFigures),
    /// The proof.
    #[n(3)]
    Proof(#[n(0)] Proof),
    /// The signed checkpoint, and the hashes that lead to it.
    #[n(4)]
    Extended {
        /// The checkpoint's text.
        #[n(0)]
        checkpoint: String,
        /// From the older tree to the newer.
        #[cbor(n(1), with = "hashes")]
        hashes: Vec<Hash>,
    },
    /// Of a consumer.
    #[n(5)]
    Consumer(#[n(0)] ConsumerReply),
    /// Where it is; none: there is none.
    #[n(6)]
    Located(#[n(0)] Option<u64>),
    /// Of a group.
    #[n(7)]
    Group(#[n(0)] GroupReply),
    /// Another member leads those that keep the stream, and is to be asked; none: there is no leader now.
    #[n(8)]
    Led(#[n(0)] Option<VoterKey>),
    /// The checkpoint that was seen; none: it has not looked.
    #[n(9)]
    Seen(#[n(0)] Option<String>),
    /// The line that says so, of the checkpoint's text.
    #[n(10)]
    Cosigned(#[n(0)] String),
    /// What the data of its events must be like, by the ids.
    #[n(11)]
    Schemas(#[cbor(n(0), decode_with = "bounded::list::<SCHEMAS_MAX, _, _>")] Vec<Schema>),
}

impl Wire for StreamReply {
    const WHAT: &'static str = "answer of a stream";
    const BYTES_MAX: usize = DIRECT_PAYLOAD_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Failed(failure) => failure.check(),
            Self::Figures(figures) => at_most("checkpoint", figures.checkpoint.len(), CHECKPOINT_BYTES_MAX),
            Self::Proof(proof) => proof.check(),
            Self::Cosigned(line) => at_most("cosignature", line.len(), COSIGNATURE_BYTES_MAX),
            Self::Seen(checkpoint) => at_most(
                "checkpoint",
                checkpoint.as_deref().unwrap_or_default().len(),
                CHECKPOINT_BYTES_MAX,
            ),
            Self::Extended { checkpoint, .. } => at_most("checkpoint", checkpoint.len(), CHECKPOINT_BYTES_MAX),
            Self::Consumer(reply) => reply.check(),
            Self::Group(reply) => reply.check(),
            Self::Schemas(schemas) => schemas.iter().try_for_each(Schema::check),
            Self::Appended(_) | Self::Located(_) | Self::Led(_) => Ok(()),
        }
    }
}

/// What is read, said once on the stream that carries the answer. The verb is *read*.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReadRequest {
    /// Where it begins.
    #[n(0)]
    pub from: From,
    /// Which records; those that it does not mean are passed over.
    #[n(1)]
    pub query: Query,
    /// Whether it goes on with what is appended later.
    #[n(2)]
    pub follow: bool,
    /// So many at most.
    #[n(3)]
    pub limit: Option<u64>,
    /// Whether data come as the newest schema has them, as far as the stream knows how.
    #[n(4)]
    pub is_upcast: Option<bool>,
}

impl ReadRequest {
    /// All records from somewhere on, as far as there are any now.
    pub fn from(from: From) -> Self {
        Self {
            from,
            query: Query::default(),
            follow: false,
            limit: None,
            is_upcast: None,
        }
    }
}

impl Wire for ReadRequest {
    const WHAT: &'static str = "request to read a stream";
    const BYTES_MAX: usize = 1 << 20;

    fn check(&self) -> Result<(), DecodeError> {
        self.query.check()
    }
}

/// A record at its place.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Positioned {
    /// Its position, from 1.
    #[n(0)]
    pub position: u64,
    /// The record, byte for byte.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub record: Vec<u8>,
}

/// What follows a [`ReadRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ReadReply {
    /// The next records that are meant.
    #[n(0)]
    Records(#[cbor(n(0), decode_with = "bounded::list::<{ READ_RECORDS_MAX }, _, _>")] Vec<Positioned>),
    /// Everything up to this position was read, and nothing more is there; what comes next is live.
    #[n(1)]
    CaughtUp(#[n(0)] u64),
    /// It goes no further.
    #[n(2)]
    Failed(#[n(0)] StreamFailure),
    /// That was all. Without it the stream has broken off.
    #[n(3)]
    End,
}

impl Wire for ReadReply {
    const WHAT: &'static str = "records of a stream";
    const BYTES_MAX: usize = RECORD_BYTES_MAX + READ_RECORDS_MAX * 16 + super::READ_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Self::Records(records) => records
                .iter()
                .try_for_each(|one| at_most("record", one.record.len(), RECORD_BYTES_MAX)),
            Self::CaughtUp(_) | Self::End => Ok(()),
            Self::Failed(failure) => failure.check(),
        }
    }
}

/// Which streams a node keeps, in its own record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct KeptStreams {
    /// Their names, as many as there is room for.
    #[cbor(n(0), decode_with = "bounded::list::<1024, _, _>")]
    pub names: Vec<Subject>,
    /// Whether there are more.
    #[n(1)]
    pub has_more: bool,
    /// Which of them others keep as well: a bit for each name, the first in the lowest bit of the first byte. None: none.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub copies: Option<Vec<u8>>,
    /// Which of them take in messages of NATS clients. None: none.
    #[n(3)]
    pub taking: Option<TakingStreams>,
}

/// Streams of a list that take in messages.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct TakingStreams(#[cbor(n(0), decode_with = "bounded::list::<1024, _, _>")] pub Vec<TakingStream>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TakingStream {
    /// Where its name stands in the list, from 0.
    #[n(0)]
    pub at: u32,
    /// What it takes in.
    #[n(1)]
    pub subjects: Subjects,
}

impl KeptStreams {
    /// The streams that take in messages, and which.
    pub fn takers(&self) -> impl Iterator<Item = (&Subject, &[Pattern])> {
        let takers = self.taking.iter().flat_map(|taking| &taking.0);
        takers.filter_map(|taker| Some((self.names.get(taker.at as usize)?, taker.subjects.0.as_slice())))
    }

    /// Adds a name.
    pub fn push(&mut self, name: Subject, is_copy: bool, subjects: Vec<Pattern>) {
        if !subjects.is_empty() {
            let at = self.names.len() as u32;
            let subjects = Subjects(subjects);
            let taking = self.taking.get_or_insert(TakingStreams(Vec::new()));
            taking.0.push(TakingStream { at, subjects });
        }
        if is_copy {
            let bits = self.copies.get_or_insert_default();
            bits.resize(self.names.len() / 8 + 1, 0);
            bits[self.names.len() / 8] |= 1 << (self.names.len() % 8);
        }
        self.names.push(name);
    }

    /// The names, and whether others keep each as well.
    pub fn named(self) -> impl Iterator<Item = (Subject, bool)> {
        let bits = self.copies.unwrap_or_default();
        let is_copy = move |at: usize| bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0);
        let names = self.names.into_iter().enumerate();
        names.map(move |(at, name)| (name, is_copy(at)))
    }
}

impl Wire for KeptStreams {
    const WHAT: &'static str = "list of streams";
    const BYTES_MAX: usize = ANNOUNCEMENT_BYTES_MAX;
}
