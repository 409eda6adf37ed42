//! What flows everywhere: a CloudEvents 1.0 event.
//!
//! The attributes are those of the specification, with its rules for their names; the binary form here is CBOR, the structured JSON form
//! is made at the node's doors. A message says what happened; who sent it is the business of whatever carries it.

#[cfg(test)]
pub(crate) mod tests;

use minicbor::{Decode, Encode};

use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::{
    DIRECT_BODY_BYTES_MAX, EXTENSIONS_MAX, MESSAGE_ATTRIBUTE_BYTES_MAX, MESSAGE_ATTRIBUTES_BYTES_MAX, MESSAGE_BYTES_MAX,
};
use crate::name::{check_distinct, check_text};
use crate::subject::Subject;
use crate::trace::TraceParent;

/// The names that the specification gives to attributes, which no extension can have.
const RESERVED: [&str; 10] = [
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "specversion",
];

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Message {
    /// Unique for its source.
    #[n(0)]
    pub id: String,
    /// Where it comes from, a URI reference.
    #[n(1)]
    pub source: String,
    /// What kind of event it is (`type` in the specification).
    #[n(2)]
    pub kind: String,
    /// What it is about; the topic where there is one.
    #[n(3)]
    pub subject: Option<Subject>,
    /// When it happened, unix milliseconds.
    #[n(4)]
    pub time_ms: Option<u64>,
    /// The media type of the data.
    #[n(5)]
    pub datacontenttype: Option<String>,
    /// The data.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub data: Vec<u8>,
    /// Extension attributes: name and value.
    #[cbor(n(7), decode_with = "bounded::list::<{ EXTENSIONS_MAX }, _, _>")]
    pub extensions: Vec<(String, String)>,
}

impl Message {
    /// A message with nothing optional in it.
    pub fn new(id: impl Into<String>, source: impl Into<String>, kind: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            source: source.into(),
            kind: kind.into(),
            subject: None,
            time_ms: None,
            datacontenttype: None,
            data: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// The value of an extension attribute.
    pub fn extension(&self, name: &str) -> Option<&str> {
        extension(&self.extensions, name)
    }

    /// Sets an extension attribute, replacing one of the same name.
    pub fn set_extension(&mut self, name: &str, value: impl Into<String>) {
        set_extension(&mut self.extensions, name, value.into());
    }

    /// The trace context in the extension `traceparent`, if it is understood.
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.extension("traceparent").and_then(|text| text.parse().ok())
    }

    /// The bytes of everything except the data.
    pub fn attribute_bytes(&self) -> usize {
        let extensions: usize = self
            .extensions
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let subject = self.subject.as_ref().map_or(0, |subject| subject.as_str().len());
        let content = self.datacontenttype.as_deref().map_or(0, str::len);
        self.id.len() + self.source.len() + self.kind.len() + subject + content + extensions
    }
}

impl Wire for Message {
    const WHAT: &'static str = "message";
    const BYTES_MAX: usize = MESSAGE_BYTES_MAX;

    fn check(&self) -> Result<(), DecodeError> {
        for (what, text) in [
            ("message id", &self.id),
            ("message source", &self.source),
            ("message type", &self.kind),
        ] {
            if text.is_empty() {
                return Err(DecodeError::invalid(what, "it is empty"));
            }
            check_text(what, text, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
        }
        let content = self.datacontenttype.as_deref().unwrap_or_default();
        check_text("datacontenttype", content, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
        at_most("message data", self.data.len(), DIRECT_BODY_BYTES_MAX)?;
        check_extensions(&self.extensions)?;
        at_most(
            "message attributes",
            self.attribute_bytes(),
            MESSAGE_ATTRIBUTES_BYTES_MAX,
        )
    }
}

/// The value of an extension attribute.
pub(crate) fn extension<'a>(extensions: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = extensions.iter().find(|(own, _)| own == name);
    found.map(|(_, value)| value.as_str())
}

/// Sets an extension attribute, replacing one of the same name.
pub(crate) fn set_extension(extensions: &mut Vec<(String, String)>, name: &str, value: String) {
    match extensions.iter_mut().find(|(own, _)| own == name) {
        Some((_, old)) => *old = value,
        None => extensions.push((name.to_owned(), value)),
    }
}

/// How many there are, what they are called, how long they are.
pub(crate) fn check_extensions(extensions: &[(String, String)]) -> Result<(), DecodeError> {
    at_most("extensions", extensions.len(), EXTENSIONS_MAX)?;
    for (name, value) in extensions {
        check_extension_name(name)?;
        check_text("extension value", value, MESSAGE_ATTRIBUTES_BYTES_MAX)?;
    }
    check_distinct("extensions", extensions.iter().map(|(name, _)| name.as_str()))
}

/// `[a-z0-9]`, at most 20 as the specification advises, and not the name of an attribute.
fn check_extension_name(name: &str) -> Result<(), DecodeError> {
    at_most("extension name", name.len(), 20)?;
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    {
        return Err(DecodeError::invalid(
            "extension name",
            format!("{name:?} is not of a-z 0-9"),
        ));
    }
    if RESERVED.contains(&name) {
        return Err(DecodeError::invalid(
            "extension name",
            format!("{name:?} is the name of an attribute"),
        ));
    }
    Ok(())
}
