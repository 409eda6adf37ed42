//! What the data of a stream's events must be like, and how data of an earlier kind become data of a later one.

use minicbor::{Decode, Encode};

use super::checkpoint::CHECKPOINT_BYTES_MAX;
use crate::codec::{Wire, bounded};
use crate::error::{DecodeError, at_most};
use crate::limits::MESSAGE_ATTRIBUTE_BYTES_MAX;
use crate::name::{check_distinct, check_text};
use crate::signed::Payload;

/// Schemas of one stream.
pub const SCHEMAS_MAX: usize = 256;
/// Bytes of all of them together.
pub const SCHEMAS_BYTES_MAX: usize = 256 * 1024;
/// Event types that one schema is for.
pub const SCHEMA_TYPES_MAX: usize = 32;

/// One schema of a stream: what events that name it (`dataschema`) must be like. It never changes; another version has another id.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Schema {
    /// What events call it: a URI, as CloudEvents has it.
    #[n(0)]
    pub id: String,
    /// Events of these types must name this schema, or another one that is for their type. Empty: it is for whatever names it.
    #[cbor(n(1), decode_with = "bounded::list::<SCHEMA_TYPES_MAX, _, _>")]
    pub types: Vec<String>,
    /// The JSON Schema, a JSON text.
    #[n(2)]
    pub document: String,
    /// How data of the schema before it become data of this one.
    #[n(3)]
    pub upcast: Option<Upcast>,
    /// When it was added, Unix milliseconds.
    #[n(4)]
    pub added_ms: u64,
}

/// How data of an earlier schema become data of a later one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Upcast {
    /// The earlier one. None: what was recorded without any schema, of the types that the later one is for.
    #[n(0)]
    pub from: Option<String>,
    /// The JSON Patch (RFC 6902) that is applied to the data, a JSON text.
    #[n(1)]
    pub patch: String,
}

impl Schema {
    /// What must hold beyond the shape.
    ///
    /// # Errors
    /// Something is empty or too long, or contradicts itself.
    pub fn check(&self) -> Result<(), DecodeError> {
        check_schema_id(&self.id)?;
        at_most("types of a schema", self.types.len(), SCHEMA_TYPES_MAX)?;
        for kind in &self.types {
            if kind.is_empty() {
                return Err(DecodeError::invalid("event type", "it is empty"));
            }
            check_text("event type", kind, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
        }
        check_distinct("types of a schema", self.types.iter().map(String::as_str))?;
        at_most("schema", self.bytes(), SCHEMAS_BYTES_MAX)?;
        match self.upcast.as_ref().map(|upcast| upcast.from.as_deref()) {
            Some(Some(from)) if from == self.id => {
                Err(DecodeError::invalid("schema", "it cannot be the one before itself"))
            }
            Some(Some(from)) => check_schema_id(from),
            Some(None) if self.types.is_empty() => Err(DecodeError::invalid(
                "schema",
                "what was recorded without a schema is known by its type, and none is said",
            )),
            _ => Ok(()),
        }
    }

    /// Bytes of all that it says.
    pub fn bytes(&self) -> usize {
        let types: usize = self.types.iter().map(String::len).sum();
        let upcast = self.upcast.as_ref().map_or(0, |upcast| {
            upcast.from.as_deref().map_or(0, str::len) + upcast.patch.len()
        });
        self.id.len() + types + self.document.len() + upcast
    }
}

/// The schemas of a stream, as its owner writes them out together with the records.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ExportedSchemas {
    /// The signed checkpoint that the records lead to: these schemas are of that export and no other.
    #[n(0)]
    pub checkpoint: String,
    /// The schemas.
    #[cbor(n(1), decode_with = "bounded::list::<SCHEMAS_MAX, _, _>")]
    pub schemas: Vec<Schema>,
}

impl Wire for ExportedSchemas {
    const WHAT: &'static str = "schemas of an export";
    // Each has a head, a time, and as many types and parts as it may have.
    const BYTES_MAX: usize = SCHEMAS_BYTES_MAX + CHECKPOINT_BYTES_MAX + SCHEMAS_MAX * 256;

    fn check(&self) -> Result<(), DecodeError> {
        at_most("checkpoint", self.checkpoint.len(), CHECKPOINT_BYTES_MAX)?;
        at_most(
            "schemas",
            self.schemas.iter().map(Schema::bytes).sum(),
            SCHEMAS_BYTES_MAX,
        )?;
        self.schemas.iter().try_for_each(Schema::check)
    }
}

impl Payload for ExportedSchemas {
    const DOMAIN: &'static str = "stream-schemas";
}

/// Whether a schema may be called so.
///
/// # Errors
/// It is empty, too long, or no text.
pub fn check_schema_id(id: &str) -> Result<(), DecodeError> {
    match id.is_empty() {
        true => Err(DecodeError::invalid("dataschema", "it is empty")),
        false => check_text("dataschema", id, MESSAGE_ATTRIBUTE_BYTES_MAX),
    }
}
