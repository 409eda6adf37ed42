//! What the data of a stream's events must be like: deciding about schemas, checking by them, and making of earlier data what the newest schema
//! has. No disk, no network, no clock.
//!
//! A schema never changes once it is there. Whoever decides about an append checks it; what was recorded is not looked at again. Which
//! schema follows which is said by the later one, so that data are brought along a chain, and what does not fit goes no further along it.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use json_patch::{Patch, PatchOperation};
use jsonschema::{PatternOptions, Validator};
use minicbor::{Decode, Encode};
use serde_json::Value;
use weft_protocol::{
    Wire as _,
    limits::EXTENSIONS_MAX,
    name::reason,
    patterns::event_sourcing::{
        EVENT_DATA_BYTES_MAX, Event,
        schema::{SCHEMAS_BYTES_MAX, SCHEMAS_MAX, Schema, Upcast},
    },
};

use super::{events::RECORDED_SCHEMA, options::StreamError, stream::Kept};

/// A compiled pattern of a schema, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Objects and lists in each other, in data that a patch has changed.
const DEPTH_MAX: usize = 128;

/// The schemas of a stream as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct SchemaSet {
    /// The entry of the group's log that the last change comes from, where a group keeps the stream.
    #[n(0)]
    pub(super) entry: Option<u64>,
    /// By their ids.
    #[n(1)]
    pub(super) schemas: Vec<Schema>,
}

/// What is changed about a stream's schemas.
#[derive(Debug, Clone)]
pub(super) enum SchemaChange {
    Add(Schema),
    Remove(String),
}

/// What an upcast begins with: data of another schema, or of a type without any.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Before {
    Schema(String),
    Unmarked(String),
}

fn before_of(schema: &Schema) -> Vec<Before> {
    match schema.upcast.as_ref().map(|upcast| &upcast.from) {
        None => Vec::new(),
        Some(Some(from)) => vec![Before::Schema(from.clone())],
        Some(None) => schema.types.iter().cloned().map(Before::Unmarked).collect(),
    }
}

fn says_the_same(one: &Schema, other: &Schema) -> bool {
    let added_ms = other.added_ms;
    *other
        == Schema {
            added_ms,
            ..one.clone()
        }
}

impl SchemaSet {
    fn get(&self, id: &str) -> Option<&Schema> {
        self.schemas.iter().find(|schema| schema.id == id)
    }

    /// Does what a change says; whether that made a difference.
    pub(super) fn apply(&mut self, change: SchemaChange) -> Result<bool, StreamError> {
        match change {
            SchemaChange::Add(schema) => self.add(schema),
            SchemaChange::Remove(id) => {
                let before = self.schemas.len();
                self.schemas.retain(|schema| schema.id != id);
                match self.schemas.len() < before {
                    true => Ok(true),
                    false => Err(StreamError::NoSchema(id)),
                }
            }
        }
    }

    fn add(&mut self, schema: Schema) -> Result<bool, StreamError> {
        schema.check()?;
        if let Some(known) = self.get(&schema.id) {
            return match says_the_same(known, &schema) {
                true => Ok(false),
                false => Err(StreamError::Conflict(format!(
                    "the stream has a schema {} that says something else: what has changed gets another id",
                    schema.id
                ))),
            };
        }
        let bytes: usize = self.schemas.iter().map(Schema::bytes).sum();
        if self.schemas.len() >= SCHEMAS_MAX || bytes + schema.bytes() > SCHEMAS_BYTES_MAX {
            return Err(StreamError::Busy(format!(
                "a stream has at most {SCHEMAS_MAX} schemas, of {SCHEMAS_BYTES_MAX} bytes together"
            )));
        }
        let own = before_of(&schema);
        for other in &self.schemas {
            if before_of(other).iter().any(|before| own.contains(before)) {
                return Err(StreamError::Conflict(format!(
                    "data become those of {} already: `--from` that one, so that they are brought along a chain",
                    other.id
                )));
            }
        }
        self.check_chain(&schema)?;
        let at = self.schemas.partition_point(|known| known.id < schema.id);
        self.schemas.insert(at, schema);
        Ok(true)
    }

    /// Whether a schema is not among those that its own data would become.
    fn check_chain(&self, schema: &Schema) -> Result<(), StreamError> {
        let from = schema.upcast.as_ref().and_then(|upcast| upcast.from.as_deref());
        let follows = |id: &str| {
            let mut all = self.schemas.iter();
            all.find(|one| {
                one.upcast
                    .as_ref()
                    .is_some_and(|upcast| upcast.from.as_deref() == Some(id))
            })
        };
        let mut reached = schema.id.as_str();
        for _ in 0..self.schemas.len() {
            let Some(next) = follows(reached) else { break };
            if from == Some(next.id.as_str()) {
                return Err(StreamError::Conflict(format!(
                    "data of {} become those of {} already, and cannot go round in a circle",
                    schema.id, next.id
                )));
            }
            reached = &next.id;
        }
        Ok(())
    }

    /// Whether a schema is there and may go: not when another one's data are made of its own.
    pub(super) fn check_removal(&self, id: &str) -> Result<(), StreamError> {
        if self.get(id).is_none() {
            return Err(StreamError::NoSchema(id.to_owned()));
        }
        let before = Before::Schema(id.to_owned());
        match self.schemas.iter().find(|one| before_of(one).contains(&before)) {
            Some(next) => Err(StreamError::Conflict(format!(
                "the data of {} are made of those of {id}: remove that one first",
                next.id
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a schema says what can be understood: its JSON Schema, and its patch.
pub(super) fn check_definition(schema: &Schema) -> Result<(), StreamError> {
    schema.check()?;
    compile(&schema.document).map_err(StreamError::Invalid)?;
    match &schema.upcast {
        Some(upcast) => patch_of(upcast).map(drop).map_err(StreamError::Invalid),
        None => Ok(()),
    }
}

fn compile(document: &str) -> Result<Validator, String> {
    let wrong = |what: &dyn std::fmt::Display| format!("this is no JSON Schema: {}", reason(&what.to_string()));
    let json: Value = serde_json::from_str(document).map_err(|error| wrong(&error))?;
    // Patterns take time in proportion to the text, and nothing is fetched that a schema refers to.
    let patterns = PatternOptions::regex().size_limit(PATTERN_BYTES_MAX);
    let options = jsonschema::options()
        .with_pattern_options(patterns)
        .should_validate_formats(true);
    options.build(&json).map_err(|error| wrong(&error))
}

fn patch_of(upcast: &Upcast) -> Result<Patch, String> {
    serde_json::from_str(&upcast.patch)
        .map_err(|error| format!("this is no JSON Patch (RFC 6902): {}", reason(&error.to_string())))
}

/// A schema, compiled when it is needed first.
#[derive(Debug)]
struct Compiled {
    schema: Schema,
    validator: OnceLock<Result<Validator, String>>,
    patch: OnceLock<Result<Patch, String>>,
}

impl Compiled {
    fn new(schema: Schema) -> Self {
        Compiled {
            schema,
            validator: OnceLock::new(),
            patch: OnceLock::new(),
        }
    }

    fn is_for(&self, kind: &str) -> bool {
        self.schema.types.is_empty() || self.schema.types.iter().any(|one| one == kind)
    }

    fn check(&self, data: &Value) -> Result<(), String> {
        let validator = self.validator.get_or_init(|| compile(&self.schema.document));
        let validator = validator.as_ref().map_err(Clone::clone)?;
        validator.validate(data).map_err(|error| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "as a whole" } else { place.as_str() };
            format!("{place}: {error}")
        })
    }

    /// What these data become; nothing where the patch does not fit them, or what comes of it is not as the schema says.
    fn of_earlier(&self, data: &Value) -> Option<Value> {
        let upcast = self.schema.upcast.as_ref()?;
        let patch = self.patch.get_or_init(|| patch_of(upcast)).as_ref().ok()?;
        let patched = patched(patch, data.clone())?;
        self.check(&patched).is_ok().then_some(patched)
    }
}

/// Data after a patch. What it adds and copies is bounded, in bytes and in depth: copies of copies would grow without end.
fn patched(patch: &Patch, mut data: Value) -> Option<Value> {
    let mut room = EVENT_DATA_BYTES_MAX;
    for operation in &patch.0 {
        let (value, is_more) = match operation {
            PatchOperation::Add(add) => (Some(&add.value), true),
            PatchOperation::Replace(replace) => (Some(&replace.value), true),
            PatchOperation::Copy(copy) => (data.pointer(copy.from.as_str()), true),
            PatchOperation::Move(one) => (data.pointer(one.from.as_str()), false),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => (None, false),
        };
        if let Some(value) = value {
            if operation.path().tokens().count() + depth(value) > DEPTH_MAX {
                return None;
            }
            if is_more {
                room = room.checked_sub(value.to_string().len())?;
            }
        }
        json_patch::patch(&mut data, std::slice::from_ref(operation)).ok()?;
    }
    Some(data)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The schemas of a stream, ready to check by.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    pub(super) set: SchemaSet,
    by_id: HashMap<String, Arc<Compiled>>,
    /// The ids of those that a type's events must name one of.
    by_type: HashMap<String, Vec<String>>,
    next: HashMap<Before, Arc<Compiled>>,
}

impl Schemas {
    pub(super) fn new(set: SchemaSet) -> Self {
        let mut schemas = Schemas::default();
        for schema in &set.schemas {
            for kind in &schema.types {
                let ids = schemas.by_type.entry(kind.clone()).or_default();
                ids.push(schema.id.clone());
            }
            let compiled = Arc::new(Compiled::new(schema.clone()));
            for before in before_of(schema) {
                schemas.next.insert(before, Arc::clone(&compiled));
            }
            schemas.by_id.insert(schema.id.clone(), compiled);
        }
        Schemas { set, ..schemas }
    }

    /// Whether the data of events are as the schemas say.
    pub(super) fn check(&self, events: &[Event]) -> Result<(), StreamError> {
        if self.by_id.is_empty() {
            return Ok(());
        }
        for (at, event) in events.iter().enumerate() {
            self.check_one(event).map_err(|why| {
                let which = match events.len() {
                    1 => "the event".to_owned(),
                    _ => format!("event {} of the append", at + 1),
                };
                StreamError::NotAsSchema(reason(&format!("{which} ({}) {why}", event.kind)))
            })?;
        }
        Ok(())
    }

    fn check_one(&self, event: &Event) -> Result<(), String> {
        let Some(id) = &event.dataschema else {
            return match self.by_type.get(&event.kind) {
                Some(ids) => Err(format!("must name its schema, one of: {}", ids.join(", "))),
                None => Ok(()),
            };
        };
        let Some(schema) = self.by_id.get(id) else {
            return Err(format!("names the schema {id}, which the stream does not have"));
        };
        if !schema.is_for(&event.kind) {
            let types = schema.schema.types.join(", ");
            return Err(format!("names the schema {id}, which is for: {types}"));
        }
        let data = serde_json::from_slice(&event.data);
        let data = data.map_err(|error| format!("is not as {id} says: its data are no JSON: {error}"))?;
        schema.check(&data).map_err(|why| format!("is not as {id} says: {why}"))
    }

    /// A record with its data as the newest schema has them, as far as they can be brought there.
    pub(super) fn upcast(&self, kept: Kept) -> Result<Kept, StreamError> {
        if self.next.is_empty() {
            return Ok(kept);
        }
        let mut record = kept.record()?;
        if !self.upcast_event(&mut record.event) {
            return Ok(kept);
        }
        Ok(match record.to_checked_bytes() {
            Ok(bytes) => Kept {
                position: kept.position,
                bytes: bytes.into(),
            },
            // It would be too large.
            Err(_) => kept,
        })
    }

    /// Whether anything has changed.
    fn upcast_event(&self, event: &mut Event) -> bool {
        let kind = &event.kind;
        let mut before = match &event.dataschema {
            Some(id) => Before::Schema(id.clone()),
            None => Before::Unmarked(kind.clone()),
        };
        let Some(mut next) = self.next.get(&before) else {
            return false;
        };
        let Ok(mut data) = serde_json::from_slice::<Value>(&event.data) else {
            return false;
        };
        let mut reached = None;
        for _ in 0..SCHEMAS_MAX {
            let Some(later) = next.of_earlier(&data).filter(|_| next.is_for(kind)) else {
                break;
            };
            data = later;
            reached = Some(next.schema.id.clone());
            before = Before::Schema(next.schema.id.clone());
            match self.next.get(&before) {
                Some(after) => next = after,
                None => break,
            }
        }
        let Some(reached) = reached else { return false };
        event.data = data.to_string().into_bytes();
        if let Some(recorded) = event.dataschema.replace(reached)
            && event.extensions.len() < EXTENSIONS_MAX
        {
            event.extensions.push((RECORDED_SCHEMA.to_owned(), recorded));
        }
        true
    }
}

#[cfg(test)]
mod tests;
