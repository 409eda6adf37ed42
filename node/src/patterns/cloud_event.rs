//! What patterns need to say things in the structured JSON form of CloudEvents 1.0.

use data_encoding::BASE64;
use serde_json::{Map, Value};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The extension attribute that says from when on an event is of no use (CloudEvents, Expiry Time extension).
pub(crate) const EXPIRY: &str = "expirytime";

/// A time of an attribute, in unix milliseconds; what was before 1970 is 0.
pub(crate) fn parse_time(text: &str) -> Option<u64> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let ms = time.unix_timestamp_nanos() / 1_000_000;
    Some(u64::try_from(ms.max(0)).unwrap_or(u64::MAX))
}

/// Whether a media type means JSON.
pub(crate) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// Puts data into an event: as JSON, as text or in base64, by its media type (CloudEvents JSON format, §3.1).
pub(crate) fn insert_data(event: &mut Map<String, Value>, content_type: Option<&str>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    if is_json(content_type.unwrap_or_default())
        && let Ok(value) = serde_json::from_slice::<Value>(data)
    {
        event.insert("data".into(), value);
    } else if let Ok(text) = std::str::from_utf8(data) {
        event.insert("data".into(), text.into());
    } else {
        event.insert("data_base64".into(), BASE64.encode(data).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for ms in [0, 1, 1_790_000_000_123, 951_782_400_000] {
            assert_eq!(parse_time(&crate::local::rfc3339(ms)), Some(ms));
        }
        assert_eq!(
            parse_time("2026-11-28T18:00:00+01:00"),
            parse_time("2026-11-28T17:00:00Z")
        );
        assert_eq!(parse_time("1960-01-01T00:00:00Z"), Some(0));
        for wrong in ["", "tomorrow", "2026-11-28", "2026-13-28T17:00:00Z", "1790000000"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
