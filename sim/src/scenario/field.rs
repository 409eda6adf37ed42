//! The types a key of a scenario may have, and how each is read.
//!
//! Reasons are worded to follow the key's name, and quote at most a few characters of what they found.

use std::time::Duration;

use toml::de::DeValue;
use weft_node::config::{ByteSize, Setting, parse_duration};

use super::data::Latency;

/// A type that a key may have.
pub(super) trait Field: Sized {
    /// What a person may write, to follow "expects".
    const EXPECTS: &'static str;

    /// The value; none when it is of another kind.
    fn read(value: &DeValue<'_>) -> Option<Self>;
}

/// What was found instead, in a few words.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", shorten(text)),
        DeValue::Integer(number) => format!("the number {}", shorten_bare(&number.to_string())),
        DeValue::Float(number) => format!("the number {}", shorten_bare(&number.to_string())),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// At most 64 characters, quoted, control characters escaped.
pub(super) fn shorten(text: &str) -> String {
    format!("{:?}", shorten_bare(text))
}

fn shorten_bare(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut head: String = text.chars().take(CHARS_MAX).collect();
    if head.len() < text.len() {
        head.push('…');
    }
    head
}

/// A whole number as text of base ten, sign included.
fn whole(value: &DeValue<'_>) -> Option<i128> {
    match value {
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).ok(),
        _ => None,
    }
}

/// A finite number, whole or not.
fn number(value: &DeValue<'_>) -> Option<f64> {
    let number = match value {
        DeValue::Float(number) => number.as_str().parse().ok()?,
        other => whole(other)? as f64,
    };
    number.is_finite().then_some(number)
}

fn text<'v>(value: &'v DeValue<'_>) -> Option<&'v str> {
    value.as_str()
}

impl Field for String {
    const EXPECTS: &'static str = "a string";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        text(value).map(str::to_owned)
    }
}

impl Field for bool {
    const EXPECTS: &'static str = "true or false";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

impl Field for u64 {
    const EXPECTS: &'static str = "a whole number, not negative";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::try_from(whole(value)?).ok()
    }
}

impl Field for usize {
    const EXPECTS: &'static str = "a whole number, not negative";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        Self::try_from(whole(value)?).ok()
    }
}

impl Field for f64 {
    const EXPECTS: &'static str = "a number, not negative";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        number(value).filter(|number| *number >= 0.0)
    }
}

impl Field for Duration {
    const EXPECTS: &'static str = "a duration such as \"30s\" (ms, s, m, h, d)";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        parse_duration(text(value)?).ok()
    }
}

/// A duration that may be negative, in milliseconds.
pub(super) struct SignedMs(pub(super) i64);

impl Field for SignedMs {
    const EXPECTS: &'static str = "a duration such as \"30s\" or \"-2m\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let text = text(value)?.trim();
        let (sign, span) = match text.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, text.strip_prefix('+').unwrap_or(text)),
        };
        let ms = i64::try_from(parse_duration(span).ok()?.as_millis()).ok()?;
        Some(Self(sign * ms))
    }
}

/// A part of a whole, 0 to 1.
pub(super) struct Share(pub(super) f64);

impl Field for Share {
    const EXPECTS: &'static str = "a share such as 0.01 or \"1%\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let share = match text(value) {
            Some(text) => text.trim().strip_suffix('%')?.trim_end().parse::<f64>().ok()? / 100.0,
            None => number(value)?,
        };
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }
}

/// Events a second.
pub(super) struct Rate(pub(super) f64);

impl Field for Rate {
    const EXPECTS: &'static str = "a rate such as \"10/s\", \"2/min\" or \"1/h\", or a number a second";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let per_second = match text(value) {
            Some(text) => {
                let (count, unit) = text.split_once('/')?;
                let seconds = match unit.trim() {
                    "s" | "sec" => 1.0,
                    "m" | "min" => 60.0,
                    "h" => 3600.0,
                    _ => return None,
                };
                count.trim().parse::<f64>().ok()? / seconds
            }
            None => number(value)?,
        };
        (per_second.is_finite() && per_second > 0.0).then_some(Self(per_second))
    }
}

/// Bits a second.
pub(super) struct Bandwidth(pub(super) u64);

impl Field for Bandwidth {
    const EXPECTS: &'static str = "a bandwidth such as \"10Mbit\" (kbit, Mbit, Gbit a second)";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        let text = text(value)?.trim().trim_end_matches("/s");
        let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (count, unit) = text.split_at(digits);
        let factor = match unit.trim() {
            "kbit" => 1e3,
            "Mbit" => 1e6,
            "Gbit" => 1e9,
            _ => return None,
        };
        let bits = count.parse::<f64>().ok()? * factor;
        (1.0..=1e15).contains(&bits).then_some(Self(bits as u64))
    }
}

/// A number of bytes.
pub(super) struct Bytes(pub(super) u64);

impl Field for Bytes {
    const EXPECTS: &'static str = ByteSize::EXPECTS;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        ByteSize::from_value(value).ok().map(|size| Self(size.bytes()))
    }
}

impl Field for Latency {
    const EXPECTS: &'static str =
        "a duration such as \"50ms\", { mean = \"50ms\", deviation = \"10ms\" }, or \"cities\"";

    fn read(value: &DeValue<'_>) -> Option<Self> {
        if let DeValue::Table(table) = value {
            let part = |key: &str| Duration::read(table.get(key)?.get_ref());
            return (table.len() == 2).then_some(Self::Normal {
                mean: part("mean")?,
                deviation: part("deviation")?,
            });
        }
        match text(value)? {
            "cities" => Some(Self::Cities),
            text => parse_duration(text).ok().map(Self::Constant),
        }
    }
}

impl<T: ListItem> Field for Vec<T> {
    const EXPECTS: &'static str = T::LIST_EXPECTS;

    fn read(value: &DeValue<'_>) -> Option<Self> {
        match value {
            DeValue::Array(items) => items.iter().map(|item| T::read(item.get_ref())).collect(),
            one => T::read(one).map(|item| vec![item]),
        }
    }
}

/// What can stand in a list, or alone in its place.
pub(super) trait ListItem: Field {
    /// What a person may write for a list of it.
    const LIST_EXPECTS: &'static str;
}

impl ListItem for String {
    const LIST_EXPECTS: &'static str = "a string or a list of strings";
}

impl ListItem for usize {
    const LIST_EXPECTS: &'static str = "a whole number or a list of them";
}
