//! Reading the node's JSON for people: a missing field is an empty text, never a failure.
//!
//! Machines get the node's objects unchanged (`--json`); so a newer node's extra fields are never lost.

use serde_json::Value;

/// A field as text; numbers and booleans are spelled out, lists are joined by blanks.
pub(crate) fn text(value: &Value, key: &str) -> String {
    value.get(key).map(plain).unwrap_or_default()
}

/// Whether a field is true.
pub(crate) fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// A field as a number.
pub(crate) fn number(value: &Value, key: &str) -> Option<f64> {
    value.get(key).and_then(Value::as_f64)
}

/// The elements of a list field.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The elements of an answer that is a list.
pub(crate) fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Milliseconds as people read them.
pub(crate) fn millis(value: &Value, key: &str) -> String {
    number(value, key).map(milliseconds).unwrap_or_default()
}

/// `0.21 ms`, `14 ms`, `1.20 s`.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// `45 s`, `3 min`, `2 h 05 min`, `4 d 3 h`.
pub(crate) fn seconds(total: f64) -> String {
    // Negative and absurd values saturate in this cast, which is what a display wants.
    let total = total as u64;
    match total {
        0..60 => format!("{total} s"),
        60..3600 => format!("{} min", total / 60),
        3600..86_400 => format!("{} h {:02} min", total / 3600, total % 3600 / 60),
        _ => format!("{} d {} h", total / 86_400, total % 86_400 / 3600),
    }
}

/// `17 B`, `1.0 KiB`, `5.3 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" {
        return format!("{count} B");
    }
    format!("{value:.1} {unit}")
}

/// What tells one peer id from another: an Ed25519 id's first characters are the same for all, so they are left out.
pub(crate) fn short_id(id: &str) -> String {
    let tail = id.strip_prefix("12D3KooW").unwrap_or(id);
    tail.chars().take(10).collect()
}

/// A name with its short id, or what there is of the two.
pub(crate) fn who(value: &Value) -> String {
    let (name, id) = (text(value, "name"), text(value, "peer_id"));
    match (name.is_empty(), id.is_empty()) {
        (false, false) => format!("{name} ({})", short_id(&id)),
        (false, true) => name,
        (true, _) => id,
    }
}

/// `k=v` pairs of an object field, in order.
pub(crate) fn pairs(value: &Value, key: &str) -> String {
    let Some(object) = value.get(key).and_then(Value::as_object) else {
        return String::new();
    };
    let pairs: Vec<String> = object
        .iter()
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    pairs.join(" ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
