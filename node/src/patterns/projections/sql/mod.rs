//! SQL over events: what a projection keeps of a stream.
//!
//! ```sql
//! SELECT data.customer AS customer, count(*) AS orders, sum(data.amount) AS total
//! FROM orders WHERE type = 'order.created' GROUP BY data.customer
//! ```
//!
//! A row of the table is an event of the stream as a CloudEvent in JSON, a column an attribute of it, or a place in its data. Each event is looked at
//! once, in the stream's order, and a group is as small as what is gathered of it: so an answer is there before it is asked for, and there is nothing
//! that cannot be gathered in passing (no joins, no order, no windows).
//!
//! Promises: for the same events in the same order the same result; an expression always comes to an end, and what has no answer is NULL.
//!
//! A map: `parse` reads SQL, `expr` is for expressions, `gather` for `count`, `sum` and the like, `value` for what SQL thinks of JSON.

mod expr;
mod gather;
mod json;
mod parse;
#[cfg(test)]
mod tests;
mod value;

use minicbor::{Decode, Encode};
use serde_json::{Map, Value};

use expr::{Expr, Scope};
use gather::{Gather, Gathered, Use, VALUE_BYTES_MAX};

/// Bytes of a statement.
pub const SQL_BYTES_MAX: usize = 4096;
/// Columns of a projection.
const COLUMNS_MAX: usize = 64;
/// Expressions that make a group.
const KEYS_MAX: usize = 8;
/// Bytes of what a group has in common, as it is kept.
const KEY_BYTES_MAX: usize = 1024;

/// What a projection does with each event.
#[derive(Debug, Clone)]
pub struct Query {
    stream: String,
    filter: Option<Expr>,
    keys: Vec<Expr>,
    gathers: Vec<Gather>,
    columns: Vec<(String, Expr)>,
    having: Option<Expr>,
}

/// What is kept of a group.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Group {
    /// What its events have in common.
    #[cbor(n(0), with = "json::list")]
    keys: Vec<Value>,
    #[n(1)]
    gathered: Vec<Gathered>,
}

impl Group {
    /// About how many bytes it is, in memory or stored.
    pub fn weight(&self) -> usize {
        let keys: usize = self.keys.iter().map(gather::size).sum();
        let gathered: usize = self.gathered.iter().map(Gathered::weight).sum();
        64 + keys + 40 * self.keys.len() + gathered
    }
}

/// The name of a group: bytes that sort as the groups do, and what its events have in common.
pub type Named = (Vec<u8>, Vec<Value>);

/// Why a projection cannot go on behind an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// What names its group has so many bytes.
    #[error("its group is named by {0} bytes, and {KEY_BYTES_MAX} are the limit")]
    Key(usize),
    /// The least, the last or the like is too large.
    #[error("a value to be kept of it has more than {VALUE_BYTES_MAX} bytes")]
    Value,
}

impl Query {
    /// Reads a statement.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn parse(sql: &str) -> Result<Query, String> {
        parse::statement(sql)
    }

    /// The stream whose events it is about.
    pub fn stream(&self) -> &str {
        &self.stream
    }

    /// What its columns are called.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|(name, _)| name.as_str())
    }

    /// The group of an event; nothing for one that does not count.
    ///
    /// # Errors
    /// Its name is too large.
    pub fn group(&self, event: &Value) -> Result<Option<Named>, TooLarge> {
        let scope = Scope {
            event,
            keys: &[],
            gathered: &[],
        };
        if self.filter.as_ref().is_some_and(|filter| !filter.holds(scope)) {
            return Ok(None);
        }
        let keys = self.keys.iter().map(|key| value::plain(key.value(scope).into_owned()));
        let keys: Vec<Value> = keys.collect();
        let bytes = value::sortable(&keys);
        match bytes.len() {
            0..=KEY_BYTES_MAX => Ok(Some((bytes, keys))),
            more => Err(TooLarge::Key(more)),
        }
    }

    /// A group of which nothing is gathered yet.
    pub fn fresh(&self, keys: Vec<Value>) -> Group {
        let gathered = self.gathers.iter().map(Gather::fresh).collect();
        Group { keys, gathered }
    }

    /// The only group, where there is one whatever the events are.
    pub fn single(&self) -> Option<(Vec<u8>, Group)> {
        self.keys
            .is_empty()
            .then(|| (value::sortable(&[]), self.fresh(Vec::new())))
    }

    /// Gathers of an event what it has. Gives the number of values that were of no use: a text in a sum, say.
    ///
    /// # Errors
    /// Something to be kept is too large; then the group is of no use any more.
    pub fn take(&self, group: &mut Group, event: &Value) -> Result<u64, TooLarge> {
        let mut misfits = 0;
        for (gather, gathered) in self.gathers.iter().zip(&mut group.gathered) {
            let scope = Scope {
                event,
                keys: &group.keys,
                gathered: &[],
            };
            match gather.take(gathered, scope) {
                Use::Taken => {}
                Use::Misfit => misfits += 1,
                Use::TooLarge => return Err(TooLarge::Value),
            }
        }
        Ok(misfits)
    }

    /// A group as a row; nothing where `HAVING` does not hold.
    pub fn row(&self, group: &Group) -> Option<Map<String, Value>> {
        let gathers = self.gathers.iter().zip(&group.gathered);
        let gathered: Vec<Value> = gathers.map(|(gather, gathered)| gather.value(gathered)).collect();
        let scope = Scope {
            event: &Value::Null,
            keys: &group.keys,
            gathered: &gathered,
        };
        if self.having.as_ref().is_some_and(|having| !having.holds(scope)) {
            return None;
        }
        let columns = self.columns.iter();
        Some(
            columns
                .map(|(name, expr)| (name.clone(), expr.value(scope).into_owned()))
                .collect(),
        )
    }
}

/// The bytes with which the names of groups begin whose first keys are these.
pub fn prefix(keys: &[Value]) -> Vec<u8> {
    let keys: Vec<Value> = keys.iter().cloned().map(value::plain).collect();
    value::sortable(&keys)
}
