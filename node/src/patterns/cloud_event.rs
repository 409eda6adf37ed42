//! What patterns need to say things in the structured JSON form of CloudEvents 1.0.

use data_encoding::BASE64;
use serde_json::{Map, Value};

/// Puts data into an event: as JSON, as text or in base64, by its media type (CloudEvents JSON format, §3.1).
pub(crate) fn insert_data(event: &mut Map<String, Value>, content_type: Option<&str>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let essence = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
        .trim();
    if (essence.ends_with("/json") || essence.ends_with("+json"))
        && let Ok(value) = serde_json::from_slice::<Value>(data)
    {
        event.insert("data".into(), value);
    } else if let Ok(text) = std::str::from_utf8(data) {
        event.insert("data".into(), text.into());
    } else {
        event.insert("data_base64".into(), BASE64.encode(data).into());
    }
}
