//! The types a setting may have, and how each is read and written.
//!
//! One reading serves all sources: the file gives TOML values, the environment and the flags give text. A duration is `"30s"`, a
//! size `"256MiB"` or a number of bytes. Reasons are worded to follow the key's name.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use toml::de::DeValue;
use weft_protocol::Multiaddr;

/// A type that a setting may have.
pub trait Setting: Sized + Clone + PartialEq {
    /// What a person may write, to follow "expects".
    const EXPECTS: &'static str;

    /// Reads a value of the file; the reason when it cannot.
    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => Self::from_text(text),
            other => Err(expected::<Self>(&describe(other))),
        }
    }

    /// Reads the text of an environment variable or of a flag.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Reads the texts of a flag that was given several times: the last counts, except for lists.
    fn from_texts(texts: &[String]) -> Result<Self, String> {
        Self::from_text(texts.last().map_or("", String::as_str))
    }

    /// As TOML; nothing when the setting is not set.
    fn to_toml(&self) -> Option<String>;
}

fn expected<T: Setting>(found: &str) -> String {
    format!("expects {}, found {found}", T::EXPECTS)
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", shorten(text)),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// At most 64 characters of a text, quoted, control characters escaped: it comes from outside and goes to a terminal.
pub(super) fn shorten(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    let mut head: String = text.chars().take(CHARS_MAX).collect();
    if head.len() < text.len() {
        head.push('…');
    }
    format!("{head:?}")
}

fn quote(text: &str) -> String {
    toml::Value::from(text).to_string()
}

impl Setting for String {
    const EXPECTS: &'static str = "a string";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(self))
    }
}

impl Setting for bool {
    const EXPECTS: &'static str = "true or false";

    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Boolean(flag) => Ok(*flag),
            other => Err(expected::<Self>(&describe(other))),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| expected::<Self>(&shorten(text)))
    }

    fn to_toml(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! integer {
    ($($type:ty)+) => { $(
        impl Setting for $type {
            const EXPECTS: &'static str = "a whole number, not negative";

            fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
                match value {
                    DeValue::Integer(number) => Self::from_str_radix(number.as_str(), number.radix())
                        .map_err(|_| format!("expects a whole number from 0 to {}, found {number}", Self::MAX)),
                    other => Err(expected::<Self>(&describe(other))),
                }
            }

            fn from_text(text: &str) -> Result<Self, String> {
                text.parse().map_err(|_| format!("expects a whole number from 0 to {}, found {}", Self::MAX, shorten(text)))
            }

            fn to_toml(&self) -> Option<String> {
                Some(self.to_string())
            }
        }
    )+ };
}

integer!(u8 u16 u32);

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl ByteSize {
    /// So many KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// So many GiB.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory, at most `usize::MAX`.
    pub fn as_len(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZE_UNITS
            .iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes))
        {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || expected::<Self>(&shorten(text));
        let (count, unit) = split_unit(text).ok_or_else(wrong)?;
        let factor = match unit {
            "" => 1,
            _ => SIZE_UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, bytes)| *bytes)
                .ok_or_else(wrong)?,
        };
        count
            .checked_mul(factor)
            .map(Self)
            .ok_or_else(|| format!("{} is more bytes than can be counted", shorten(text)))
    }
}

impl Setting for ByteSize {
    const EXPECTS: &'static str = "a size such as \"256MiB\" (B, KiB, MiB, GiB, TiB) or a number of bytes";

    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::String(text) => text.parse(),
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map(Self)
                .map_err(|_| expected::<Self>(&describe(value))),
            other => Err(expected::<Self>(&describe(other))),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

/// `"12abc"` → `(12, "abc")`.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    Some((count.parse().ok()?, unit.trim_start()))
}

/// The longest duration a setting may have: a hundred years, far below where adding it to a clock could overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

const DURATION_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads `500ms`, `30s`, `15m`, `1h`, `90d`; the reason when it cannot.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || expected::<Duration>(&shorten(text));
    let (count, unit) = split_unit(text).ok_or_else(wrong)?;
    let (_, unit_ms) = DURATION_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(wrong)?;
    let duration = count.checked_mul(*unit_ms).map(Duration::from_millis);
    duration
        .filter(|d| *d <= DURATION_MAX)
        .ok_or_else(|| format!("{} is longer than 36500d", shorten(text)))
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that divides it; finer than a millisecond is cut off.
pub fn format_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = DURATION_UNITS
        .iter()
        .find(|(_, unit_ms)| ms >= *unit_ms && ms.is_multiple_of(*unit_ms));
    unit.map_or_else(|| "0s".into(), |(name, unit_ms)| format!("{}{name}", ms / unit_ms))
}

impl Setting for Duration {
    const EXPECTS: &'static str = "a duration such as \"30s\" (ms, s, m, h, d)";

    fn from_text(text: &str) -> Result<Self, String> {
        parse_duration(text)
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&format_duration(*self)))
    }
}

impl Setting for Multiaddr {
    const EXPECTS: &'static str = "a multiaddress such as \"/ip4/192.0.2.1/tcp/7400\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|reason| format!("{} ({reason})", expected::<Self>(&shorten(text))))
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for SocketAddr {
    const EXPECTS: &'static str = "an address and port such as \"127.0.0.1:7480\"";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| expected::<Self>(&shorten(text)))
    }

    fn to_toml(&self) -> Option<String> {
        Some(quote(&self.to_string()))
    }
}

impl Setting for PathBuf {
    const EXPECTS: &'static str = "a path";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expects a path, found an empty text".into()),
            path if path.contains('\0') => Err("expects a path, found one with a NUL in it".into()),
            path => Ok(Self::from(path)),
        }
    }

    fn to_toml(&self) -> Option<String> {
        self.to_str().map(quote)
    }
}

/// Not set is a value of its own; in the environment the empty text means it.
impl<T: Setting> Setting for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;

    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        T::from_value(value).map(Some)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            Ok(None)
        } else {
            T::from_text(text).map(Some)
        }
    }

    fn to_toml(&self) -> Option<String> {
        self.as_ref().and_then(T::to_toml)
    }
}

/// In the environment a list is separated by commas, or written as in the file: `["a", "b"]`.
impl<T: Setting> Setting for Vec<T> {
    const EXPECTS: &'static str = "a list of strings";

    fn from_value(value: &DeValue<'_>) -> Result<Self, String> {
        match value {
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| T::from_value(item.get_ref()).map_err(|why| format!("item {}: {why}", i + 1)))
                .collect(),
            other => Err(expected::<Self>(&describe(other))),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('[') {
            let value = DeValue::parse(text.trim()).map_err(|error| expected::<Self>(error.message()))?;
            return Self::from_value(value.get_ref());
        }
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items
            .enumerate()
            .map(|(i, item)| T::from_text(item).map_err(|why| format!("item {}: {why}", i + 1)))
            .collect()
    }

    fn from_texts(texts: &[String]) -> Result<Self, String> {
        texts.iter().map(|text| T::from_text(text)).collect()
    }

    fn to_toml(&self) -> Option<String> {
        let items: Vec<_> = self.iter().filter_map(T::to_toml).collect();
        match items.len() {
            0 | 1 => Some(format!("[{}]", items.concat())),
            _ => Some(format!("[\n  {},\n]", items.join(",\n  "))),
        }
    }
}

macro_rules! choice {
    ($(#[doc = $about:literal])+ $name:ident, $expects:literal { $( $(#[doc = $doc:literal])+ $variant:ident = $text:literal, )+ }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $doc])+ $variant, )+ }

        impl $name {
            /// The word that stands for it in the file.
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )+ }
            }
        }

        impl Setting for $name {
            const EXPECTS: &'static str = $expects;

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $( $text => Ok(Self::$variant), )+
                    other => Err(expected::<Self>(&shorten(other))),
                }
            }

            fn to_toml(&self) -> Option<String> {
                Some(quote(self.as_str()))
            }
        }
    };
}

choice! {
    /// Whether to do something that depends on where the node stands.
    Toggle, "\"auto\", \"on\" or \"off\"" {
        /// As the circumstances suggest.
        Auto = "auto",
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
    }
}

choice! {
    /// How log lines look.
    LogFormat, "\"text\" or \"json\"" {
        /// A line for people.
        Text = "text",
        /// An object per line for machines.
        Json = "json",
    }
}
