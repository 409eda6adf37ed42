//! What is appended, and what is kept of it.

use minicbor::{Decode, Encode};

use super::{ATTRIBUTES_BYTES_MAX, EVENT_DATA_BYTES_MAX, RECORD_BYTES_MAX, TAG_BYTES_MAX, TAGS_MAX};
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::ident::PublicKey;
use crate::limits::{EXTENSIONS_MAX, MESSAGE_ATTRIBUTE_BYTES_MAX, NAME_BYTES_MAX};
use crate::message::{check_extensions, extension};
use crate::name::{check_distinct, check_text};

/// What somebody says happened: a CloudEvents 1.0 event with tags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Event {
    /// What kind of event it is (`type` in the specification).
    #[n(0)]
    pub kind: String,
    /// Unique in its stream. None: its position is.
    #[n(1)]
    pub id: Option<String>,
    /// Where it comes from, a URI reference. None: the stream.
    #[n(2)]
    pub source: Option<String>,
    /// What it is about, for instance `order-17`.
    #[n(3)]
    pub subject: Option<String>,
    /// When it happened, Unix milliseconds. None: when it was recorded.
    #[n(4)]
    pub time_ms: Option<u64>,
    /// The media type of the data.
    #[n(5)]
    pub datacontenttype: Option<String>,
    /// The schema that the data adhere to, a URI.
    #[n(6)]
    pub dataschema: Option<String>,
    /// What it can be found by: `customer=17`.
    #[cbor(n(7), decode_with = "bounded::list::<{ TAGS_MAX }, _, _>")]
    pub tags: Vec<String>,
    /// Extension attributes: name and value.
    #[cbor(n(8), decode_with = "bounded::list::<{ EXTENSIONS_MAX }, _, _>")]
    pub extensions: Vec<(String, String)>,
    /// The data.
    #[cbor(n(9), with = "minicbor::bytes")]
    pub data: Vec<u8>,
}

impl Event {
    /// An event of this kind.
    pub fn new(kind: impl Into<String>, data: impl Into<Vec<u8>>) -> Self {
        Self {
            kind: kind.into(),
            data: data.into(),
            ..Self::default()
        }
    }

    /// What keeps events in order for competing consumers: the extension `partitionkey`, or else the subject.
    pub fn key(&self) -> Option<&str> {
        extension(&self.extensions, "partitionkey").or(self.subject.as_deref())
    }

    /// The bytes of everything except the data.
    pub fn attribute_bytes(&self) -> usize {
        let optional = [
            &self.id,
            &self.source,
            &self.subject,
            &self.datacontenttype,
            &self.dataschema,
        ];
        let optional: usize = optional.iter().filter_map(|text| text.as_ref()).map(String::len).sum();
        let extensions = self.extensions.iter().map(|(name, value)| name.len() + value.len());
        let tags = self.tags.iter().map(String::len);
        self.kind.len() + optional + extensions.sum::<usize>() + tags.sum::<usize>()
    }

    /// Bytes of data and attributes.
    pub fn bytes(&self) -> usize {
        self.attribute_bytes() + self.data.len()
    }

    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let present = |text: &str, what: &'static str| match text.is_empty() {
            true => Err(DecodeError::invalid(what, "it is empty")),
            false => check_text(what, text, MESSAGE_ATTRIBUTE_BYTES_MAX),
        };
        present(&self.kind, "event type")?;
        for (what, text) in [
            ("event id", &self.id),
            ("event source", &self.source),
            ("event subject", &self.subject),
            ("datacontenttype", &self.datacontenttype),
            ("dataschema", &self.dataschema),
        ] {
            text.as_deref().map_or(Ok(()), |text| present(text, what))?;
        }
        at_most("tags of an event", self.tags.len(), TAGS_MAX)?;
        self.tags.iter().try_for_each(|tag| check_tag(tag))?;
        check_distinct("tags", self.tags.iter().map(String::as_str))?;
        check_extensions(&self.extensions)?;
        at_most("event attributes", self.attribute_bytes(), ATTRIBUTES_BYTES_MAX)?;
        at_most("event data", self.data.len(), EVENT_DATA_BYTES_MAX)
    }
}

/// Whether something may be a tag: text without spaces and commas, which stand between tags.
///
/// # Errors
/// It is empty, too long, or no such text.
pub fn check_tag(tag: &str) -> Result<(), DecodeError> {
    if tag.is_empty() {
        return Err(DecodeError::invalid("tag", "it is empty"));
    }
    if tag.contains(|c: char| c == ',' || c.is_whitespace()) {
        return Err(DecodeError::invalid("tag", "it has a comma or a space in it"));
    }
    check_text("tag", tag, TAG_BYTES_MAX)
}

/// Whether a producer may be called so.
///
/// # Errors
/// It is empty, too long, or no plain text.
pub fn check_producer_id(id: &str) -> Result<(), DecodeError> {
    if id.is_empty() {
        return Err(DecodeError::invalid("producer", "it is empty"));
    }
    check_text("producer", id, NAME_BYTES_MAX)
}

/// Who numbers what it appends, so that what it appends twice is recorded once, however late.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Producer {
    /// Its name, of its own choice.
    #[n(0)]
    pub id: String,
    /// Its number of the event, or of the first one; the next event has the next number.
    #[n(1)]
    pub sequence: u64,
}

/// What is kept: an event, and what its owner adds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Record {
    /// When it was recorded, Unix milliseconds; never less than that of the record before.
    #[n(0)]
    pub recorded_ms: u64,
    /// The member that appended it. None: the stream's owner.
    #[n(1)]
    pub author: Option<PublicKey>,
    /// Its number, if its producer numbers.
    #[n(2)]
    pub producer: Option<Producer>,
    /// The event.
    #[n(3)]
    pub event: Event,
    /// The entry of the group's log that it comes from, where a group keeps the stream.
    #[n(4)]
    pub entry: Option<u64>,
}

impl Wire for Record {
    const WHAT: &'static str = "record";
    const BYTES_MAX: usize = RECORD_BYTES_MAX;

    fn bytes_expected(&self) -> usize {
        self.event.bytes() + 128
    }

    fn check(&self) -> Result<(), DecodeError> {
        if let Some(producer) = &self.producer {
            check_producer_id(&producer.id)?;
        }
        self.event.check()
    }
}
