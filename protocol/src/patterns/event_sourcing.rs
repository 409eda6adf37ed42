//! Streams of events: what is recorded, how it is asked for, and how it is proved.
//!
//! A stream is an append-only history that one member keeps, its *owner*. Its records have positions from 1 without gaps; the position of
//! the last one is the stream's *version*. Each record is a leaf of a hash tree ([`merkle`](crate::merkle)), whose root the owner signs ([`checkpoint`]):
//! so anybody can check that a record is in the history at its place ([`proof`]), and that a later history begins with an earlier one.
//!
//! Requests ([`StreamRequest`]) are unary; who reads opens a stream of the pattern and says [`ReadRequest`], and [`ReadReply`]s follow. The
//! stream's name is the resource of the greeting.

pub mod checkpoint;
pub mod consumer;
pub mod fork;
pub mod proof;
mod query;
mod record;
mod request;
pub mod schema;
#[cfg(test)]
pub(crate) mod tests;

pub use query::{Query, QueryItem};
pub use record::{Event, Producer, Record, check_producer_id, check_tag};
pub use request::{
    Ack, Append, Appended, Condition, CopyFigure, CopyFigures, From, Keep, KeptStreams, Labels, Positioned, ReadReply,
    ReadRequest, StreamFailure, StreamFigures, StreamReply, StreamRequest, Subjects, TakingStream, TakingStreams,
};

/// The pattern's identifier in [`Hello`](crate::Hello).
pub const PATTERN_ID: &str = "event_sourcing";
/// Labels that say who keeps copies of a stream.
pub const PLACE_LABELS_MAX: usize = 8;
/// Subjects of messages that a stream takes in.
pub const SUBJECTS_MAX: usize = 16;
/// Under this key a node's record says which streams it keeps.
pub const ANNOUNCEMENT_KEY: &str = "streams";

/// Bytes of an event's data: with its proof and its owner's certificates it still fits into an answer.
pub const EVENT_DATA_BYTES_MAX: usize = crate::limits::DIRECT_BODY_BYTES_MAX - 48 * 1024;
/// Events appended at once.
pub const APPEND_EVENTS_MAX: usize = 1000;
/// Bytes of an append, data and attributes.
pub const APPEND_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + ATTRIBUTES_BYTES_MAX;
/// Tags of an event.
pub const TAGS_MAX: usize = 64;
/// Bytes of a tag.
pub const TAG_BYTES_MAX: usize = 256;
/// Alternatives of a query.
pub const QUERY_ITEMS_MAX: usize = 32;
/// Types, or tags, of one alternative.
pub const QUERY_TERMS_MAX: usize = 64;
/// Bytes of all of an event's attributes, its tags among them.
pub const ATTRIBUTES_BYTES_MAX: usize = 8192;
/// A record as it is stored.
pub const RECORD_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + ATTRIBUTES_BYTES_MAX + 2048;
/// Bytes of records in one answer to who reads, unless its first record is larger.
pub const READ_BYTES_MAX: usize = 256 * 1024;
/// Records in one answer to who reads.
pub const READ_RECORDS_MAX: usize = 1024;
/// The name of a consumer.
pub const CONSUMER_NAME_BYTES_MAX: usize = 64;
