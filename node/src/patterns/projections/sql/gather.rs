//! What is gathered of a group: counts, sums, the least and the greatest, the first and the last.

use minicbor::{Decode, Encode};
use serde_json::Value;

use super::{
    expr::{Expr, Scope},
    value::{Reckoned, compare},
};

/// Bytes of a value that is kept: the least, the last, and so on.
pub(super) const VALUE_BYTES_MAX: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Count,
    Sum,
    Average,
    Least,
    Greatest,
    First,
    Last,
}

impl Kind {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "count" => Kind::Count,
            "sum" => Kind::Sum,
            "avg" => Kind::Average,
            "min" => Kind::Least,
            "max" => Kind::Greatest,
            "first" | "first_value" => Kind::First,
            "last" | "last_value" => Kind::Last,
            _ => return None,
        })
    }
}

/// One thing that is gathered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gather {
    pub(super) kind: Kind,
    /// Of what; nothing for `count(*)`.
    pub(super) of: Option<Expr>,
    /// Only of events for which this holds.
    pub(super) filter: Option<Expr>,
}

/// As far as it was gathered.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) enum Gathered {
    #[n(0)]
    Count(#[n(0)] u64),
    #[n(1)]
    Sum {
        /// Of whole numbers, as long as it holds them.
        #[n(0)]
        whole: i64,
        /// Of all others.
        #[cbor(n(1), with = "bits")]
        real: f64,
        #[n(2)]
        count: u64,
    },
    #[n(2)]
    One(#[cbor(n(0), with = "super::json")] Value),
}

impl Gathered {
    /// About how many bytes it is.
    pub(super) fn weight(&self) -> usize {
        match self {
            Gathered::One(value) => 40 + size(value),
            Gathered::Count(_) | Gathered::Sum { .. } => 40,
        }
    }
}

/// Whether a value was of any use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Taken,
    /// It is neither NULL nor of the kind that can be gathered.
    Misfit,
    /// It is too large to be kept.
    TooLarge,
}

/// Bytes of what has no bound by itself.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(_) | Value::Object(_) => value.to_string().len(),
        _ => 0,
    }
}

/// A real number as its bits: what is stored has no floats.
mod bits {
    use minicbor::{
        Decoder, Encoder,
        decode::Error,
        encode::{Error as EncodeError, Write},
    };

    pub(super) fn encode<C, W: Write>(real: &f64, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.u64(real.to_bits())?.ok()
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<f64, Error> {
        d.u64().map(f64::from_bits)
    }
}

impl Gather {
    pub(super) fn fresh(&self) -> Gathered {
        match self.kind {
            Kind::Count => Gathered::Count(0),
            Kind::Sum | Kind::Average => Gathered::Sum {
                whole: 0,
                real: 0.0,
                count: 0,
            },
            Kind::Least | Kind::Greatest | Kind::First | Kind::Last => Gathered::One(Value::Null),
        }
    }

    /// Gathers what this event has.
    pub(super) fn take(&self, gathered: &mut Gathered, scope: Scope<'_>) -> Use {
        if self.filter.as_ref().is_some_and(|filter| !filter.holds(scope)) {
            return Use::Taken;
        }
        let value = self.of.as_ref().map(|of| of.value(scope));
        if value.as_ref().is_some_and(|value| value.is_null()) {
            return Use::Taken;
        }
        match (gathered, value) {
            (Gathered::Count(count), _) => *count += 1,
            (Gathered::Sum { whole, real, count }, Some(value)) => {
                match Reckoned::of(&value) {
                    None => return Use::Misfit,
                    Some(Reckoned::Whole(number)) => match whole.checked_add(number) {
                        Some(sum) => *whole = sum,
                        None => *real += number as f64,
                    },
                    Some(Reckoned::Real(number)) => *real += number,
                }
                *count += 1;
            }
            (Gathered::One(held), Some(value)) => {
                let order = match held.is_null() {
                    true => compare(&value, &value),
                    false => compare(&value, held),
                };
                let is_taken = match (self.kind, order) {
                    (Kind::Last, _) => true,
                    (Kind::First, _) => held.is_null(),
                    (_, None) => return Use::Misfit,
                    (Kind::Greatest, Some(order)) => held.is_null() || order.is_gt(),
                    (_, Some(order)) => held.is_null() || order.is_lt(),
                };
                if is_taken && size(&value) > VALUE_BYTES_MAX {
                    return Use::TooLarge;
                }
                if is_taken {
                    *held = value.into_owned();
                }
            }
            (_, None) => {}
        }
        Use::Taken
    }

    /// What it comes to.
    pub(super) fn value(&self, gathered: &Gathered) -> Value {
        match gathered {
            Gathered::Count(count) => (*count).into(),
            Gathered::Sum { count: 0, .. } => Value::Null,
            Gathered::Sum { whole, real, count } => {
                let sum = match *real == 0.0 {
                    true => Reckoned::Whole(*whole),
                    false => Reckoned::Real(*whole as f64 + real),
                };
                match self.kind {
                    Kind::Average => super::value::plain(Reckoned::Real(sum.real() / *count as f64).value()),
                    _ => sum.value(),
                }
            }
            Gathered::One(value) => value.clone(),
        }
    }
}
