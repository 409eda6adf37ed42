//! JSON values as SQL sees them: compared, reckoned with, put in order.
//!
//! Whole numbers stay whole as long as 64 bits hold them; what has no answer (a text in a sum, a division by nothing) is NULL.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// Bytes of a text that an expression makes; a longer one is NULL.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;

/// A number without its JSON.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reckoned {
    Whole(i64),
    Real(f64),
}

impl Reckoned {
    pub(super) fn of(value: &Value) -> Option<Self> {
        let Value::Number(number) = value else { return None };
        Some(match number.as_i64() {
            Some(whole) => Reckoned::Whole(whole),
            None => Reckoned::Real(number.as_f64()?),
        })
    }

    pub(super) fn real(self) -> f64 {
        match self {
            Reckoned::Whole(whole) => whole as f64,
            Reckoned::Real(real) => real,
        }
    }

    pub(super) fn value(self) -> Value {
        match self {
            Reckoned::Whole(whole) => whole.into(),
            Reckoned::Real(real) => Number::from_f64(real).map_or(Value::Null, Value::Number),
        }
    }

    /// Both whole and the result as well, or all of them real.
    pub(super) fn with(self, other: Self, whole: fn(i64, i64) -> Option<i64>, real: fn(f64, f64) -> f64) -> Self {
        if let (Reckoned::Whole(a), Reckoned::Whole(b)) = (self, other)
            && let Some(result) = whole(a, b)
        {
            return Reckoned::Whole(result);
        }
        Reckoned::Real(real(self.real(), other.real()))
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Reckoned::Whole(a), Reckoned::Whole(b)) => Some(a.cmp(&b)),
            (a, b) => a.real().partial_cmp(&b.real()),
        }
    }
}

/// How two values compare; nothing where one is NULL, or where they are of different kinds or have no order.
pub(super) fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        _ => Reckoned::of(a)?.compare(Reckoned::of(b)?),
    }
}

/// Whether two values are the same; nothing where one is NULL.
pub(super) fn equal(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => None,
        (Value::Number(_), Value::Number(_)) => Some(compare(a, b) == Some(Ordering::Equal)),
        _ => Some(a == b),
    }
}

/// True, false or unknown: a number is true unless it is 0, anything else is unknown.
pub(super) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        _ => None,
    }
}

/// A value as text; nothing for NULL.
pub(super) fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (text.len() <= TEXT_BYTES_MAX).then_some(text)
}

/// Equal numbers get equal JSON: `1.0` becomes `1`.
pub(super) fn plain(value: Value) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match &value {
        Value::Number(number) if !number.is_i64() && !number.is_u64() => match number.as_f64() {
            Some(real) if real.trunc() == real && real.abs() < EXACT => (real as i64).into(),
            _ => value,
        },
        _ => value,
    }
}

/// Bytes that sort as the values do, different for different values: NULL, false, true, numbers, texts, anything else.
pub(super) fn sortable(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        match value {
            Value::Null => bytes.push(0),
            Value::Bool(truth) => bytes.push(1 + u8::from(*truth)),
            Value::Number(number) => {
                bytes.push(3);
                let bits = number.as_f64().unwrap_or_default().to_bits();
                // Negative numbers sort the other way round, and before all others (IEEE 754, §5.10).
                let bits = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
                bytes.extend_from_slice(&bits.to_be_bytes());
                end(&mut bytes, number.to_string().as_bytes());
            }
            Value::String(text) => {
                bytes.push(4);
                end(&mut bytes, text.as_bytes());
            }
            other => {
                bytes.push(5);
                end(&mut bytes, other.to_string().as_bytes());
            }
        }
    }
    bytes
}

/// A text whose end can be told: what follows a shorter one is smaller than what goes on.
fn end(bytes: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(0xff);
        }
    }
    bytes.push(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn values_sort_as_their_bytes() {
        let sorted = [
            json!(null),
            json!(false),
            json!(true),
            json!(-1e9),
            json!(-2),
            json!(-1.5),
            json!(0),
            json!(0.25),
            json!(9),
            json!(10),
            json!(9_007_199_254_740_993_u64),
            json!(""),
            json!("a"),
            json!("a\u{0}"),
            json!("a\u{0}b"),
            json!("ab"),
            json!("b"),
            json!([1]),
        ];
        for pair in sorted.windows(2) {
            assert!(sortable(&pair[..1]) < sortable(&pair[1..]), "{pair:?}");
        }
        // The first decides, then the second.
        assert!(sortable(&[json!("a"), json!(9)]) < sortable(&[json!("ab"), json!(1)]));
    }

    #[test]
    fn equal_numbers_are_one_key() {
        assert_eq!(plain(json!(1.0)), json!(1));
        assert_eq!(plain(json!(1.5)), json!(1.5));
        assert_eq!(equal(&json!(1), &json!(1.0)), Some(true));
        assert_eq!(equal(&json!("1"), &json!(1)), Some(false));
        assert_eq!(equal(&json!(null), &json!(1)), None);
    }

    proptest! {
        #[test]
        fn different_texts_have_different_bytes(a in ".{0,8}", b in ".{0,8}", c in ".{0,8}", d in ".{0,8}") {
            let one = [json!(a), json!(b)];
            let other = [json!(c), json!(d)];
            prop_assert_eq!(sortable(&one) == sortable(&other), one == other);
            prop_assert_eq!(sortable(&one).cmp(&sortable(&other)), (&a, &b).cmp(&(&c, &d)));
        }

        #[test]
        fn numbers_sort(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite() && a != b);
            prop_assert_eq!(sortable(&[json!(a)]) < sortable(&[json!(b)]), a < b);
        }
    }
}
