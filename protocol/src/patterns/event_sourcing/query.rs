//! Which events are meant: the queries of dynamic consistency boundaries (dcb.events).

use minicbor::{Decode, Encode};

use super::{Event, QUERY_ITEMS_MAX, QUERY_TERMS_MAX, check_tag};
use crate::codec::bounded;
use crate::error::{DecodeError, at_most};
use crate::limits::MESSAGE_ATTRIBUTE_BYTES_MAX;
use crate::name::check_text;

/// Events that any of its items describes; without items, all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Query {
    /// The alternatives.
    #[cbor(n(0), decode_with = "bounded::list::<{ QUERY_ITEMS_MAX }, _, _>")]
    pub items: Vec<QueryItem>,
}

/// Events of one of these types, if there are any, with all of these tags.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct QueryItem {
    /// Any of these types; none: of any type.
    #[cbor(n(0), decode_with = "bounded::list::<{ QUERY_TERMS_MAX }, _, _>")]
    pub types: Vec<String>,
    /// All of these tags.
    #[cbor(n(1), decode_with = "bounded::list::<{ QUERY_TERMS_MAX }, _, _>")]
    pub tags: Vec<String>,
}

impl Query {
    /// Whether it means every event.
    pub fn is_all(&self) -> bool {
        let is_all = |item: &QueryItem| item.types.is_empty() && item.tags.is_empty();
        self.items.is_empty() || self.items.iter().any(is_all)
    }

    /// Whether it means this event.
    pub fn matches(&self, event: &Event) -> bool {
        self.items.is_empty() || self.items.iter().any(|item| item.matches(event))
    }

    /// What must hold beyond the shape.
    ///
    /// # Errors
    /// Too many items, types or tags, or one that cannot be.
    pub fn check(&self) -> Result<(), DecodeError> {
        at_most("items of a query", self.items.len(), QUERY_ITEMS_MAX)?;
        for item in &self.items {
            at_most("types of a query", item.types.len(), QUERY_TERMS_MAX)?;
            at_most("tags of a query", item.tags.len(), QUERY_TERMS_MAX)?;
            for kind in &item.types {
                check_text("event type", kind, MESSAGE_ATTRIBUTE_BYTES_MAX)?;
            }
            item.tags.iter().try_for_each(|tag| check_tag(tag))?;
        }
        Ok(())
    }
}

impl QueryItem {
    fn matches(&self, event: &Event) -> bool {
        let is_of = self.types.is_empty() || self.types.contains(&event.kind);
        is_of && self.tags.iter().all(|tag| event.tags.contains(tag))
    }
}
